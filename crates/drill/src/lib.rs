//! `ottla drill`: disturbs a cluster while real clients work on it, judges what they saw, and tells.

pub mod client;
pub mod commands;
pub mod engine;
pub mod figures;
pub mod history;
pub mod http;
pub mod ledger;
#[cfg(feature = "librdkafka")]
pub mod librdkafka;
pub mod payload;
pub mod plan;
pub mod report;
pub mod sockets;
pub mod timeline;
pub mod view;
pub mod wire;
