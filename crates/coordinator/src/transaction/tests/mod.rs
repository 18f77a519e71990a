//! Tests of whole requests against a shard, on a clock that moves when told to.

mod add_partitions;
mod describe;
mod end_txn;
mod harness;
mod history;
mod init_producer_id;
mod markers;
mod metadata;
mod records;
mod timeouts;
