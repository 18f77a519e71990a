//! Memory for frames that are on their way in.
//!
//! Rule **memory-follows-bytes**: what a client declares gets no memory, only what it has sent. The first [`SMALL`]
//! bytes of a frame come into a buffer that every connection has anyway; then it gets a share of the budget, and each
//! time that is full four times as much, up to its length.
//!
//! Nobody waits in a circle. Whoever waits for a first share holds nothing. A frame that has filled its share grows in
//! the lower half of the budget once there is room, and meanwhile queues to be the one frame that may go beyond the
//! budget: that one takes all it needs at once, so it never waits again. It ends, or its client is cut off
//! ([`super::pace`]), and the next one follows. So large frames, finished or not, leave half of the budget to first shares, which is all that
//! most requests ever need; and memory is bounded by the budget and one frame.

use std::sync::Arc;

use common::budget::{ByteBudget, ByteLease};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of the buffer that every connection keeps.
pub(super) const SMALL: usize = 16 << 10;
/// Most bytes of a first share.
const SHARE_MAX: usize = 256 << 10;
/// A first share is at most this part of the budget.
const SHARES: usize = 256;
/// How much larger a share gets when it is full.
const GROWTH: usize = 4;

/// The budget of requests being read and handled. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RequestMemory {
    budget: ByteBudget,
    /// Held by the one frame that may go beyond the budget.
    beyond: Arc<Semaphore>,
}

/// Memory that a frame may be read into.
#[derive(Debug)]
pub(super) struct Share {
    room: usize,
    lease: ByteLease,
    _beyond: Option<OwnedSemaphorePermit>,
}

impl Share {
    /// Bytes of it.
    pub(super) fn room(&self) -> usize {
        self.room
    }
}

impl RequestMemory {
    /// A budget of `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self { budget: ByteBudget::new(limit), beyond: Arc::new(Semaphore::new(1)) }
    }

    /// Bytes out at this moment, without those that go beyond the budget.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.budget.used()
    }

    /// Whether others wait for what a frame holds.
    pub(crate) fn is_contended(&self) -> bool {
        self.budget.is_contended() || self.beyond.available_permits() == 0
    }

    /// More memory for a frame of `total` bytes that has filled what it has.
    pub(super) async fn grow(self, share: Option<Share>, total: usize) -> Share {
        let Some(Share { room, mut lease, .. }) = share else {
            let share = usize::try_from(self.budget.limit()).unwrap_or(usize::MAX) / SHARES;
            let room = total.min(share.clamp(2 * SMALL, SHARE_MAX));
            return Share { room, lease: self.budget.take(room as u64).await, _beyond: None };
        };
        let wanted = total.min(room.saturating_mul(GROWTH));
        let more = self.budget.take_below(wanted.saturating_sub(room) as u64, self.budget.limit() / 2);
        tokio::select! {
            biased;
            more = more => {
                lease.absorb(more);
                Share { room: wanted, lease, _beyond: None }
            }
            // The semaphore is never closed.
            Ok(beyond) = self.beyond.acquire_owned() => Share { room: total, lease, _beyond: Some(beyond) },
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const FRAME: usize = 100 << 20;

    /// Grows until there is no more at once.
    fn grown(memory: &RequestMemory) -> Share {
        let mut share = memory.clone().grow(None, FRAME).now_or_never().expect("a first share");
        while memory.used() + 3 * share.room() as u64 <= 64 << 20 {
            share = memory.clone().grow(Some(share), FRAME).now_or_never().expect("below the half");
        }
        share
    }

    #[test]
    fn large_frames_leave_half_to_first_shares() {
        let memory = RequestMemory::new(128 << 20);
        let large: Vec<Share> = (0..64).map(|_| grown(&memory)).collect();
        assert!(memory.used() <= (64 << 20) + 64 * SHARE_MAX as u64);
        let small = memory.clone().grow(None, 200_000).now_or_never().expect("a bystander's");
        assert_eq!(small.room(), 200_000);
        drop((large, small));
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn one_frame_at_a_time_goes_beyond_the_budget_and_never_waits_again() {
        let memory = RequestMemory::new(1 << 20);
        let first = || memory.clone().grow(None, FRAME).now_or_never().expect("a first share");
        let shares: Vec<Share> = (0..32).map(|_| first()).collect();
        assert_eq!(memory.used(), 1 << 20);
        assert!(memory.clone().grow(None, FRAME).now_or_never().is_none());
        let mut waiting: Vec<_> =
            shares.into_iter().map(|share| Box::pin(memory.clone().grow(Some(share), FRAME))).collect();
        // In the order in which they asked, each when the one before has ended.
        for next in waiting.iter_mut().take(3) {
            let alone = next.now_or_never().expect("the oldest goes on");
            assert_eq!(alone.room(), FRAME);
            assert!(memory.is_contended());
        }
        drop(waiting);
        assert_eq!((memory.used(), memory.is_contended()), (0, false));
    }
}
