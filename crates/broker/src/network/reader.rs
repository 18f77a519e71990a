//! Splits a connection's bytes into frames: a 4-byte big-endian length, then that many bytes.
//!
//! Frames up to [`SMALL`] bytes share a small buffer that stays with the connection. A larger frame is read
//! straight into memory of its size, which is leased from the broker's budget first; where the budget is used
//! up the connection waits, unread, in its own socket buffers.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use common::budget::{ByteBudget, ByteLease};
use futures::future::BoxFuture;
use tokio::net::TcpStream;

/// Bytes of the buffer that every connection keeps.
const SMALL: usize = 16 * 1024;

/// Reads frames off one connection.
pub(super) struct FrameReader {
    budget: ByteBudget,
    frame_bytes_max: usize,
    buffer: BytesMut,
    /// Covers `buffer` while that is larger than [`SMALL`].
    lease: Option<ByteLease>,
    waiting: Option<BoxFuture<'static, ByteLease>>,
}

/// Why no more frames come.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The client closed its side between two frames.
    #[error("closed by the client")]
    Closed,
    /// The client sent a length that no request has.
    #[error("a frame of {0} bytes is outside 8..={1}")]
    Length(i32, usize),
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl FrameReader {
    pub(super) fn new(budget: ByteBudget, frame_bytes_max: usize) -> Self {
        Self { budget, frame_bytes_max, buffer: BytesMut::new(), lease: None, waiting: None }
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

    /// Reads what the socket has. Ready when bytes came in, or with the reason why none ever will. Not to be called
    /// while [`Self::has_frame`]: there may be no room left to read into.
    pub(super) fn poll_fill(&mut self, socket: &TcpStream, context: &mut Context<'_>) -> Poll<Result<(), ReadError>> {
        loop {
            ready!(socket.poll_read_ready(context))?;
            ready!(self.poll_reserve(context))?;
            let spare = self.buffer.capacity() - self.buffer.len();
            let mut spare = (&mut self.buffer).limit(spare);
            match socket.try_read_buf(&mut spare) {
                Ok(0) => return Poll::Ready(Err(self.end_of_stream())),
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.shrink(),
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    fn end_of_stream(&self) -> ReadError {
        if self.buffer.is_empty() { ReadError::Closed } else { io::Error::from(io::ErrorKind::UnexpectedEof).into() }
    }

    /// Length of the frame at the front, once its prefix is here.
    fn frame_length(&self) -> Result<Option<usize>, ReadError> {
        let Some(prefix) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let length = i32::from_be_bytes(*prefix);
        // Key, version and correlation id: what the shortest request header has.
        let valid = usize::try_from(length).ok().filter(|length| (8..=self.frame_bytes_max).contains(length));
        valid.map(Some).ok_or(ReadError::Length(length, self.frame_bytes_max))
    }

    /// Makes room for the rest of the frame at the front, or for a small one.
    fn poll_reserve(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ReadError>> {
        let frame = self.frame_length()?.map_or(SMALL, |length| length + 4);
        let wanted = frame.max(SMALL);
        let spare = self.buffer.capacity() - self.buffer.len();
        if spare > 0 && self.buffer.capacity() >= frame {
            return Poll::Ready(Ok(()));
        }
        let leased = self.lease.as_ref().map_or(SMALL as u64, ByteLease::bytes);
        if wanted as u64 > leased {
            // The old lease goes back first: two connections that each hold one and wait for more would
            // otherwise wait for each other.
            self.lease = None;
            let lease = ready!(self.poll_lease(wanted as u64, context));
            self.lease = Some(lease);
        }
        self.buffer.reserve(wanted - self.buffer.len().min(wanted));
        Poll::Ready(Ok(()))
    }

    fn poll_lease(&mut self, bytes: u64, context: &mut Context<'_>) -> Poll<ByteLease> {
        if self.waiting.is_none() {
            if let Some(lease) = self.budget.try_take(bytes) {
                return Poll::Ready(lease);
            }
            let budget = self.budget.clone();
            self.waiting = Some(Box::pin(async move { budget.take(bytes).await }));
        }
        let Some(waiting) = self.waiting.as_mut() else { return Poll::Pending };
        let lease = ready!(waiting.as_mut().poll(context));
        self.waiting = None;
        Poll::Ready(lease)
    }

    /// Gives a large buffer back when nothing is left in it and nothing more is coming at the moment.
    fn shrink(&mut self) {
        if self.buffer.is_empty() && self.lease.is_some() {
            self.buffer = BytesMut::new();
            self.lease = None;
        }
    }
}
