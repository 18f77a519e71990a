//! A store in a local directory whose writes are small and synced as they go: it may lie on the log's own device,
//! where one large flush would hold up every acknowledgement.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::ops::Range;
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

/// Bytes between two syncs of a file that is being written.
const SYNC_BYTES: usize = 1024 * 1024;
/// Pieces handed to one vectored write.
const PIECES_PER_WRITE: usize = 64;
/// Folder of files that are being written, below the root. Its name cannot be an object's.
const STAGING: &str = ".staging#";

/// See the module. Everything but `put` is `object_store`'s own local store.
pub struct PacedLocalStore {
    inner: LocalFileSystem,
    root: PathBuf,
    staged: AtomicU64,
}

impl PacedLocalStore {
    /// A store in `root`, which is created if it is missing. Removes what a crashed process left half written.
    pub fn open(root: &FilePath) -> Result<Self> {
        let staging = root.join(STAGING);
        fs::create_dir_all(&staging).map_err(failed)?;
        remove_abandoned(&staging).map_err(failed)?;
        let inner = LocalFileSystem::new_with_prefix(root)?.with_fsync(true);
        let root = root.canonicalize().map_err(failed)?;
        Ok(Self { inner, root, staged: AtomicU64::new(0) })
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
        if !alive {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Writes `payload` in small steps, each on disk before the next.
fn write_paced(path: &FilePath, payload: &PutPayload) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let mut pieces: Vec<Bytes> = payload.iter().filter(|piece| !piece.is_empty()).cloned().collect();
    let mut first = 0;
    let mut since_sync = 0;
    while first < pieces.len() {
        let slices: Vec<IoSlice<'_>> = gather(&pieces[first..], SYNC_BYTES - since_sync);
        let written = file.write_vectored(&slices)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        since_sync += written;
        first += advance(&mut pieces[first..], written);
        if since_sync >= SYNC_BYTES {
            file.sync_data()?;
            since_sync = 0;
        }
    }
    file.sync_all()
}

/// Slices of up to `limit` bytes from the front of `pieces`.
fn gather(pieces: &[Bytes], mut limit: usize) -> Vec<IoSlice<'_>> {
    let mut slices = Vec::new();
    for piece in pieces.iter().take(PIECES_PER_WRITE) {
        let len = piece.len().min(limit);
        slices.push(IoSlice::new(&piece[..len]));
        limit -= len;
        if limit == 0 {
            break;
        }
    }
    slices
}

/// Takes `written` bytes off the front; returns how many pieces are used up.
fn advance(pieces: &mut [Bytes], mut written: usize) -> usize {
    let mut used = 0;
    for piece in pieces {
        if piece.len() > written {
            *piece = piece.slice(written..);
            break;
        }
        written -= piece.len();
        used += 1;
    }
    used
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
        self.inner.get_ranges(location, ranges).await
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
    path.parts().next().is_some_and(|part| Path::from(STAGING).parts().next() == Some(part))
}

fn without_staging(listing: BoxStream<'static, Result<ObjectMeta>>) -> BoxStream<'static, Result<ObjectMeta>> {
    use futures::StreamExt;
    let ours = |listed: &Result<ObjectMeta>| !listed.as_ref().is_ok_and(|meta| is_staging(&meta.location));
    listing.filter(move |listed| std::future::ready(ours(listed))).boxed()
}
