//! A whole cluster in one process on a simulated network, disk, object store, clock and randomness: brokers, controllers and
//! clients under random faults, judged by the history checker. One seed gives one run, to the byte.
//!
//! A run has four phases: the cluster starts; faults strike while clients work, and safety is all that is asked; everything
//! is healed, and the cluster must come to serve all again within a bound; clients stop, everything is read back and judged.
//!
//! Each run has a process of its own, because hash keys and the randomness of `select!` belong to the process.
#![cfg(feature = "simulation")]

pub mod client;
pub mod entropy;
pub mod invariants;
pub mod judge;
pub mod logs;
pub mod machine;
pub mod nemesis;
pub mod node;
pub mod run;
pub mod trace;
pub mod watch;
pub mod world;
