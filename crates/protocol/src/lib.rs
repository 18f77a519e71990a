//! The Kafka protocol as Ottla needs it: a thin layer on the `kafka-protocol` crate. Framing and headers,
//! the guard that walks hostile frames before they are decoded, response buffers that link records
//! instead of copying them, record batches in place, error codes, and the records Kafka itself stores.
//! No I/O.

pub mod batch;
pub mod errors;
pub mod frame;
pub mod group_records;
pub mod guard;
pub mod rope;
mod stored_record;
pub mod transaction_records;

pub use errors::ErrorCode;
pub use kafka_protocol as kafka;
pub use stored_record::StoredRecordError;
