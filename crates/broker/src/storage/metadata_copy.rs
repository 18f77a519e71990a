//! A copy of metadata in the object store: what is left when all voters lose their disks.
//!
//! Key: `metadata/<cluster id>/<term, 20 digits>-<index, 20 digits>`. A copy is written once, whole, under a key that no other
//! state of metadata has, and never changed. All integers are little-endian, all CRCs are CRC32C.
//!
//! ```text
//!    0  [8]  magic "OTTLMETA"
//!    8  u32  version, 1
//!   12  u32  reserved, 0
//!   16  u64  Raft term in which it was taken
//!   24  u64  index of the last Raft entry in it
//!   32  i64  wall time at which it was taken, ms
//!   40  u32  reserved, 0
//!   44  u32  CRC of bytes 0..44
//!   48  ...  frames, as in the snapshot of the Raft log
//! ```
//!
//! The frames hold the chunks of a snapshot (`crates/metadata/src/wire`), which carry the version of metadata, the cluster's id
//! and the object store by themselves.

use std::io::{self, Write};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use metadata::MetadataImage;
use object_store::path::Path;

use super::raft_log::snapshot_file::{Frames, write_frames};

const MAGIC: &[u8; 8] = b"OTTLMETA";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 48;
/// A copy is put in pieces of this size, so that it needs no memory in one piece.
const PIECE_BYTES: usize = 1 << 20;

/// When a copy was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CopyHead {
    /// Raft's term then.
    pub term: u64,
    /// Index of the last entry in it.
    pub index: u64,
    /// Wall time, ms.
    pub taken_ms: i64,
}

/// The folder of a cluster's copies.
#[must_use]
pub fn folder(cluster_id: &str) -> Path {
    Path::from("metadata").join(cluster_id)
}

/// Where a copy lies.
#[must_use]
pub fn key(cluster_id: &str, term: u64, index: u64) -> Path {
    // Fixed width, so that the last of a listing is the newest.
    folder(cluster_id).join(format!("{term:020}-{index:020}"))
}

/// Term and index of a key in a cluster's folder; `None` for anything else that lies there.
#[must_use]
pub fn parse_key(cluster_id: &str, key: &Path) -> Option<(u64, u64)> {
    let mut parts = key.prefix_match(&folder(cluster_id))?;
    let name = parts.next()?;
    let (term, index) = name.as_ref().split_once('-')?;
    let number = |text: &str| (text.len() == 20).then(|| text.parse().ok()).flatten();
    let parsed = (number(term)?, number(index)?);
    parts.next().is_none().then_some(parsed)
}

/// The bytes of a copy, in pieces.
///
/// # Errors
/// None that an image from Raft could cause.
pub fn encode(head: CopyHead, image: &MetadataImage) -> io::Result<Vec<Bytes>> {
    let mut out = Pieces::default();
    let header = &mut out.last;
    header.put_slice(MAGIC);
    header.put_u32_le(VERSION);
    header.put_u32_le(0);
    header.put_u64_le(head.term);
    header.put_u64_le(head.index);
    header.put_i64_le(head.taken_ms);
    header.put_u32_le(0);
    let crc = checksum(header);
    header.put_u32_le(crc);
    write_frames(&mut out, &|sink| metadata::copy::encode(image, sink))?;
    out.flush()?;
    Ok(out.whole)
}

/// A copy from its bytes; `name` is what errors call it.
///
/// # Errors
/// Damage anywhere, or a version that is not known.
pub fn decode(bytes: &Bytes, name: &str) -> io::Result<(CopyHead, MetadataImage)> {
    let refused = |reason: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{name}: {reason}"));
    let mut header = bytes.get(..HEADER_BYTES).ok_or_else(|| refused("it is cut short"))?;
    let crc = checksum(&header[..HEADER_BYTES - 4]);
    if !header.starts_with(MAGIC) {
        return Err(refused("this is no copy of metadata"));
    }
    header.advance(MAGIC.len());
    let version = header.get_u32_le();
    let reserved = header.get_u32_le();
    let head = CopyHead { term: header.get_u64_le(), index: header.get_u64_le(), taken_ms: header.get_i64_le() };
    if version != VERSION {
        return Err(refused(&format!("version {version} is not known")));
    }
    if (reserved | header.get_u32_le()) != 0 || header.get_u32_le() != crc {
        return Err(refused("its head has a wrong checksum"));
    }
    let frames = bytes.slice(HEADER_BYTES..);
    let left = frames.len() as u64;
    let image = metadata::copy::decode(Frames::over(frames.reader(), left, name.to_owned()))?;
    if image.applied.0 != head.index {
        return Err(refused("its head is of another state of metadata"));
    }
    Ok((head, image))
}

fn checksum(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// Written bytes, cut into pieces.
#[derive(Default)]
struct Pieces {
    whole: Vec<Bytes>,
    last: BytesMut,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.last.extend_from_slice(bytes);
        if self.last.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.last.is_empty() {
            self.whole.push(std::mem::take(&mut self.last).freeze());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use common::LogIndex;
    use metadata::Command;

    use super::*;

    const HEAD: CopyHead = CopyHead { term: 3, index: 1, taken_ms: 1_700_000_000_000 };

    fn image() -> MetadataImage {
        let mut image = MetadataImage::default();
        metadata::state::apply(&mut image, LogIndex(1), 0, &Command::Bootstrap { cluster_id: "c".into() });
        image
    }

    fn copy() -> Bytes {
        encode(HEAD, &image()).expect("encodes").concat().into()
    }

    #[test]
    fn a_copy_is_read_back() {
        assert_eq!(decode(&copy(), "copy").expect("sound"), (HEAD, image()));
    }

    #[test]
    fn golden_bytes() {
        let hex: String = copy().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, include_str!("metadata_copy.hex").trim());
    }

    #[test]
    fn damage_anywhere_and_newer_versions_are_refused() {
        let whole = copy();
        for len in 0..whole.len() {
            decode(&whole.slice(..len), "copy").expect_err("cut short");
        }
        for at in 0..whole.len() {
            let mut damaged = whole.to_vec();
            damaged[at] ^= 1;
            decode(&damaged.into(), "copy").expect_err("changed");
        }
        let mut newer = BytesMut::from(&whole[..]);
        newer[8] = 2;
        let crc = checksum(&newer[..44]).to_le_bytes();
        newer[44..48].copy_from_slice(&crc);
        let told = decode(&newer.freeze(), "copy").expect_err("newer").to_string();
        assert_eq!(told, "copy: version 2 is not known");
    }

    #[test]
    fn keys_sort_by_age_and_parse_back() {
        let key = key("abc", 7, 42);
        assert_eq!(key.as_ref(), "metadata/abc/00000000000000000007-00000000000000000042");
        assert_eq!(parse_key("abc", &key), Some((7, 42)));
        assert_eq!(parse_key("abd", &key), None);
        assert_eq!(parse_key("abc", &Path::from("metadata/abc/7-42")), None);
        assert_eq!(parse_key("abc", &folder("abc").join("x")), None);
    }
}
