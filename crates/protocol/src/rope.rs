//! Response frames whose records are linked, not copied: small fields go to one buffer, records stay the
//! `Bytes` they are, and a vectored write sends both.

use bytes::{BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::Encodable;

use crate::frame::{LENGTH_LEN, put_response_header};

/// Records shorter than this are copied: a segment of its own costs more.
pub const LINK_LEN_MIN: usize = 1024;

/// Why a response could not be encoded. The connection must be closed, or another response sent.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// A field does not exist in this version, or is too long for its type.
    #[error("the response does not fit version {version}: {reason}")]
    Field {
        /// Version asked for.
        version: i16,
        /// What the codec says.
        reason: String,
    },
    /// The frame exceeds what a length field can say.
    #[error("the response of {0} bytes exceeds a frame")]
    TooLarge(usize),
}

/// A frame under construction.
#[derive(Debug)]
pub struct Rope {
    fields: BytesMut,
    /// Linked bytes, each with the position in `fields` before which it belongs; ascending.
    links: Vec<(usize, Bytes)>,
    linked_len: usize,
}

/// A whole frame, length included, in the pieces to be written one after the other.
#[derive(Clone, Debug, Default)]
pub struct ResponseFrame {
    segments: Vec<Bytes>,
    len: usize,
}

impl ResponseFrame {
    /// The pieces in order; none is empty.
    #[must_use]
    pub fn segments(&self) -> &[Bytes] {
        &self.segments
    }

    /// The pieces in order, owned.
    #[must_use]
    pub fn into_segments(self) -> Vec<Bytes> {
        self.segments
    }

    /// Bytes of the whole frame.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing to write; never so for a finished rope.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Rope {
    /// A frame that starts with the response header for this request.
    #[must_use]
    pub fn new(key: ApiKey, version: i16, correlation_id: i32) -> Self {
        let mut fields = BytesMut::with_capacity(256);
        fields.put_i32(0);
        put_response_header(&mut fields, key, version, correlation_id);
        Self { fields, links: Vec::new(), linked_len: 0 }
    }

    /// The buffer for small fields; append only.
    pub fn fields(&mut self) -> &mut BytesMut {
        &mut self.fields
    }

    /// Puts `bytes` behind everything so far: linked if long, copied if short.
    pub fn link(&mut self, bytes: &Bytes) {
        if bytes.len() < LINK_LEN_MIN {
            self.fields.put_slice(bytes);
        } else {
            self.linked_len += bytes.len();
            self.links.push((self.fields.len(), bytes.clone()));
        }
    }

    /// The frame, with its length set.
    pub fn finish(mut self) -> Result<ResponseFrame, EncodeError> {
        let len = self.fields.len() + self.linked_len;
        let length = i32::try_from(len - LENGTH_LEN).map_err(|_| EncodeError::TooLarge(len))?;
        self.fields[..LENGTH_LEN].copy_from_slice(&length.to_be_bytes());
        let fields = self.fields.freeze();
        let mut segments = Vec::with_capacity(self.links.len() * 2 + 1);
        let mut at = 0;
        for (position, bytes) in self.links {
            if position > at {
                segments.push(fields.slice(at..position));
                at = position;
            }
            segments.push(bytes);
        }
        if at < fields.len() {
            segments.push(fields.slice(at..));
        }
        Ok(ResponseFrame { segments, len })
    }
}

/// Encodes a response without records.
pub fn encode(
    key: ApiKey,
    version: i16,
    correlation_id: i32,
    body: &impl Encodable,
) -> Result<ResponseFrame, EncodeError> {
    let mut rope = Rope::new(key, version, correlation_id);
    body.encode(&mut rope.fields, version)
        .map_err(|error| EncodeError::Field { version, reason: error.to_string() })?;
    rope.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_bytes_are_linked_short_ones_copied_and_all_stay_in_order() {
        let (short, long) = (Bytes::from(vec![1; LINK_LEN_MIN - 1]), Bytes::from(vec![2; LINK_LEN_MIN]));
        let mut rope = Rope::new(ApiKey::Fetch, 4, 42);
        rope.link(&long);
        rope.link(&short);
        rope.fields().put_u8(9);
        rope.link(&long);
        rope.link(&long);
        let frame = rope.finish().expect("a frame");
        let len = 4 + 4 + 3 * long.len() + short.len() + 1;
        let mut expected = BytesMut::new();
        expected.put_i32(len as i32 - 4);
        expected.put_i32(42);
        for piece in [&long[..], &short, &[9], &long, &long] {
            expected.put_slice(piece);
        }
        assert_eq!((frame.len(), &frame.segments().concat()[..]), (len, &expected[..]));
        assert!(frame.segments().iter().all(|segment| !segment.is_empty()));
        assert_eq!(frame.segments().iter().filter(|segment| segment.as_ptr() == long.as_ptr()).count(), 3);
    }
}
