//! One connection: a state machine that is polled by one task and owns its socket.
//!
//! Rule **responses-in-order**: responses leave in the order their requests came, although the work overlaps.
//! Rule **ack-after-durable**: a response that waits for an LSN enters the outbox only once the WAL's durable
//! position has reached it; if the log fails first, the connection closes and the outcome stays unknown to the client.
//! Rule **answered-before-closed**: a request that makes the connection close is not taken before those in front of it
//! are answered, as in Kafka, which handles one at a time. Nor are acknowledgements lost when the broker stops: clients that
//! are not idempotent would write the same again.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use common::Lsn;
use common::budget::{ByteBudget, ByteLease};
use common::supervisor::StopSignal;
use futures::future::{BoxFuture, FutureExt};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Sleep;
use wal::{DurableLsn, WalFailed};

use super::dispatch::dispatch;
use super::frame::UNLEASED_MAX;
use super::outbox::Outbox;
use super::pace::Pace;
use super::reader::{FrameReader, ReadError};
use super::socket::TcpStream;
use super::{ConnectionInfo, Frame, IN_FLIGHT_MAX};
use crate::Broker;
use crate::api::{Late, Served};

/// A frame that has begun and of which nothing arrives for this long, or for which no memory is found, ends its
/// connection.
const FRAME_STALL_MAX: Duration = Duration::from_secs(30);

/// Responses to requests in front of the one that closes the connection must be ready and taken within this time.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(5);

/// How long requests that were taken in before the broker stops may take to be answered.
const STOP_TIME_MAX: Duration = Duration::from_millis(500);

/// An answer that is not taken for this long is copied, so that it does not hold the memory of the log.
const UNSHARE_AFTER: Duration = Duration::from_secs(1);

/// Bytes of finished responses, and of requests that wait, that there may be before no more requests are taken in; and of
/// responses before no more fetches begin. A few bytes ask for megabytes, and a client need not read its answers.
const READY_BYTES_MAX: usize = 128 << 10;

/// How often the limits above are looked at: of a connection that holds memory, and of any.
const CHECK_INTERVAL_MIN: Duration = Duration::from_secs(1);
const CHECK_INTERVAL_MAX: Duration = Duration::from_secs(5);

pub(super) struct Connection {
    broker: Arc<Broker>,
    info: Arc<ConnectionInfo>,
    socket: TcpStream,
    reader: FrameReader,
    pending: VecDeque<InFlight>,
    /// Bytes of those responses in `pending` that are encoded.
    ready_bytes: usize,
    /// Bytes of those requests in `pending` that wait.
    held_bytes: usize,
    outbox: Outbox,
    durable: Arc<DurableLsn>,
    /// Waits for the LSN of the oldest pending response.
    durable_wait: Option<BoxFuture<'static, Result<(), WalFailed>>>,
    /// Why no more requests are taken in, and until when those in front are waited for.
    closing: Option<(Closed, Duration)>,
    check: Check,
    frames: u64,
    idle_since: Duration,
    /// Frames taken in, bytes received and written, as of `idle_since`.
    seen: (u64, u64, u64),
    /// The frame being received for which memory is held, and the one being written.
    receiving: Option<Pace>,
    writing: Option<Pace>,
}

/// When limits are looked at next.
struct Check {
    timer: std::pin::Pin<Box<Sleep>>,
    due: Duration,
}

impl Check {
    /// Looks after `interval` at the latest.
    fn within(&mut self, now: Duration, interval: Duration) {
        if now + interval < self.due {
            self.set(now, interval);
        }
    }

    fn set(&mut self, now: Duration, interval: Duration) {
        self.due = now + interval;
        self.timer.set(tokio::time::sleep(interval));
    }
}

/// A request that is not answered yet.
struct InFlight {
    key: i16,
    /// When it was taken in, on the boot-time clock.
    since: Duration,
    response: Pending,
    /// What the request itself takes while it waits, and the lease on that if it is much.
    held: usize,
    _held: Option<ByteLease>,
}

