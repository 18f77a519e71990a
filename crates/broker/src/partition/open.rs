//! Opening a partition: the newest checkpoint, then the tags of all records above it. No payload is read.

use std::sync::{Arc, Weak};

use common::Offset;
use common::planted::{self, Bug};
use parking_lot::Mutex;
use s3stream::{CheckpointSource, FetchError, Stream};

use super::checkpoint::{self, CheckpointError, PartitionCheckpoint};
use super::producer_state::ProducerStates;
use super::state::{Leadership, PartitionState};
use super::transactions::Transactions;
use super::{Environment, Meter, Partition, Topic};

/// Why a partition cannot be opened. It stays without a leader until a later attempt succeeds.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log or the store cannot be read now.
    #[error("reading the partition's state: {0}")]
    Storage(#[from] FetchError),
    /// The checkpoint is damaged, or of a later version: opening without it would forget state.
    #[error("the checkpoint at offset {offset}: {source}")]
    Checkpoint {
        /// Where it stands.
        offset: Offset,
        /// What is wrong with it.
        source: CheckpointError,
    },
}

impl Partition {
    /// Opens the partition whose data is `stream`, to lead it under `leader_epoch`.
    pub(crate) async fn open(
        environment: Arc<Environment>,
        topic: Arc<Topic>,
        index: i32,
        leader_epoch: i32,
        stream: Arc<Stream>,
    ) -> Result<Arc<Self>, OpenError> {
        let mut checkpoint = match stream.checkpoint().await? {
            Some(newest) => decode(newest.offset, &newest.payload)?,
            None => PartitionCheckpoint::default(),
        };
        let log_start = stream.start_offset();
        let from = log_start.max(Offset(checkpoint.offset));
        if log_start.0 > checkpoint.offset {
            // Records between the checkpoint and the log start are gone, and with them what they changed: a
            // producer that wrote one would be held to a sequence number it has passed. Better unknown than wrong.
            // A transaction that is open as far as the checkpoint knows may have ended there; where it has not, the first of
            // its records that is left begins it anew.
            checkpoint.producers = ProducerStates::default();
            checkpoint.transactions = Transactions::default();
        }
        let now_ms = environment.clock.wall_ms();
        let mut state = PartitionState::restored(checkpoint, log_start.0);
        if from < stream.next_offset() {
            let heads = stream.heads(from).await?;
            heads.iter().filter(|head| head.next_offset > from).for_each(|head| state.replay(head, now_ms));
        }
        if planted::is(Bug::ForgetProducers) {
            state.producers = ProducerStates::default();
            state.transactions = Transactions::default();
        }
        if let Some(newest) = stream.newest_lsn() {
            // An earlier opening in this process may have appended what is not durable yet, and from here on
            // everything that is there counts as readable.
            let failed = |error: wal::WalFailed| FetchError::Unavailable(error.to_string());
            environment.durable.wait(newest).await.map_err(failed)?;
        }
        state.lead(leader_epoch, stream.next_offset().0);
        let coordinator_owned = topic.is_coordinator_owned();
        let partition =
            Self { environment, topic, index, leader_epoch, stream, meter: Meter::default(), state: Mutex::new(state) };
        let partition = Arc::new(partition);
        if !coordinator_owned {
            let source: Weak<Self> = Arc::downgrade(&partition);
            partition.opened(source);
        }
        Ok(partition)
    }

    /// Everything that the log recovered was read, by this partition and by whoever owns its records; `source` makes
    /// its checkpoints from now on.
    pub(crate) fn opened(&self, source: Weak<dyn CheckpointSource>) {
        self.stream.opened();
        self.stream.set_checkpoint_source(source);
    }
}

impl CheckpointSource for Partition {
    fn append_checkpoint(&self) {
        let mut state = self.state.lock();
        if state.leadership == Leadership::Full {
            // A full log takes none: asked again later.
            let _ = self.append_checkpoint_locked(&mut state, None);
        }
    }
}

fn decode(offset: Offset, payload: &bytes::Bytes) -> Result<PartitionCheckpoint, OpenError> {
    let decoded = checkpoint::decode(payload).map_err(|source| OpenError::Checkpoint { offset, source })?;
    if decoded.offset == offset.0 {
        return Ok(decoded);
    }
    Err(OpenError::Checkpoint { offset, source: CheckpointError::Invalid("it describes another offset") })
}
