//! The guard: walks a whole request before the decoder sees it.
//!
//! The decoder allocates what a count claims before it looks whether that many elements can follow; a few
//! bytes make it ask for gigabytes, which aborts the process. So every frame is walked first, along the
//! shape of its API key and version ([`table`], made from Kafka's own message definitions): every length
//! and count must fit the bytes left, null stands only where it may, known tagged fields have exactly the
//! size they claim, and the request ends within the frame. Nothing is allocated, nothing is parsed
//! twice as deep as the definitions nest, and records and other byte fields are skipped, not read.
//!
//! What passes can still grow in memory: an empty string takes 2 bytes on the wire and 32 decoded. So the
//! walk adds up what decoding will take, and bounds it by the frame: at most [`MEMORY_BASE`] +
//! [`MEMORY_RATIO`] × the request's structure, that is, the frame without its byte fields, which the decoder
//! does not copy. The structure is bounded by [`structure_max`] for each API.

mod shapes;
mod table;

#[cfg(test)]
mod tests;

use kafka_protocol::messages::ApiKey;
use shapes::{Request, Shape, Step};
use table::{REQUESTS, SHAPES};

use crate::batch::unsigned_varint;
use crate::frame::{FrameError, RequestHeader};

/// Decoded memory that any request may take.
pub const MEMORY_BASE: usize = 1 << 20;
/// Decoded bytes per byte of structure beyond [`MEMORY_BASE`]. Honest requests stay below 8: their names are
/// longer than a character or two.
pub const MEMORY_RATIO: usize = 16;
/// What one tagged field of unknown meaning takes decoded: a map node of its own, at worst.
const UNKNOWN_TAG_MEMORY: usize = 416;
/// Longest string Kafka accepts.
const STRING_MAX: usize = i16::MAX as usize;

/// What the guard learned of a request it accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guarded<'a> {
    /// The request's header; the body is everything behind it.
    pub header: RequestHeader<'a>,
    /// Bytes of header and body; what follows is to be ignored.
    pub len: usize,
    /// Upper estimate of the memory that decoding takes, without the frame itself.
    pub memory: usize,
}

/// Why a request is refused. Its connection must be closed: an answer would need the request to make sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuardError {
    /// The header is malformed or names an unknown API.
    #[error(transparent)]
    Header(#[from] FrameError),
    /// Kafka has no such version of this API. ApiVersions alone is to be answered nevertheless.
    #[error("API key {key} has no version {version}")]
    Version {
        /// API key.
        key: i16,
        /// Version asked for.
        version: i16,
    },
    /// A field does not end within the frame, or a count cannot be true.
    #[error("a field or count at byte {0} exceeds the frame")]
    Truncated(usize),
    /// A negative length or count, or null where it may not stand.
    #[error("the length or count before byte {0} is invalid")]
    Length(usize),
    /// What says whether a structure follows is neither yes nor no.
    #[error("the marker of a nullable structure before byte {0} is invalid")]
    Marker(usize),
    /// A tagged field's size is not that of its content.
    #[error("the tagged field before byte {0} has a wrong size")]
    Tag(usize),
    /// More structure than this API may have.
    #[error("{structure} bytes of structure exceed the limit of {limit}")]
    Structure {
        /// Bytes of the frame without its byte fields.
        structure: usize,
        /// Limit of this API.
        limit: usize,
    },
    /// Decoding would take too much memory for what was sent.
    #[error("decoding {structure} bytes of structure would take {memory}")]
    Memory {
        /// Bytes of the frame without its byte fields.
        structure: usize,
        /// Estimated bytes.
        memory: usize,
    },
}

/// Most bytes of structure (the frame without its byte fields) for an API: 8 MiB where requests name every
/// partition of a client, which at 30 bytes each is a quarter of a million, 2 MiB elsewhere.
#[must_use]
pub fn structure_max(key: ApiKey) -> usize {
    match key {
        ApiKey::Produce
        | ApiKey::Fetch
        | ApiKey::ListOffsets
        | ApiKey::Metadata
        | ApiKey::OffsetCommit
        | ApiKey::OffsetFetch
        | ApiKey::OffsetForLeaderEpoch => 8 << 20,
        _ => 2 << 20,
    }
}

