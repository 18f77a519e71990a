//! Encoded responses on their way out: written vectored, as many pieces per call as are ready.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use common::budget::ByteLease;

use super::Frame;
use super::socket::{self, TcpStream};

/// Pieces handed to the kernel in one call.
const PIECES_PER_WRITE: usize = 64;

/// Response bytes of one connection that are still to be written.
#[derive(Default)]
pub(super) struct Outbox {
    pieces: VecDeque<Bytes>,
    /// The frames that `pieces` are made of, by where they end in all that was ever pushed, each with the lease on its
    /// memory, which is given back when the frame is written.
    frames: VecDeque<(u64, Option<ByteLease>)>,
    pushed: u64,
    written: u64,
    /// What was pushed before is in memory of its own.
    unshared_until: u64,
}

impl Outbox {
    pub(super) fn push(&mut self, frame: Frame) {
        let (pieces, lease) = frame.into_parts();
        self.pushed += pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        self.pieces.extend(pieces);
        self.frames.push_back((self.pushed, lease));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        usize::try_from(self.pushed - self.written).unwrap_or(usize::MAX)
    }

    /// Bytes written since the connection began; grows whenever the client reads.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Where, in all that is written, the frame ends that is on its way.
    pub(super) fn front_end(&self) -> Option<u64> {
        self.frames.front().map(|(end, _)| *end)
    }

    /// Copies what waits. The pieces are slices of the log's blocks and of caches, and the smallest of them keeps a whole
    /// block of memory from being used again, for as long as a client takes to read. The copies are covered by the
    /// frames' leases.
    pub(super) fn unshare(&mut self) {
        if self.unshared_until < self.pushed {
            self.pieces.iter_mut().for_each(|piece| *piece = Bytes::copy_from_slice(piece));
            self.unshared_until = self.pushed;
        }
    }

    /// Writes until everything is out (ready) or the socket takes no more (pending).
    pub(super) fn poll_flush(&mut self, socket: &mut TcpStream, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.pieces.is_empty() {
            let mut slices = [IoSlice::new(&[]); PIECES_PER_WRITE];
            let count = self.pieces.len().min(PIECES_PER_WRITE);
            for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
                *slice = IoSlice::new(piece);
            }
            match ready!(socket::poll_write(socket, context, &slices[..count]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        self.written += written as u64;
        while let Some(front) = self.pieces.front_mut() {
            if front.len() > written {
                front.advance(written);
                break;
            }
            written -= front.len();
            self.pieces.pop_front();
        }
        while self.frames.front().is_some_and(|(end, _)| *end <= self.written) {
            self.frames.pop_front();
        }
    }
}
