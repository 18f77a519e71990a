//! What all decorators share: every operation of the trait becomes one call that a layer may count, delay, repeat
//! or fail.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// A future as layers pass it on.
pub type Attempt<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// What is asked of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Write one object.
    Put,
    /// Start a multipart write.
    Multipart,
    /// Read one object, or ranges of it.
    Get,
    /// Ask for an object's size.
    Head,
    /// Delete an object.
    Delete,
    /// List objects.
    List,
    /// Copy or rename.
    Copy,
}

impl Operation {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 7] =
        [Self::Put, Self::Multipart, Self::Get, Self::Head, Self::Delete, Self::List, Self::Copy];

    /// Whether doing it twice is the same as doing it once.
    #[must_use]
    pub fn is_idempotent(self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Delete | Self::List)
    }

    /// Its name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Multipart => "multipart",
            Self::Get => "get",
            Self::Head => "head",
            Self::Delete => "delete",
            Self::List => "list",
            Self::Copy => "copy",
        }
    }
}

/// A decorator. `attempt` performs the operation and may be called again.
pub trait Layer: fmt::Debug + Send + Sync + 'static {
    /// Performs `operation` on up to `bytes` bytes (0 where unknown).
    fn call<'a, T: Send + 'a>(
        &'a self,
        operation: Operation,
        bytes: u64,
        attempt: impl Fn() -> Attempt<'a, T> + Send + Sync + 'a,
    ) -> impl Future<Output = Result<T>> + Send + 'a;
}

/// A store with a layer around it.
pub struct Layered<L> {
    inner: Arc<dyn ObjectStore>,
    layer: Arc<L>,
}

impl<L: Layer> Layered<L> {
    /// Puts `layer` around `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>, layer: Arc<L>) -> Self {
        Self { inner, layer }
    }
}

// Neither Debug nor Display goes through the store's own Debug, which may know credentials.

impl<L: Layer> fmt::Debug for Layered<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} around {}", self.layer, self.inner)
    }
}

impl<L: Layer> fmt::Display for Layered<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

#[async_trait::async_trait]
impl<L: Layer> ObjectStore for Layered<L> {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let bytes = payload.content_length() as u64;
        let attempt = || -> Attempt<'_, PutResult> {
            let (payload, opts) = (payload.clone(), opts.clone());
            Box::pin(async move { self.inner.put_opts(location, payload, opts).await })
        };
        self.layer.call(Operation::Put, bytes, attempt).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let attempt = || -> Attempt<'_, Box<dyn MultipartUpload>> {
            let opts = opts.clone();
            Box::pin(async move { self.inner.put_multipart_opts(location, opts).await })
        };
        self.layer.call(Operation::Multipart, 0, attempt).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let operation = if options.head { Operation::Head } else { Operation::Get };
        // A ranged read is taken in whole within the call, so that a body that breaks off counts as its failure.
        let whole = options.range.is_some() && !options.head;
        let attempt = || -> Attempt<'_, GetResult> {
            let options = options.clone();
            Box::pin(async move {
                let got = self.inner.get_opts(location, options).await?;
                if whole { taken_in(got).await } else { Ok(got) }
            })
        };
        self.layer.call(operation, 0, attempt).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let bytes = ranges.iter().map(|range| range.end.saturating_sub(range.start)).sum();
        let attempt =
            || -> Attempt<'_, Vec<Bytes>> { Box::pin(async move { self.inner.get_ranges(location, ranges).await }) };
        self.layer.call(Operation::Get, bytes, attempt).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (inner, layer) = (Arc::clone(&self.inner), Arc::clone(&self.layer));
        let delete = move |location: Result<Path>| {
            let (inner, layer) = (Arc::clone(&inner), Arc::clone(&layer));
            async move {
                let location = location?;
                let attempt = || -> Attempt<'_, ()> { Box::pin(inner.delete(&location)) };
                layer.call(Operation::Delete, 0, attempt).await?;
                Ok(location.clone())
            }
        };
        locations.map(delete).buffered(DELETES_IN_FLIGHT).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.admit_list(self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.admit_list(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let attempt =
            || -> Attempt<'_, ListResult> { Box::pin(async move { self.inner.list_with_delimiter(prefix).await }) };
        self.layer.call(Operation::List, 0, attempt).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let attempt = || -> Attempt<'_, ()> {
            let options = options.clone();
            Box::pin(async move { self.inner.copy_opts(from, to, options).await })
        };
        self.layer.call(Operation::Copy, 0, attempt).await
    }
}

/// Deletes of one stream in flight together.
const DELETES_IN_FLIGHT: usize = 8;

impl<L: Layer> Layered<L> {
    /// A listing is admitted once, then passes through: it may be endless, so it is not collected.
    fn admit_list(&self, listing: BoxStream<'static, Result<ObjectMeta>>) -> BoxStream<'static, Result<ObjectMeta>> {
        let layer = Arc::clone(&self.layer);
        let admitted = async move {
            layer.call(Operation::List, 0, || -> Attempt<'_, ()> { Box::pin(std::future::ready(Ok(()))) }).await?;
            Ok::<_, object_store::Error>(listing)
        };
        stream::once(admitted).try_flatten().boxed()
    }
}

async fn taken_in(got: GetResult) -> Result<GetResult> {
    let (meta, range) = (got.meta.clone(), got.range.clone());
    let (attributes, extensions) = (got.attributes.clone(), got.extensions.clone());
    let bytes = got.bytes().await?;
    let payload = GetResultPayload::Stream(stream::once(std::future::ready(Ok(bytes))).boxed());
    Ok(GetResult { payload, meta, range, attributes, extensions })
}
