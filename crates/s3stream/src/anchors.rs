//! Anchors: what an opening needs never lies in the store alone while the stream is open here, so that a broker that
//! was killed opens its streams while the store is down.
//!
//! A stream's *anchor* is the position from which on the log alone tells its state: its newest durable checkpoint, for
//! every record above the checkpoint's offset was appended after it; or its very first record, as long as no
//! checkpoint is there. The log is trimmed up to the lowest anchor at most. So that a stream at rest does not hold up
//! the trim for ever, its owner is asked for a new checkpoint when its anchor has fallen back: an eighth of the log,
//! looked at whenever a sixteenth was written. A stream that was opened from the store has no anchor and is asked at once.
//!
//! An anchor is there for availability, never for durability. When the log is three quarters full, or full for an append
//! (a ring of few segments may be earlier), trimming goes on without regard to anchors, and the streams concerned are asked
//! again.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::Lsn;

use crate::core::Core;
use crate::registry::Registry;

/// Checkpoints appended before other tasks get their turn.
const AT_ONCE: usize = 64;
/// Between two looks at all streams.
const PACE: Duration = Duration::from_millis(100);

/// Who keeps the state that a stream's checkpoints describe.
pub trait CheckpointSource: Send + Sync {
    /// Appends a checkpoint of the state as it is now, if it can. Called without any lock of the stream held.
    fn append_checkpoint(&self);
}

/// An anchor below this is to be replaced.
pub(crate) fn oldest_anchor(core: &Core) -> Lsn {
    Lsn(core.wal.durable().get().0.saturating_sub(core.wal.capacity() / 8))
}

/// Whether anchors must give way to the trim, this time.
pub(crate) fn give_way(core: &Core) -> bool {
    let was_full = core.anchors.log_was_full.swap(false, Ordering::AcqRel);
    was_full || core.wal.used() > core.wal.capacity() / 4 * 3
}

/// The task that asks for checkpoints.
pub(crate) async fn run(core: Arc<Core>, registry: Arc<Registry>) -> Infallible {
    loop {
        core.anchors.wanted.notified().await;
        renew(&core, &registry).await;
        tokio::time::sleep(PACE).await;
    }
}

pub(crate) async fn renew(core: &Core, registry: &Registry) {
    // Uploads may be stuck: what the last round's checkpoints let go is trimmed here.
    registry.settle(core);
    let sources = registry.without_anchor(core);
    for sources in sources.chunks(AT_ONCE) {
        sources.iter().filter_map(std::sync::Weak::upgrade).for_each(|source| source.append_checkpoint());
        tokio::task::yield_now().await;
    }
}
