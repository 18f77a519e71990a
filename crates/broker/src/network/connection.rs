//! One connection: a state machine that is polled by one task and owns its socket.
//!
//! Rule **responses-in-order**: responses leave in the order their requests came, although the work overlaps.
//! Rule **ack-after-durable**: a response that waits for an LSN enters the outbox only once the WAL's durable
//! position has reached it; if the log fails first, the connection closes and the outcome stays unknown to the client.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use common::Lsn;
use futures::future::{BoxFuture, FutureExt};
use tokio::net::TcpStream;
use wal::{DurableLsn, WalFailed};

use super::dispatch::dispatch;
use super::outbox::Outbox;
use super::reader::{FrameReader, ReadError};
use super::{ConnectionInfo, Frame, IN_FLIGHT_MAX};
use crate::Broker;
use crate::api::Served;

/// A client that takes none of the bytes waiting for it for this long is cut off if other clients wait for the memory
/// that they hold; it may connect and ask again. While nobody waits it may take its time.
const WRITE_STALL_MAX: Duration = Duration::from_secs(5);

/// A frame that has begun must be complete within this time.
const FRAME_TIME_MAX: Duration = Duration::from_secs(30);

/// Bytes of finished responses that may wait for their turn before no more requests are taken in: a few bytes ask
/// for megabytes of metadata, and a client need not read its answers.
const READY_BYTES_MAX: usize = 256 << 10;

/// How often the limits above are looked at.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

pub(super) struct Connection {
    broker: Arc<Broker>,
    info: Arc<ConnectionInfo>,
    socket: TcpStream,
    reader: FrameReader,
    pending: VecDeque<InFlight>,
    /// Bytes of those responses in `pending` that are encoded.
    ready_bytes: usize,
    outbox: Outbox,
    durable: Arc<DurableLsn>,
    /// Waits for the LSN of the oldest pending response.
    durable_wait: Option<BoxFuture<'static, Result<(), WalFailed>>>,
    activity: Activity,
}

/// A request that is not answered yet.
struct InFlight {
    key: i16,
    /// When it was taken in, on the boot-time clock.
    since: Duration,
    response: Pending,
}

