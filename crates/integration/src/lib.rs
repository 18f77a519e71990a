//! What proves the whole broker from outside: a history checker, an S3 server with faults, and the means
//! to run a real `ottla` process and real clients against it. The tests are in `tests/`.

pub use drill::{history, http, wire};

pub mod process;
pub mod s3sim;