/// A response that is still to come.
enum Pending {
    Ready(Frame),
    Durable(Lsn, Frame, Option<Late>),
    Later(BoxFuture<'static, Frame>),
    /// Runs once it is the oldest. What it takes from the response budget is thus given back when it is written:
    /// behind a request that waits for that budget itself it would never be.
    InTurn {
        future: BoxFuture<'static, Frame>,
        begun: bool,
    },
}

impl Pending {
    fn encoded_bytes(&self) -> usize {
        match self {
            Self::Ready(frame) | Self::Durable(_, frame, _) => frame.len(),
            Self::Later(_) | Self::InTurn { .. } => 0,
        }
    }

    fn leased(self, budget: &ByteBudget) -> Result<Self, Closed> {
        let lease = |frame: Frame| frame.leased(budget).ok_or(Closed::NoMemory);
        Ok(match self {
            Self::Ready(frame) => Self::Ready(lease(frame)?),
            Self::Durable(lsn, frame, late) => Self::Durable(lsn, lease(frame)?, late),
            other => other,
        })
    }
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
    #[error("too many large requests and answers wait")]
    NoMemory,
    #[error("idle")]
    Idle,
    #[error("the broker is stopping")]
    Stopping,
    #[error("the client sends or reads too slowly while others wait for the memory")]
    Stalled,
}

impl Connection {
    pub(super) fn new(broker: Arc<Broker>, info: Arc<ConnectionInfo>, socket: TcpStream) -> Self {
        let reader = FrameReader::new(broker.request_memory.clone(), broker.config.socket_request_max_bytes as usize);
        let now = broker.clock.boot();
        let timer = Box::pin(tokio::time::sleep(CHECK_INTERVAL_MAX));
        Self {
            durable: Arc::clone(broker.wal.durable()),
            broker,
            info,
            socket,
            reader,
            pending: VecDeque::new(),
            ready_bytes: 0,
            held_bytes: 0,
            outbox: Outbox::default(),
            durable_wait: None,
            closing: None,
            check: Check { timer, due: now + CHECK_INTERVAL_MAX },
            frames: 0,
            idle_since: now,
            seen: (0, 0, 0),
            receiving: None,
            writing: None,
        }
    }

    /// Serves the connection until it ends, or what was taken in before a stop is answered.
    pub(super) async fn run(mut self, mut stop: StopSignal) -> Closed {
        tokio::select! {
            biased;
            closed = std::future::poll_fn(|context| self.poll(context)) => return closed,
            () = stop.stopped() => {}
        }
        if self.pending.is_empty() && self.outbox.is_empty() {
            return Closed::Stopping;
        }
        self.close_within(Closed::Stopping, STOP_TIME_MAX);
        let closed = std::future::poll_fn(|context| self.poll(context)).await;
        if matches!(closed, Closed::Stopping) {
            let _ = tokio::time::timeout(STOP_TIME_MAX, part(self.socket)).await;
        }
        closed
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Closed> {
        loop {
            if let Err(closed) = self.go_on(context) {
                return Poll::Ready(closed);
            }
            if self.reader.leased_until().is_some() || !self.outbox.is_empty() {
                self.check.within(self.broker.clock.boot(), CHECK_INTERVAL_MIN);
            }
            if self.check.timer.poll_unpin(context).is_pending() {
                return Poll::Pending;
            }
            let now = self.broker.clock.boot();
            self.check.set(now, CHECK_INTERVAL_MAX);
            if let Err(closed) = self.check_limits(now) {
                return Poll::Ready(closed);
            }
        }
    }

    /// Takes requests in, collects finished responses, writes: until none of it can go on.
    fn go_on(&mut self, context: &mut Context<'_>) -> Result<(), Closed> {
        loop {
            let taken = self.take_frames();
            self.close_after(taken);
            self.collect(context)?;
            if self.outbox.poll_flush(&mut self.socket, context)?.is_pending() {
                // While the client does not read its responses, none of its requests is read either.
                return Ok(());
            }
            if self.pending.is_empty()
                && let Some((reason, _)) = self.closing.take()
            {
                return Err(reason);
            }
            let is_held_back =
                matches!(self.pending.front(), Some(InFlight { response: Pending::InTurn { begun: false, .. }, .. }));
            if is_held_back {
                continue;
            }
            if self.is_full() || self.closing.is_some() {
                return Ok(());
            }
            // Frames that came in beyond the limit: nothing else would ever wake this task for them.
            if self.reader.has_frame().unwrap_or(true) {
                continue;
            }
            match self.reader.poll_fill(&mut self.socket, context) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Err(error @ ReadError::Io(_))) => return Err(error.into()),
                Poll::Ready(filled) => self.close_after(filled.map_err(Closed::from)),
            }
        }
    }

