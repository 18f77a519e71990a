//! `ottla-sim`: runs seeds of the simulation.
#![allow(clippy::print_stdout)] // it is a command: what it finds is its output

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use ottla_simulation::entropy;
use ottla_simulation::run::{STEPS, Settings, run};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

#[derive(Parser)]
#[command(about = "Runs a simulated cluster under random faults")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Runs one seed.
    Run(RunArguments),
    /// Runs many seeds, each in a process of its own.
    Many(ManyArguments),
}

#[derive(clap::Args)]
struct RunArguments {
    /// Everything follows from it.
    #[arg(long)]
    seed: u64,
    /// Writes what happens to this file.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Prints the log of the brokers on the standard error output, at this level.
    #[arg(long)]
    log: Option<tracing::Level>,
}

#[derive(clap::Args)]
struct ManyArguments {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// How many.
    #[arg(long, default_value_t = 100)]
    count: u64,
    /// How many at once.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Stops at the first failure.
    #[arg(long)]
    first: bool,
}

/// Memory for the stack of a simulation: its futures are large without optimisation.
const STACK_BYTES: usize = 64 << 20;

/// A millisecond of simulated time that takes longer is one in which something turns in a circle.
const STEP_MAX: Duration = Duration::from_secs(15);

fn main() -> Result<ExitCode> {
    match Arguments::parse().command {
        Task::Run(arguments) => one(&arguments),
        Task::Many(arguments) => many(&arguments),
    }
}

/// What the log's lines begin with.
struct SimulatedTime;

impl FormatTime for SimulatedTime {
    fn format_time(&self, line: &mut Writer<'_>) -> std::fmt::Result {
        write!(line, "{:>11.6}", turmoil::sim_elapsed().unwrap_or_default().as_secs_f64())
    }
}

/// Ends the process: a task that panics would only be missing, one that never waits would stop time.
fn give_up(seed: u64, reason: &str) -> ! {
    println!("{reason}\nseed {seed} FAILED\nagain: ottla-sim run --seed {seed}");
    std::process::exit(101);
}

fn one(arguments: &RunArguments) -> Result<ExitCode> {
    if let Some(level) = arguments.log {
        tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_timer(SimulatedTime).init();
    }
    let seed = arguments.seed;
    std::panic::set_hook(Box::new(move |panic| {
        give_up(seed, &format!("{panic}\n{}", std::backtrace::Backtrace::capture()));
    }));
    std::thread::spawn(move || {
        let mut seen = u64::MAX;
        while seen != STEPS.load(Ordering::SeqCst) {
            seen = STEPS.load(Ordering::SeqCst);
            std::thread::sleep(STEP_MAX);
        }
        give_up(seed, &format!("it hangs: step {seen} takes longer than {STEP_MAX:?}"));
    });
    let settings = Settings { seed, trace: arguments.trace.clone() };
    entropy::seed(seed);
    let simulation = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || run(&settings));
    let outcome = simulation?.join().ok().context("the simulation panicked")??;
    if outcome.defects.is_empty() {
        println!("seed {seed} ok: {}", outcome.summary);
        return Ok(ExitCode::SUCCESS);
    }
    outcome.newest.iter().for_each(|line| println!("  {line}"));
    outcome.defects.iter().for_each(|defect| println!("{defect}"));
    println!("seed {seed} FAILED: {}", outcome.summary);
    println!("again: ottla-sim run --seed {seed}");
    Ok(ExitCode::FAILURE)
}

fn many(arguments: &ManyArguments) -> Result<ExitCode> {
    let program = std::env::current_exe()?;
    let (next, failed, done) = (AtomicU64::new(arguments.from), AtomicU64::new(0), AtomicU64::new(0));
    let end = arguments.from + arguments.count;
    let work = || -> Result<()> {
        loop {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if seed >= end || (arguments.first && failed.load(Ordering::SeqCst) > 0) {
                return Ok(());
            }
            let ended = Command::new(&program).args(["run", "--seed", &seed.to_string()]).output()?;
            if !ended.status.success() {
                failed.fetch_add(1, Ordering::SeqCst);
                println!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
            }
            let done = done.fetch_add(1, Ordering::SeqCst) + 1;
            if done.is_multiple_of(100) {
                println!("{done} seeds run, {} failed", failed.load(Ordering::SeqCst));
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..arguments.jobs.max(1)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().ok().context("a worker panicked")?)
    })?;
    let failed = failed.load(Ordering::SeqCst);
    println!("seeds {}..{}: {} run, {failed} failed", arguments.from, end, done.load(Ordering::SeqCst));
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
