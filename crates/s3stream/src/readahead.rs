//! Who reads a stream sequentially, and how far ahead it pays to read for them. Pure.

use common::Offset;

/// Readers followed per stream; the one that was quiet longest makes room.
const READERS_MAX: usize = 8;
/// What is read ahead once a reader proved to be sequential; doubles with each further read.
const WINDOW_MIN_BYTES: u64 = 1024 * 1024;
/// Where it stops growing.
const WINDOW_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Readers {
    readers: Vec<Reader>,
    next_id: u64,
}

#[derive(Debug)]
struct Reader {
    id: u64,
    expected: Offset,
    window: u64,
    /// Read ahead up to here.
    ahead: Offset,
    /// Bytes read ahead and not consumed yet.
    ahead_bytes: u64,
    loading: bool,
}

/// Something to read ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Readahead {
    pub(crate) reader: u64,
    pub(crate) from: Offset,
    pub(crate) bytes: u64,
}

impl Readers {
    /// A read of `bytes` from `from` ended at `next`. Returns what to read ahead now.
    pub(crate) fn on_read(&mut self, from: Offset, next: Offset, bytes: u64) -> Option<Readahead> {
        let Some(at) = self.readers.iter().position(|reader| reader.expected == from) else {
            if self.readers.len() == READERS_MAX {
                self.readers.remove(0);
            }
            self.next_id += 1;
            let id = self.next_id;
            self.readers.push(Reader { id, expected: next, window: 0, ahead: next, ahead_bytes: 0, loading: false });
            return None;
        };
        let mut reader = self.readers.remove(at);
        reader.expected = next;
        reader.window = (reader.window * 2).clamp(WINDOW_MIN_BYTES, WINDOW_MAX_BYTES);
        reader.ahead_bytes = reader.ahead_bytes.saturating_sub(bytes);
        if reader.ahead <= next {
            reader.ahead = next;
            reader.ahead_bytes = 0;
        }
        // More than a window may be ahead: a read-ahead loads whole blocks, however large one batch makes them.
        let wanted = !reader.loading && reader.ahead_bytes < reader.window / 2;
        let bytes = reader.window.saturating_sub(reader.ahead_bytes);
        let readahead = Readahead { reader: reader.id, from: reader.ahead, bytes };
        reader.loading |= wanted;
        self.readers.push(reader);
        wanted.then_some(readahead)
    }

    /// A read-ahead of `reader` loaded `bytes` up to `until`.
    pub(crate) fn on_loaded(&mut self, reader: u64, until: Offset, bytes: u64) {
        if let Some(reader) = self.readers.iter_mut().find(|known| known.id == reader) {
            reader.loading = false;
            reader.ahead = reader.ahead.max(until);
            reader.ahead_bytes += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn grows_while_a_reader_is_sequential() {
        let mut readers = Readers::default();
        assert_eq!(readers.on_read(Offset(0), Offset(10), MIB), None);
        let first = readers.on_read(Offset(10), Offset(20), MIB).expect("sequential by now");
        assert_eq!((first.from, first.bytes), (Offset(20), MIB));
        assert_eq!(readers.on_read(Offset(20), Offset(30), MIB), None, "one at a time");
        readers.on_loaded(first.reader, Offset(40), MIB);
        let second = readers.on_read(Offset(30), Offset(40), MIB).expect("consumed what was ahead");
        assert_eq!((second.from, second.bytes), (Offset(40), 4 * MIB));
        readers.on_loaded(second.reader, Offset(100), 5 * MIB);
        assert_eq!(readers.on_read(Offset(40), Offset(41), 1), None, "enough is ahead");
    }

    #[test]
    fn more_ahead_than_a_window_is_enough_and_no_overflow() {
        let mut readers = Readers::default();
        readers.on_read(Offset(0), Offset(10), 1);
        let first = readers.on_read(Offset(10), Offset(20), 1).expect("sequential by now");
        readers.on_loaded(first.reader, Offset(100), 64 * MIB);
        assert_eq!(readers.on_read(Offset(20), Offset(30), 1), None);
    }

    #[test]
    fn random_readers_read_nothing_ahead_and_are_bounded() {
        let mut readers = Readers::default();
        for n in 0..100 {
            assert_eq!(readers.on_read(Offset(n * 1000), Offset(n * 1000 + 1), 1), None);
        }
        assert_eq!(readers.readers.len(), READERS_MAX);
    }
}