    /// Lets the connection end for this reason once what is pending is answered.
    fn close_after(&mut self, outcome: Result<(), Closed>) {
        if let Err(reason) = outcome {
            self.close_within(reason, CLOSE_TIME_MAX);
        }
    }

    fn close_within(&mut self, reason: Closed, limit: Duration) {
        let now = self.broker.clock.boot();
        self.check.within(now, limit);
        self.closing = Some((reason, now + limit));
    }

    /// Whether something pending must be done before more is taken in: the newest, where later requests may count on
    /// its effect, or else the oldest. Either wakes this task.
    fn is_full(&self) -> bool {
        let is_held_up = matches!(self.pending.back(), Some(InFlight { response: Pending::Later(_), .. }));
        let bytes = self.ready_bytes + self.outbox.bytes() + self.held_bytes;
        is_held_up || self.pending.len() >= IN_FLIGHT_MAX || bytes >= READY_BYTES_MAX
    }

    fn take_frames(&mut self) -> Result<(), Closed> {
        while !self.is_full() && self.closing.is_none() {
            let Some(frame) = self.reader.next_frame()? else { break };
            self.frames += 1;
            let since = self.broker.clock.boot();
            let key = frame.first_chunk::<2>().map_or(-1, |key| i16::from_be_bytes(*key));
            let length = frame.len();
            let (served, decoded) = dispatch(&self.broker, &self.info, frame);
            let response = match served {
                Served::Now(frame) => Pending::Ready(frame),
                Served::Durable(lsn, frame, late) => Pending::Durable(lsn, frame, late),
                Served::Later(future) => Pending::Later(future),
                Served::InTurn(future) => Pending::InTurn { future, begun: false },
                Served::Silent => continue,
                Served::Close(reason) => return Err(Closed::Refused(reason)),
            };
            let response = response.leased(self.broker.connections.answers())?;
            self.ready_bytes += response.encoded_bytes();
            // A request that is handled is gone, one that waits may wait for minutes. Behind `Later` nothing is read, so
            // that what the frame was read into still covers it.
            let held = match &response {
                Pending::Ready(_) | Pending::Durable(..) => 0,
                Pending::Later(_) => decoded,
                Pending::InTurn { .. } => decoded + length,
            };
            let lease = (held > UNLEASED_MAX).then(|| self.broker.connections.answers().try_take(held as u64));
            let _held = lease.map(|lease| lease.ok_or(Closed::NoMemory)).transpose()?;
            self.held_bytes += held;
            self.pending.push_back(InFlight { key, since, response, held, _held });
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
                *response = Pending::Ready(frame).leased(self.broker.connections.answers())?;
            }
        }
        while self.is_front_ready(context)? {
            let Some(InFlight { key, since, response, held, _held }) = self.pending.pop_front() else { break };
            self.held_bytes -= held;
            self.ready_bytes -= response.encoded_bytes();
            if let Pending::Ready(frame) | Pending::Durable(_, frame, _) = response {
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

    /// Whether the oldest response can be sent.
    fn is_front_ready(&mut self, context: &mut Context<'_>) -> Result<bool, Closed> {
        let waiting = self.outbox.bytes();
        let Some(front) = self.pending.front_mut() else { return Ok(false) };
        match &mut front.response {
            Pending::Ready(_) => Ok(true),
            Pending::Later(_) => Ok(false),
            // What a fetch takes would wait as well, behind a client that does not read.
            Pending::InTurn { begun: false, .. } if waiting >= READY_BYTES_MAX => Ok(false),
            Pending::InTurn { future, begun } => {
                *begun = true;
                let Poll::Ready(frame) = future.poll_unpin(context) else { return Ok(false) };
                self.ready_bytes += frame.len();
                front.response = Pending::Ready(frame).leased(self.broker.connections.answers())?;
                Ok(true)
            }
            Pending::Durable(lsn, _, late) => {
                let (lsn, until) = (*lsn, late.as_ref().map(|late| front.since + late.within));
                Ok(self.is_durable(lsn, context)? || self.is_late(until))
            }
        }
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

    /// Whether the oldest response, which is not durable, was to be sent by `until`: its answer is then another one.
    fn is_late(&mut self, until: Option<Duration>) -> bool {
        let Some(until) = until else { return false };
        let now = self.broker.clock.boot();
        if now < until {
            self.check.within(now, until.saturating_sub(now));
            return false;
        }
        self.durable_wait = None;
        if let Some(front) = self.pending.front_mut()
            && let Pending::Durable(_, frame, late) = &mut front.response
            && let Some(late) = late.take()
        {
            self.ready_bytes -= frame.len();
            *frame = late.answer(std::mem::take(frame));
            self.ready_bytes += frame.len();
        }
        true
    }

    /// Ends connections that are idle, or that keep memory without making progress.
    fn check_limits(&mut self, now: Duration) -> Result<(), Closed> {
        if let Some((reason, _)) = self.closing.take_if(|(_, until)| now >= *until) {
            return Err(reason);
        }
        let seen = (self.frames, self.reader.received(), self.outbox.written());
        if seen != self.seen || (!self.pending.is_empty() && self.outbox.is_empty()) {
            self.seen = seen;
            self.idle_since = now;
        }
        let idle = now.saturating_sub(self.idle_since);
        let mid_frame = self.reader.is_mid_frame() && self.outbox.is_empty() && idle >= FRAME_STALL_MAX;
        if mid_frame || idle >= Duration::from_millis(self.broker.config.connections_max_idle_ms) {
            return Err(Closed::Idle);
        }
        let (received, written) = (seen.1, seen.2);
        // While the log takes its time nothing more is read, and that is not the client's fault.
        let log_is_slow = matches!(self.pending.front(), Some(InFlight { response: Pending::Durable(..), .. }));
        let leased_until = self.reader.leased_until().filter(|_| !log_is_slow);
        self.receiving = paced(self.receiving, now, received, leased_until);
        if self.receiving.is_some_and(|pace| pace.is_behind(now, received)) && self.broker.request_memory.is_contended()
        {
            return Err(Closed::Stalled);
        }
        self.writing = paced(self.writing, now, written, self.outbox.front_end());
        if let Some(pace) = self.writing {
            let answers = self.broker.connections.answers();
            let contended = self.broker.response_budget.is_contended() || answers.used() > answers.limit() / 2;
            if pace.is_behind(now, written) && contended {
                return Err(Closed::Stalled);
            }
            if pace.elapsed(now) >= UNSHARE_AFTER {
                self.outbox.unshare();
            }
        }
        Ok(())
    }
}

/// Leaves the client time to read its answers. A socket that is closed while it has bytes that nobody read resets the
/// connection, which takes the answers from the client that did not read them yet.
async fn part(mut socket: TcpStream) {
    let mut unread = vec![0; 16 << 10];
    if socket.shutdown().await.is_ok() {
        while socket.read(&mut unread).await.is_ok_and(|read| read > 0) {}
    }
}

/// The pace of the transfer that is to reach `end`: it began when it was first seen.
fn paced(known: Option<Pace>, now: Duration, at: u64, end: Option<u64>) -> Option<Pace> {
    let end = end?;
    Some(known.filter(|pace| pace.end() == end).unwrap_or_else(|| Pace::new(now, at, end)))
}
