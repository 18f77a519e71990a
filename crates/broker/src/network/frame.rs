//! An encoded response, ready for a vectored write.

use bytes::Bytes;
use common::budget::{ByteBudget, ByteLease};
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::Encodable;
use protocol::rope::{self, EncodeError, ResponseFrame};

/// Larger frames lease their memory.
pub(super) const UNLEASED_MAX: usize = 16 << 10;

/// A response with its length prefix, as pieces that share memory with caches.
#[derive(Debug, Default)]
pub struct Frame {
    encoded: ResponseFrame,
    lease: Option<ByteLease>,
}

impl Frame {
    /// Encodes header and body. A body that cannot be encoded at that version is a bug of the handler; the
    /// frame is then empty and the connection gets closed.
    pub fn response<R: Encodable>(key: i16, version: i16, correlation_id: i32, body: &R) -> Self {
        let Ok(api_key) = ApiKey::try_from(key) else { return Self::default() };
        Self::encoded(rope::encode(api_key, version, correlation_id, body), None)
    }

    /// A frame that was encoded already, with the lease on its memory, which is given back when it is written.
    pub fn encoded(frame: Result<ResponseFrame, EncodeError>, lease: Option<ByteLease>) -> Self {
        match frame {
            Ok(encoded) => Self { encoded, lease },
            Err(error) => {
                tracing::error!(%error, "a response cannot be encoded");
                Self::default()
            }
        }
    }

    /// Leases the frame's memory from `budget` if it is large and has no lease yet: a client need not read its answers,
    /// nor let the request in front of this one come to an end. `None` where the budget has no room.
    pub(super) fn leased(mut self, budget: &ByteBudget) -> Option<Self> {
        if self.lease.is_none() && self.len() > UNLEASED_MAX {
            self.lease = Some(budget.try_take(self.len() as u64)?);
        }
        Some(self)
    }

    /// Whether encoding failed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.encoded.is_empty()
    }

    /// Bytes of the whole frame, length prefix included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.encoded.len()
    }

    /// The pieces, length prefix first, and the lease on their memory.
    #[must_use]
    pub fn into_parts(self) -> (Vec<Bytes>, Option<ByteLease>) {
        (self.encoded.into_segments(), self.lease)
    }
}
