//! Opens a store by its URL.
//!
//! * `file:///directory`
//! * `s3://bucket/prefix?endpoint=http://host:port&region=name&virtual_hosted_style=true`; credentials from the
//!   environment (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`) or from a file
//! * `memory://`

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::memory::InMemory;
use object_store::prefix::PrefixStore;
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use url::Url;

use super::fault::Faults;
use super::layer::Layered;
use super::limit::Limit;
use super::local::PacedLocalStore;
use super::retry::Retry;
use crate::random::{Random, SystemRandom};

/// Settings of a store, beside its URL.
#[derive(Clone)]
pub struct StoreOptions {
    /// File with `aws_access_key_id` and `aws_secret_access_key` (and `aws_session_token`), as in
    /// `~/.aws/credentials`; used where the environment has none.
    pub credentials_file: Option<PathBuf>,
    /// Operations in flight together.
    pub operations_in_flight: usize,
    /// Attempts at reads, listings and deletes.
    pub attempts: u32,
    /// Time one request may take.
    pub request_timeout: Duration,
    /// For jitter.
    pub random: Arc<dyn Random>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            credentials_file: None,
            operations_in_flight: 64,
            attempts: 3,
            request_timeout: Duration::from_secs(30),
            random: Arc::new(SystemRandom),
        }
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions")
            .field("credentials_file", &self.credentials_file)
            .field("operations_in_flight", &self.operations_in_flight)
            .field("attempts", &self.attempts)
            .field("request_timeout", &self.request_timeout)
            .finish_non_exhaustive()
    }
}

/// Why a store cannot be opened. Messages never hold secrets.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The URL does not name a store.
    #[error("{0}; a store is file:///directory, s3://bucket/prefix?endpoint=…&region=…, or memory://")]
    Url(String),
    /// The credentials file cannot be used.
    #[error("credentials file {path}: {reason}")]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] object_store::Error),
}

/// As [`open_with`], with default options.
pub fn open(url: &str) -> Result<Arc<dyn ObjectStore>, StoreError> {
    open_with(url, &StoreOptions::default())
}

/// Opens the store at `url`: limited, and with retries of what may be repeated. Makes no request, but creates the
/// directory of a `file` store.
pub fn open_with(url: &str, options: &StoreOptions) -> Result<Arc<dyn ObjectStore>, StoreError> {
    Ok(decorated(open_bare(url, options)?, options))
}

/// The store with faults, decorated as [`open_with`] decorates one: `store` may be shared by many nodes, each with faults
/// of its own.
#[must_use]
pub fn faulty(store: Arc<dyn ObjectStore>, faults: &Arc<Faults>, options: &StoreOptions) -> Arc<dyn ObjectStore> {
    decorated(Arc::new(Layered::new(store, Arc::clone(faults))), options)
}

fn decorated(store: Arc<dyn ObjectStore>, options: &StoreOptions) -> Arc<dyn ObjectStore> {
    let limited: Arc<dyn ObjectStore> =
        Arc::new(Layered::new(store, Arc::new(Limit::new(options.operations_in_flight))));
    let retry = Retry::new(options.attempts, Arc::clone(&options.random));
    Arc::new(Layered::new(limited, Arc::new(retry)))
}

fn open_bare(url: &str, options: &StoreOptions) -> Result<Arc<dyn ObjectStore>, StoreError> {
    // The URL itself stays out of messages: somebody may have put a password in.
    let url = Url::parse(url).map_err(|error| StoreError::Url(format!("not a URL: {error}")))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(StoreError::Url("credentials do not belong in a URL".to_owned()));
    }
    match url.scheme() {
        "file" => {
            let path = url.to_file_path().map_err(|()| StoreError::Url("not an absolute path".to_owned()))?;
            Ok(Arc::new(PacedLocalStore::open(&path)?))
        }
        "memory" => Ok(Arc::new(InMemory::new())),
        "s3" => open_s3(&url, options),
        other => Err(StoreError::Url(format!("unknown scheme \"{other}\""))),
    }
}

