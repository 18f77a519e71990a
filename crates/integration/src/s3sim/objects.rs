//! What the server holds, and the S3 operations on it. Every check and the change it guards happen under one
//! lock: a conditional PUT has exactly one winner.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use common::{Clock, Random, SystemClock, SystemRandom};
use futures::StreamExt;
use parking_lot::Mutex;
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CommonPrefix, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CreateBucketInput, CreateBucketOutput, CreateMultipartUploadInput,
    CreateMultipartUploadOutput, DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput,
    DeletedObject, ETag, ETagCondition, GetObjectInput, GetObjectOutput, HeadBucketInput, HeadBucketOutput,
    HeadObjectInput, HeadObjectOutput, ListObjectsV2Input, ListObjectsV2Output, Object, PutObjectInput,
    PutObjectOutput, StreamingBlob, Timestamp, UploadPartInput, UploadPartOutput,
};
use s3s::{Body, S3, S3Request, S3Response, S3Result, s3_error};

/// S3's own limit for one PUT is 5 GiB; a test that needs more than this in memory is mistaken.
const OBJECT_BYTES_MAX: usize = 512 << 20;
/// Page of a listing, S3's default and maximum.
const LIST_KEYS_MAX: usize = 1000;

#[derive(Debug, Clone)]
struct Stored {
    bytes: Bytes,
    etag: String,
    modified: Timestamp,
}

type Bucket = BTreeMap<String, Stored>;

/// Parts of an upload by number, with their tags.
type Parts = BTreeMap<i32, (Bytes, String)>;

#[derive(Default)]
struct State {
    buckets: HashMap<String, Bucket>,
    uploads: HashMap<String, Parts>,
}

/// All buckets. Clones share them.
#[derive(Default, Clone)]
pub(super) struct Objects {
    state: Arc<Mutex<State>>,
}

impl Objects {
    pub(super) fn with_buckets(names: &[String]) -> Self {
        let buckets = names.iter().map(|name| (name.clone(), Bucket::new())).collect();
        Self { state: Arc::new(Mutex::new(State { buckets, ..State::default() })) }
    }

    pub(super) fn keys(&self, bucket: &str) -> Vec<String> {
        self.state.lock().buckets.get(bucket).map(|b| b.keys().cloned().collect()).unwrap_or_default()
    }

    /// Objects and their bytes.
    pub(super) fn size(&self) -> (u64, u64) {
        let state = self.state.lock();
        let all = state.buckets.values().flat_map(BTreeMap::values);
        all.fold((0, 0), |(n, bytes), object| (n + 1, bytes + object.bytes.len() as u64))
    }

    fn find(&self, bucket: &str, key: &str) -> S3Result<Stored> {
        let state = self.state.lock();
        let Some(bucket) = state.buckets.get(bucket) else { return Err(s3_error!(NoSuchBucket)) };
        bucket.get(key).cloned().ok_or_else(|| s3_error!(NoSuchKey))
    }
}

fn now() -> Timestamp {
    let since_epoch = Duration::from_millis(u64::try_from(SystemClock.wall_ms()).unwrap_or(0));
    Timestamp::from(UNIX_EPOCH + since_epoch)
}

/// A tag that no two contents share and that the same content gets again, as S3's is.
fn etag(bytes: &[u8]) -> String {
    let low = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes);
    format!("{low:016x}{:016x}", bytes.len())
}

fn stored(bytes: Bytes) -> Stored {
    Stored { etag: etag(&bytes), bytes, modified: now() }
}

async fn collect(body: Option<StreamingBlob>) -> S3Result<Bytes> {
    let Some(mut body) = body else { return Ok(Bytes::new()) };
    let mut whole = BytesMut::new();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| s3_error!(IncompleteBody, "{error}"))?;
        if whole.len() + chunk.len() > OBJECT_BYTES_MAX {
            return Err(s3_error!(EntityTooLarge));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}

/// Refuses a body that is not what the client summed up.
fn check_crc64(bytes: &[u8], stated: Option<&String>) -> S3Result<()> {
    let Some(stated) = stated else { return Ok(()) };
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes);
    if base64(&sum.to_be_bytes()) == *stated { Ok(()) } else { Err(s3_error!(BadDigest)) }
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().enumerate().fold(0_u32, |word, (i, &b)| word | u32::from(b) << (16 - 8 * i));
        for i in 0..4 {
            let digit = char::from(ALPHABET[(word >> (18 - 6 * i)) as usize & 63]);
            text.push(if i <= chunk.len() { digit } else { '=' });
        }
    }
    text
}

