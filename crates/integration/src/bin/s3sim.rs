//! `s3sim`: the S3 server for tests, as a process. See `ottla_integration::s3sim`.

use std::io::Write;

use clap::Parser;
use ottla_integration::s3sim::{Config, start};

/// An in-memory S3 server with faults on demand, on 127.0.0.1. Prints the addresses it listens on
/// (`s3 HOST:PORT`, `admin HOST:PORT`) and serves until it is killed.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Port to speak S3 on; 0 for any.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Port of the admin protocol: PUT /faults, GET /faults, GET /stats, GET /objects/BUCKET; 0 for any.
    #[arg(long, default_value_t = 0)]
    admin_port: u16,
    /// Access key that clients sign with.
    #[arg(long, default_value = "test")]
    access_key: String,
    /// Secret key that clients sign with.
    #[arg(long, default_value = "test-secret")]
    secret_key: String,
    /// Bucket that exists from the start; may be given again.
    #[arg(long = "bucket", default_values_t = [String::from("ottla")])]
    buckets: Vec<String>,
    /// Seed from which faults are drawn.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let config = Config {
        port: args.port,
        admin_port: args.admin_port,
        keys: (args.access_key, args.secret_key),
        buckets: args.buckets,
        seed: args.seed,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let running = start(&config).await?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "s3 {}\nadmin {}", running.s3, running.admin)?;
        out.flush()?;
        drop(out);
        running.forever().await;
        Ok(())
    })
}
