//! Waiting for data on many partitions at once: what a parked fetch holds.
//!
//! A wait costs nothing while nothing is appended. The first append to one of its partitions takes the waiter out
//! of that partition and arms it on the log's durable position, so the fetch is woken once, when those records
//! are readable, and not once per append.
//!
//! Who reads committed records alone waits apart from the others: while a transaction is open no append but its
//! marker makes anything readable, and whoever was woken by each of them would turn in a circle.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Wake, Waker};

use common::Lsn;
use tokio::sync::Notify;
use wal::DurableLsn;

use super::Partition;
use super::read::Isolation;

const UNARMED: u64 = u64::MAX;

/// One parked fetch, as its partitions see it.
pub(crate) struct DataWaiter {
    durable: Arc<DurableLsn>,
    notify: Notify,
    /// Lowest position it is armed on.
    armed: AtomicU64,
}

impl Wake for DataWaiter {
    fn wake(self: Arc<Self>) {
        self.notify.notify_one();
    }
}

impl DataWaiter {
    /// Wakes it once the log is durable up to `lsn`.
    pub(crate) fn arm(self: &Arc<Self>, lsn: Lsn) {
        if self.armed.fetch_min(lsn.0, Ordering::AcqRel) <= lsn.0 {
            return;
        }
        if !self.durable.wake_at(lsn, Waker::from(Arc::clone(self))) {
            self.fire();
        }
    }

    /// Wakes it now.
    pub(crate) fn fire(&self) {
        self.notify.notify_one();
    }
}

/// The waiters of one partition.
#[derive(Default)]
pub(crate) struct Waiters {
    /// For the high watermark.
    parked: Vec<Arc<DataWaiter>>,
    /// For the last stable offset, none of which will advance by what is appended already.
    stable: Vec<Arc<DataWaiter>>,
}

impl Waiters {
    pub(crate) fn add(&mut self, waiter: &Arc<DataWaiter>, isolation: Isolation) {
        let waiters = match isolation {
            Isolation::ReadUncommitted => &mut self.parked,
            Isolation::ReadCommitted => &mut self.stable,
        };
        waiters.push(Arc::clone(waiter));
    }

    pub(crate) fn remove(&mut self, waiter: &Arc<DataWaiter>) {
        for waiters in [&mut self.parked, &mut self.stable] {
            waiters.retain(|parked| !Arc::ptr_eq(parked, waiter));
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.parked.len() + self.stable.len()
    }

    /// Something was appended that is durable at `lsn`.
    pub(crate) fn appended(&mut self, lsn: Lsn) {
        arm_all(&mut self.parked, lsn);
    }

    /// The last stable offset advances once the log is durable up to `lsn`.
    pub(crate) fn stabilized(&mut self, lsn: Lsn) {
        arm_all(&mut self.stable, lsn);
    }

    /// The last stable offset advanced without an append.
    pub(crate) fn stable_now(&mut self) {
        std::mem::take(&mut self.stable).iter().for_each(|waiter| waiter.fire());
    }

    /// Nothing will be appended any more.
    pub(crate) fn closed(&mut self) {
        std::mem::take(&mut self.parked).iter().for_each(|waiter| waiter.fire());
        self.stable_now();
    }
}

fn arm_all(waiters: &mut Vec<Arc<DataWaiter>>, lsn: Lsn) {
    if !waiters.is_empty() {
        std::mem::take(waiters).iter().for_each(|waiter| waiter.arm(lsn));
    }
}

/// A wait for news from any of several partitions. Dropping it takes it out of all of them.
///
/// Watch every partition first, then read them once more if they were read before (data that is readable at
/// [`DataWait::watch`] wakes at once), then await [`DataWait::woken`].
pub struct DataWait {
    waiter: Arc<DataWaiter>,
    partitions: Vec<Arc<Partition>>,
}

impl DataWait {
    /// A wait on no partition yet, in the broker whose log publishes `durable`.
    #[must_use]
    pub fn new(durable: &Arc<DurableLsn>) -> Self {
        let waiter = DataWaiter { durable: Arc::clone(durable), notify: Notify::new(), armed: AtomicU64::new(UNARMED) };
        Self { waiter: Arc::new(waiter), partitions: Vec::new() }
    }

    /// Adds a partition: the wait ends when a record at or above `from` becomes readable there, to a consumer of this
    /// isolation, or when this broker ceases to lead it.
    pub fn watch(&mut self, partition: &Arc<Partition>, from: common::Offset, isolation: Isolation) {
        if partition.register(&self.waiter, from, isolation) {
            self.partitions.push(Arc::clone(partition));
        }
    }

    /// Completes when one of the partitions has news. May complete early: read again and, where that is not enough, make
    /// a new wait. Cancelling it loses nothing.
    pub async fn woken(&self) {
        self.waiter.notify.notified().await;
    }
}

impl Drop for DataWait {
    fn drop(&mut self) {
        for partition in &self.partitions {
            partition.deregister(&self.waiter);
        }
    }
}
