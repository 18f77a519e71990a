//! moto's S3 server: an implementation of S3 that is not ours.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Process, free_port, tools, wait_until};
use crate::http;

/// A running moto; it ends when this is dropped.
#[derive(Debug)]
pub struct Moto {
    /// Where it speaks S3, as a URL.
    pub endpoint: String,
    _process: Process,
    _dir: tempfile::TempDir,
}

/// Starts moto with one empty bucket.
///
/// # Errors
/// It cannot be installed or does not start.
pub fn start(bucket: &str) -> Result<Moto> {
    let python = tools::python()?;
    let server = python.parent().unwrap_or(Path::new("")).join("moto_server");
    let dir = tempfile::tempdir()?;
    let address = format!("127.0.0.1:{}", free_port()?);
    let (host, port) = address.split_once(':').context("host:port")?;
    let mut command = Command::new(server);
    command.args(["-H", host, "-p", port]);
    let process = Process::spawn(&mut command, &dir.path().join("log"))?;
    let path = format!("/{bucket}");
    wait_until(Duration::from_secs(60), "moto makes a bucket", || {
        http::put(&address, &path, "").is_ok_and(|answer| answer.status == 200)
    })
    .with_context(|| process.output())?;
    Ok(Moto { endpoint: format!("http://{address}"), _process: process, _dir: dir })
}
