//! Byte budgets: the bound behind every queue, cache and in-flight set that is measured in bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Notify;

/// A number of bytes that holders share. Cloning gives another handle on the same budget.
#[derive(Clone, Debug)]
pub struct ByteBudget {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    limit: u64,
    used: AtomicU64,
    waiting: AtomicUsize,
    released: Notify,
}

/// Bytes taken from a [`ByteBudget`]; given back when dropped.
#[derive(Debug)]
pub struct ByteLease {
    inner: Arc<Inner>,
    bytes: u64,
}

impl ByteBudget {
    /// A budget of `limit` bytes, none of them used.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self {
            inner: Arc::new(Inner {
                limit,
                used: AtomicU64::new(0),
                waiting: AtomicUsize::new(0),
                released: Notify::new(),
            }),
        }
    }

    /// Takes `bytes` if they are left. A request larger than the whole budget is granted only when nothing
    /// else is out, so that one oversized holder makes progress alone instead of never.
    #[must_use]
    pub fn try_take(&self, bytes: u64) -> Option<ByteLease> {
        self.grant(bytes, |used| used == 0 || used.saturating_add(bytes) <= self.inner.limit)
    }

    /// Takes `bytes` if no more than `ceiling` are out afterwards: for those who leave the rest to others.
    #[must_use]
    pub fn try_take_below(&self, bytes: u64, ceiling: u64) -> Option<ByteLease> {
        self.grant(bytes, |used| used.saturating_add(bytes) <= ceiling.min(self.inner.limit))
    }

    fn grant(&self, bytes: u64, fits: impl Fn(u64) -> bool) -> Option<ByteLease> {
        let grant = |used: u64| fits(used).then(|| used.saturating_add(bytes));
        self.inner.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, grant).ok()?;
        Some(ByteLease { inner: Arc::clone(&self.inner), bytes })
    }

    /// Waits until `bytes` can be taken, as [`Self::try_take`] grants them.
    pub async fn take(&self, bytes: u64) -> ByteLease {
        self.until_granted(|| self.try_take(bytes)).await
    }

    /// Waits until `bytes` can be taken, as [`Self::try_take_below`] grants them.
    pub async fn take_below(&self, bytes: u64, ceiling: u64) -> ByteLease {
        self.until_granted(|| self.try_take_below(bytes, ceiling)).await
    }

    async fn until_granted(&self, grant: impl Fn() -> Option<ByteLease>) -> ByteLease {
        let _waiting = Waiting::begin(&self.inner);
        loop {
            let released = self.inner.released.notified();
            tokio::pin!(released);
            released.as_mut().enable();
            if let Some(lease) = grant() {
                return lease;
            }
            released.await;
        }
    }

    /// Whether somebody waits for bytes that others hold.
    #[must_use]
    pub fn is_contended(&self) -> bool {
        self.inner.waiting.load(Ordering::Acquire) > 0
    }

    /// Bytes out at this moment.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.inner.used.load(Ordering::Acquire)
    }

    /// The bound.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.inner.limit
    }
}

/// Counts one waiter for as long as it lives.
struct Waiting<'a>(&'a Inner);

impl<'a> Waiting<'a> {
    fn begin(inner: &'a Inner) -> Self {
        inner.waiting.fetch_add(1, Ordering::AcqRel);
        Self(inner)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

impl ByteLease {
    /// Makes one lease of two on the same budget.
    pub fn absorb(&mut self, mut other: Self) {
        debug_assert!(Arc::ptr_eq(&self.inner, &other.inner), "leases on one budget");
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Gives back what exceeds `bytes`.
    pub fn shrink_to(&mut self, bytes: u64) {
        let excess = self.bytes.saturating_sub(bytes);
        if excess > 0 {
            self.bytes -= excess;
            self.inner.used.fetch_sub(excess, Ordering::AcqRel);
            self.inner.released.notify_waiters();
        }
    }

    /// Bytes this lease holds.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for ByteLease {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.inner.used.fetch_sub(self.bytes, Ordering::AcqRel);
            self.inner.released.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_up_to_the_limit_and_takes_back() {
        let budget = ByteBudget::new(10);
        let first = budget.try_take(6).expect("fits");
        assert!(budget.try_take(5).is_none());
        drop(first);
        assert!(budget.try_take(5).is_some());
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn an_oversized_holder_goes_alone() {
        let budget = ByteBudget::new(10);
        let big = budget.try_take(50).expect("alone");
        assert!(budget.try_take(1).is_none());
        drop(big);
        assert!(budget.try_take(1).is_some());
    }

    #[test]
    fn a_ceiling_leaves_room_to_others() {
        let budget = ByteBudget::new(10);
        assert!(budget.try_take_below(6, 5).is_none());
        let mut low = budget.try_take_below(3, 5).expect("below");
        assert!(budget.try_take_below(3, 5).is_none());
        low.absorb(budget.try_take_below(2, 5).expect("up to the ceiling"));
        assert_eq!((low.bytes(), budget.used()), (5, 5));
        assert!(budget.try_take(5).is_some());
        drop(low);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_lease_shrinks_but_never_grows() {
        let budget = ByteBudget::new(10);
        let mut lease = budget.try_take(8).expect("fits");
        lease.shrink_to(9);
        assert_eq!(budget.used(), 8);
        lease.shrink_to(3);
        assert_eq!((lease.bytes(), budget.used()), (3, 3));
        drop(lease);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn a_waiter_is_woken_by_a_release() {
        let budget = ByteBudget::new(10);
        let held = budget.try_take(10).expect("fits");
        let mut waiter = Box::pin(budget.take(4));
        assert!(futures::poll!(&mut waiter).is_pending());
        assert!(budget.is_contended());
        drop(held);
        assert_eq!(waiter.await.bytes(), 4);
        assert!(!budget.is_contended());
    }
}
