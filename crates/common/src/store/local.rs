//! A store in a local directory whose writes are small and synced as they go: it may lie on the log's own device,
//! where one large flush would hold up every acknowledgement.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path as FilePath, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use rustix::fs::OFlags;

use super::direct_read::{ALIGNMENT, ReadBuffers, read_ranges};

/// Bytes of one write to a file.
const STEP_BYTES: usize = 1024 * 1024;
/// Folder of files that are being written, below the root. Its name cannot be an object's.
const STAGING: &str = ".staging#";

/// See the module. Everything but `put` and `get_ranges` is `object_store`'s own local store.
pub struct PacedLocalStore {
    inner: LocalFileSystem,
    root: PathBuf,
    staged: AtomicU64,
    buffers: ReadBuffers,
}

impl PacedLocalStore {
    /// A store in `root`, which is created if it is missing. Removes what a crashed process left half written.
    pub fn open(root: &FilePath) -> Result<Self> {
        let staging = root.join(STAGING);
        fs::create_dir_all(&staging).map_err(failed)?;
        remove_abandoned(&staging).map_err(failed)?;
        let inner = LocalFileSystem::new_with_prefix(root)?.with_fsync(true);
        let root = root.canonicalize().map_err(failed)?;
        Ok(Self { inner, root, staged: AtomicU64::new(0), buffers: ReadBuffers::default() })
    }

    fn staging_path(&self) -> PathBuf {
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        self.root.join(STAGING).join(format!("{}-{number}", std::process::id()))
    }
}

fn failed(error: io::Error) -> Error {
    Error::Generic { store: "local", source: Box::new(error) }
}

/// Files of processes that are no more.
fn remove_abandoned(staging: &FilePath) -> io::Result<()> {
    for entry in fs::read_dir(staging)? {
        let path = entry?.path();
        let process = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.split_once('-'));
        let alive = process.is_some_and(|(id, _)| FilePath::new("/proc").join(id).exists());
        if alive {
            continue;
        }
        match fs::remove_file(path) {
            // Another node that shares the store was faster.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Writes `payload` in steps of [`STEP_BYTES`], past the page cache where the file system can: objects are read back
/// rarely and late, and filling the cache costs more CPU than the write itself.
fn write_paced(path: &FilePath, payload: &PutPayload) -> io::Result<()> {
    match open_staged(path, OFlags::DIRECT) {
        Ok(file) => match write_direct(&file, payload) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => fs::remove_file(path)?,
            written => return written,
        },
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            // Some file systems create the file before they refuse the flag.
            let _ = fs::remove_file(path);
        }
        Err(error) => return Err(error),
    }
    write_buffered(&open_staged(path, OFlags::empty())?, payload)
}

fn open_staged(path: &FilePath, flags: OFlags) -> io::Result<File> {
    let flags = i32::try_from(flags.bits()).map_err(|_| io::ErrorKind::InvalidInput)?;
    OpenOptions::new().write(true).create_new(true).custom_flags(flags).open(path)
}

fn write_direct(file: &File, payload: &PutPayload) -> io::Result<()> {
    let mut memory = vec![0_u8; STEP_BYTES + ALIGNMENT];
    let start = memory.as_ptr().align_offset(ALIGNMENT);
    let step = memory.get_mut(start..start + STEP_BYTES).ok_or(io::ErrorKind::InvalidInput)?;
    let (mut filled, mut position) = (0, 0_u64);
    for piece in payload.iter() {
        let mut rest = &piece[..];
        while !rest.is_empty() {
            let taken = rest.len().min(STEP_BYTES - filled);
            step[filled..filled + taken].copy_from_slice(&rest[..taken]);
            rest = &rest[taken..];
            filled += taken;
            if filled == STEP_BYTES {
                file.write_all_at(step, position)?;
                position += STEP_BYTES as u64;
                filled = 0;
            }
        }
    }
    let padded = filled.next_multiple_of(ALIGNMENT);
    step[filled..padded].fill(0);
    file.write_all_at(&step[..padded], position)?;
    file.set_len(position + filled as u64)?;
    file.sync_all()
}

fn write_buffered(mut file: &File, payload: &PutPayload) -> io::Result<()> {
    let mut since_sync = 0;
    for step in payload.iter().flat_map(|piece| piece.chunks(STEP_BYTES)) {
        file.write_all(step)?;
        since_sync += step.len();
        if since_sync >= STEP_BYTES {
            file.sync_data()?;
            since_sync = 0;
        }
    }
    file.sync_all()
}