/// Largest frame of this API that is worth reading: `socket_max` (`socket.request.max.bytes`) where the
/// request carries byte fields, else its limit of structure. To be asked once the first bytes of a frame are
/// there, before memory for the rest is found.
#[must_use]
pub fn frame_max(key: ApiKey, socket_max: usize) -> usize {
    if carries_bytes(key as i16) { socket_max } else { socket_max.min(structure_max(key)) }
}

fn carries_bytes(key: i16) -> bool {
    fn within(shape: u16) -> bool {
        SHAPES[usize::from(shape)].steps.iter().any(|step| match step {
            Step::Bytes(_) | Step::CompactBytes(_) => true,
            Step::Array { element, .. } | Step::CompactArray { element, .. } | Step::Nullable(element) => {
                within(*element)
            }
            Step::Tags(known) => known.iter().any(|(_, shape)| within(*shape)),
            _ => false,
        })
    }
    request_of(key).is_some_and(|request| request.shapes.iter().any(|shape| within(*shape)))
}

fn request_of(key: i16) -> Option<&'static Request> {
    REQUESTS.binary_search_by_key(&key, |request| request.key).ok().map(|at| &REQUESTS[at])
}

fn shape_of(key: i16, version: i16) -> Option<&'static Shape> {
    let request = request_of(key)?;
    let at = usize::try_from(version.checked_sub(request.version_min)?).ok()?;
    request.shapes.get(at).map(|shape| &SHAPES[usize::from(*shape)])
}

/// Walks the request in `frame` (header and body, without the length in front). What is accepted can be decoded
/// in bounded memory; the decoder may still refuse it, for a string that is not UTF-8 for instance.
pub fn check(frame: &[u8]) -> Result<Guarded<'_>, GuardError> {
    let header = RequestHeader::parse(frame)?;
    let (key, version) = (header.api_key as i16, header.api_version);
    let shape = shape_of(key, version).ok_or(GuardError::Version { key, version })?;
    let mut walk = Walk { frame, at: header.len, memory: usize::from(shape.memory), payload: 0 };
    walk.shape(shape)?;
    let structure = walk.at - walk.payload;
    let limit = structure_max(header.api_key);
    // Bytes after the request are ignored, as in Kafka (librdkafka 2.15 sends some); they entitle it to nothing.
    if frame.len() - walk.payload > limit {
        return Err(GuardError::Structure { structure, limit });
    }
    if walk.memory > MEMORY_BASE + MEMORY_RATIO * structure {
        return Err(GuardError::Memory { structure, memory: walk.memory });
    }
    Ok(Guarded { header, len: walk.at, memory: walk.memory })
}

struct Walk<'a> {
    frame: &'a [u8],
    at: usize,
    /// Decoded bytes so far. Cannot overflow: counts are below the frame's length, element sizes below 2¹⁶.
    memory: usize,
    /// Bytes of byte fields so far.
    payload: usize,
}

