//! Two polynomials, two jobs: CRC-32C (Castagnoli) for Kafka's batches, CRC-32 (IEEE) for our own files.

/// CRC-32C, as in every record batch.
///
/// By `crc-fast`, twice as fast as the crate `crc32c` on the reference machine: 54 against 28 GB/s on 1 KiB, 60 against
/// 28 GB/s on 64 KiB, 9 against 4 GB/s on 40 bytes.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// CRC-32 (IEEE), as in the broker's own small files; can never check a Kafka batch.
pub fn crc32_ieee(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_match_their_published_check_values() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32_ieee(b"123456789"), 0xcbf4_3926);
    }
}
