//! One task for the timers of all shards: it sleeps until the earliest deadline.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Inner;

pub(super) async fn run(inner: Arc<Inner>) -> Infallible {
    loop {
        // Unarmed while it runs the timers: whoever sets a deadline meanwhile wakes it again.
        inner.armed_ms.store(i64::MAX, Ordering::Release);
        let now = inner.now();
        let mut earliest_ms = i64::MAX;
        for shard in inner.ready() {
            match shard.on_timer(now) {
                Some(deadline_ms) => earliest_ms = earliest_ms.min(deadline_ms),
                None => inner.after(&shard, None),
            }
        }
        inner.armed_ms.fetch_min(earliest_ms, Ordering::AcqRel);
        let wait_ms = u64::try_from(earliest_ms.saturating_sub(inner.now().boot_ms)).unwrap_or(0);
        tokio::select! {
            () = inner.earlier_deadline.notified() => {}
            () = tokio::time::sleep(Duration::from_millis(wait_ms.max(1))), if earliest_ms < i64::MAX => {}
        }
    }
}