/// A response that is still to come.
enum Pending {
    Ready(Frame),
    Durable(Lsn, Frame),
    Later(BoxFuture<'static, Frame>),
    /// Runs once it is the oldest. What it takes from the response budget is thus given back when it is written:
    /// behind a request that waits for that budget itself it would never be.
    InTurn(BoxFuture<'static, Frame>),
}

impl Pending {
    fn encoded_bytes(&self) -> usize {
        match self {
            Self::Ready(frame) | Self::Durable(_, frame) => frame.len(),
            Self::Later(_) | Self::InTurn(_) => 0,
        }
    }
}

/// What the periodic check compares.
struct Activity {
    check: std::pin::Pin<Box<tokio::time::Sleep>>,
    frames: u64,
    seen: (u64, u64),
    idle: Duration,
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum Closed {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("write failed: {0}")]
    Write(#[from] io::Error),
    #[error("{0}")]
    Refused(String),
    #[error("the write-ahead log failed")]
    WalFailed,
    #[error("idle")]
    Idle,
    #[error("the client reads too slowly")]
    Stalled,
}

impl Connection {
    pub(super) fn new(broker: Arc<Broker>, info: Arc<ConnectionInfo>, socket: TcpStream) -> Self {
        let reader =
            FrameReader::new(broker.request_budget.clone(), broker.config.socket_request_max_bytes as usize);
        Self {
            durable: Arc::clone(broker.wal.durable()),
            broker,
            info,
            socket,
            reader,
            pending: VecDeque::new(),
            ready_bytes: 0,
            outbox: Outbox::default(),
            durable_wait: None,
            activity: Activity {
                check: Box::pin(tokio::time::sleep(CHECK_INTERVAL)),
                frames: 0,
                seen: (0, 0),
                idle: Duration::ZERO,
            },
        }
    }

    /// Serves the connection until it ends.
    pub(super) async fn run(mut self) -> Closed {
        let ended = std::future::poll_fn(|context| self.poll(context)).await;
        match ended {
            Ok(never) => match never {},
            Err(closed) => closed,
        }
    }

    /// One turn: take requests in, collect finished responses, write. Pending when none of it can go on.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<std::convert::Infallible, Closed>> {
        loop {
            self.take_frames()?;
            self.collect(context)?;
            let flushed = self.outbox.poll_flush(&self.socket, context)?.is_ready();
            // While the client does not read its responses, none of its requests is taken in either.
            if !flushed || self.is_full() {
                break;
            }
            // Frames that came in beyond the limit: nothing else would ever wake this task for them.
            if self.reader.has_frame()? {
                continue;
            }
            if self.reader.poll_fill(&self.socket, context)?.is_pending() {
                break;
            }
        }
        self.poll_limits(context)?;
        Poll::Pending
    }

    /// Whether something pending must be done before more is taken in: the newest, where later requests may count on
    /// its effect, or else the oldest. Either wakes this task.
    fn is_full(&self) -> bool {
        let is_held_up = matches!(self.pending.back(), Some(InFlight { response: Pending::Later(_), .. }));
        is_held_up || self.pending.len() >= IN_FLIGHT_MAX || self.ready_bytes >= READY_BYTES_MAX
    }

    fn take_frames(&mut self) -> Result<(), Closed> {
        while !self.is_full() {
            let Some(frame) = self.reader.next_frame()? else { break };
            self.activity.frames += 1;
            let since = self.broker.clock.boot();
            let key = frame.first_chunk::<2>().map_or(-1, |key| i16::from_be_bytes(*key));
            let response = match dispatch(&self.broker, &self.info, frame) {
                Served::Now(frame) => Pending::Ready(frame),
                Served::Durable(lsn, frame) => Pending::Durable(lsn, frame),
                Served::Later(future) => Pending::Later(future),
                Served::InTurn(future) => Pending::InTurn(future),
                Served::Silent => continue,
                Served::Close(reason) => return Err(Closed::Refused(reason)),
            };
            self.ready_bytes += response.encoded_bytes();
            self.pending.push_back(InFlight { key, since, response });
        }
        Ok(())
    }

    /// Moves every response whose turn has come into the outbox.
    fn collect(&mut self, context: &mut Context<'_>) -> Result<(), Closed> {
        for InFlight { response, .. } in &mut self.pending {
            if let Pending::Later(future) = response
                && let Poll::Ready(frame) = future.poll_unpin(context)
            {
                self.ready_bytes += frame.len();
                *response = Pending::Ready(frame);
            }
        }
        while let Some(front) = self.pending.front_mut() {
            match &mut front.response {
                Pending::Ready(_) => {}
                Pending::Durable(lsn, _) => {
                    let lsn = *lsn;
                    if !self.is_durable(lsn, context)? {
                        break;
                    }
                }
                Pending::Later(_) => break,
                Pending::InTurn(future) => match future.poll_unpin(context) {
                    Poll::Ready(frame) => {
                        self.ready_bytes += frame.len();
                        front.response = Pending::Ready(frame);
                    }
                    Poll::Pending => break,
                },
            }
            let Some(InFlight { key, since, response }) = self.pending.pop_front() else { break };
            self.ready_bytes -= response.encoded_bytes();
            if let Pending::Ready(frame) | Pending::Durable(_, frame) = response {
                if frame.is_empty() {
                    return Err(Closed::Refused("the response could not be encoded".into()));
                }
                let metrics = self.broker.metrics.request(key);
                metrics.answered(self.broker.clock.boot().saturating_sub(since));
                self.outbox.push(frame);
            }
        }
        Ok(())
    }

    /// Whether `lsn`, the one of the oldest response, is durable; if not, this task is woken when it is.
    fn is_durable(&mut self, lsn: Lsn, context: &mut Context<'_>) -> Result<bool, Closed> {
        if self.durable.get() >= lsn {
            self.durable_wait = None;
            return Ok(true);
        }
        let wait = self.durable_wait.get_or_insert_with(|| {
            let durable = Arc::clone(&self.durable);
            Box::pin(async move { durable.wait(lsn).await })
        });
        match wait.poll_unpin(context) {
            Poll::Pending => Ok(false),
            Poll::Ready(outcome) => {
                self.durable_wait = None;
                outcome.map(|()| true).map_err(|WalFailed| Closed::WalFailed)
            }
        }
    }

    /// Ends connections that are idle, or that keep memory without making progress.
    fn poll_limits(&mut self, context: &mut Context<'_>) -> Result<(), Closed> {
        while self.activity.check.poll_unpin(context).is_ready() {
            self.activity.check.set(tokio::time::sleep(CHECK_INTERVAL));
            let now = (self.activity.frames, self.outbox.written());
            if now != self.activity.seen || (!self.pending.is_empty() && self.outbox.is_empty()) {
                self.activity.seen = now;
                self.activity.idle = Duration::ZERO;
                continue;
            }
            self.activity.idle += CHECK_INTERVAL;
            let idle = self.activity.idle;
            let stalled = !self.outbox.is_empty() && idle >= WRITE_STALL_MAX;
            if stalled && self.broker.response_budget.is_contended() {
                return Err(Closed::Stalled);
            }
            let mid_frame = self.reader.is_mid_frame() && idle >= FRAME_TIME_MAX;
            if mid_frame || idle >= Duration::from_millis(self.broker.config.connections_max_idle_ms) {
                return Err(Closed::Idle);
            }
        }
        Ok(())
    }
}
