//! The sockets that listeners, connections and peers use: the operating system's, or, with the feature `simulation`, those of
//! a simulated network. This is the only file that knows of both.

#[cfg(not(feature = "simulation"))]
mod system {
    use std::io::{self, IoSlice};
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use bytes::BufMut;
    use tokio::io::AsyncWrite as _;
    pub(crate) use tokio::net::tcp::OwnedReadHalf;
    pub(crate) use tokio::net::{TcpListener, TcpStream};

    /// Ready when [`try_read`] has something to tell.
    pub(crate) fn poll_readable(socket: &mut TcpStream, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        socket.poll_read_ready(context)
    }

    /// Reads what is there; 0 at the end of the stream, [`io::ErrorKind::WouldBlock`] if nothing came yet.
    pub(crate) fn try_read(socket: &mut TcpStream, into: &mut impl BufMut) -> io::Result<usize> {
        socket.try_read_buf(into)
    }

    /// Writes as much of `slices` as the socket takes.
    pub(crate) fn poll_write(
        socket: &mut TcpStream,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(socket).poll_write_vectored(context, slices)
    }
}

#[cfg(feature = "simulation")]
mod simulated {
    use std::io::{self, IoSlice};
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use bytes::BufMut;
    use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
    pub(crate) use turmoil::net::tcp::OwnedReadHalf;
    pub(crate) use turmoil::net::{TcpListener, TcpStream};

    /// Most bytes that one message of the simulated network carries.
    const SEGMENT_BYTES: usize = 64 << 10;

    pub(crate) fn poll_readable(socket: &mut TcpStream, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut byte = [0; 1];
        socket.poll_peek(context, &mut ReadBuf::new(&mut byte)).map_ok(drop)
    }

    pub(crate) fn try_read(socket: &mut TcpStream, into: &mut impl BufMut) -> io::Result<usize> {
        let mut bytes = vec![0; into.remaining_mut().min(SEGMENT_BYTES)];
        let mut buffer = ReadBuf::new(&mut bytes);
        // Whoever waits has asked `poll_readable` before.
        match Pin::new(socket).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer) {
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
            Poll::Ready(Err(error)) => Err(error),
            Poll::Ready(Ok(())) => {
                into.put_slice(buffer.filled());
                Ok(buffer.filled().len())
            }
        }
    }

    pub(crate) fn poll_write(
        socket: &mut TcpStream,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut segment = Vec::new();
        for slice in slices {
            let room = SEGMENT_BYTES - segment.len();
            segment.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        Pin::new(socket).poll_write(context, &segment)
    }
}

#[cfg(feature = "simulation")]
pub(crate) use simulated::*;
#[cfg(not(feature = "simulation"))]
pub(crate) use system::*;
