//! What a drill needs of a client library, of a cluster's answers about itself, and of whoever has power over it.
//! A simulation implements these as well as the real things do.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use crate::ledger::Ledger;
use crate::plan::Action;

/// Why a producer did not take a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Its queue is full.
    Full,
    /// It will never take one again: this is what it said.
    Fatal(String),
}

/// Records `[start, end)` of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The partition.
    pub partition: u32,
    /// Log start offset.
    pub start: u64,
    /// High watermark.
    pub end: u64,
}

/// A client library.
pub trait Clients: Sync {
    /// Creates a topic.
    ///
    /// # Errors
    /// The cluster refuses.
    fn create_topic(&self, topic: &str, partitions: u32, replication: i16) -> Result<()>;

    /// Deletes a topic.
    ///
    /// # Errors
    /// The cluster refuses.
    fn delete_topic(&self, topic: &str) -> Result<()>;

    /// An idempotent producer with acks=all, which tells `ledger` the outcome of each record and every error.
    ///
    /// # Errors
    /// Its settings are wrong.
    fn producer(&self, topic: &str, ledger: Arc<Ledger>) -> Result<Box<dyn Producer>>;

    /// A member of a consumer group that starts at the beginning where nothing is committed, and tells `ledger` what
    /// it is given, what it polls, what it commits and every error.
    ///
    /// # Errors
    /// Its settings are wrong.
    fn member(&self, topic: &str, group: &str, number: u32, ledger: Arc<Ledger>) -> Result<Box<dyn Member>>;

    /// Reads each of the ranges from its start to its end, in order within a partition.
    ///
    /// # Errors
    /// Nothing came for `patience`, or the client gave up.
    fn read_back(
        &self,
        topic: &str,
        ranges: &[Range],
        patience: Duration,
        take: &mut dyn FnMut(u32, u64, &[u8]),
    ) -> Result<()>;

    /// The group's committed offset of each partition.
    ///
    /// # Errors
    /// The coordinator does not answer.
    fn committed(&self, topic: &str, group: &str, partitions: u32) -> Result<Vec<Option<u64>>>;
}

/// A producer. It may be dropped with records under way: their outcome is unknown then.
pub trait Producer: Send {
    /// Takes a record, or says why not. Never waits.
    ///
    /// # Errors
    /// [`Refusal`]; the record is not sent.
    fn send(&self, partition: u32, payload: &[u8]) -> Result<(), Refusal>;

    /// Waits until no record is under way, or `patience` is over.
    fn flush(&self, patience: Duration);
}

/// A group member.
pub trait Member: Send {
    /// Polls for up to `patience`, or until some records came.
    fn poll(&mut self, patience: Duration);

    /// Commits what was polled. The outcome may come with a later poll.
    fn commit(&mut self);

    /// Commits what was polled, waits for the outcome, and leaves the group.
    fn leave(self: Box<Self>);
}

/// Who leads a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leader {
    /// `None`: nobody at present.
    pub node: Option<u32>,
    /// Its leader epoch.
    pub epoch: i32,
}

/// A broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Its node id.
    pub id: u32,
    /// `host:port`.
    pub address: String,
}

/// What a broker says about the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overview {
    /// The live brokers.
    pub brokers: Vec<Broker>,
    /// The leader of each partition of the topic; empty if there is no such topic.
    pub leaders: Vec<Leader>,
}

/// A connection to one broker, over which it is asked about itself. A failed one is opened again.
pub trait Observer: Send {
    /// Who is there and who leads.
    ///
    /// # Errors
    /// The broker does not answer.
    fn overview(&mut self, topic: &str) -> Result<Overview>;

    /// Log start offset and high watermark of those of `partitions` that this broker leads, or believes to.
    ///
    /// # Errors
    /// The broker does not answer.
    fn offsets(&mut self, topic: &str, partitions: &[u32]) -> Result<Vec<Range>>;

    /// The leader of the metadata quorum, if this broker tells.
    ///
    /// # Errors
    /// The broker does not answer.
    fn controller(&mut self) -> Result<Option<u32>>;
}

/// A cluster that answers.
pub trait View: Sync {
    /// Addresses to begin with.
    fn bootstrap(&self) -> Vec<String>;

    /// Connects to one broker.
    ///
    /// # Errors
    /// Nobody listens.
    fn observe(&self, address: &str) -> Result<Box<dyn Observer>>;
}

/// What has moved between brokers since they started, as far as it can be told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// By the kernel's counters of the sockets between them.
    pub kernel_bytes: Option<u64>,
    /// Tails of moved partitions, by the brokers' own count.
    pub tail_bytes: Option<u64>,
}

/// Whoever can do things to the cluster.
pub trait Operator: Sync {
    /// Does it, and returns when it is done.
    ///
    /// # Errors
    /// It cannot be done.
    fn act(&self, action: Action) -> Result<()>;

    /// Whether it knows how.
    fn can(&self, action: Action) -> bool;

    /// Counts what has moved between brokers.
    fn traffic(&self) -> Traffic;
}
