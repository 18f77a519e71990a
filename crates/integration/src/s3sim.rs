//! An S3 server for tests: in memory, path style, SigV4, atomic conditional PUT and compare-and-swap,
//! ranges, multipart, listing, deletes, and faults on demand. It owns no promise of durability: what it is
//! for is exactness of outcomes (one winner of a create race) and control over failures.
//!
//! One listener speaks S3, a second one speaks the admin protocol ([`admin`]): tests set faults there and
//! read what was asked of the server.

mod admin;
mod faults;
mod objects;
mod server;

#[cfg(test)]
mod tests;

pub use admin::Stats;
pub use faults::{Faults, Op};
pub use server::{Config, Running, start};
