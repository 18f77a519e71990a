//! What happened, line by line, in simulated time. The same seed gives the same lines.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::time::Duration;

use parking_lot::Mutex;

/// Lines that are kept to be shown with a failure.
const KEPT: usize = 60;

/// See the module.
pub struct Trace {
    inner: Mutex<Inner>,
}

struct Inner {
    file: Option<BufWriter<File>>,
    now: Duration,
    lines: u64,
    hash: u64,
    newest: VecDeque<String>,
}

impl Trace {
    /// Writes to `path`, if one is given.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn new(path: Option<&Path>) -> std::io::Result<Self> {
        let file = path.map(File::create).transpose()?.map(BufWriter::new);
        let (now, newest) = (Duration::ZERO, VecDeque::new());
        Ok(Self { inner: Mutex::new(Inner { file, now, lines: 0, hash: 0xcbf2_9ce4_8422_2325, newest }) })
    }

    /// The simulation has come so far.
    pub fn set_now(&self, now: Duration) {
        self.inner.lock().now = now;
    }

    /// Simulated time: of the host that is running, or of the simulation between two hosts.
    #[must_use]
    pub fn now(&self) -> Duration {
        turmoil::sim_elapsed().unwrap_or_else(|| self.inner.lock().now)
    }

    /// Adds a line.
    pub fn line(&self, who: &str, what: &str) {
        let now = self.now();
        let line = format!("{:>11.6} {who:<8} {what}", now.as_secs_f64());
        let mut inner = self.inner.lock();
        for byte in line.bytes().chain([b'\n']) {
            inner.hash = (inner.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        inner.lines += 1;
        if let Some(file) = &mut inner.file
            && let Err(error) = writeln!(file, "{line}")
        {
            tracing::error!(%error, "the trace cannot be written");
            inner.file = None;
        }
        if inner.newest.len() == KEPT {
            inner.newest.pop_front();
        }
        inner.newest.push_back(line);
    }

    /// How many lines there are, and the hash of all of them.
    #[must_use]
    pub fn digest(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        (inner.lines, inner.hash)
    }

    /// The newest lines. Everything is in the file when this returns.
    #[must_use]
    pub fn newest(&self) -> Vec<String> {
        let mut inner = self.inner.lock();
        if let Some(file) = &mut inner.file {
            let _ = file.flush();
        }
        inner.newest.iter().cloned().collect()
    }
}
