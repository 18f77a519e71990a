//! What the host needs of a shard: a pure state machine whose state is what the records of one partition say.

use std::sync::Arc;

use common::Lsn;
use coordinator::{CheckpointError, Now, Token, Topics};
use protocol::StoredRecordError;

use super::Coordinator;
use super::hosted::HostedShard;

/// A kind of coordinator: groups, transactions.
pub(crate) trait Shard: Sized + Send + 'static {
    /// The topic whose partitions hold the shards, one each.
    const TOPIC: &'static str;
    /// What it is called in logs.
    const NAME: &'static str;
    /// Settings.
    type Config: Send + Sync + 'static;
    /// What [`Self::carry_out`] works with.
    type Means: Send + Sync + 'static;
    /// What the records say, without what is soft.
    type State: Default + Send;
    /// One record.
    type Record: Send;
    /// What it is asked.
    type Request;
    /// What comes with a request.
    type Context<'a>;
    /// What it answers.
    type Response: Send + 'static;
    /// What is to be done besides, once everything is durable.
    type Effect: Send + 'static;

    /// The state that a checkpoint holds.
    fn restore(checkpoint: &[u8]) -> Result<Self::State, CheckpointError>;

    /// Takes over one record of the partition.
    fn replay(state: &mut Self::State, record: &StoredRecord<'_>);

    /// Takes over the end of a transaction in the partition.
    fn replay_marker(state: &mut Self::State, producer_id: i64, commit: bool);

    /// Topics that the state knows of and that do not exist (any more).
    fn topics_gone(state: &Self::State, exists: &dyn Fn(&str) -> bool) -> Vec<Arc<str>>;

    /// Starts to serve; also what has to be done again, because nobody knows whether it was done.
    fn start(config: Arc<Self::Config>, state: Self::State, now: Now) -> (Self, Vec<Self::Effect>);

    /// Handles a request.
    fn handle(&mut self, token: Token, context: &Self::Context<'_>, request: &Self::Request, now: Now)
    -> Outcome<Self>;

    /// Runs the timers that are due.
    fn on_timer(&mut self, now: Now, topics: &dyn Topics) -> Outcome<Self>;

    /// Topics are gone.
    fn on_topics_deleted(&mut self, topics: &[Arc<str>]) -> Outcome<Self>;

    /// Takes over records that were appended.
    fn apply(&mut self, records: &[Self::Record]);

    /// A record as it is stored.
    fn encode(record: &Self::Record) -> Result<(Vec<u8>, Option<Vec<u8>>), StoredRecordError>;

    /// The producer in whose open transaction the records are, if they are in one.
    fn producer_of(_records: &[Self::Record]) -> Option<(i64, i16)> {
        None
    }

    /// Whether the shard has acted on these records already, so that it must be loaded anew if they cannot be appended.
    fn is_ahead(records: &[Self::Record]) -> bool;

    /// When [`Self::on_timer`] is to be called next, boot ms.
    fn next_deadline(&self) -> Option<i64>;

    /// The state as bytes, for [`Self::restore`].
    fn checkpoint(&self) -> Vec<u8>;

    /// Does what is to be done besides, when the log is durable up to `after`. Must not wait.
    fn carry_out(
        coordinator: &Coordinator<Self>,
        shard: &Arc<HostedShard<Self>>,
        after: Lsn,
        effects: Vec<Self::Effect>,
    );
}

/// What came of a request or a timer.
pub(crate) struct Outcome<S: Shard> {
    /// To be appended in this order.
    pub(crate) records: Vec<S::Record>,
    /// To be sent once the records, and all before them, are durable.
    pub(crate) responses: Vec<(Token, S::Response)>,
    /// To be done then.
    pub(crate) effects: Vec<S::Effect>,
}

/// A record as it lies in the log.
pub(crate) struct StoredRecord<'a> {
    /// Its offset.
    pub(crate) offset: i64,
    /// The producer in whose transaction it is.
    pub(crate) producer_id: Option<i64>,
    /// Key; records without one are nobody's.
    pub(crate) key: &'a [u8],
    /// Value; none in a tombstone.
    pub(crate) value: Option<&'a [u8]>,
}
