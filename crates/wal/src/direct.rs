//! Files that bypass the page cache: aligned memory, O_DIRECT reads and writes, fdatasync, directory fsync.
//!
//! Recovery must see what the disk holds, not what the kernel remembers: after a failed fsync the page cache
//! serves bytes that never reached the disk. So the log and the metadata log read and write through here.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use memmap2::MmapMut;

/// Alignment of every offset, length and address of direct I/O, bytes.
pub const ALIGNMENT: usize = 4096;

/// Rounds `bytes` up to [`ALIGNMENT`].
#[must_use]
pub const fn align_up(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGNMENT as u64)
}

/// Zeroed memory whose address and length are multiples of [`ALIGNMENT`].
#[derive(Debug)]
pub struct AlignedBuf {
    map: MmapMut,
}

impl AlignedBuf {
    /// Memory for at least `len` bytes (at least one page). Fails when the system has none left.
    pub fn zeroed(len: usize) -> io::Result<Self> {
        let len = len.max(1).checked_next_multiple_of(ALIGNMENT).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { map: MmapMut::map_anon(len)? })
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.map
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

/// What to do with the file when opening it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// The file must exist and is only read.
    Read,
    /// The file must exist.
    ReadWrite,
    /// The file must exist; for a block device, fail when it is mounted or exclusively open elsewhere.
    ReadWriteExclusive,
    /// The file must not exist.
    CreateNew,
}

/// A file opened with O_DIRECT, or buffered where the file system cannot do that.
#[derive(Debug)]
pub struct DirectFile {
    file: File,
    path: PathBuf,
    direct: bool,
}

impl DirectFile {
    /// Opens `path`. Falls back to buffered I/O, with a warning, where O_DIRECT is not supported.
    pub fn open(path: &Path, mode: OpenMode) -> io::Result<Self> {
        match open_with(path, mode, libc::O_DIRECT) {
            Ok(file) => Ok(Self { file, path: path.to_owned(), direct: true }),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                // With CreateNew the failed attempt may have left the empty file behind.
                let mode = if mode == OpenMode::CreateNew && path.exists() { OpenMode::ReadWrite } else { mode };
                let file = open_with(path, mode, 0)?;
                tracing::warn!(path = %path.display(), "no O_DIRECT on this file system: using the page cache and fdatasync");
                Ok(Self { file, path: path.to_owned(), direct: false })
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the page cache is bypassed.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file itself, for locks and metadata.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Bytes in the file or on the device.
    pub fn len(&self) -> io::Result<u64> {
        rustix::fs::seek(&self.file, rustix::fs::SeekFrom::End(0)).map_err(io::Error::from)
    }

    /// Whether [`Self::len`] is zero.
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `buf` from `offset`; `UnexpectedEof` when the file is shorter. All aligned to [`ALIGNMENT`].
    pub fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        check_alignment(buf, offset)?;
        self.file.read_exact_at(buf, offset)
    }

    /// Writes all of `buf` at `offset`. All aligned to [`ALIGNMENT`]. Not durable before [`Self::sync_data`].
    pub fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        check_alignment(buf, offset)?;
        self.file.write_all_at(buf, offset)
    }

    /// fdatasync. After an error nothing is known about any earlier write: never retry it.
    pub fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Reserves disk space for `offset..offset + len`, so that later writes there cannot run out of space.
    /// Where the file system cannot reserve, the file is only extended.
    pub fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), offset, len) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::OPNOTSUPP) => {
                let end = offset.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
                if self.len()? < end { self.file.set_len(end) } else { Ok(()) }
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn open_with(path: &Path, mode: OpenMode, flags: i32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(mode != OpenMode::Read).create_new(mode == OpenMode::CreateNew);
    let exclusive = if mode == OpenMode::ReadWriteExclusive { libc::O_EXCL } else { 0 };
    options.custom_flags(flags | exclusive).open(path)
}

fn check_alignment(buf: &[u8], offset: u64) -> io::Result<()> {
    let page = ALIGNMENT as u64;
    let memory = buf.as_ptr().addr().is_multiple_of(ALIGNMENT) && buf.len().is_multiple_of(ALIGNMENT);
    let aligned = memory && offset.is_multiple_of(page);
    if aligned { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, "unaligned direct I/O")) }
}

/// Makes created, renamed and removed entries of the directory durable.
pub fn fsync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("f");
        let file = DirectFile::open(&path, OpenMode::CreateNew).expect("create");
        file.allocate(0, 16384).expect("allocate");
        let mut page = AlignedBuf::zeroed(1).expect("memory");
        assert_eq!(page.len(), ALIGNMENT);
        page.fill(7);
        file.write_all_at(&page, 8192).expect("write");
        file.sync_data().expect("sync");
        fsync_dir(dir.path()).expect("dir sync");
        let again = DirectFile::open(&path, OpenMode::Read).expect("open");
        let mut read = AlignedBuf::zeroed(8192).expect("memory");
        again.read_exact_at(&mut read, 8192).expect("read");
        assert_eq!(&read[..ALIGNMENT], &page[..]);
        assert!(read[ALIGNMENT..].iter().all(|byte| *byte == 0));
        assert_eq!(again.len().expect("len"), 16384);
    }

    #[test]
    fn unaligned_access_and_existing_files_are_refused() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("f");
        let file = DirectFile::open(&path, OpenMode::CreateNew).expect("create");
        let page = AlignedBuf::zeroed(ALIGNMENT).expect("memory");
        assert_eq!(file.write_all_at(&page, 1).expect_err("offset").kind(), io::ErrorKind::InvalidInput);
        assert_eq!(file.write_all_at(&page[1..], 0).expect_err("len").kind(), io::ErrorKind::InvalidInput);
        let again = DirectFile::open(&path, OpenMode::CreateNew).expect_err("exists");
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
    }
}
