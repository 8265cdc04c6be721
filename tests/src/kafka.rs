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
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    correlation: i32,
}

impl Connection {
    /// # Panics
    /// When nobody listens.
    pub fn open(address: SocketAddr) -> Self {
        Self::try_open(address).expect("the broker listens")
    }

    /// # Errors
    /// Nobody listens: the broker is down.
    pub fn try_open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, correlation: 0 })
    }

    /// Sends one request and waits for its answer.
    ///
    /// # Panics
    /// When the connection closes, or the answer is not one.
    pub fn ask<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        self.try_ask(version, request).expect("an answer")
    }

    /// As [`Self::ask`], where the broker may go away.
    ///
    /// # Errors
    /// The connection closed, or nothing came in time.
    ///
    /// # Panics
    /// When the answer is not one.
    pub fn try_ask<R: Request>(&mut self, version: i16, request: &R) -> io::Result<R::Response> {
        let correlation = self.try_send(version, request)?;
        self.answer::<R>(version, correlation)
    }

    /// Sends one request; the answer is for [`Self::answer`]. Returns its correlation id.
    ///
    /// # Panics
    /// When the connection is closed.
    pub fn send<R: Request>(&mut self, version: i16, request: &R) -> i32 {
        self.try_send(version, request).expect("the connection is open")
    }

    /// As [`Self::send`], where the broker may go away.
    ///
    /// # Errors
    /// The connection is closed.
    pub fn try_send<R: Request>(&mut self, version: i16, request: &R) -> io::Result<i32> {
        self.correlation += 1;
        self.send_raw(&frame(version, self.correlation, request))?;
        Ok(self.correlation)
    }

    /// The next answer, to the request of this correlation id.
    ///
    /// # Errors
    /// The connection closed, or nothing came in time.
    ///
    /// # Panics
    /// When it answers another request.
    pub fn answer<R: Request>(
        &mut self,
        version: i16,
        correlation: i32,
    ) -> io::Result<R::Response> {
        let mut answer = self.receive()?;
        assert_eq!(answer.get_i32(), correlation, "answers come in order");
        Ok(decode::<R>(version, answer))
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

    /// From now on an answer must come within `patience`.
    ///
    /// # Panics
    /// When the socket takes no timeout.
    pub fn set_patience(&self, patience: Duration) {
        self.stream.set_read_timeout(Some(patience)).expect("a socket takes a timeout");
    }

    /// Says that nothing more will be sent; answers still come.
    ///
    /// # Errors
    /// The connection is closed already.
    pub fn finish_sending(&self) -> io::Result<()> {
        self.stream.shutdown(std::net::Shutdown::Write)
    }

    /// Did the broker close, without another answer? Waits until it does, or says something.
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
    try_frame(version, correlation, request).expect("the request fits its version")
}

/// As [`frame`]; `None` when the request has a field that `version` lacks.
///
/// # Panics
/// When a header does not encode.
pub fn try_frame<R: Request>(version: i16, correlation: i32, request: &R) -> Option<Bytes> {
    let mut body = BytesMut::new();
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation)
        .with_client_id(Some(StrBytes::from_static_str("millrace-tests")));
    header.encode(&mut body, R::header_version(version)).expect("a header encodes");
    request.encode(&mut body, version).ok()?;
    Some(framed(&body))
}

/// Bytes behind their length.
pub fn framed(body: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(4 + body.len());
    frame.put_u32(body.len() as u32);
    frame.put_slice(body);
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
