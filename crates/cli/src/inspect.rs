//! `ottla wal inspect` and `ottla object inspect`: decode and verify, change nothing.

use std::path::Path;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use object_store::ObjectStoreExt;
use wal::WalLocation;

use crate::tell;

/// Tells what a write-ahead log holds; an error if any of it is damaged.
pub(crate) fn wal(path: &Path) -> Result<()> {
    let location = match path.is_dir() {
        true => WalLocation::Directory(path.to_owned()),
        false => WalLocation::Block(path.to_owned()),
    };
    let inspection = wal::inspect::inspect(&location)?;
    tell(inspection.to_string().trim_end());
    if !inspection.is_sound() {
        bail!("{}: not all of it can be read back", path.display());
    }
    Ok(())
}

/// Tells what an object holds; an error if any of it is damaged.
pub(crate) fn object(object: &str) -> Result<()> {
    let local = object.strip_prefix("file://").unwrap_or(object);
    let bytes = match local.contains("://") {
        true => fetch(local).with_context(|| without_query(local).to_owned())?,
        false => std::fs::read(local).with_context(|| format!("cannot read {local}"))?.into(),
    };
    let inspection = s3stream::inspect::inspect(&bytes).with_context(|| without_query(object).to_owned())?;
    tell(inspection.to_string().trim_end());
    Ok(())
}

/// Reads an object whole.
fn fetch(url: &str) -> Result<Bytes> {
    let (store, key) = split(url)?;
    let store = common::store::open(&store)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let read = async { store.get(&object_store::path::Path::from(key)).await?.bytes().await };
    Ok(runtime.block_on(read)?)
}

/// The URL of the store that holds an object, and the object's key in it.
fn split(url: &str) -> Result<(String, &str)> {
    let location = without_query(url);
    let query = &url[location.len()..];
    match location.rsplit_once('/') {
        Some((prefix, key)) if !key.is_empty() && !prefix.ends_with('/') => Ok((format!("{prefix}{query}"), key)),
        _ => bail!("{location} names no object"),
    }
}

/// A URL without its query, where credentials might stand.
fn without_query(url: &str) -> &str {
    url.split_once('?').map_or(url, |(location, _)| location)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_store_and_a_key() {
        let (store, key) = split("s3://bucket/a/b/7-0?endpoint=http://h:1/x").expect("valid");
        assert_eq!((store.as_str(), key), ("s3://bucket/a/b?endpoint=http://h:1/x", "7-0"));
        assert_eq!(split("s3://bucket/7-0").expect("valid").0, "s3://bucket");
        for nothing in ["s3://bucket", "s3://bucket/", "s3://"] {
            assert!(split(nothing).is_err(), "{nothing}");
        }
    }
}
