//! What a drill writes into a record: who wrote it, as the how-manieth, when; and filler, so that every bit of it is
//! under one checksum and no two records are alike.

/// Bytes before the filler.
///
/// ```text
/// crc32c u32 of all that follows · run u64 · producer u32 · partition u32 · sequence u64 · sent u64 (µs of the run)
/// ```
pub const HEADER_BYTES: usize = 36;

/// The header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The drill's run: another run's records in the same topic are foreign.
    pub run: u64,
    /// The producer's number.
    pub producer: u32,
    /// The partition it was written to.
    pub partition: u32,
    /// Counts from 0 in each (producer, partition).
    pub sequence: u64,
    /// When it was handed to the client, in microseconds of the run.
    pub sent_us: u64,
}

/// Writes the record of `stamp` over the whole of `payload`, which is at least [`HEADER_BYTES`] long.
pub fn write(stamp: &Stamp, payload: &mut [u8]) {
    payload[4..12].copy_from_slice(&stamp.run.to_be_bytes());
    payload[12..16].copy_from_slice(&stamp.producer.to_be_bytes());
    payload[16..20].copy_from_slice(&stamp.partition.to_be_bytes());
    payload[20..28].copy_from_slice(&stamp.sequence.to_be_bytes());
    payload[28..36].copy_from_slice(&stamp.sent_us.to_be_bytes());
    // Filler that differs from record to record and does not compress away.
    let mut state = stamp.sequence ^ stamp.run ^ (u64::from(stamp.partition) << 40);
    for chunk in payload[HEADER_BYTES..].chunks_mut(8) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        chunk.copy_from_slice(&state.to_be_bytes()[..chunk.len()]);
    }
    let crc = checksum(&payload[4..]);
    payload[..4].copy_from_slice(&crc.to_be_bytes());
}

/// The stamp of an unharmed record; `None` if it is harmed, or no drill's.
#[must_use]
pub fn read(payload: &[u8]) -> Option<Stamp> {
    let header = payload.get(..HEADER_BYTES)?;
    let number = |from: usize| header[from..from + 8].try_into().map(u64::from_be_bytes).ok();
    let small = |from: usize| header[from..from + 4].try_into().map(u32::from_be_bytes).ok();
    if small(0)? != checksum(&payload[4..]) {
        return None;
    }
    Some(Stamp {
        run: number(4)?,
        producer: small(12)?,
        partition: small(16)?,
        sequence: number(20)?,
        sent_us: number(28)?,
    })
}

fn checksum(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_shows() {
        let stamp = Stamp { run: 7, producer: 1, partition: 299, sequence: 1 << 33, sent_us: 12_345_678 };
        for length in [HEADER_BYTES, HEADER_BYTES + 1, 100] {
            let mut payload = vec![0xee; length];
            write(&stamp, &mut payload);
            assert_eq!(read(&payload), Some(stamp));
            for bit in 0..length * 8 {
                payload[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(read(&payload), None, "bit {bit} of {length} bytes");
                payload[bit / 8] ^= 1 << (bit % 8);
            }
        }
        assert_eq!(read(&[0; HEADER_BYTES - 1]), None);
        assert_eq!(read(&[]), None);
    }
}
