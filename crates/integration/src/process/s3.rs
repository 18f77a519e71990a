//! An object store for the brokers of a test, which fails on demand: the simulated S3 server, on a thread of its own.

use anyhow::{Result, ensure};

use crate::http;
use crate::s3sim::{Config, Faults, Running, Stats, start};

/// Signs requests; the name of the access key and its secret.
const KEYS: (&str, &str) = ("test", "test-secret");

/// A store that lives as long as the value.
pub struct S3 {
    running: Running,
    _runtime: tokio::runtime::Runtime,
}

impl S3 {
    /// Starts it, empty. Faults are drawn from the seed.
    ///
    /// # Errors
    /// There is no port.
    pub fn start(seed: u64) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let keys = (KEYS.0.to_owned(), KEYS.1.to_owned());
        let config = Config { port: 0, admin_port: 0, keys, buckets: vec!["ottla".to_owned()], seed };
        let running = runtime.block_on(start(&config))?;
        Ok(Self { running, _runtime: runtime })
    }

    /// The property of brokers that keep their objects here, below `prefix`.
    #[must_use]
    pub fn property(&self, prefix: &str) -> String {
        let address = self.running.s3;
        format!("ottla.object.store.url=s3://ottla/{prefix}?endpoint=http://{address}&region=us-east-1")
    }

    /// What brokers need in their environment to be let in.
    #[must_use]
    pub fn env(&self) -> Vec<(String, String)> {
        let env = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        vec![env("AWS_ACCESS_KEY_ID", KEYS.0), env("AWS_SECRET_ACCESS_KEY", KEYS.1)]
    }

    /// Fails like this from now on.
    ///
    /// # Errors
    /// The server does not answer.
    pub fn set(&self, faults: &Faults) -> Result<()> {
        let answer = http::put(&self.running.admin.to_string(), "/faults", &serde_json::to_string(faults)?)?;
        ensure!(answer.status == 204, "{}", answer.body);
        Ok(())
    }

    /// What was asked of it so far.
    ///
    /// # Errors
    /// The server does not answer.
    pub fn stats(&self) -> Result<Stats> {
        let answer = http::get(&self.running.admin.to_string(), "/stats")?;
        Ok(serde_json::from_str(&answer.body)?)
    }
}
