//! Reads of a local file past the page cache, into recycled memory.
//!
//! An object is read back rarely and late, and what was read stays in the broker's own block cache. Through the page
//! cache each byte would be copied once more, into memory that the kernel first has to clear: together more than half
//! of what it costs to serve a consumer from the store.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::fs::OFlags;

/// Alignment of memory, length and position of reads and writes past the page cache.
pub(super) const ALIGNMENT: usize = 4096;
/// Buffers come in multiples of this, so that one of them fits many reads.
const BUFFER_STEP_BYTES: usize = 64 * 1024;
/// Smaller ranges are copied out of their buffer, which would outweigh them by far.
const COPIED_BELOW_BYTES: u64 = 64 * 1024;
/// Unused buffers that are kept for the next reads.
const FREE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Memory that reads take turns in. What is lent out is its readers' to bound.
#[derive(Clone, Debug, Default)]
pub(super) struct ReadBuffers {
    free: Arc<Mutex<Free>>,
}

#[derive(Debug, Default)]
struct Free {
    /// Oldest first.
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

/// One buffer, lent out. Goes back when it and all slices of it are gone.
struct ReadBuffer {
    memory: Vec<u8>,
    /// Where its aligned part begins.
    start: usize,
    home: ReadBuffers,
}

impl ReadBuffers {
    fn take(&self, bytes: usize) -> ReadBuffer {
        let bytes = bytes.next_multiple_of(BUFFER_STEP_BYTES) + ALIGNMENT;
        let memory = self.free.lock().take(bytes).unwrap_or_else(|| vec![0; bytes]);
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        ReadBuffer { memory, start, home: self.clone() }
    }
}

impl Free {
    /// The smallest buffer that fits without wasting more than a quarter.
    fn take(&mut self, bytes: usize) -> Option<Vec<u8>> {
        let fitting =
            self.buffers.iter().enumerate().filter(|(_, free)| (bytes..=bytes + bytes / 4).contains(&free.len()));
        let (at, _) = fitting.min_by_key(|(_, free)| free.len())?;
        let buffer = self.buffers.remove(at);
        self.bytes -= buffer.len();
        Some(buffer)
    }

    fn give_back(&mut self, buffer: Vec<u8>) {
        self.bytes += buffer.len();
        self.buffers.push(buffer);
        while self.bytes > FREE_BYTES_MAX {
            self.bytes -= self.buffers.remove(0).len();
        }
    }
}

impl AsRef<[u8]> for ReadBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.start..]
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        self.home.free.lock().give_back(std::mem::take(&mut self.memory));
    }
}

/// Reads `ranges` of the file at `path`, each into memory of its own.
///
/// Errors: those of the file system; `UnexpectedEof` for a range that ends past the file's end.
pub(super) fn read_ranges(path: &Path, ranges: &[Range<u64>], buffers: &ReadBuffers) -> io::Result<Vec<Bytes>> {
    let read = |file: File| {
        let file_bytes = file.metadata()?.len();
        ranges.iter().map(|range| read_range(&file, file_bytes, range, buffers)).collect()
    };
    // Some file systems refuse the flag, some only the first read.
    match open(path, OFlags::DIRECT).and_then(read) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => File::open(path).and_then(read),
        read => read,
    }
}

fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = i32::try_from(flags.bits()).map_err(|_| io::ErrorKind::InvalidInput)?;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

