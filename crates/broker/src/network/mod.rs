//! Listeners, connections, frames. A connection is one task: it reads frames, dispatches them in arrival
//! order, and writes responses in request order, up to [`IN_FLIGHT_MAX`] requests overlapping.

mod connection;
mod dispatch;
mod frame;
mod listener;
mod outbox;
mod pace;
mod reader;
mod request_memory;
pub(crate) mod socket;

pub use frame::Frame;
pub use listener::{BoundListener, Limits};
pub use request_memory::RequestMemory;

use std::net::SocketAddr;

use crate::api::RefusedBatch;

/// Requests of one connection that may be in progress at once. Reading stops at this many, so a client that
/// sends more waits in its own socket.
pub const IN_FLIGHT_MAX: usize = 64;

/// What is known of a connection.
#[derive(Debug)]
pub struct ConnectionInfo {
    /// Unique within this process.
    pub id: u64,
    /// Name of the listener it came in by.
    pub listener: String,
    /// The client's address.
    pub peer: SocketAddr,
    /// What became of a batch that others may follow.
    pub refused_batch: RefusedBatch,
}
