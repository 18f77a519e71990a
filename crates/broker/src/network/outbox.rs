//! Encoded responses on their way out: written vectored, as many pieces per call as are ready.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use common::budget::ByteLease;
use tokio::net::TcpStream;

use super::Frame;

/// Pieces handed to the kernel in one call.
const PIECES_PER_WRITE: usize = 64;

/// Response bytes of one connection that are still to be written.
#[derive(Default)]
pub(super) struct Outbox {
    pieces: VecDeque<Bytes>,
    /// Leases of the frames in `pieces`; given back when all is written.
    leases: Vec<ByteLease>,
    bytes: usize,
    written: u64,
}

impl Outbox {
    pub(super) fn push(&mut self, frame: Frame) {
        let (pieces, lease) = frame.into_parts();
        for piece in pieces {
            self.bytes += piece.len();
            self.pieces.push_back(piece);
        }
        self.leases.extend(lease);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes written since the connection began; grows whenever the client reads.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Writes until everything is out (ready) or the socket takes no more (pending).
    pub(super) fn poll_flush(&mut self, socket: &TcpStream, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.pieces.is_empty() {
            ready!(socket.poll_write_ready(context))?;
            let mut slices = [IoSlice::new(&[]); PIECES_PER_WRITE];
            let count = self.pieces.len().min(PIECES_PER_WRITE);
            for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
                *slice = IoSlice::new(piece);
            }
            match socket.try_write_vectored(&slices[..count]) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(written) => self.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        self.written += written as u64;
        while let Some(front) = self.pieces.front_mut() {
            if front.len() > written {
                front.advance(written);
                break;
            }
            written -= front.len();
            self.pieces.pop_front();
        }
        if self.pieces.is_empty() {
            self.leases.clear();
        }
    }
}
