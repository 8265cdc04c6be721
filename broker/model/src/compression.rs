//! The four codecs of a record batch: gzip, snappy (xerial framing or raw), LZ4 frames, zstd.
//!
//! Unpacking fills a bounded buffer: what a header claims is never believed, so a bomb costs its bound and ends as an
//! error. The broker stores batches as they came; it unpacks only to look up a time, to check keys, or to store another
//! codec. Whoever calls from a connection's task moves a large batch elsewhere first.

use std::io::{self, Read, Write};

use zstd::zstd_safe;

/// A batch's codec. The numbers are on the wire and on disk: never reuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Codec {
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    pub fn number(self) -> u8 {
        self as u8
    }

    /// Kafka's name (`compression.type`).
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// Why bytes cannot be unpacked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecompressError {
    #[error("{codec} data unpacks to more than {bytes_max} bytes", codec = codec.name())]
    TooLarge { codec: Codec, bytes_max: usize },
    #[error("{codec} data is damaged: {reason}", codec = codec.name())]
    Damaged { codec: Codec, reason: String },
}

/// Unpacks at most `bytes_max` bytes.
///
/// # Errors
/// Damaged data, or more than the bound.
pub fn decompress(
    codec: Codec,
    packed: &[u8],
    bytes_max: usize,
) -> Result<Vec<u8>, DecompressError> {
    let unpacked = match codec {
        Codec::None => read_bounded(packed, bytes_max),
        Codec::Gzip => read_bounded(flate2::read::MultiGzDecoder::new(packed), bytes_max),
        Codec::Snappy => return unsnap(packed, bytes_max),
        Codec::Lz4 => read_bounded(lz4_flex::frame::FrameDecoder::new(packed), bytes_max),
        Codec::Zstd => return unzstd(packed, bytes_max),
    };
    match unpacked {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(DecompressError::TooLarge { codec, bytes_max }),
        Err(error) => Err(DecompressError::Damaged { codec, reason: error.to_string() }),
    }
}

/// `None` when there is more than the bound.
fn read_bounded(reader: impl Read, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
    let mut out = Vec::new();
    reader.take(bytes_max as u64 + 1).read_to_end(&mut out)?;
    Ok((out.len() <= bytes_max).then_some(out))
}

/// In one shot instead of as a stream: the output is its own window, so the window that a frame claims (up to 2 GiB)
/// is never allocated.
fn unzstd(packed: &[u8], bytes_max: usize) -> Result<Vec<u8>, DecompressError> {
    let codec = Codec::Zstd;
    let too_large = DecompressError::TooLarge { codec, bytes_max };
    let mut capacity = packed.len().saturating_mul(ZSTD_RATIO_GUESS).max(ZSTD_BYTES_MIN);
    if let Ok(Some(claimed)) = zstd_safe::get_frame_content_size(packed) {
        // Of one frame, and there may be more. Believed where it makes the guess smaller: then it costs nothing.
        match usize::try_from(claimed) {
            Ok(claimed) if claimed <= bytes_max => capacity = capacity.min(claimed),
            _ => return Err(too_large),
        }
    }
    let mut context = zstd_safe::DCtx::create();
    loop {
        let mut out = Vec::with_capacity(capacity.min(bytes_max));
        match context.decompress(&mut out, packed) {
            Ok(_) => return Ok(out),
            Err(code) if code == ZSTD_OUT_OF_ROOM && capacity < bytes_max => {
                capacity = capacity.saturating_mul(4).max(ZSTD_BYTES_MIN);
            }
            Err(code) if code == ZSTD_OUT_OF_ROOM => return Err(too_large),
            Err(code) => {
                let reason = zstd_safe::get_error_name(code).to_owned();
                return Err(DecompressError::Damaged { codec, reason });
            }
        }
    }
}

/// Room for the first try, by what records usually reach.
const ZSTD_RATIO_GUESS: usize = 8;
const ZSTD_BYTES_MIN: usize = 16 * 1024;
/// `ZSTD_error_dstSize_tooSmall`, 70, as zstd's functions return it; stable across its versions.
const ZSTD_OUT_OF_ROOM: usize = 70_usize.wrapping_neg();

