//! `judge`: says what a history file proves. See `ottla_integration::history`.

use std::fs::File;
use std::io::{BufReader, Write};
use std::process::ExitCode;

use clap::Parser;
use ottla_integration::history::{History, Limits, replay};

/// Judges a history as the chaos driver writes it (one JSON event a line) and exits 0 if no promise was broken.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// The history.
    file: std::path::PathBuf,
}

fn main() -> anyhow::Result<ExitCode> {
    let mut history = History::new(Limits::default());
    replay(&mut history, BufReader::new(File::open(Args::parse().file)?))?;
    let verdict = history.finish();
    writeln!(std::io::stdout(), "{verdict}")?;
    Ok(if verdict.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
