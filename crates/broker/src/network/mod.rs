//! Listeners, connections, frames.

mod frame;

pub use frame::Frame;

use std::net::SocketAddr;

/// What is known of a connection.
#[derive(Debug)]
pub struct ConnectionInfo {
    /// Unique within this process.
    pub id: u64,
    /// Name of the listener it came in by.
    pub listener: String,
    /// The client's address.
    pub peer: SocketAddr,
}
