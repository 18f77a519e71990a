//! One connection of a client.

use std::io;
use std::time::Duration;

use anyhow::Result;
use bytes::{Buf as _, Bytes, BytesMut};
use drill::wire::frame;
use kafka_protocol::messages::{ApiKey, ResponseHeader};
use kafka_protocol::protocol::{Decodable as _, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use turmoil::net::TcpStream;

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(1);

/// A connection to a broker; what is asked first is answered first.
pub struct Wire {
    stream: TcpStream,
    received: BytesMut,
    sent: i32,
    answered: i32,
}

fn end_of_stream() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

impl Wire {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens, or answers in time.
    pub async fn open(address: &str) -> Result<Self> {
        let stream = timeout(CONNECT, TcpStream::connect(address)).await??;
        Ok(Self { stream, received: BytesMut::new(), sent: 0, answered: 0 })
    }

    /// Sends a request.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn send<R: Request>(&mut self, request: &R, version: i16) -> Result<()> {
        self.sent += 1;
        self.stream.write_all(&frame(request, version, self.sent)?).await?;
        Ok(())
    }

    /// The next answer, still encoded. May be dropped and called again.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn receive(&mut self) -> Result<Bytes> {
        loop {
            if let Some(length) = self.received.first_chunk::<4>().map(|length| u32::from_be_bytes(*length) as usize)
                && self.received.len() >= 4 + length
            {
                self.received.advance(4);
                return Ok(self.received.split_to(length).freeze());
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(end_of_stream().into());
            }
        }
    }

    /// Decodes what [`Self::receive`] returned: the answers come in the order of the requests.
    ///
    /// # Errors
    /// It is no answer to the oldest request.
    pub fn decode<R: Request>(&mut self, mut answer: Bytes, version: i16) -> Result<R::Response> {
        let key = ApiKey::try_from(R::KEY).map_err(|()| anyhow::anyhow!("an unknown key"))?;
        let header = ResponseHeader::decode(&mut answer, key.response_header_version(version))?;
        self.answered += 1;
        anyhow::ensure!(
            header.correlation_id == self.answered,
            "answer {} to {}",
            header.correlation_id,
            self.answered
        );
        let response = R::Response::decode(&mut answer, version)?;
        anyhow::ensure!(!answer.has_remaining(), "bytes after the answer");
        Ok(response)
    }

    /// Asks, and waits for the answer at most `patience`. After an error the connection is of no use.
    ///
    /// # Errors
    /// There was none.
    pub async fn ask<R: Request>(&mut self, request: &R, version: i16, patience: Duration) -> Result<R::Response> {
        let answer = timeout(patience, async {
            self.send(request, version).await?;
            self.receive().await
        });
        let answer = answer.await??;
        self.decode::<R>(answer, version)
    }
}
