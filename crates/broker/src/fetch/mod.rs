//! Fetch beyond one partition: sessions, the response's layout, and waiting for data.

pub mod purgatory;
pub mod response;
pub mod session;
