//! Tests of whole requests against a shard, on a clock that moves when told to.

mod admin;
mod consumer;
mod consumer_history;
mod consumer_member;
mod expiration;
mod harness;
mod history;
mod join;
mod leave;
mod offsets;
mod rebalance;
mod static_members;
mod sync;
