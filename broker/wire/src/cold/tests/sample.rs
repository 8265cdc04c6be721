//! Request bodies made from a schema.

use bytes::BufMut;

use crate::cold::schema::{Field, Kind};
use crate::primitive::Sink;

/// How large to make things.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    /// Elements of an array of the message itself, and of one inside an element.
    pub(super) outer: usize,
    pub(super) inner: usize,
    /// Letters of a string or byte string.
    pub(super) text: usize,
    /// Unknown tagged fields per struct.
    pub(super) tags: usize,
    /// Every size above is an upper limit, drawn anew each time.
    pub(super) at_most: bool,
}

pub(super) struct Sampler {
    pub(super) version: i16,
    pub(super) flexible: bool,
    pub(super) style: Style,
    pub(super) seed: u64,
}

impl Sampler {
    pub(super) fn body(&mut self, fields: &[Field]) -> Vec<u8> {
        let mut out = Out(Vec::new());
        self.fields(fields, 0, &mut out);
        out.0
    }

    fn fields(&mut self, fields: &[Field], depth: usize, out: &mut Out) {
        let version = self.version;
        for field in fields.iter().filter(|field| field.is_in(version)) {
            self.value(field.kind, depth, out);
        }
        if self.flexible {
            self.tags(out);
        }
    }

    fn value(&mut self, kind: Kind, depth: usize, out: &mut Out) {
        match kind {
            Kind::Bool => out.0.put_u8(self.random() as u8 & 1),
            Kind::Fixed(bytes) => (0..bytes).for_each(|_| out.0.put_u8(self.random() as u8)),
            Kind::String => {
                let letters = self.size(self.style.text);
                let text: String = (0..letters).map(|_| self.letter()).collect();
                out.string(self.flexible, Some(&text));
            }
            Kind::Bytes => {
                let bytes = self.size(self.style.text);
                out.length(self.flexible, Some(bytes));
                (0..bytes).for_each(|_| out.0.put_u8(self.random() as u8));
            }
            Kind::Array(element) => {
                let limit = if depth == 0 { self.style.outer } else { self.style.inner };
                let count = self.size(limit);
                out.length(self.flexible, Some(count));
                (0..count).for_each(|_| self.value(*element, depth + 1, out));
            }
            Kind::Struct(fields) => self.fields(fields, depth, out),
            Kind::Lifted(kind, _) => self.value(*kind, depth, out),
        }
    }

    fn tags(&mut self, out: &mut Out) {
        const UNKNOWN_FROM: u32 = 60;
        let count = self.size(self.style.tags) as u32;
        out.varint(count);
        for tag in UNKNOWN_FROM..UNKNOWN_FROM + count {
            let size = self.size(self.style.text);
            out.varint(tag);
            out.varint(size as u32);
            (0..size).for_each(|_| out.0.put_u8(self.random() as u8));
        }
    }

    fn size(&mut self, limit: usize) -> usize {
        if self.style.at_most { self.random() as usize % (limit + 1) } else { limit }
    }

    fn letter(&mut self) -> char {
        char::from(b'a' + (self.random() % 26) as u8)
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.seed ^ (self.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 16
    }
}

struct Out(Vec<u8>);

impl Sink for Out {
    fn put(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
}
