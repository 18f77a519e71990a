//! A connection on which a program says exactly what it wants to say, well-formed or not.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, RequestHeader};
use kafka_protocol::protocol::{Decodable, Encodable, Request, StrBytes};

/// An answer beyond this is refused, not read.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A TCP connection to a broker.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    correlation: i32,
}

/// A request with its length and header, ready to be sent.
///
/// # Errors
/// The message has no such version.
pub fn frame<R: Request>(request: &R, version: i16, correlation: i32) -> Result<Bytes> {
    let key = ApiKey::try_from(R::KEY).ok().context("a known key")?;
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation)
        .with_client_id(Some(StrBytes::from_static_str("drill")));
    let mut body = BytesMut::new();
    header.encode(&mut body, key.request_header_version(version))?;
    request.encode(&mut body, version)?;
    let mut frame = BytesMut::new();
    frame.extend_from_slice(&u32::try_from(body.len())?.to_be_bytes());
    frame.extend_from_slice(&body);
    Ok(frame.freeze())
}

impl Connection {
    /// Connects; every read and write gets ten seconds.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn open(address: &str) -> io::Result<Self> {
        Self::open_patiently(address, Duration::from_secs(10))
    }

    /// Connects; every read and write gets as long as `patience`.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn open_patiently(address: &str, patience: Duration) -> io::Result<Self> {
        let mut found = Err(io::Error::new(io::ErrorKind::NotFound, format!("{address} has no address")));
        for socket in address.to_socket_addrs()? {
            found = TcpStream::connect_timeout(&socket, patience);
            if found.is_ok() {
                break;
            }
        }
        let stream = found?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self { stream, correlation: 0 })
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The broker has closed the connection or does not read.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads one answer, without its length. `None`: the broker closed the connection.
    ///
    /// # Errors
    /// It neither answers nor closes, or answers nonsense.
    pub fn receive(&mut self) -> Result<Option<Bytes>> {
        let mut length = [0; 4];
        if let Err(error) = self.stream.read_exact(&mut length) {
            use io::ErrorKind::{ConnectionReset, UnexpectedEof};
            ensure!(matches!(error.kind(), UnexpectedEof | ConnectionReset), "no answer: {error}");
            return Ok(None);
        }
        let length = usize::try_from(u32::from_be_bytes(length))?;
        ensure!(length <= ANSWER_BYTES_MAX, "an answer of {length} bytes");
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer).context("an answer cut short")?;
        Ok(Some(answer.into()))
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// The connection fails, or the answer is to another question.
    pub fn ask<R: Request>(&mut self, request: &R, version: i16) -> Result<R::Response> {
        self.correlation += 1;
        self.send(&frame(request, version, self.correlation)?)?;
        let mut answer = self.receive()?.context("the broker closed the connection")?;
        let key = ApiKey::try_from(R::KEY).ok().context("a known key")?;
        let header =
            kafka_protocol::messages::ResponseHeader::decode(&mut answer, key.response_header_version(version))?;
        ensure!(header.correlation_id == self.correlation, "answers in order");
        let response = R::Response::decode(&mut answer, version)?;
        ensure!(answer.is_empty(), "{} bytes after the answer", answer.len());
        Ok(response)
    }
}
