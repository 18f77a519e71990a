//! Snapshots: one file each, written aside, synced and renamed. A damaged one is refused, never skipped.
//!
//! Little-endian: magic `OTTLSNAP` (8), version 1 (4), zero (4); then frames of length (4), CRC32C of the frame's
//! number (8 bytes) and its bytes (4), bytes. A frame of length 0 ends the file; its CRC covers its number, so a
//! file cut between frames is noticed. Named `snapshot-<index of the last entry in it, 20 digits>`.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use metadata::log::{ChunkSink, EntryId, SnapshotSource};
use wal::direct::fsync_dir;

const MAGIC: &[u8; 8] = b"OTTLSNAP";
const VERSION: u32 = 1;
const PREFIX: &str = "snapshot-";
const TEMPORARY: &str = "snapshot.tmp";

/// Largest frame: chunks are about a megabyte, and a length beyond this is damage.
const FRAME_MAX: u32 = 1 << 30;

/// The newest snapshot in `dir` and the index it covers; older ones, and what was never finished, are removed.
pub(super) fn newest(dir: &Path) -> io::Result<Option<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if let Some(index) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u64>().ok()) {
            found.push((index, entry.path()));
        } else if name == TEMPORARY {
            std::fs::remove_file(entry.path())?;
        }
    }
    found.sort();
    let newest = found.pop();
    for (_, older) in found {
        std::fs::remove_file(older)?;
    }
    Ok(newest)
}

/// Writes a snapshot and makes it the only one. Returns its bytes.
pub(super) fn save(dir: &Path, covers: Option<EntryId>, source: &SnapshotSource) -> io::Result<u64> {
    let temporary = dir.join(TEMPORARY);
    let written = write(&temporary, source).inspect_err(|_| {
        // Whatever went wrong: nothing refers to it, and its room may be what is needed.
        let _ = std::fs::remove_file(&temporary);
    })?;
    let path = dir.join(format!("{PREFIX}{:020}", covers.map_or(0, |covers| covers.index)));
    std::fs::rename(&temporary, &path)?;
    fsync_dir(dir)?;
    newest(dir)?;
    Ok(written)
}

fn write(path: &Path, source: &SnapshotSource) -> io::Result<u64> {
    let mut out = BufWriter::with_capacity(256 << 10, File::create(path)?);
    out.write_all(MAGIC)?;
    out.write_all(&u64::from(VERSION).to_le_bytes())?;
    let written = write_frames(&mut out, source)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok(16 + written)
}

/// Writes the chunks of `source` as frames. Returns their bytes.
pub(in crate::storage) fn write_frames(
    out: &mut impl io::Write,
    source: &dyn Fn(&mut ChunkSink<'_>) -> io::Result<()>,
) -> io::Result<u64> {
    let mut written = 0;
    let mut number = 0_u64;
    let mut frame = |bytes: &[u8]| {
        let len = u32::try_from(bytes.len()).ok().filter(|len| *len <= FRAME_MAX);
        let len = len.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a chunk is too large"))?;
        out.write_all(&len.to_le_bytes())?;
        out.write_all(&checksum(number, bytes).to_le_bytes())?;
        out.write_all(bytes)?;
        number += 1;
        written += 8 + u64::from(len);
        Ok(())
    };
    source(&mut |chunk| if chunk.is_empty() { Ok(()) } else { frame(chunk) })?;
    frame(&[])?;
    Ok(written)
}

fn checksum(number: u64, bytes: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(&number.to_le_bytes());
    digest.update(bytes);
    digest.finalize() as u32
}

/// The frames of a snapshot, each verified.
pub(in crate::storage) struct Frames<R> {
    input: R,
    name: String,
    left: u64,
    number: u64,
    ended: bool,
}

impl Frames<BufReader<File>> {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let left = file.metadata()?.len();
        let mut frames = Self::over(BufReader::with_capacity(256 << 10, file), left, path.display().to_string());
        let mut head = [0_u8; 16];
        frames.fill(&mut head)?;
        let version = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
        if &head[..8] != MAGIC || head[12..] != [0; 4] {
            return Err(frames.damaged("it is not a snapshot"));
        }
        if version != VERSION {
            return Err(frames.damaged(&format!("it has version {version}")));
        }
        Ok(frames)
    }
}

