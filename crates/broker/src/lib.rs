//! The broker: network, dispatch, one file per API key, partitions, fetch, coordinators' host, and the one
//! place that composes the crates below.

pub mod admin_http;
pub mod api;
pub mod broker;
pub mod cluster;
pub mod config;
pub mod coordinator;
pub mod fetch;
pub mod loggers;
pub mod machine;
pub mod meta_properties;
pub mod metrics;
pub mod network;
pub mod partition;
pub mod restore;
pub mod start;
pub mod storage;
pub mod topics;
mod transactions;

pub use broker::Broker;
pub use machine::Machine;
pub use start::{Ending, RunningBroker, RunningController, StartError, StopReport, start, start_controller, start_on};