fn open_s3(url: &Url, options: &StoreOptions) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let bucket = url.host_str().filter(|bucket| !bucket.is_empty());
    let bucket = bucket.ok_or_else(|| StoreError::Url("the bucket is missing".to_owned()))?;
    // Repeating is up to the layers above, which know what may be repeated.
    let retry = RetryConfig { max_retries: 1, retry_timeout: options.request_timeout, ..RetryConfig::default() };
    let client = ClientOptions::new()
        .with_timeout(options.request_timeout)
        .with_connect_timeout(Duration::from_secs(5))
        .with_allow_http(false);
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_retry(retry)
        .with_client_options(client)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_virtual_hosted_style_request(false);
    for (key, value) in url.query_pairs() {
        builder = match key.as_ref() {
            "endpoint" => builder.with_allow_http(value.starts_with("http://")).with_endpoint(value),
            "region" => builder.with_region(value),
            "virtual_hosted_style" => builder.with_virtual_hosted_style_request(value == "true"),
            other => return Err(StoreError::Url(format!("unknown parameter \"{other}\""))),
        };
    }
    if std::env::var_os("AWS_ACCESS_KEY_ID").is_none()
        && let Some(path) = &options.credentials_file
    {
        builder = with_credentials(builder, path)?;
    }
    let store: Arc<dyn ObjectStore> = Arc::new(builder.build()?);
    match url.path().trim_matches('/') {
        "" => Ok(store),
        prefix => Ok(Arc::new(PrefixStore::new(store, prefix))),
    }
}

/// Reads the keys of the `[default]` profile, or of a file without profiles.
fn with_credentials(mut builder: AmazonS3Builder, path: &PathBuf) -> Result<AmazonS3Builder, StoreError> {
    let refuse = |reason: String| StoreError::Credentials { path: path.clone(), reason };
    let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
    let (mut default, mut found) = (true, 0);
    for line in text.lines().map(str::trim) {
        if let Some(profile) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            default = profile.trim() == "default";
        }
        let Some((key, value)) = line.split_once('=').filter(|_| default) else { continue };
        builder = match key.trim() {
            "aws_access_key_id" => builder.with_access_key_id(value.trim()),
            "aws_secret_access_key" => builder.with_secret_access_key(value.trim()),
            "aws_session_token" => builder.with_token(value.trim()),
            _ => continue,
        };
        found += 1;
    }
    if found < 2 {
        return Err(refuse("aws_access_key_id and aws_secret_access_key are expected".to_owned()));
    }
    Ok(builder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_wrong_with_a_url() {
        let options = StoreOptions::default();
        for (url, expected) in [
            ("gopher://x", "unknown scheme"),
            ("no url", "not a URL"),
            ("s3://user:secret@bucket/x", "credentials do not belong"),
            ("s3://bucket/x?color=red", "unknown parameter"),
        ] {
            let error = open_with(url, &options).expect_err("is refused").to_string();
            assert!(error.contains(expected) && !error.contains("secret@"), "{error}");
        }
    }

    #[test]
    fn an_s3_store_shows_no_secrets() {
        let folder = tempfile::tempdir().expect("a directory");
        let file = folder.path().join("credentials");
        std::fs::write(&file, "[default]\naws_access_key_id = KEYID\naws_secret_access_key = SECRET\n")
            .expect("writes");
        let options = StoreOptions { credentials_file: Some(file), ..StoreOptions::default() };
        let url = "s3://bucket/some/prefix?endpoint=http://127.0.0.1:1&region=eu-central-1";
        let store = open_with(url, &options).expect("opens");
        let shown = format!("{store:?} {store} {options:?}");
        assert!(shown.contains("some/prefix") && !shown.contains("SECRET") && !shown.contains("KEYID"), "{shown}");
    }

    #[test]
    fn a_credentials_file_without_keys_is_refused() {
        let folder = tempfile::tempdir().expect("a directory");
        let file = folder.path().join("credentials");
        std::fs::write(&file, "[other]\naws_access_key_id = A\naws_secret_access_key = B\n").expect("writes");
        assert!(with_credentials(AmazonS3Builder::new(), &file).is_err());
    }
}
