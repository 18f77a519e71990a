//! Transaction coordination as a pure state machine.
//!
//! A [`TransactionShard`] is the state of one partition of `__transaction_state`: its transactional ids, the producer
//! ids and epochs they hold, and the transactions they have open. It is given requests and the time, and gives back
//! records to append, responses to send, and markers to write. It does no I/O, reads no clock, makes no randomness, and
//! knows no runtime. Rules that must hold are named in `invariants.rs`.
//!
//! What decides is in the records: [`PersistedTransactions`] is exactly what they say, and only
//! [`TransactionShard::apply`] and replay change it. Soft is only which markers a decided transaction still lacks.
//!
//! Contract with the host, as for groups: append the records of one [`TransactionOutput`] in order, before those of any
//! later one, and hand them to [`TransactionShard::apply`] before the next call; release responses *and markers* only when
//! every record appended up to then is durable. If an append fails, nothing has happened: answer with an error and go on.
//! (Where its outcome is unknown, drop the shard and load it again from durable state.) A completion that could not
//! be appended comes again with the next scan.
//!
//! A transactional id belongs to the shard that [`crate::shard_of`] says.

mod add_partitions;
mod checkpoint;
mod config;
mod describe;
mod end_txn;
mod init_producer_id;
mod invariants;
mod markers;
mod metadata;
mod partitions;
mod persisted;
mod record_codec;
mod shard;
mod timeouts;

pub use config::TransactionConfig;
pub use markers::MarkerTask;
pub use metadata::{ProducerIdAndEpoch, TransactionMetadata, TransactionState};
pub use partitions::PartitionSet;
pub use persisted::PersistedTransactions;
pub use record_codec::TransactionRecord;
pub use shard::{
    ProducerRequest, TransactionContext, TransactionOutput, TransactionRequest, TransactionResponse, TransactionShard,
};

#[cfg(test)]
mod tests;