/// Creates `directory` and what is missing above it, each made durable in its parent.
fn create_directories(root: &FilePath, directory: &FilePath) -> io::Result<()> {
    if directory == root || directory.is_dir() {
        return Ok(());
    }
    let parent = directory.parent().unwrap_or(root);
    create_directories(root, parent)?;
    match fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_directory(parent),
    }
}

fn sync_directory(directory: &FilePath) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn put(root: &FilePath, staged: &FilePath, target: &FilePath, payload: &PutPayload, mode: &PutMode) -> Result<()> {
    let directory = target.parent().unwrap_or(root);
    let publish = || -> io::Result<()> {
        create_directories(root, directory)?;
        write_paced(staged, payload)?;
        match mode {
            // A link fails where a name exists, in one step.
            PutMode::Create => fs::hard_link(staged, target)?,
            PutMode::Overwrite | PutMode::Update(_) => fs::rename(staged, target)?,
        }
        sync_directory(directory)
    };
    let published = publish();
    // After a rename there is nothing left to remove.
    let _ = fs::remove_file(staged);
    published.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Error::AlreadyExists { path: target.display().to_string(), source: Box::new(error) }
        }
        io::ErrorKind::PermissionDenied => {
            Error::PermissionDenied { path: target.display().to_string(), source: Box::new(error) }
        }
        _ => failed(error),
    })
}

impl fmt::Debug for PacedLocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for PacedLocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file://{}", self.root.display())
    }
}

#[async_trait::async_trait]
impl ObjectStore for PacedLocalStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let plain = opts.attributes.is_empty() && !matches!(opts.mode, PutMode::Update(_));
        if !plain {
            return self.inner.put_opts(location, payload, opts).await;
        }
        let target = self.inner.path_to_filesystem(location)?;
        let (root, staged) = (self.root.clone(), self.staging_path());
        tokio::task::spawn_blocking(move || put(&root, &staged, &target, &payload, &opts.mode)).await??;
        Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let path = self.inner.path_to_filesystem(location)?;
        let (key, ranges, buffers) = (location.to_string(), ranges.to_vec(), self.buffers.clone());
        tokio::task::spawn_blocking(move || {
            read_ranges(&path, &ranges, &buffers).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Error::NotFound { path: key, source: Box::new(error) },
                _ => failed(error),
            })
        })
        .await?
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        without_staging(self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        without_staging(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut listed = self.inner.list_with_delimiter(prefix).await?;
        listed.common_prefixes.retain(|folder| !is_staging(folder));
        Ok(listed)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

fn is_staging(path: &Path) -> bool {
    // As a listing has it, and as a path that was made from a name.
    path.parts().next().is_some_and(|part| part.as_ref() == STAGING || Path::from(STAGING).parts().next() == Some(part))
}

fn without_staging(listing: BoxStream<'static, Result<ObjectMeta>>) -> BoxStream<'static, Result<ObjectMeta>> {
    use futures::StreamExt;
    let ours = |listed: &Result<ObjectMeta>| !listed.as_ref().is_ok_and(|meta| is_staging(&meta.location));
    listing.filter(move |listed| std::future::ready(ours(listed))).boxed()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn pieces(sizes: &[usize]) -> PutPayload {
        let piece = |(index, size): (usize, &usize)| Bytes::from(vec![index as u8 + 1; *size]);
        sizes.iter().enumerate().map(piece).collect()
    }

    #[test]
    fn both_ways_of_writing_store_what_was_given() {
        let folder = tempfile::tempdir().expect("a directory");
        let lengths: [&[usize]; 5] =
            [&[], &[1], &[STEP_BYTES], &[STEP_BYTES - 1, 2, 4095], &[3, 2 * STEP_BYTES, ALIGNMENT, 77]];
        for (number, sizes) in lengths.iter().enumerate() {
            let payload = pieces(sizes);
            let expected = payload.iter().flat_map(|piece| piece.to_vec()).collect::<Vec<_>>();
            let direct = folder.path().join(format!("{number}-direct"));
            write_paced(&direct, &payload).expect("writes past the cache, or falls back");
            assert_eq!(fs::read(&direct).expect("reads"), expected, "{sizes:?}");
            let buffered = folder.path().join(format!("{number}-buffered"));
            write_buffered(&open_staged(&buffered, OFlags::empty()).expect("opens"), &payload).expect("writes");
            assert_eq!(fs::read(&buffered).expect("reads"), expected, "{sizes:?}");
        }
    }
}
