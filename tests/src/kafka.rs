//! A raw Kafka connection: typed requests by the crate kafka-protocol, or bytes as a test likes them.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, RequestHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};

/// A test never waits longer than this for an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// One connection; requests may be pipelined, answers come in order.
pub struct Connection {
    stream: TcpStream,
    correlation: i32,
}

impl Connection {
    /// # Panics
    /// When nobody listens.
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the broker listens");
        stream.set_read_timeout(Some(READ_TIMEOUT)).expect("a socket takes a timeout");
        stream.set_nodelay(true).expect("a socket takes nodelay");
        Self { stream, correlation: 0 }
    }

    /// Sends one request and waits for its answer.
    ///
    /// # Panics
    /// When the connection closes, or the answer is not one.
    pub fn ask<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        let correlation = self.send(version, request);
        let mut answer = self.receive().expect("an answer");
        assert_eq!(answer.get_i32(), correlation, "answers come in order");
        decode::<R>(version, answer)
    }

    /// Sends one request; the answer is somebody else's business. Returns its correlation id.
    ///
    /// # Panics
    /// When the connection is closed.
    pub fn send<R: Request>(&mut self, version: i16, request: &R) -> i32 {
        self.correlation += 1;
        let frame = frame(version, self.correlation, request);
        self.send_raw(&frame).expect("the connection is open");
        self.correlation
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The broker closed the connection.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next frame, without its length.
    ///
    /// # Errors
    /// The connection closed, or nothing came in time.
    pub fn receive(&mut self) -> io::Result<Bytes> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut frame)?;
        Ok(frame.into())
    }

    /// Did the broker close, without another answer?
    pub fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}

/// A whole request frame, length included.
///
/// # Panics
/// When the request has a field that `version` lacks.
pub fn frame<R: Request>(version: i16, correlation: i32, request: &R) -> Bytes {
    let mut body = BytesMut::new();
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation)
        .with_client_id(Some(StrBytes::from_static_str("millrace-tests")));
    header.encode(&mut body, R::header_version(version)).expect("a header encodes");
    request.encode(&mut body, version).expect("the request fits its version");
    let mut frame = BytesMut::with_capacity(4 + body.len());
    frame.put_u32(body.len() as u32);
    frame.put(body);
    frame.freeze()
}

/// The typed answer behind a correlation id.
///
/// # Panics
/// When the bytes are no such answer.
pub fn decode<R: Request>(version: i16, mut answer: Bytes) -> R::Response {
    let is_flexible = <R::Response as HeaderVersion>::header_version(version) >= 1;
    if is_flexible {
        assert_eq!(answer.get_u8(), 0, "no tagged field in the header");
    }
    let response = R::Response::decode(&mut answer, version).expect("a well-formed answer");
    assert!(answer.is_empty(), "{} bytes follow the answer", answer.len());
    response
}

/// The key of an API, for tables.
pub fn key<R: Request>() -> ApiKey {
    ApiKey::try_from(R::KEY).expect("a known key")
}
