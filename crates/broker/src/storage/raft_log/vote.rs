//! The vote: one file of two 4096-byte slots that are written in turn, so that a torn write leaves the one before.
//!
//! Slot, little-endian: magic `OTTLVOTE` (8), CRC32C of what follows up to byte 48 (4), version 1 (4), sequence
//! (8), term (8), node (8), committed (8: 0 or 1). The valid slot with the larger sequence counts.

use std::io;
use std::path::Path;

use metadata::log::Vote;
use wal::direct::{ALIGNMENT, AlignedBuf, DirectFile, OpenMode};

use super::batch::crc32c;

const MAGIC: &[u8; 8] = b"OTTLVOTE";
const VERSION: u32 = 1;
/// End of the fields within a slot.
const SLOT_BYTES: usize = 48;

/// The open file.
pub(super) struct VoteFile {
    file: DirectFile,
    sequence: u64,
    vote: Option<Vote>,
}

impl VoteFile {
    /// Opens or creates it; the caller makes the directory entry durable.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        if !path.exists() {
            let file = DirectFile::open(path, OpenMode::CreateNew)?;
            file.write_all_at(&AlignedBuf::zeroed(2 * ALIGNMENT)?, 0)?;
            file.sync_data()?;
            return Ok(Self { file, sequence: 0, vote: None });
        }
        let file = DirectFile::open(path, OpenMode::ReadWrite)?;
        let mut bytes = AlignedBuf::zeroed(2 * ALIGNMENT)?;
        let len = usize::try_from(file.len()?).unwrap_or(usize::MAX).min(2 * ALIGNMENT) / ALIGNMENT * ALIGNMENT;
        file.read_exact_at(&mut bytes[..len], 0)?;
        let slots = [decode(&bytes[..ALIGNMENT]), decode(&bytes[ALIGNMENT..])];
        let newest = slots.into_iter().flatten().max_by_key(|(sequence, _)| *sequence);
        match newest {
            Some((sequence, vote)) => Ok(Self { file, sequence, vote: Some(vote) }),
            None if bytes.iter().all(|byte| *byte == 0) || is_first_torn(&bytes) => {
                Ok(Self { file, sequence: 0, vote: None })
            }
            None => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{}: no slot of the vote is readable", path.display()),
            )),
        }
    }

    /// The newest saved vote.
    pub(super) fn vote(&self) -> Option<Vote> {
        self.vote
    }

    pub(super) fn file(&self) -> &std::fs::File {
        self.file.file()
    }

    /// Saves durably.
    pub(super) fn save(&mut self, vote: Vote) -> io::Result<()> {
        let sequence = self.sequence + 1;
        let mut slot = AlignedBuf::zeroed(ALIGNMENT)?;
        encode(&mut slot, sequence, vote);
        self.file.write_all_at(&slot, (sequence % 2) * ALIGNMENT as u64)?;
        self.file.sync_data()?;
        self.sequence = sequence;
        self.vote = Some(vote);
        Ok(())
    }
}

/// The very first vote goes to the second slot while the first is still zero: torn, it was never acknowledged.
fn is_first_torn(bytes: &[u8]) -> bool {
    bytes[..ALIGNMENT].iter().all(|byte| *byte == 0)
}

fn encode(slot: &mut [u8], sequence: u64, vote: Vote) {
    slot[..8].copy_from_slice(MAGIC);
    slot[12..16].copy_from_slice(&VERSION.to_le_bytes());
    slot[16..24].copy_from_slice(&sequence.to_le_bytes());
    slot[24..32].copy_from_slice(&vote.term.to_le_bytes());
    slot[32..40].copy_from_slice(&vote.node.to_le_bytes());
    slot[40..SLOT_BYTES].copy_from_slice(&u64::from(vote.committed).to_le_bytes());
    let crc = crc32c(&slot[12..SLOT_BYTES]);
    slot[8..12].copy_from_slice(&crc.to_le_bytes());
}

fn decode(slot: &[u8]) -> Option<(u64, Vote)> {
    let u64_at = |at: usize| slot.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    let crc = u32::from_le_bytes(slot.get(8..12)?.try_into().ok()?);
    let version = u32::from_le_bytes(slot.get(12..16)?.try_into().ok()?);
    let sound = slot.get(..8)? == MAGIC && crc32c(slot.get(12..SLOT_BYTES)?) == crc && version == VERSION;
    let committed = u64_at(40)? == 1;
    sound.then_some((u64_at(16)?, Vote { term: u64_at(24)?, node: u64_at(32)?, committed }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOTE: Vote = Vote { term: 2, node: 3, committed: true };

    #[test]
    fn the_newest_vote_is_found_and_a_torn_one_falls_back() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("vote");
        let mut file = VoteFile::open(&path).expect("creates");
        assert_eq!(file.vote(), None);
        let older = Vote { term: 1, ..VOTE };
        file.save(older).expect("saves");
        file.save(VOTE).expect("saves");
        drop(file);
        assert_eq!(VoteFile::open(&path).expect("opens").vote(), Some(VOTE));
        let mut bytes = std::fs::read(&path).expect("reads");
        bytes[30] ^= 1;
        std::fs::write(&path, &bytes).expect("writes");
        assert_eq!(VoteFile::open(&path).expect("opens").vote(), Some(older));
        bytes[ALIGNMENT + 30] ^= 1;
        std::fs::write(&path, &bytes).expect("writes");
        assert_eq!(VoteFile::open(&path).err().expect("refused").kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn golden_bytes() {
        let mut slot = vec![0; ALIGNMENT];
        encode(&mut slot, 5, VOTE);
        let hex: String = slot[..SLOT_BYTES].iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = concat!(
            "4f54544c564f5445",
            "b0e06029",
            "01000000",
            "0500000000000000",
            "0200000000000000",
            "0300000000000000",
            "0100000000000000",
        );
        assert_eq!(hex, expected);
        assert_eq!(decode(&slot), Some((5, VOTE)));
    }
}