/// Frame that xerial's snappy-java puts around blocks; what Kafka's Java client writes.
const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
/// Magic, version i32, smallest compatible version i32.
const XERIAL_HEADER_BYTES: usize = 16;
/// Block size of snappy-java.
const XERIAL_BLOCK_BYTES: usize = 32 * 1024;

fn unsnap(packed: &[u8], bytes_max: usize) -> Result<Vec<u8>, DecompressError> {
    let codec = Codec::Snappy;
    let damaged = |reason: &str| DecompressError::Damaged { codec, reason: reason.to_owned() };
    if !packed.starts_with(&XERIAL_MAGIC) {
        let mut out = Vec::new();
        unsnap_block(packed, bytes_max, &mut out)?;
        return Ok(out);
    }
    let mut rest =
        packed.get(XERIAL_HEADER_BYTES..).ok_or_else(|| damaged("the frame header is cut"))?;
    let mut out = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        let block = after.get(..length).ok_or_else(|| damaged("a block is cut"))?;
        unsnap_block(block, bytes_max, &mut out)?;
        rest = &after[length..];
    }
    if rest.is_empty() { Ok(out) } else { Err(damaged("a block length is cut")) }
}

fn unsnap_block(block: &[u8], bytes_max: usize, out: &mut Vec<u8>) -> Result<(), DecompressError> {
    let codec = Codec::Snappy;
    let damaged =
        |error: snap::Error| DecompressError::Damaged { codec, reason: error.to_string() };
    let length = snap::raw::decompress_len(block).map_err(damaged)?;
    // Snappy packs at best 64 bytes into three, so a longer claim is a lie and nothing is allocated for it.
    let possible = block.len().saturating_mul(SNAPPY_RATIO_MAX);
    if length > possible {
        let reason = format!("{} bytes cannot hold {length}", block.len());
        return Err(DecompressError::Damaged { codec, reason });
    }
    if out.len() + length > bytes_max {
        return Err(DecompressError::TooLarge { codec, bytes_max });
    }
    let at = out.len();
    out.resize(at + length, 0);
    snap::raw::Decoder::new().decompress(block, &mut out[at..]).map_err(damaged)?;
    Ok(())
}

/// Above the best ratio that snappy's format can reach.
const SNAPPY_RATIO_MAX: usize = 32;

/// Packs `plain` as Kafka's Java client would, at the codec's default level.
pub fn compress(codec: Codec, plain: &[u8]) -> Vec<u8> {
    const IN_MEMORY: &str = "writing to memory cannot fail";
    match codec {
        Codec::None => plain.to_vec(),
        Codec::Gzip => {
            let level = flate2::Compression::default();
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(plain).expect(IN_MEMORY);
            encoder.finish().expect(IN_MEMORY)
        }
        Codec::Snappy => snap_xerial(plain),
        Codec::Lz4 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(plain).expect(IN_MEMORY);
            encoder.finish().expect(IN_MEMORY)
        }
        Codec::Zstd => zstd::bulk::compress(plain, ZSTD_LEVEL).expect(IN_MEMORY),
    }
}

/// zstd's own default, and Kafka's.
const ZSTD_LEVEL: i32 = 3;