impl<R: io::Read> Frames<R> {
    /// The frames in `input`, which ends after `left` bytes.
    pub(in crate::storage) fn over(input: R, left: u64, name: String) -> Self {
        Self { input, name, left, number: 0, ended: false }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        if self.left < bytes.len() as u64 {
            return Err(self.damaged("it is cut short"));
        }
        self.input.read_exact(bytes)?;
        self.left -= bytes.len() as u64;
        Ok(())
    }

    fn frame(&mut self) -> io::Result<Option<Bytes>> {
        let mut head = [0_u8; 8];
        self.fill(&mut head)?;
        let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let crc = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        if u64::from(len) > self.left || len > FRAME_MAX {
            return Err(self.damaged("it is cut short"));
        }
        let mut bytes = vec![0; len as usize];
        self.fill(&mut bytes)?;
        if checksum(self.number, &bytes) != crc {
            return Err(self.damaged(&format!("frame {} has a wrong checksum", self.number)));
        }
        self.number += 1;
        if len > 0 {
            return Ok(Some(bytes.into()));
        }
        if self.left > 0 { Err(self.damaged("it goes on after its end")) } else { Ok(None) }
    }

    fn damaged(&self, reason: &str) -> io::Error {
        let message = format!("{}: {reason}; this metadata snapshot will not be used", self.name);
        io::Error::new(io::ErrorKind::InvalidData, message)
    }
}

impl<R: io::Read> Iterator for Frames<R> {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let frame = self.frame().transpose();
        self.ended = !matches!(frame, Some(Ok(_)));
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(chunks: &'static [&'static [u8]]) -> SnapshotSource {
        Box::new(move |sink| chunks.iter().try_for_each(|chunk| sink(chunk)))
    }

    fn at(index: u64) -> Option<EntryId> {
        Some(EntryId { term: 1, node: 1, index })
    }

    fn read(path: &Path) -> io::Result<Vec<Bytes>> {
        Frames::open(path)?.collect()
    }

    #[test]
    fn the_newest_replaces_the_others() {
        let dir = tempfile::tempdir().expect("dir");
        save(dir.path(), at(3), &source(&[b"old"])).expect("saves");
        save(dir.path(), at(7), &source(&[b"one", b"two"])).expect("saves");
        let (index, path) = newest(dir.path()).expect("lists").expect("found");
        assert_eq!(index, 7);
        assert_eq!(read(&path).expect("reads"), [Bytes::from_static(b"one"), Bytes::from_static(b"two")]);
        assert_eq!(std::fs::read_dir(dir.path()).expect("lists").count(), 1);
    }

    #[test]
    fn golden_bytes() {
        let dir = tempfile::tempdir().expect("dir");
        save(dir.path(), at(7), &source(&[b"one"])).expect("saves");
        let (_, path) = newest(dir.path()).expect("lists").expect("found");
        let hex: String = std::fs::read(path).expect("reads").iter().map(|byte| format!("{byte:02x}")).collect();
        let expected =
            concat!("4f54544c534e4150", "0100000000000000", "03000000", "6ba721e0", "6f6e65", "00000000", "adcf14c5");
        assert_eq!(hex, expected);
    }

    #[test]
    fn damage_anywhere_is_refused() {
        let dir = tempfile::tempdir().expect("dir");
        save(dir.path(), at(7), &source(&[b"one", b"two"])).expect("saves");
        let (_, path) = newest(dir.path()).expect("lists").expect("found");
        let whole = std::fs::read(&path).expect("reads");
        for len in 0..whole.len() {
            std::fs::write(&path, &whole[..len]).expect("writes");
            assert_eq!(read(&path).expect_err("cut").kind(), io::ErrorKind::InvalidData, "cut to {len}");
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, &damaged).expect("writes");
            assert_eq!(read(&path).expect_err("changed").kind(), io::ErrorKind::InvalidData, "byte {at}");
        }
    }
}