fn read_range(file: &File, file_bytes: u64, range: &Range<u64>, buffers: &ReadBuffers) -> io::Result<Bytes> {
    let length = range.end.checked_sub(range.start).ok_or(io::ErrorKind::InvalidInput)?;
    let skipped = range.start % ALIGNMENT as u64;
    let wanted = usize::try_from(skipped + length).map_err(|_| io::ErrorKind::InvalidInput)?;
    // Before memory is taken: a length that the file does not have may be anything.
    if file_bytes < range.end {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut buffer = buffers.take(wanted.next_multiple_of(ALIGNMENT));
    let start = buffer.start;
    read_to(file, &mut buffer.memory[start..], range.start - skipped, wanted)?;
    let skipped = usize::try_from(skipped).map_err(|_| io::ErrorKind::InvalidInput)?;
    if length < COPIED_BELOW_BYTES {
        return Ok(Bytes::copy_from_slice(&buffer.as_ref()[skipped..wanted]));
    }
    Ok(Bytes::from_owner(buffer).slice(skipped..wanted))
}

/// Fills at least `wanted` bytes of `memory` from `position` on, in aligned reads.
fn read_to(file: &File, memory: &mut [u8], position: u64, wanted: usize) -> io::Result<()> {
    let end = wanted.next_multiple_of(ALIGNMENT);
    let mut filled = 0;
    while filled < wanted {
        match file.read_at(&mut memory[filled..end], position + filled as u64) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        // Only the file's end is not aligned, and nothing follows it.
        if !filled.is_multiple_of(ALIGNMENT) && filled < wanted {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), bytes).expect("writes");
        file
    }

    fn read(path: &Path, range: Range<u64>, buffers: &ReadBuffers) -> io::Result<Bytes> {
        read_ranges(path, std::slice::from_ref(&range), buffers).map(|mut read| read.remove(0))
    }

    #[test]
    fn any_range_reads_as_it_was_written() {
        let bytes: Vec<u8> = (0..300_001_u32).map(|n| (n % 251) as u8).collect();
        let file = file(&bytes);
        let buffers = ReadBuffers::default();
        let ends = [0, 1, 4095, 4096, 4097, 65_536, 70_000, 299_999, 300_000, 300_001];
        let ranges: Vec<Range<u64>> = ends
            .iter()
            .flat_map(|start| ends.iter().map(move |end| *start..*end))
            .filter(|r| r.start <= r.end)
            .collect();
        let read = read_ranges(file.path(), &ranges, &buffers).expect("reads");
        for (range, read) in ranges.iter().zip(read) {
            assert_eq!(read, bytes[range.start as usize..range.end as usize], "{range:?}");
        }
    }

    #[test]
    fn what_the_file_does_not_have_is_an_error() {
        let file = file(&[7; 5000]);
        let buffers = ReadBuffers::default();
        for range in [4999..5001, 5001..5002, 0..u64::MAX] {
            let error = read(file.path(), range, &buffers).expect_err("there is no such range");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
        let missing = read(&file.path().with_extension("no"), 0..1, &buffers);
        assert_eq!(missing.expect_err("no such file").kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn memory_is_used_again_only_when_its_last_slice_is_gone() {
        let file = file(&vec![1; 1 << 20]);
        let buffers = ReadBuffers::default();
        let whole = read(file.path(), 0..1 << 20, &buffers).expect("reads");
        let (address, slice) = (whole.as_ptr(), whole.slice(5..10));
        drop(whole);
        let other = read(file.path(), 0..1 << 20, &buffers).expect("reads");
        assert_ne!(other.as_ptr(), address, "a slice of it is still out");
        drop(slice);
        let again = read(file.path(), 0..1 << 20, &buffers).expect("reads");
        assert_eq!(again.as_ptr(), address);
    }

    #[test]
    fn unused_memory_is_bounded() {
        let file = file(&vec![1; 4 << 20]);
        let buffers = ReadBuffers::default();
        let held: Vec<_> = (0..8).map(|_| read(file.path(), 0..4 << 20, &buffers).expect("reads")).collect();
        drop(held);
        let free = buffers.free.lock();
        assert!(free.bytes <= FREE_BYTES_MAX && free.bytes > FREE_BYTES_MAX / 2, "{}", free.bytes);
        assert_eq!(free.bytes, free.buffers.iter().map(Vec::len).sum::<usize>());
    }
}
