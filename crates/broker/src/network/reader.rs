//! Splits a connection's bytes into frames: a 4-byte big-endian length, then that many bytes.
//!
//! Frames up to [`SMALL`] bytes share a small buffer that stays with the connection. For a larger frame memory is found
//! as its bytes arrive, see [`RequestMemory`]; while there is none the connection waits, unread, in its own socket
//! buffers.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use kafka_protocol::messages::ApiKey;
use protocol::guard;

use super::request_memory::{RequestMemory, SMALL, Share};
use super::socket::{self, TcpStream};

/// Reads frames off one connection.
pub(super) struct FrameReader {
    memory: RequestMemory,
    frame_bytes_max: usize,
    buffer: BytesMut,
    /// Covers `buffer` while that may be larger than [`SMALL`].
    share: Option<Share>,
    waiting: Option<BoxFuture<'static, Share>>,
    received: u64,
}

/// Why no more frames come.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The client closed its side between two frames.
    #[error("closed by the client")]
    Closed,
    /// The client closed its side amid a frame.
    #[error("closed by the client before the end of a request")]
    Truncated,
    /// The client sent a length that no request has.
    #[error("a frame of {0} bytes is outside 8..={1}")]
    Length(i32, usize),
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl FrameReader {
    pub(super) fn new(memory: RequestMemory, frame_bytes_max: usize) -> Self {
        Self { memory, frame_bytes_max, buffer: BytesMut::new(), share: None, waiting: None, received: 0 }
    }

    /// The next frame without its length prefix, if it is here already.
    pub(super) fn next_frame(&mut self) -> Result<Option<Bytes>, ReadError> {
        let Some(length) = self.frame_length()? else { return Ok(None) };
        if self.buffer.len() < 4 + length {
            return Ok(None);
        }
        self.buffer.advance(4);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// Whether [`Self::next_frame`] has one to give.
    pub(super) fn has_frame(&self) -> Result<bool, ReadError> {
        Ok(self.frame_length()?.is_some_and(|length| self.buffer.len() >= 4 + length))
    }

    /// Whether a frame has begun to arrive and is not complete.
    pub(super) fn is_mid_frame(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Bytes received since the connection began.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Where, in all that is received, the frame ends for which memory is held; `None` while there is no such frame or
    /// while it waits for memory itself.
    pub(super) fn leased_until(&self) -> Option<u64> {
        self.share.as_ref()?;
        let length = self.frame_length().ok()??;
        Some(self.received + (4 + length).saturating_sub(self.buffer.len()) as u64)
    }

    /// Reads what the socket has. Ready when bytes came in, or with the reason why none ever will. Not to be called
    /// while [`Self::has_frame`]: there may be no room left to read into.
    pub(super) fn poll_fill(
        &mut self,
        socket: &mut TcpStream,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), ReadError>> {
        loop {
            ready!(socket::poll_readable(socket, context))?;
            ready!(self.poll_reserve(context))?;
            let spare = self.room().min(self.buffer.capacity()) - self.buffer.len();
            let mut spare = (&mut self.buffer).limit(spare);
            match socket::try_read(socket, &mut spare) {
                Ok(0) => return Poll::Ready(Err(self.end_of_stream())),
                Ok(read) => {
                    self.received += read as u64;
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.shrink(),
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    fn end_of_stream(&self) -> ReadError {
        if self.buffer.is_empty() { ReadError::Closed } else { ReadError::Truncated }
    }

    /// Length of the frame at the front, once its prefix is here.
    fn frame_length(&self) -> Result<Option<usize>, ReadError> {
        let Some(prefix) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let declared = i32::from_be_bytes(*prefix);
        let length = usize::try_from(declared).unwrap_or(0);
        let max = if length > SMALL { self.length_max() } else { self.frame_bytes_max };
        // Key, version and correlation id: what the shortest request header has.
        if (8..=max).contains(&length) { Ok(Some(length)) } else { Err(ReadError::Length(declared, max)) }
    }

    /// The longest frame worth reading, as far as its first bytes tell: a request of an unknown API will be refused
    /// whatever follows, and few APIs have requests as large as `socket.request.max.bytes`.
    fn length_max(&self) -> usize {
        let Some(key) = self.buffer.get(4..6).and_then(|key| key.try_into().ok()) else { return self.frame_bytes_max };
        let key = ApiKey::try_from(i16::from_be_bytes(key));
        key.map_or(SMALL, |key| guard::frame_max(key, self.frame_bytes_max))
    }

    /// Bytes that the buffer may hold.
    fn room(&self) -> usize {
        self.share.as_ref().map_or(SMALL, Share::room)
    }

    /// Makes room for more of the frame at the front, or for a small one.
    fn poll_reserve(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ReadError>> {
        let frame = self.frame_length()?.map_or(SMALL, |length| length + 4);
        if self.buffer.len() >= self.room() {
            let share = ready!(self.poll_grow(frame, context));
            self.share = Some(share);
        }
        let room = self.room();
        if self.buffer.len() == self.buffer.capacity() || self.buffer.capacity() < frame.min(room) {
            self.buffer.reserve(room - self.buffer.len());
        }
        Poll::Ready(Ok(()))
    }

    fn poll_grow(&mut self, total: usize, context: &mut Context<'_>) -> Poll<Share> {
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(self.memory.clone().grow(self.share.take(), total)));
        let share = ready!(waiting.as_mut().poll(context));
        self.waiting = None;
        Poll::Ready(share)
    }

    /// Gives a large buffer back when nothing is left in it and nothing more is coming at the moment.
    fn shrink(&mut self) {
        if self.buffer.is_empty() && self.share.is_some() {
            self.buffer = BytesMut::new();
            self.share = None;
        }
    }
}
