//! What the doors and the checks of a batch cost: produce decoded, fetch encoded, CRC, header check, codecs.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a bench tells its figures")]

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use millrace_benches::batch::Batch;
use millrace_benches::micro::measure;
use millrace_benches::protocol::Template;
use millrace_model::checksum::{crc32_ieee, crc32c};
use millrace_model::compression::{Codec, compress, decompress};
use millrace_model::{batch, record};
use millrace_wire::error_code::ErrorCode;
use millrace_wire::fetch::{PartitionResponse, Response, TopicRef, TopicResponse};
use millrace_wire::few::Few;
use millrace_wire::{ApiKey, fetch, header, produce};

const FREELY: u64 = u64::MAX;

fn main() {
    checks();
    doors();
    codecs();
}

fn checks() {
    for (name, records, bytes) in [("1 KB", 1, 1_000), ("64 KB", 64, 1_000), ("1 MB", 1_000, 1_000)]
    {
        let whole = Batch::encode(records, bytes, Codec::None).bytes;
        let line = |what: &str, call: &mut dyn FnMut()| {
            println!("{}", measure(&format!("{what}, {name} batch"), whole.len(), FREELY, call));
        };
        line("CRC-32C", &mut || {
            black_box(crc32c(black_box(&whole)));
        });
        line("CRC-32 (IEEE)", &mut || {
            black_box(crc32_ieee(black_box(&whole)));
        });
        line("validate", &mut || {
            let _ = black_box(batch::validate(black_box(&whole), 1 << 20));
        });
        let header = batch::BatchHeader::parse(&whole).expect("just built");
        line("decode every record", &mut || {
            let records = record::records(&header, &whole, 1 << 24).expect("just built");
            assert_eq!(records.count() as u32, records_of(&header));
        });
    }
}

fn records_of(header: &batch::BatchHeader) -> u32 {
    header.record_count as u32
}

fn doors() {
    let whole = Batch::encode(64, 1_000, Codec::None).bytes;
    let template = Template::produce("topic", -1, whole.len());
    let mut frame = template.head(7, 0, 0)[4..template.len()].to_vec();
    frame.extend_from_slice(&whole);
    let frame = Bytes::from(frame);
    let line = measure("produce 7: frame to batch", 0, FREELY, || {
        let peeked = header::peek(frame.clone()).expect("a header");
        let body = peeked.into_body(ApiKey::Produce.row()).expect("a body");
        drop(black_box(produce::decode(7, &body).expect("a request")));
    });
    println!("{line}");

    let mut out = BytesMut::new();
    let line = measure("produce 7: answer", 0, FREELY, || {
        let mut partition = produce::PartitionResponse::refused(0, ErrorCode::None);
        partition.base_offset = 1;
        let partitions = Few::one(partition);
        let topic = produce::TopicResponse { name: "topic".into(), partitions };
        let response = produce::Response { topics: Few::one(topic), ..Default::default() };
        out.clear();
        produce::encode(7, 1, &response, &mut out).expect("an answer");
        black_box(&out);
    });
    println!("{line}");

    let line = measure("fetch 12: answer with records", 0, FREELY, || {
        let mut partition = PartitionResponse::refused(0, ErrorCode::None);
        partition.records = Few::one(whole.clone());
        let topic = TopicRef::Name("topic".into());
        let topics = Few::one(TopicResponse { topic, partitions: Few::one(partition) });
        let response = Response { topics, ..Response::default() };
        drop(black_box(fetch::encode(12, 1, response).expect("an answer")));
    });
    println!("{line}");
}

fn codecs() {
    let text: Vec<u8> = (0..64_000_u32).map(|at| b'a' + ((at * at / 7) % 13) as u8).collect();
    for codec in Codec::ALL {
        let packed = compress(codec, &text);
        let name = codec.name();
        let line = measure(&format!("{name}: pack 64 KB"), text.len(), FREELY, || {
            drop(black_box(compress(codec, black_box(&text))));
        });
        println!("{line}");
        let packed = Bytes::copy_from_slice(&packed);
        let line = measure(&format!("{name}: unpack 64 KB"), text.len(), FREELY, || {
            drop(black_box(decompress(codec, &packed, 1 << 20)));
        });
        println!("{line}");
    }
}
