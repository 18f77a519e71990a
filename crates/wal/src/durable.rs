//! One publication of the durable position per flush, and waiters that are woken once each.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use common::Lsn;
use parking_lot::Mutex;

use crate::{SealedBy, WalFailed};

/// The position below which everything is durable. Only the log advances it.
#[derive(Debug)]
pub struct DurableLsn {
    position: AtomicU64,
    failed: AtomicBool,
    /// Set before `failed` is, if that was the reason.
    sealed: OnceLock<SealedBy>,
    /// The least position anybody waits for, `u64::MAX` when nobody does: spares a flush the lock.
    next_waited: AtomicU64,
    waiters: Mutex<Waiters>,
}

#[derive(Debug, Default)]
struct Waiters {
    next_id: u64,
    wakers: BTreeMap<(Lsn, u64), Waker>,
}

impl DurableLsn {
    /// A position that starts at `lsn`.
    #[must_use]
    pub fn at(lsn: Lsn) -> Self {
        Self {
            position: AtomicU64::new(lsn.0),
            failed: AtomicBool::new(false),
            sealed: OnceLock::new(),
            next_waited: AtomicU64::new(u64::MAX),
            waiters: Mutex::default(),
        }
    }

    /// The position now.
    #[must_use]
    pub fn get(&self) -> Lsn {
        Lsn(self.position.load(Ordering::SeqCst))
    }

    /// Whether the log failed.
    #[must_use]
    pub fn is_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    /// Publishes a new position and wakes, once each, those who waited for it.
    pub fn advance(&self, to: Lsn) {
        // Sequentially consistent with `poll`: either this sees the waiter's entry, or the waiter the position.
        self.position.fetch_max(to.0, Ordering::SeqCst);
        if self.next_waited.load(Ordering::SeqCst) > to.0 {
            return;
        }
        let due = {
            let mut waiters = self.waiters.lock();
            let later = waiters.wakers.split_off(&(Lsn(to.0.saturating_add(1)), 0));
            let due = std::mem::replace(&mut waiters.wakers, later);
            self.note_next(&waiters);
            due
        };
        due.into_values().for_each(Waker::wake);
    }

    /// Who sealed the log, if that is why it failed: it takes no more records, and nothing is wrong with its device. The
    /// owner goes on as a new life with a fresh log.
    #[must_use]
    pub fn sealed_by(&self) -> Option<SealedBy> {
        self.sealed.get().copied()
    }

    /// Publishes that the log was found sealed, as [`Self::fail`].
    pub fn fail_sealed(&self, by: SealedBy) {
        // Whoever sealed it first is written in the seal: it cannot be somebody else later.
        let _ = self.sealed.set(by);
        self.fail();
    }

    /// Publishes that the log failed and wakes everybody.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::SeqCst);
        let all = std::mem::take(&mut self.waiters.lock().wakers);
        all.into_values().for_each(Waker::wake);
    }

    /// Completes once the position reached `lsn`, or with an error if the log failed before.
    pub async fn wait(&self, lsn: Lsn) -> Result<(), WalFailed> {
        let mut registration = Registration { durable: self, key: None };
        poll_fn(move |context| registration.poll(lsn, context)).await
    }

    /// Wakes `waker` once, when the position reaches `lsn` or the log fails; `false`, without waking, if either is
    /// so already. There is no way to take it back: for callers with at most a few wakers each.
    pub fn wake_at(&self, lsn: Lsn, waker: Waker) -> bool {
        if self.state(lsn).is_some() {
            return false;
        }
        let key = {
            let mut waiters = self.waiters.lock();
            waiters.next_id += 1;
            let key = (lsn, waiters.next_id);
            waiters.wakers.insert(key, waker);
            self.note_next(&waiters);
            key
        };
        // The position may have moved between the look and the registration; what was taken out meanwhile is woken.
        self.state(lsn).is_none() || self.waiters.lock().wakers.remove(&key).is_none()
    }

    /// Called with the lock on the waiters held.
    fn note_next(&self, waiters: &Waiters) {
        let next = waiters.wakers.first_key_value().map_or(u64::MAX, |((lsn, _), _)| lsn.0);
        self.next_waited.store(next, Ordering::SeqCst);
    }

    fn state(&self, lsn: Lsn) -> Option<Result<(), WalFailed>> {
        if self.get() >= lsn { Some(Ok(())) } else { self.is_failed().then_some(Err(WalFailed)) }
    }
}

