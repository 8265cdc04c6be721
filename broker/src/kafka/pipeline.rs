//! Replies of one connection, in request order: what waits to be answered, and what waits to be sent.
//!
//! Kafka's clients match replies to requests by order, so a reply never overtakes an earlier one. Produce requests are
//! the only ones that overlap: they are applied in order, and answered in order once their bytes are safe.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use millrace_storage::disk::real::RealDisk;
use millrace_storage::log::FileRange;
use rustix::net::{SendAncillaryBuffer, SendFlags};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::kafka::api::produce::InFlight;

/// Ranges at least this long leave by sendfile; shorter ones ride in the vectored write as slices of the map.
const SENDFILE_BYTES_MIN: u64 = 16 * 1024;
/// Buffers handed to one vectored write.
const WRITE_BUFFERS_MAX: usize = 64;
/// One sendfile call moves at most this much, so that a worker is not held for long.
const SENDFILE_BYTES_MAX: u64 = 1024 * 1024;

/// Produce requests of one connection that may be unanswered at once.
const IN_FLIGHT_REQUESTS_MAX: usize = 1024;
/// Bytes of them that may be unanswered at once.
const IN_FLIGHT_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Produce requests whose replies are not yet encoded.
#[derive(Default)]
pub(super) struct Pending {
    queue: VecDeque<InFlight>,
    bytes: usize,
}

impl Pending {
    /// May another request join? At the limits reading pauses: back-pressure by TCP.
    pub(super) fn has_room(&self) -> bool {
        self.queue.len() < IN_FLIGHT_REQUESTS_MAX && self.bytes < IN_FLIGHT_BYTES_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn push(&mut self, in_flight: InFlight) {
        self.bytes += in_flight.size_bytes();
        self.queue.push_back(in_flight);
    }

    pub(super) fn front(&self) -> Option<&InFlight> {
        self.queue.front()
    }

    /// Takes the oldest request if it can be answered.
    pub(super) fn pop_done(&mut self) -> Option<InFlight> {
        let done = self.queue.pop_front_if(|first| first.is_done())?;
        self.bytes -= done.size_bytes();
        Some(done)
    }
}

/// One piece of a reply.
pub(super) enum Piece {
    Bytes(Bytes),
    /// The first `sent` bytes of the range are gone.
    File {
        range: FileRange<RealDisk>,
        sent: u64,
    },
}

/// Encoded replies on their way to the socket.
#[derive(Default)]
pub(super) struct Outbound {
    /// Pieces in order; `tail` follows the last.
    pieces: VecDeque<Piece>,
    tail: BytesMut,
    bytes: u64,
}

impl Outbound {
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.tail.is_empty()
    }

    /// Where small replies are appended.
    pub(super) fn tail(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    pub(super) fn push_bytes(&mut self, bytes: Bytes) {
        self.seal_tail();
        self.pieces.push_back(Piece::Bytes(bytes));
    }

    /// Appends a range of a segment, as a file range or as a slice of the map, whichever is cheaper to send. `Err` says
    /// why the connection closes: the reply's length is already promised.
    pub(super) fn push_file(&mut self, range: FileRange<RealDisk>) -> Result<(), String> {
        self.seal_tail();
        if range.len() >= SENDFILE_BYTES_MIN {
            self.pieces.push_back(Piece::File { range, sent: 0 });
            return Ok(());
        }
        let bytes = range.bytes().map_err(|fault| fault.to_string())?;
        if range.poisoned() {
            return Err("a page of the segment did not load".to_owned());
        }
        self.pieces.push_back(Piece::Bytes(bytes));
        Ok(())
    }

    fn seal_tail(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(Piece::Bytes(self.tail.split().freeze()));
        }
    }

    /// Sends as much as the socket takes now; `Ok(true)` when nothing is left.
    pub(super) fn try_send(&mut self, stream: &TcpStream) -> io::Result<bool> {
        self.seal_tail();
        loop {
            let sent = match self.pieces.front() {
                None => return Ok(true),
                Some(Piece::Bytes(_)) => self.send_bytes(stream),
                Some(Piece::File { .. }) => self.send_file(stream),
            };
            match sent {
                Ok(sent) => self.bytes += sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Bytes sent since the last call.
    pub(super) fn take_sent(&mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }

    /// Gives all memory back: an idle connection holds no buffer.
    pub(super) fn release(&mut self) {
        debug_assert!(self.is_empty(), "replies are sent before a connection is idle");
        self.pieces = VecDeque::new();
        self.tail = BytesMut::new();
    }

    fn send_bytes(&mut self, stream: &TcpStream) -> io::Result<u64> {
        let mut buffers: [io::IoSlice<'_>; WRITE_BUFFERS_MAX] =
            std::array::from_fn(|_| io::IoSlice::new(&[]));
        let mut count = 0;
        let mut more = false;
        for piece in &self.pieces {
            match piece {
                Piece::Bytes(bytes) if count < WRITE_BUFFERS_MAX => {
                    buffers[count] = io::IoSlice::new(bytes);
                    count += 1;
                }
                _ => {
                    more = true;
                    break;
                }
            }
        }
        // What follows at once must not push a small packet out ahead of it.
        let flags = SendFlags::NOSIGNAL | if more { SendFlags::MORE } else { SendFlags::empty() };
        let sent = stream.try_io(Interest::WRITABLE, || {
            let mut none = SendAncillaryBuffer::default();
            Ok(rustix::net::sendmsg(stream, &buffers[..count], &mut none, flags)?)
        })?;
        self.advance(sent);
        Ok(sent as u64)
    }

    fn advance(&mut self, mut sent: usize) {
        while sent > 0 {
            let Some(Piece::Bytes(bytes)) = self.pieces.front_mut() else {
                unreachable!("only byte pieces at the front were sent")
            };
            if sent < bytes.len() {
                bytes.advance(sent);
                return;
            }
            sent -= bytes.len();
            self.pieces.pop_front();
        }
        while matches!(self.pieces.front(), Some(Piece::Bytes(bytes)) if bytes.is_empty()) {
            self.pieces.pop_front();
        }
    }

    fn send_file(&mut self, stream: &TcpStream) -> io::Result<u64> {
        let Some(Piece::File { range, sent: done }) = self.pieces.front_mut() else {
            unreachable!("the caller looked")
        };
        let (file, start) = range.file().map_err(io::Error::other)?;
        let mut position = start + *done;
        let count = (range.len() - *done).min(SENDFILE_BYTES_MAX) as usize;
        let sent = stream.try_io(Interest::WRITABLE, || {
            Ok(rustix::fs::sendfile(stream, file, Some(&mut position), count)?)
        })?;
        if sent == 0 {
            // The length was promised and the file has no more: only closing keeps the stream honest.
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "segment ended inside a reply",
            ));
        }
        *done += sent as u64;
        if *done == range.len() {
            self.pieces.pop_front();
        }
        Ok(sent as u64)
    }
}

/// What a handler gives back.
pub(crate) enum Reply {
    /// One encoded frame, length included.
    Frame(BytesMut),
    /// A fetch answer: encoded headers around ranges of segments, length included.
    Pieces(Vec<ReplyPiece>),
    /// Answered by closing: the error that Kafka gives where no reply is possible.
    Close(Arc<str>),
}

/// One piece of a fetch answer.
pub(crate) enum ReplyPiece {
    Bytes(Bytes),
    File(FileRange<RealDisk>),
}