impl Walk<'_> {
    fn left(&self) -> usize {
        self.frame.len() - self.at
    }

    #[inline]
    fn skip(&mut self, count: usize) -> Result<(), GuardError> {
        if count > self.left() {
            return Err(GuardError::Truncated(self.at));
        }
        self.at += count;
        Ok(())
    }

    /// The element shapes nest as deep as Kafka's definitions do, so this recursion is bounded by the table.
    fn shape(&mut self, shape: &'static Shape) -> Result<(), GuardError> {
        for step in shape.steps {
            match *step {
                Step::Fixed(len) => self.skip(usize::from(len))?,
                Step::String(nullable) => {
                    let length = self.fixed::<2>().map(i16::from_be_bytes)?;
                    self.string(length.into(), nullable)?;
                }
                Step::CompactString(nullable) => {
                    let length = self.compact()?;
                    self.string(length, nullable)?;
                }
                Step::Bytes(nullable) => {
                    let length = self.fixed::<4>().map(i32::from_be_bytes)?;
                    self.bytes(length.into(), nullable)?;
                }
                Step::CompactBytes(nullable) => {
                    let length = self.compact()?;
                    self.bytes(length, nullable)?;
                }
                Step::Array { nullable, element } => {
                    let count = self.fixed::<4>().map(i32::from_be_bytes)?;
                    self.array(count.into(), nullable, element)?;
                }
                Step::CompactArray { nullable, element } => {
                    let count = self.compact()?;
                    self.array(count, nullable, element)?;
                }
                Step::Nullable(shape) => match i8::from_be_bytes(self.fixed()?) {
                    ..=-1 => {}
                    1 => self.shape(&SHAPES[usize::from(shape)])?,
                    // Never sent. To Kafka a struct follows, to the codec none does: the rest would be misread.
                    _ => return Err(GuardError::Marker(self.at)),
                },
                Step::Tags(known) => self.tags(known)?,
            }
        }
        Ok(())
    }

    #[inline]
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], GuardError> {
        let bytes = self.frame[self.at..].first_chunk::<N>().ok_or(GuardError::Truncated(self.at))?;
        self.at += N;
        Ok(*bytes)
    }

    #[inline]
    fn varint(&mut self) -> Result<u32, GuardError> {
        let (value, len) = unsigned_varint(&self.frame[self.at..]).ok_or(GuardError::Truncated(self.at))?;
        self.at += len;
        Ok(value as u32)
    }

    /// A compact length or count, -1 for null.
    #[inline]
    fn compact(&mut self) -> Result<i64, GuardError> {
        Ok(i64::from(self.varint()?) - 1)
    }

    /// A length or count that is not negative, or `None` for null.
    #[inline]
    fn not_negative(&self, length: i64, nullable: bool) -> Result<Option<usize>, GuardError> {
        match usize::try_from(length) {
            Ok(length) => Ok(Some(length)),
            Err(_) if length == -1 && nullable => Ok(None),
            Err(_) => Err(GuardError::Length(self.at)),
        }
    }

    #[inline]
    fn string(&mut self, length: i64, nullable: bool) -> Result<(), GuardError> {
        match self.not_negative(length, nullable)? {
            Some(length) if length > STRING_MAX => Err(GuardError::Length(self.at)),
            Some(length) => self.skip(length),
            None => Ok(()),
        }
    }

    #[inline]
    fn bytes(&mut self, length: i64, nullable: bool) -> Result<(), GuardError> {
        let length = self.not_negative(length, nullable)?.unwrap_or(0);
        self.payload += length;
        self.skip(length)
    }

    fn array(&mut self, count: i64, nullable: bool, element: u16) -> Result<(), GuardError> {
        let Some(count) = self.not_negative(count, nullable)? else { return Ok(()) };
        let element = &SHAPES[usize::from(element)];
        if count > self.left() / usize::from(element.len_min) {
            return Err(GuardError::Truncated(self.at));
        }
        self.memory += count * usize::from(element.memory);
        if let [Step::Fixed(len)] = element.steps {
            return self.skip(count * usize::from(*len));
        }
        for _ in 0..count {
            self.shape(element)?;
        }
        Ok(())
    }

    fn tags(&mut self, known: &'static [(u32, u16)]) -> Result<(), GuardError> {
        let count = self.varint()? as usize;
        // A tag and a size, a byte each, are the least a tagged field takes.
        if count > self.left() / 2 {
            return Err(GuardError::Truncated(self.at));
        }
        for _ in 0..count {
            let tag = self.varint()?;
            let size = self.varint()? as usize;
            if size > self.left() {
                return Err(GuardError::Truncated(self.at));
            }
            let end = self.at + size;
            match known.iter().find(|(known, _)| *known == tag) {
                Some((_, shape)) => self.shape(&SHAPES[usize::from(*shape)])?,
                None => {
                    self.memory += UNKNOWN_TAG_MEMORY;
                    self.at = end;
                }
            }
            if self.at != end {
                return Err(GuardError::Tag(self.at));
            }
        }
        Ok(())
    }
}