/// Whether a write may replace `present` (`None`: there is no such object).
fn admit(
    present: Option<&Stored>,
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<()> {
    let is = |condition: &ETagCondition, stored: &Stored| match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(tag) => tag.value() == stored.etag,
    };
    if let (Some(condition), Some(stored)) = (if_none_match, present)
        && is(condition, stored)
    {
        return Err(s3_error!(PreconditionFailed));
    }
    match (if_match, present) {
        (Some(_), None) => Err(s3_error!(NoSuchKey)),
        (Some(condition), Some(stored)) if !is(condition, stored) => Err(s3_error!(PreconditionFailed)),
        _ => Ok(()),
    }
}

fn not_modified(stored: &Stored, input: &GetObjectInput) -> S3Result<()> {
    let found = |condition: &ETagCondition| match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(tag) => tag.value() == stored.etag,
    };
    if input.if_match.as_ref().is_some_and(|condition| !found(condition)) {
        return Err(s3_error!(PreconditionFailed));
    }
    if input.if_none_match.as_ref().is_some_and(found) {
        return Err(s3_error!(NotModified));
    }
    Ok(())
}

#[async_trait::async_trait]
impl S3 for Objects {
    async fn create_bucket(&self, req: S3Request<CreateBucketInput>) -> S3Result<S3Response<CreateBucketOutput>> {
        self.state.lock().buckets.entry(req.input.bucket).or_default();
        Ok(S3Response::new(CreateBucketOutput::default()))
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        if self.state.lock().buckets.contains_key(&req.input.bucket) {
            Ok(S3Response::new(HeadBucketOutput::default()))
        } else {
            Err(s3_error!(NoSuchBucket))
        }
    }

    async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = req.input;
        let bytes = collect(input.body).await?;
        check_crc64(&bytes, input.checksum_crc64nvme.as_ref())?;
        let object = stored(bytes);
        let tag = ETag::Strong(object.etag.clone());
        let mut state = self.state.lock();
        let Some(bucket) = state.buckets.get_mut(&input.bucket) else { return Err(s3_error!(NoSuchBucket)) };
        admit(bucket.get(&input.key), input.if_match.as_ref(), input.if_none_match.as_ref())?;
        bucket.insert(input.key, object);
        Ok(S3Response::new(PutObjectOutput { e_tag: Some(tag), ..PutObjectOutput::default() }))
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let object = self.find(&req.input.bucket, &req.input.key)?;
        not_modified(&object, &req.input)?;
        let whole = object.bytes.len() as u64;
        let (bytes, content_range) = match &req.input.range {
            None => (object.bytes, None),
            Some(range) => {
                let part = range.check(whole).map_err(|_| s3_error!(InvalidRange))?;
                let text = format!("bytes {}-{}/{whole}", part.start, part.end.saturating_sub(1));
                (object.bytes.slice(part.start as usize..part.end as usize), Some(text))
            }
        };
        Ok(S3Response::new(GetObjectOutput {
            content_length: Some(bytes.len() as i64),
            content_range,
            accept_ranges: Some("bytes".to_owned()),
            e_tag: Some(ETag::Strong(object.etag)),
            last_modified: Some(object.modified),
            body: Some(StreamingBlob::from(Body::from(bytes))),
            ..GetObjectOutput::default()
        }))
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let object = self.find(&req.input.bucket, &req.input.key)?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(object.bytes.len() as i64),
            accept_ranges: Some("bytes".to_owned()),
            e_tag: Some(ETag::Strong(object.etag)),
            last_modified: Some(object.modified),
            ..HeadObjectOutput::default()
        }))
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        let state = self.state.lock();
        let Some(bucket) = state.buckets.get(&req.input.bucket) else { return Err(s3_error!(NoSuchBucket)) };
        Ok(S3Response::new(list(bucket, req.input)))
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        let mut state = self.state.lock();
        let Some(bucket) = state.buckets.get_mut(&req.input.bucket) else { return Err(s3_error!(NoSuchBucket)) };
        bucket.remove(&req.input.key);
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(&self, req: S3Request<DeleteObjectsInput>) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let mut state = self.state.lock();
        let Some(bucket) = state.buckets.get_mut(&req.input.bucket) else { return Err(s3_error!(NoSuchBucket)) };
        let mut deleted = Vec::new();
        for object in req.input.delete.objects {
            bucket.remove(&object.key);
            deleted.push(DeletedObject { key: Some(object.key), ..DeletedObject::default() });
        }
        Ok(S3Response::new(DeleteObjectsOutput { deleted: Some(deleted), ..DeleteObjectsOutput::default() }))
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let mut state = self.state.lock();
        if !state.buckets.contains_key(&req.input.bucket) {
            return Err(s3_error!(NoSuchBucket));
        }
        let id = SystemRandom.uuid().to_string();
        state.uploads.insert(id.clone(), Parts::new());
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(req.input.bucket),
            key: Some(req.input.key),
            upload_id: Some(id),
            ..CreateMultipartUploadOutput::default()
        }))
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let input = req.input;
        let bytes = collect(input.body).await?;
        check_crc64(&bytes, input.checksum_crc64nvme.as_ref())?;
        let tag = etag(&bytes);
        let mut state = self.state.lock();
        let Some(parts) = state.uploads.get_mut(&input.upload_id) else { return Err(s3_error!(NoSuchUpload)) };
        parts.insert(input.part_number, (bytes, tag.clone()));
        Ok(S3Response::new(UploadPartOutput { e_tag: Some(ETag::Strong(tag)), ..UploadPartOutput::default() }))
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = req.input;
        let mut state = self.state.lock();
        let Some(parts) = state.uploads.get(&input.upload_id) else { return Err(s3_error!(NoSuchUpload)) };
        let mut whole = BytesMut::new();
        for part in input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default() {
            let Some((bytes, tag)) = part.part_number.and_then(|number| parts.get(&number)) else {
                return Err(s3_error!(InvalidPart));
            };
            if part.e_tag.as_ref().is_some_and(|stated| stated.value() != tag) {
                return Err(s3_error!(InvalidPart));
            }
            whole.extend_from_slice(bytes);
        }
        let object = stored(whole.freeze());
        let tag = ETag::Strong(object.etag.clone());
        let Some(bucket) = state.buckets.get_mut(&input.bucket) else { return Err(s3_error!(NoSuchBucket)) };
        admit(bucket.get(&input.key), input.if_match.as_ref(), input.if_none_match.as_ref())?;
        bucket.insert(input.key.clone(), object);
        state.uploads.remove(&input.upload_id);
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(tag),
            ..CompleteMultipartUploadOutput::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        match self.state.lock().uploads.remove(&req.input.upload_id) {
            Some(_) => Ok(S3Response::new(AbortMultipartUploadOutput::default())),
            None => Err(s3_error!(NoSuchUpload)),
        }
    }
}

