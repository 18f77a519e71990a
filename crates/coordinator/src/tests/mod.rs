//! Tests of whole requests against a shard, on a clock that moves when told to.

mod admin;
mod expiration;
mod harness;
mod history;
mod join;
mod leave;
mod offsets;
mod rebalance;
mod static_members;
mod sync;
