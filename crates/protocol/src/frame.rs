//! Frames and headers: a frame is a 4-byte big-endian length and that many bytes; a request begins with its
//! header, a response with a shorter one.
//!
//! Request header: api key i16 · api version i16 · correlation id i32 · client id nullable string (i16
//! length), and in flexible versions tagged fields. Response header: correlation id i32, and in flexible
//! versions tagged fields, but never for ApiVersions, whose reader does not know the version yet.

use bytes::BufMut;
use kafka_protocol::messages::ApiKey;

use crate::batch::unsigned_varint;

/// Bytes of the length in front of every frame.
pub const LENGTH_LEN: usize = 4;
/// Bytes of the shortest request header: key, version, correlation id.
pub const HEADER_LEN_MIN: usize = 8;
/// Default of `socket.request.max.bytes`.
pub const REQUEST_BYTES_MAX: usize = 100 << 20;
/// Most tagged fields in a request header. Kafka's clients send none.
const HEADER_TAGS_MAX: u64 = 64;

/// Why a frame cannot be a request. The connection must be closed: its answer has no known form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length is negative or too short for a header.
    #[error("frame length {0} is too short for a request")]
    TooShort(i32),
    /// The length is above `socket.request.max.bytes`.
    #[error("frame length {length} exceeds the limit of {limit}")]
    TooLarge {
        /// Claimed bytes.
        length: i32,
        /// Largest frame allowed.
        limit: usize,
    },
    /// The header ends before its last field.
    #[error("the request header is truncated")]
    Truncated,
    /// Kafka has no such API key.
    #[error("unknown API key {0}")]
    UnknownKey(i16),
    /// The client id is not UTF-8 or has an invalid length.
    #[error("the client id is malformed")]
    ClientId,
    /// The header's tagged fields are malformed or too many.
    #[error("the request header's tagged fields are malformed")]
    Tags,
}

/// Judges the length in front of a frame: the bytes to read, between [`HEADER_LEN_MIN`] and `limit`.
pub fn frame_len(prefix: [u8; LENGTH_LEN], limit: usize) -> Result<usize, FrameError> {
    let length = i32::from_be_bytes(prefix);
    match usize::try_from(length) {
        Ok(len) if len > limit => Err(FrameError::TooLarge { length, limit }),
        Ok(len) if len >= HEADER_LEN_MIN => Ok(len),
        _ => Err(FrameError::TooShort(length)),
    }
}

/// The fixed start of a request, readable whatever its key and version are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestStart {
    /// API key as sent.
    pub api_key: i16,
    /// API version as sent.
    pub api_version: i16,
    /// Number by which the client finds the answer's request.
    pub correlation_id: i32,
}

impl RequestStart {
    /// Reads the first bytes of a frame.
    pub fn peek(frame: &[u8]) -> Result<Self, FrameError> {
        let [k0, k1, v0, v1, c0, c1, c2, c3, ..] = *frame else {
            return Err(FrameError::Truncated);
        };
        Ok(Self {
            api_key: i16::from_be_bytes([k0, k1]),
            api_version: i16::from_be_bytes([v0, v1]),
            correlation_id: i32::from_be_bytes([c0, c1, c2, c3]),
        })
    }

    /// The key as Kafka's enumeration.
    pub fn key(&self) -> Result<ApiKey, FrameError> {
        ApiKey::try_from(self.api_key).map_err(|()| FrameError::UnknownKey(self.api_key))
    }
}

/// A request header, borrowed from its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader<'a> {
    /// Which API.
    pub api_key: ApiKey,
    /// Version of the body.
    pub api_version: i16,
    /// Number by which the client finds the answer's request.
    pub correlation_id: i32,
    /// Name the client gave itself.
    pub client_id: Option<&'a str>,
    /// Bytes of the header: the body starts there.
    pub len: usize,
}

impl<'a> RequestHeader<'a> {
    /// Reads the header of the request in `frame`, without allocating.
    pub fn parse(frame: &'a [u8]) -> Result<Self, FrameError> {
        let start = RequestStart::peek(frame)?;
        let api_key = start.key()?;
        let (client_id, mut len) = client_id(frame)?;
        if api_key.request_header_version(start.api_version) >= 2 {
            len += tags_len(&frame[len..])?;
        }
        Ok(Self { api_key, api_version: start.api_version, correlation_id: start.correlation_id, client_id, len })
    }
}

fn client_id(frame: &[u8]) -> Result<(Option<&str>, usize), FrameError> {
    let rest = &frame[HEADER_LEN_MIN..];
    let (length, rest) = rest.split_first_chunk::<2>().ok_or(FrameError::Truncated)?;
    let at = HEADER_LEN_MIN + 2;
    match i16::from_be_bytes(*length) {
        -1 => Ok((None, at)),
        length => {
            let length = usize::try_from(length).map_err(|_| FrameError::ClientId)?;
            let bytes = rest.get(..length).ok_or(FrameError::Truncated)?;
            let name = std::str::from_utf8(bytes).map_err(|_| FrameError::ClientId)?;
            Ok((Some(name), at + length))
        }
    }
}

