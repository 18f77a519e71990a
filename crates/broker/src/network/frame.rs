//! An encoded response, ready for a vectored write.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, ResponseHeader};
use kafka_protocol::protocol::Encodable;

/// A response with its length prefix, as pieces that share memory with caches.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    pieces: Vec<Bytes>,
}

impl Frame {
    /// Encodes header and body. A body that cannot be encoded at that version is a bug of the handler; the
    /// frame is then empty and the connection gets closed.
    pub fn response<R: Encodable>(key: i16, version: i16, correlation_id: i32, body: &R) -> Self {
        let Ok(api_key) = ApiKey::try_from(key) else { return Self::default() };
        let mut buffer = BytesMut::with_capacity(128);
        buffer.put_i32(0);
        let header = ResponseHeader::default().with_correlation_id(correlation_id);
        let encoded = header
            .encode(&mut buffer, api_key.response_header_version(version))
            .and_then(|()| body.encode(&mut buffer, version));
        if let Err(error) = encoded {
            tracing::error!(?api_key, version, %error, "response cannot be encoded");
            return Self::default();
        }
        let length = i32::try_from(buffer.len() - 4).unwrap_or(i32::MAX);
        buffer[..4].copy_from_slice(&length.to_be_bytes());
        Self { pieces: vec![buffer.freeze()] }
    }

    /// The pieces, length prefix first; empty when encoding failed.
    #[must_use]
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }
}
