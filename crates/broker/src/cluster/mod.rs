//! What makes brokers a cluster: peers, leases, the active controller's care for lost nodes, adoption.

pub mod peer;
