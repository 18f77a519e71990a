//! What makes brokers a cluster: peers, leases, the active controller's care for lost nodes, adoption.

pub(crate) mod adopter;
pub(crate) mod agent;
pub(crate) mod backup;
pub mod balancing;
pub mod controller;
pub mod doubt;
pub(crate) mod drainer;
mod fail_over;
pub mod lease;
pub mod loads;
pub mod member;
pub mod mover;
mod one_each;
pub mod peer;
pub mod receiver;
pub(crate) mod registration;
pub mod sealer;
mod service;
mod sessions;

pub use lease::Lease;
pub use member::Member;