fn tags_len(bytes: &[u8]) -> Result<usize, FrameError> {
    let (count, mut at) = unsigned_varint(bytes).ok_or(FrameError::Tags)?;
    if count > HEADER_TAGS_MAX {
        return Err(FrameError::Tags);
    }
    for _ in 0..count {
        let (_, tag_len) = unsigned_varint(&bytes[at..]).ok_or(FrameError::Tags)?;
        at += tag_len;
        let (size, size_len) = unsigned_varint(&bytes[at..]).ok_or(FrameError::Tags)?;
        at += size_len;
        let size = usize::try_from(size).map_err(|_| FrameError::Tags)?;
        if size > bytes.len() - at {
            return Err(FrameError::Tags);
        }
        at += size;
    }
    Ok(at)
}

/// Appends the header of a response to a request of this key and version.
pub fn put_response_header(out: &mut impl BufMut, key: ApiKey, api_version: i16, correlation_id: i32) {
    out.put_i32(correlation_id);
    if key != ApiKey::ApiVersions && key.response_header_version(api_version) >= 1 {
        out.put_u8(0);
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::messages::RequestHeader as KafkaHeader;
    use kafka_protocol::protocol::{Encodable, StrBytes};

    use super::*;

    #[test]
    fn lengths() {
        assert_eq!(frame_len(100_i32.to_be_bytes(), 1000), Ok(100));
        assert_eq!(frame_len(8_i32.to_be_bytes(), 1000), Ok(8));
        assert_eq!(frame_len(7_i32.to_be_bytes(), 1000), Err(FrameError::TooShort(7)));
        assert_eq!(frame_len((-1_i32).to_be_bytes(), 1000), Err(FrameError::TooShort(-1)));
        assert_eq!(frame_len(1001_i32.to_be_bytes(), 1000), Err(FrameError::TooLarge { length: 1001, limit: 1000 }));
    }

    fn encoded(key: ApiKey, version: i16, client_id: Option<&'static str>) -> BytesMut {
        let mut out = BytesMut::new();
        KafkaHeader::default()
            .with_request_api_key(key as i16)
            .with_request_api_version(version)
            .with_correlation_id(77)
            .with_client_id(client_id.map(StrBytes::from_static_str))
            .encode(&mut out, key.request_header_version(version))
            .expect("encodes");
        out
    }

    #[test]
    fn parses_what_clients_encode_and_refuses_every_truncation() {
        for (key, version) in
            [(ApiKey::Produce, 3), (ApiKey::Produce, 9), (ApiKey::ApiVersions, 0), (ApiKey::ApiVersions, 4)]
        {
            for name in [None, Some(""), Some("ottla-client")] {
                let frame = encoded(key, version, name);
                let header = RequestHeader::parse(&frame).expect("parses");
                let expected = RequestHeader {
                    api_key: key,
                    api_version: version,
                    correlation_id: 77,
                    client_id: name,
                    len: frame.len(),
                };
                assert_eq!(header, expected);
                for len in 0..frame.len() {
                    assert!(RequestHeader::parse(&frame[..len]).is_err(), "{key:?} v{version} cut to {len}");
                }
            }
        }
    }

    #[test]
    fn hostile_headers() {
        let mut frame = encoded(ApiKey::Metadata, 12, Some("a"));
        frame.truncate(frame.len() - 1);
        let mut many = frame.to_vec();
        many.extend_from_slice(&[0xFF, 0xFF, 0xFF, 0xFF, 0x0F]);
        assert_eq!(RequestHeader::parse(&many), Err(FrameError::Tags));
        let mut tagged = frame.to_vec();
        tagged.extend_from_slice(&[1, 9, 2, 0xAA, 0xBB]);
        assert_eq!(RequestHeader::parse(&tagged).expect("one tag").len, tagged.len());
        let mut bad_name = encoded(ApiKey::Metadata, 1, Some("a"));
        *bad_name.last_mut().expect("name") = 0xFF;
        assert_eq!(RequestHeader::parse(&bad_name), Err(FrameError::ClientId));
        bad_name[8..10].copy_from_slice(&(-2_i16).to_be_bytes());
        assert_eq!(RequestHeader::parse(&bad_name), Err(FrameError::ClientId));
        bad_name[0..2].copy_from_slice(&999_i16.to_be_bytes());
        assert_eq!(RequestHeader::parse(&bad_name), Err(FrameError::UnknownKey(999)));
    }

    #[test]
    fn response_headers() {
        let header = |key, version| {
            let mut out = Vec::new();
            put_response_header(&mut out, key, version, 5);
            out
        };
        assert_eq!(header(ApiKey::Fetch, 11), [0, 0, 0, 5]);
        assert_eq!(header(ApiKey::Fetch, 12), [0, 0, 0, 5, 0]);
        assert_eq!(header(ApiKey::ApiVersions, 4), [0, 0, 0, 5]);
    }
}
