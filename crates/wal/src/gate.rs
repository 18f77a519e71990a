//! Whether the owner of a log may acknowledge now: its lease.

use std::fmt;
use std::time::Duration;

/// Asked by the log's thread between making a group durable and saying so. What was flushed while the gate is shut is
/// published when it opens again, if the log was not sealed meanwhile.
pub trait PublicationGate: fmt::Debug + Send + Sync + 'static {
    /// Whether what is durable may be published.
    fn is_open(&self) -> bool;

    /// Returns when the gate may have opened, or at the latest after `at_most`.
    fn wait(&self, at_most: Duration);
}
