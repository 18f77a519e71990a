//! One task for the timers of all shards: it sleeps until the earliest deadline.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Coordinator;
use super::shard::Shard;

pub(super) async fn run<S: Shard>(coordinator: Coordinator<S>) -> Infallible {
    let inner = &coordinator.inner;
    loop {
        // Unarmed while it runs the timers: whoever sets a deadline meanwhile wakes it again.
        inner.armed_ms.store(i64::MAX, Ordering::Release);
        let (now, topics) = (inner.now(), inner.topics());
        let mut earliest_ms = i64::MAX;
        for shard in inner.ready() {
            let called = shard.on_timer(now, &topics);
            match called.deadline_ms {
                Some(deadline_ms) => earliest_ms = earliest_ms.min(deadline_ms),
                None => inner.follow_up(&shard, None),
            }
            coordinator.carry_out(&shard, called.after, called.effects);
        }
        inner.armed_ms.fetch_min(earliest_ms, Ordering::AcqRel);
        let wait_ms = u64::try_from(earliest_ms.saturating_sub(inner.now().boot_ms)).unwrap_or(0);
        tokio::select! {
            () = inner.earlier_deadline.notified() => {}
            () = tokio::time::sleep(Duration::from_millis(wait_ms.max(1))), if earliest_ms < i64::MAX => {}
        }
    }
}