/// A waiter's entry, removed when the waiter gives up.
struct Registration<'a> {
    durable: &'a DurableLsn,
    key: Option<(Lsn, u64)>,
}

impl Registration<'_> {
    fn poll(&mut self, lsn: Lsn, context: &Context<'_>) -> Poll<Result<(), WalFailed>> {
        if let Some(state) = self.durable.state(lsn) {
            return Poll::Ready(state);
        }
        {
            let mut waiters = self.durable.waiters.lock();
            let key = *self.key.get_or_insert_with(|| {
                waiters.next_id += 1;
                (lsn, waiters.next_id)
            });
            waiters.wakers.insert(key, context.waker().clone());
            self.durable.note_next(&waiters);
        }
        // The position may have moved between the first look and the registration.
        self.durable.state(lsn).map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let mut waiters = self.durable.waiters.lock();
            if waiters.wakers.remove(&key).is_some() {
                self.durable.note_next(&waiters);
            }
        }
    }
}

impl Default for DurableLsn {
    fn default() -> Self {
        Self::at(Lsn(0))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::executor::block_on;

    use super::*;

    #[test]
    fn each_waiter_is_woken_by_its_own_position() {
        let durable = Arc::new(DurableLsn::at(Lsn(5)));
        block_on(durable.wait(Lsn(5))).expect("already there");
        std::thread::scope(|scope| {
            let waiters: Vec<_> = (0..100_u64)
                .map(|at| {
                    let durable = &durable;
                    scope.spawn(move || {
                        block_on(durable.wait(Lsn(6 + at))).expect("durable");
                        assert!(durable.get() >= Lsn(6 + at));
                    })
                })
                .collect();
            (0..=105).for_each(|at| durable.advance(Lsn(at)));
            waiters.into_iter().for_each(|waiter| waiter.join().expect("woken"));
        });
        assert_eq!(durable.next_waited.load(Ordering::SeqCst), u64::MAX);
        assert_eq!(durable.get(), Lsn(105));
    }

    #[test]
    fn a_failure_wakes_everybody_but_leaves_what_is_durable() {
        let durable = DurableLsn::at(Lsn(5));
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| block_on(durable.wait(Lsn(9))));
            durable.fail();
            assert_eq!(waiter.join().expect("woken"), Err(WalFailed));
        });
        assert_eq!(block_on(durable.wait(Lsn(4))), Ok(()));
    }

    #[test]
    fn a_waker_is_woken_although_nobody_else_waits() {
        struct Woken(AtomicBool);
        impl std::task::Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let durable = DurableLsn::at(Lsn(5));
        let woken = Arc::new(Woken(AtomicBool::new(false)));
        assert!(!durable.wake_at(Lsn(5), Waker::from(Arc::clone(&woken))), "that is durable already");
        assert!(durable.wake_at(Lsn(9), Waker::from(Arc::clone(&woken))));
        durable.advance(Lsn(8));
        assert!(!woken.0.load(Ordering::SeqCst));
        durable.advance(Lsn(9));
        assert!(woken.0.load(Ordering::SeqCst));
        assert_eq!(durable.next_waited.load(Ordering::SeqCst), u64::MAX);
    }

    #[test]
    fn a_waiter_that_gives_up_leaves_no_entry() {
        let durable = DurableLsn::at(Lsn(0));
        {
            let mut wait = std::pin::pin!(durable.wait(Lsn(9)));
            let mut context = Context::from_waker(Waker::noop());
            assert!(wait.as_mut().poll(&mut context).is_pending());
            assert_eq!(durable.next_waited.load(Ordering::SeqCst), 9);
        }
        assert_eq!(durable.next_waited.load(Ordering::SeqCst), u64::MAX);
        assert!(durable.waiters.lock().wakers.is_empty());
    }
}