fn snap_xerial(plain: &[u8]) -> Vec<u8> {
    const VERSION: u32 = 1;
    let mut out = XERIAL_MAGIC.to_vec();
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&VERSION.to_be_bytes());
    let mut encoder = snap::raw::Encoder::new();
    for block in plain.chunks(XERIAL_BLOCK_BYTES) {
        let packed = encoder.compress_vec(block).expect("a block is far below snappy's maximum");
        out.extend_from_slice(&(packed.len() as u32).to_be_bytes());
        out.extend_from_slice(&packed);
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BYTES_MAX: usize = 1 << 20;

    proptest! {
        #[test]
        fn every_codec_gives_back_what_it_took(
            plain in prop::collection::vec(any::<u8>(), 0..100_000),
            repeat in 1_usize..4,
        ) {
            let plain = plain.repeat(repeat);
            for codec in Codec::ALL {
                let packed = compress(codec, &plain);
                prop_assert_eq!(&decompress(codec, &packed, BYTES_MAX).unwrap(), &plain);
            }
        }

        #[test]
        fn hostile_bytes_end_in_an_error_or_bytes(
            mut bytes in prop::collection::vec(any::<u8>(), 0..300),
            magic in 0_usize..5,
        ) {
            let magics: [&[u8]; 5] = [
                &[],
                &XERIAL_MAGIC,
                &[0x1f, 0x8b, 8],
                &[0x04, 0x22, 0x4d, 0x18],
                &[0x28, 0xb5, 0x2f, 0xfd],
            ];
            bytes.splice(0..0, magics[magic].iter().copied());
            for codec in Codec::ALL {
                if let Ok(plain) = decompress(codec, &bytes, 4096) {
                    prop_assert!(plain.len() <= 4096);
                }
            }
        }

        #[test]
        fn damaged_frames_end_in_an_error_or_bytes(
            plain in prop::collection::vec(0_u8..4, 0..3000),
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            keep in any::<prop::sample::Index>(),
        ) {
            for codec in Codec::ALL {
                let mut packed = compress(codec, &plain);
                if packed.is_empty() {
                    continue;
                }
                for (at, mask) in &flips {
                    let at = at.index(packed.len());
                    packed[at] ^= mask;
                }
                for packed in [&packed[..], &packed[..keep.index(packed.len())]] {
                    if let Ok(plain) = decompress(codec, packed, 4096) {
                        prop_assert!(plain.len() <= 4096);
                    }
                }
            }
        }
    }

    #[test]
    fn a_bomb_costs_its_bound() {
        let bomb = vec![0; 4 * BYTES_MAX];
        for codec in Codec::ALL {
            let packed = compress(codec, &bomb);
            let refused = decompress(codec, &packed, BYTES_MAX);
            assert_eq!(refused, Err(DecompressError::TooLarge { codec, bytes_max: BYTES_MAX }));
        }
    }

    #[test]
    fn raw_snappy_is_read_too() {
        let packed = snap::raw::Encoder::new().compress_vec(b"raw block").unwrap();
        assert_eq!(decompress(Codec::Snappy, &packed, 100).unwrap(), b"raw block");
        // A length of 4 GiB in five bytes.
        assert!(decompress(Codec::Snappy, &[0xff, 0xff, 0xff, 0xff, 0x0f], BYTES_MAX).is_err());
    }

    #[test]
    fn zstd_windows_and_sizes_are_not_believed() {
        // A frame that claims 2^40 bytes of content, then one that claims a window of 2^31 bytes over an empty block.
        let content =
            [&[0x28, 0xb5, 0x2f, 0xfd, 0xc0, 0x48][..], &(1_u64 << 40).to_le_bytes()].concat();
        assert!(decompress(Codec::Zstd, &content, BYTES_MAX).is_err());
        let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 1, 0, 0];
        assert_eq!(decompress(Codec::Zstd, &window, BYTES_MAX), Ok(Vec::new()));
    }

    #[test]
    fn concatenated_zstd_frames_unpack_to_their_sum() {
        let packed = [compress(Codec::Zstd, b"one, "), compress(Codec::Zstd, b"two")].concat();
        assert_eq!(decompress(Codec::Zstd, &packed, 100).unwrap(), b"one, two");
    }

    #[test]
    fn the_bound_is_exact() {
        let plain = vec![7; 100_000];
        for codec in Codec::ALL {
            let packed = compress(codec, &plain);
            assert_eq!(decompress(codec, &packed, plain.len()).as_ref(), Ok(&plain));
            assert!(decompress(codec, &packed, plain.len() - 1).is_err());
        }
    }
}
