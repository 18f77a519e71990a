//! One publication of the durable position per flush, and waiters that are woken once each.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use common::Lsn;
use parking_lot::Mutex;

use crate::WalFailed;

/// The position below which everything is durable. Only the log advances it.
#[derive(Debug, Default)]
pub struct DurableLsn {
    position: AtomicU64,
    failed: AtomicBool,
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
        Self { position: AtomicU64::new(lsn.0), ..Self::default() }
    }

    /// The position now.
    #[must_use]
    pub fn get(&self) -> Lsn {
        Lsn(self.position.load(Ordering::Acquire))
    }

    /// Whether the log failed.
    #[must_use]
    pub fn is_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Publishes a new position and wakes, once each, those who waited for it.
    pub fn advance(&self, to: Lsn) {
        self.position.fetch_max(to.0, Ordering::AcqRel);
        let due = {
            let mut waiters = self.waiters.lock();
            let later = waiters.wakers.split_off(&(Lsn(to.0.saturating_add(1)), 0));
            std::mem::replace(&mut waiters.wakers, later)
        };
        due.into_values().for_each(Waker::wake);
    }

    /// Publishes that the log failed and wakes everybody.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::Release);
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
            key
        };
        // The position may have moved between the look and the registration; what was taken out meanwhile is woken.
        self.state(lsn).is_none() || self.waiters.lock().wakers.remove(&key).is_none()
    }

    fn state(&self, lsn: Lsn) -> Option<Result<(), WalFailed>> {
        if self.get() >= lsn {
            Some(Ok(()))
        } else {
            self.is_failed().then_some(Err(WalFailed))
        }
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
        }
        // The position may have moved between the first look and the registration.
        self.durable.state(lsn).map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.durable.waiters.lock().wakers.remove(&key);
        }
    }
}