/// One page: keys and common prefixes after the continuation token, in order.
fn list(bucket: &Bucket, input: ListObjectsV2Input) -> ListObjectsV2Output {
    let prefix = input.prefix.clone().unwrap_or_default();
    let delimiter = input.delimiter.clone().filter(|d| !d.is_empty());
    let after = input.continuation_token.clone().or_else(|| input.start_after.clone()).unwrap_or_default();
    let page = usize::try_from(input.max_keys.unwrap_or(LIST_KEYS_MAX as i32)).unwrap_or(0).min(LIST_KEYS_MAX);
    let start = if after < prefix { Bound::Included(prefix.as_str()) } else { Bound::Excluded(after.as_str()) };
    let (mut contents, mut prefixes, mut last, mut truncated) = (Vec::new(), Vec::<String>::new(), None, false);
    for (key, object) in bucket.range::<str, _>((start, Bound::Unbounded)) {
        if !key.starts_with(&prefix) {
            break;
        }
        let folder = delimiter.as_ref().and_then(|d| {
            let end = key[prefix.len()..].find(d.as_str())?;
            Some(&key[..prefix.len() + end + d.len()])
        });
        // A page may have ended within a folder: its later keys do not name it again.
        if folder.is_some_and(|folder| prefixes.last().is_some_and(|p| p == folder) || after.starts_with(folder)) {
            continue;
        }
        if contents.len() + prefixes.len() == page {
            truncated = true;
            break;
        }
        last = Some(key.clone());
        match folder {
            Some(folder) => prefixes.push(folder.to_owned()),
            None => contents.push(Object {
                key: Some(key.clone()),
                size: Some(object.bytes.len() as i64),
                e_tag: Some(ETag::Strong(object.etag.clone())),
                last_modified: Some(object.modified.clone()),
                ..Object::default()
            }),
        }
    }
    ListObjectsV2Output {
        key_count: Some((contents.len() + prefixes.len()) as i32),
        contents: Some(contents),
        common_prefixes: Some(prefixes.into_iter().map(|p| CommonPrefix { prefix: Some(p) }).collect()),
        is_truncated: Some(truncated),
        next_continuation_token: last.filter(|_| truncated),
        name: Some(input.bucket),
        prefix: input.prefix,
        delimiter: input.delimiter,
        max_keys: Some(page as i32),
        continuation_token: input.continuation_token,
        start_after: input.start_after,
        ..ListObjectsV2Output::default()
    }
}
