//! One nonblocking connection: requests queue up behind the socket, answers come off it in order.
//!
//! The socket is watched edge-triggered, so a call goes on until the socket is full or empty. What follows the first
//! bytes of an answer, the records of a fetch, is thrown away.

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice, Write};
use std::net::{SocketAddr, TcpStream};

use bytes::Bytes;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use crate::clock::Nanos;
use crate::error::LoadError;
use crate::protocol::{HEAD_BYTES_MAX, Head};

/// How much of an answer is kept: more than any head of one.
const KEPT_BYTES: usize = 256;
const READ_BYTES: usize = 16 << 10;
/// Heads and bodies that go out in one call.
const SLICES: usize = 32;

/// A request without an answer yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) correlation: i32,
    /// When it was sent, or was due.
    pub(super) since: Nanos,
}

/// What every connection of a run shares.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) head_bytes: usize,
    /// Sent behind each head; empty for fetches.
    pub(super) body: Bytes,
    /// Copy what is thrown away into memory, as a client would, instead of letting the kernel drop it.
    pub(super) copy: bool,
    pub(super) scratch: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) waiting: VecDeque<Waiting>,
    /// Where the next fetch starts.
    pub(super) offset: i64,
    queue: VecDeque<Head>,
    /// Bytes of the first queued request that are gone already.
    sent: usize,
    inbox: Inbox,
    buffer: Vec<u8>,
}

impl Connection {
    pub(super) fn open(broker: SocketAddr) -> Result<Self, LoadError> {
        let io = LoadError::io("connecting to the broker");
        let stream = TcpStream::connect(broker).map_err(&io)?;
        stream.set_nodelay(true).map_err(&io)?;
        stream.set_nonblocking(true).map_err(&io)?;
        Ok(Self {
            stream,
            waiting: VecDeque::new(),
            offset: 0,
            queue: VecDeque::new(),
            sent: 0,
            inbox: Inbox::default(),
            buffer: vec![0; READ_BYTES],
        })
    }

    pub(super) fn submit(&mut self, head: Head, waiting: Waiting) {
        self.queue.push_back(head);
        self.waiting.push_back(waiting);
    }

    /// Requests that no byte has left of, and one that some have.
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Sends until the queue is empty or the socket full; how many requests left wholly.
    pub(super) fn flush(&mut self, shared: &Shared) -> Result<usize, LoadError> {
        let before = self.queue.len();
        while !self.queue.is_empty() {
            match self.write_once(shared) {
                Ok(0) => return Err(LoadError::Malformed("connection closed")),
                Ok(written) => self.advance(written, shared.head_bytes + shared.body.len()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => return Err(LoadError::Io { doing: "sending", source }),
            }
        }
        Ok(before - self.queue.len())
    }

    fn write_once(&mut self, shared: &Shared) -> std::io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut used = 0;
        let mut skip = self.sent;
        for head in self.queue.iter().take(SLICES / 2) {
            for part in [&head[..shared.head_bytes], &shared.body[..]] {
                let left = part.get(skip..).unwrap_or_default();
                skip -= skip.min(part.len());
                if !left.is_empty() {
                    slices[used] = IoSlice::new(left);
                    used += 1;
                }
            }
        }
        self.stream.write_vectored(&slices[..used])
    }

    fn advance(&mut self, written: usize, request_bytes: usize) {
        self.sent += written;
        while self.sent >= request_bytes {
            self.sent -= request_bytes;
            self.queue.pop_front();
        }
    }

    /// Reads until the socket is empty; `answered` gets the first bytes of each whole answer.
    pub(super) fn receive(
        &mut self,
        shared: &mut Shared,
        answered: &mut Vec<Kept>,
    ) -> Result<(), LoadError> {
        loop {
            let skippable = self.inbox.skippable();
            let (room, flags) = if skippable > 0 {
                let room = skippable.min(shared.scratch.len());
                let flags = if shared.copy { RecvFlags::empty() } else { RecvFlags::TRUNC };
                (&mut shared.scratch[..room], flags)
            } else {
                (&mut self.buffer[..], RecvFlags::empty())
            };
            let room_bytes = room.len();
            let received = match recv(&self.stream, room, flags) {
                Ok((_, 0)) => return Err(LoadError::Malformed("connection closed")),
                Ok((_, received)) => received,
                Err(Errno::WOULDBLOCK) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(LoadError::os("receiving")(errno)),
            };
            if skippable > 0 {
                self.inbox.skip(received, answered);
            } else {
                self.inbox.feed(&self.buffer[..received], answered);
            }
            if received < room_bytes {
                return Ok(());
            }
        }
    }
}

/// The first bytes of an answer, without its length.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    bytes: [u8; KEPT_BYTES],
    len: usize,
}

impl Default for Kept {
    fn default() -> Self {
        Self { bytes: [0; KEPT_BYTES], len: 0 }
    }
}

impl Kept {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn push(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(KEPT_BYTES - self.len);
        self.bytes[self.len..self.len + kept].copy_from_slice(&bytes[..kept]);
        self.len += kept;
    }
}

/// Cuts a stream into answers.
#[derive(Debug, Default)]
struct Inbox {
    length: [u8; 4],
    length_read: usize,
    /// Bytes of the present answer that have not come yet.
    left: usize,
    kept: Kept,
}

impl Inbox {
    /// How many of the next bytes are of no interest.
    fn skippable(&self) -> usize {
        if self.kept.len == KEPT_BYTES { self.left } else { 0 }
    }

    fn skip(&mut self, bytes: usize, answered: &mut Vec<Kept>) {
        self.left -= bytes;
        self.finish_if_whole(answered);
    }

    fn feed(&mut self, mut bytes: &[u8], answered: &mut Vec<Kept>) {
        while !bytes.is_empty() {
            if self.left == 0 {
                let taken = bytes.len().min(4 - self.length_read);
                self.length[self.length_read..self.length_read + taken]
                    .copy_from_slice(&bytes[..taken]);
                self.length_read += taken;
                bytes = &bytes[taken..];
                if self.length_read == 4 {
                    self.length_read = 0;
                    self.left = i32::from_be_bytes(self.length).max(0) as usize;
                }
            } else {
                let (front, rest) = bytes.split_at(bytes.len().min(self.left));
                self.kept.push(front);
                self.left -= front.len();
                bytes = rest;
                self.finish_if_whole(answered);
            }
        }
    }

    fn finish_if_whole(&mut self, answered: &mut Vec<Kept>) {
        if self.left == 0 {
            answered.push(self.kept);
            self.kept.len = 0;
        }
    }
}

const _: () =
    assert!(HEAD_BYTES_MAX <= KEPT_BYTES, "an answer's head is about as long as a request's");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_cut_into_the_same_answers_however_it_arrives() {
        let mut stream = Vec::new();
        for length in [5_usize, 300, 1, 1_000] {
            stream.extend_from_slice(&(length as i32).to_be_bytes());
            stream.extend((0..length).map(|at| at as u8));
        }
        for piece in [1, 3, 7, 64, stream.len()] {
            let (mut inbox, mut answered) = (Inbox::default(), Vec::new());
            stream.chunks(piece).for_each(|chunk| inbox.feed(chunk, &mut answered));
            let lengths: Vec<usize> = answered.iter().map(|it| it.bytes().len()).collect();
            assert_eq!(lengths, [5, 256, 1, 256], "in pieces of {piece}");
            assert_eq!(answered[1].bytes()[255], 255);
        }
    }
}
