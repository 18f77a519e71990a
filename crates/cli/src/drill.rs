//! `ottla drill`: reads its options, brings the pieces of the `drill` crate together, prints.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{Args, ValueEnum};
use common::{Clock, Random, SystemClock, SystemRandom};
use drill::client::View;
use drill::commands::{Commands, quote};
use drill::engine::{Drill, Victim};
use drill::figures::figures;
use drill::librdkafka::Librdkafka;
use drill::plan::{Plan, Rate, Scenario};
use drill::report::{Asked, Report};
use drill::view::TcpView;

use crate::start::Stops;
use crate::{tell, tell_error};

/// Disturbs a cluster under the load of real clients (librdkafka), reads everything back, and prints what they saw
///
/// With --local it starts a cluster of its own and ends it afterwards. With --bootstrap it drills any cluster that speaks
/// Kafka's protocol; how to do things to its brokers is said by --launcher or --command. It exits with 1 if a
/// promise was broken: a record lost, duplicated, reordered or altered, an offset that went back, a partition
/// or group that did not come back.
#[derive(Args)]
pub(crate) struct DrillArgs {
    /// What happens to the cluster
    #[arg(value_enum)]
    scenario: Word,
    /// The brokers of a running cluster, host:port[,host:port...]
    #[arg(long, value_name = "SERVERS", required_unless_present = "local")]
    bootstrap: Option<String>,
    /// Starts a cluster of that many nodes on this machine for the drill
    #[arg(long, value_name = "NODES", conflicts_with = "bootstrap")]
    local: Option<u32>,
    /// A property of the brokers of --local; may be repeated
    #[arg(short = 'x', value_name = "[ID:]KEY=VALUE")]
    properties: Vec<String>,
    /// Where --local puts its cluster, or where --launcher has it
    #[arg(long, value_name = "DIR")]
    cluster_dir: Option<PathBuf>,
    /// A program with the interface of `ottla local` that has started the cluster in --cluster-dir
    #[arg(long, value_name = "PROGRAM", requires_all = ["bootstrap", "cluster_dir"])]
    launcher: Option<String>,
    /// A shell command for kill, stop, start, pause, resume, drain, undrain, add, store-down or store-up, with {node} for
    /// the node's number; pid and admin print its process id and admin address, to count bytes between brokers
    #[arg(long = "command", value_name = "VERB=COMMAND")]
    commands: Vec<String>,
    /// The same as --command kill=COMMAND
    #[arg(long, value_name = "COMMAND")]
    kill_command: Option<String>,
    /// The broker it happens to: its number, `controller`, or another one each run
    #[arg(long, value_name = "NODE", default_value = "rotate", value_parser = victim)]
    node: Victim,
    /// Partitions of the topic
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=4096))]
    partitions: u32,
    /// Replication factor of the topic [default: 3, or as many as there are brokers]
    #[arg(long, value_name = "FACTOR")]
    replication: Option<i16>,
    /// MB of payload a second, or a share of what the cluster takes, as in 60%
    #[arg(long, value_name = "MB|PERCENT%", default_value = "60%", value_parser = rate)]
    rate: Rate,
    /// Payload of a record
    #[arg(long, value_name = "BYTES", default_value_t = 1024, value_parser = record_bytes)]
    record_bytes: usize,
    /// How long each run writes; the first third is undisturbed
    #[arg(long, default_value_t = 45, value_parser = clap::value_parser!(u64).range(3..=3600))]
    seconds: u64,
    /// How long a pause or an outage of the store lasts
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=3600))]
    outage: u64,
    /// Starts a killed broker again after so many seconds, instead of after the load
    #[arg(long, value_name = "SECONDS")]
    restart_after: Option<u64>,
    /// How often it is done
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Producers, which share the partitions; librdkafka has one partition in a request and five requests under way
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    producers: u32,
    /// Members of the consumer group that reads along
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=64))]
    members: u32,
    /// MB that may wait for their acknowledgement, over all partitions
    #[arg(long, value_name = "MB", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=4096))]
    in_flight: u64,
    /// A setting of the clients; may be repeated
    #[arg(short = 'X', value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// What the brokers are, for the report
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
    /// Writes everything here as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes a page with the time line here
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Word {
    /// One broker dies as by kill -9
    Kill,
    /// One broker gives away all it leads, and stays
    Drain,
    /// One broker more
    Add,
    /// One broker is stopped in its tracks for --outage seconds
    Pause,
    /// One broker is stopped with SIGTERM and started again
    Restart,
    /// One broker dies and a new one takes its place
    Replace,
    /// The object store cannot be reached for --outage seconds
    StoreOutage,
    /// Each broker in turn is stopped with SIGTERM and started again
    Rolling,
}

impl From<Word> for Scenario {
    fn from(word: Word) -> Self {
        match word {
            Word::Kill => Self::Kill,
            Word::Drain => Self::Drain,
            Word::Add => Self::Add,
            Word::Pause => Self::Pause,
            Word::Restart => Self::Restart,
            Word::Replace => Self::Replace,
            Word::StoreOutage => Self::StoreOutage,
            Word::Rolling => Self::Rolling,
        }
    }
}

fn victim(text: &str) -> Result<Victim> {
    match text {
        "rotate" => Ok(Victim::Rotate),
        "controller" => Ok(Victim::Controller),
        number => number.parse().map(Victim::Node).map_err(|_| anyhow!("neither a number, controller nor rotate")),
    }
}

fn rate(text: &str) -> Result<Rate> {
    let (number, of): (&str, fn(f64) -> Rate) = match text.strip_suffix('%') {
        Some(number) => (number, Rate::Percent),
        None => (text.strip_suffix("MB/s").unwrap_or(text), |megabytes| Rate::Bytes(megabytes * 1e6)),
    };
    let number: f64 = number.trim().parse().map_err(|_| anyhow!("neither MB a second nor a percentage"))?;
    ensure!(number > 0.0 && number.is_finite(), "must be more than nothing");
    Ok(of(number))
}

fn record_bytes(text: &str) -> Result<usize> {
    let bytes = text.parse().map_err(|_| anyhow!("not a number"))?;
    let range = drill::payload::HEADER_BYTES..=1 << 20;
    ensure!(range.contains(&bytes), "must be {} to {}", range.start(), range.end());
    Ok(bytes)
}

/// A cluster to drill.
struct Target {
    bootstrap: String,
    commands: Commands,
    /// A cluster of its own, stopped when dropped.
    _own: Option<Own>,
}

/// A cluster that was started for the drill.
struct Own {
    ottla: PathBuf,
    directory: PathBuf,
    /// Removed in the end.
    _temporary: Option<tempfile::TempDir>,
}

impl Drop for Own {
    fn drop(&mut self) {
        let mut command = std::process::Command::new(&self.ottla);
        let status = command.args(["local", "stop", "-d"]).arg(&self.directory).status();
        if !status.as_ref().is_ok_and(std::process::ExitStatus::success) {
            tell_error(&format!("ottla local stop -d {}: {status:?}", self.directory.display()));
        }
    }
}

/// Does it.
pub(crate) fn run(arguments: &DrillArgs) -> Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let interrupted = listen()?;
    let mut target = arguments.target(0)?;
    let mut plan = arguments.plan(&target)?;
    let mut asked = Asked::new(&plan, command_line(), date(clock.wall_ms()), arguments.brokers(), client());
    let mut rate = match plan.rate {
        Rate::Bytes(rate) => Some(rate),
        Rate::Percent(_) => None,
    };
    let mut runs = Vec::new();
    for number in 0..plan.runs {
        if number > 0 && plan.wears_the_cluster() && arguments.local.is_some() {
            drop(target);
            target = arguments.target(number)?;
            plan = arguments.plan(&target)?;
        }
        let clients = Librdkafka::new(&target.bootstrap, &arguments.settings, plan.in_flight_bytes)?;
        let view = TcpView::new(&target.bootstrap);
        let drill = Drill {
            clients: &clients,
            view: &view,
            operator: &target.commands,
            clock: Arc::clone(&clock),
            tell: &|line: &str| tell_error(&format!("run {}: {line}", number + 1)),
            interrupted: &interrupted,
        };
        let wanted = match (rate, plan.rate) {
            (None, Rate::Percent(percent)) => {
                let measured = drill.measure(&plan, SystemRandom.next_u64())?;
                asked.measured_rate = Some(measured);
                measured * percent / 100.0
            }
            (Some(known), _) => known,
            (None, Rate::Bytes(given)) => given,
        };
        rate = Some(wanted);
        let record = drill.run(&plan, arguments.node, number, SystemRandom.next_u64(), wanted)?;
        runs.push(figures(&plan, &record));
        // What was done so far is not lost with what is not.
        arguments.write(&Report::new(asked.clone(), runs.clone()))?;
    }
    let report = Report::new(asked, runs);
    tell(report.table().trim_end());
    ensure!(report.is_clean(), "a promise was broken, see above");
    Ok(())
}

/// Set by SIGINT and SIGTERM: brokers that the drill stopped are not left so. A second signal ends it as it is.
fn listen() -> Result<Arc<AtomicBool>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().context("cannot start threads")?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&interrupted);
    let mut stops = runtime.block_on(async { Stops::new() })?;
    std::thread::spawn(move || {
        runtime.block_on(stops.next());
        told.store(true, Relaxed);
        tell_error("ottla: making the cluster whole again; once more to leave it as it is");
        runtime.block_on(stops.next());
        std::process::exit(130);
    });
    Ok(interrupted)
}

fn client() -> String {
    format!("librdkafka {}", drill::librdkafka::version())
}

/// As it can be given to a shell again.
fn command_line() -> String {
    let plain = |word: &str| word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:,=%@+".contains(c));
    let words = std::env::args().skip(1).map(|word| if plain(&word) { word } else { quote(&word) });
    std::iter::once("ottla".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

/// The day, UTC.
fn date(wall_ms: i64) -> String {
    // Days to a date of the Gregorian calendar, in eras of 400 years that begin in March.
    let days = wall_ms.div_euclid(86_400_000) + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

impl DrillArgs {
    fn target(&self, number: u32) -> Result<Target> {
        let (bootstrap, mut commands, own) = match self.local {
            Some(nodes) => self.start(nodes, number)?,
            None => {
                let bootstrap = self.bootstrap.clone().context("--bootstrap or --local")?;
                let commands = match (&self.launcher, &self.cluster_dir) {
                    (Some(launcher), Some(directory)) => Commands::of_launcher(launcher, text(directory)?),
                    _ => Commands::new(),
                };
                (bootstrap, commands, None)
            }
        };
        for command in &self.commands {
            let (verb, command) = command.split_once('=').context("--command is VERB=COMMAND")?;
            commands.set(verb, command)?;
        }
        if let Some(command) = &self.kill_command {
            commands.set("kill", command)?;
        }
        Ok(Target { bootstrap, commands, _own: own })
    }

    /// Starts a cluster of our own.
    fn start(&self, nodes: u32, number: u32) -> Result<(String, Commands, Option<Own>)> {
        let temporary = if self.cluster_dir.is_none() { Some(tempfile::tempdir()?) } else { None };
        let directory = match (&self.cluster_dir, &temporary) {
            (Some(given), _) if number == 0 => given.clone(),
            (Some(given), _) => given.join(format!("run-{}", number + 1)),
            (None, Some(temporary)) => temporary.path().to_owned(),
            (None, None) => bail!("a cluster needs a directory"),
        };
        let ottla = std::env::current_exe().context("cannot find my own program")?;
        let own = Own { ottla, directory, _temporary: temporary };
        let mut command = std::process::Command::new(&own.ottla);
        command.args(["local", "start", "-n", &nodes.to_string(), "-p", &free_ports(nodes)?.to_string(), "-d"]);
        command.arg(&own.directory);
        for property in &self.properties {
            command.args(["-x", property]);
        }
        let output = command.stderr(std::process::Stdio::inherit()).output().context("cannot start the cluster")?;
        ensure!(output.status.success(), "the cluster did not start");
        let bootstrap = String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned();
        let commands = Commands::of_ottla(text(&own.ottla)?, text(&own.directory)?);
        Ok((bootstrap, commands, Some(own)))
    }

    /// Asks the cluster what is left open, and that everything the plan needs can be done.
    fn plan(&self, target: &Target) -> Result<Plan> {
        let view = TcpView::new(&target.bootstrap);
        let overview = |address: &String| view.observe(address).ok()?.overview("").ok();
        let overview = view.bootstrap().iter().find_map(overview);
        let overview = overview.with_context(|| format!("no broker answers at {}", target.bootstrap))?;
        let nodes: Vec<u32> = overview.brokers.iter().map(|broker| broker.id).collect();
        target.commands.watch(&nodes);
        let seconds = Duration::from_secs;
        let plan = Plan {
            scenario: self.scenario.into(),
            brokers: nodes.len(),
            partitions: self.partitions,
            replication: self.replication.unwrap_or(nodes.len().min(3) as i16),
            rate: self.rate,
            record_bytes: self.record_bytes,
            seconds: seconds(self.seconds),
            outage: seconds(self.outage),
            restart_after: self.restart_after.map(seconds),
            runs: self.runs,
            producers: self.producers,
            members: self.members,
            in_flight_bytes: self.in_flight << 20,
            quiet: seconds(5).min(seconds(self.seconds) / 3),
            patience: seconds(120),
        };
        let victim = nodes.first().copied().context("the cluster has no broker")?;
        let actions: Vec<_> = plan.steps(&nodes, victim).iter().map(|step| step.action).collect();
        target.commands.check(&actions)?;
        if plan.runs > 1 {
            // What one run leaves undone, the next would stumble over.
            target.commands.check(&plan.heal(&actions))?;
        }
        Ok(plan)
    }

    fn brokers(&self) -> String {
        let local = || self.local.map(|nodes| format!("Ottla {}, {nodes} nodes", env!("CARGO_PKG_VERSION")));
        self.title.clone().or_else(local).or_else(|| self.bootstrap.clone()).unwrap_or_default()
    }

    fn write(&self, report: &Report) -> Result<()> {
        let write = |path: &Option<PathBuf>, text: Result<String>| match path {
            Some(path) => std::fs::write(path, text?).with_context(|| format!("cannot write {}", path.display())),
            None => Ok(()),
        };
        write(&self.json, report.json())?;
        write(&self.page, report.page())
    }
}

fn text(path: &std::path::Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

/// A port that is free and so are those that `ottla local` counts on from it, as far as can be told. It lies below the
/// ports that connections are given, or one of the many that brokers and clients open would soon be in the way.
fn free_ports(nodes: u32) -> Result<u16> {
    const PORTS: std::ops::Range<u64> = 12_000..32_000;
    const CONTROLLERS: u16 = 101;
    let nodes = u16::try_from(nodes).context("too many nodes")?;
    let is_free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    let drawn = (0..100).map(|_| (PORTS.start + SystemRandom.below(PORTS.end - PORTS.start)) as u16);
    let mut usable = drawn.filter(|port| (0..=nodes).all(|k| is_free(port + k) && is_free(port + CONTROLLERS + k)));
    usable.next().context("no free ports")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_understood() {
        assert_eq!(rate("60%").expect("a share"), Rate::Percent(60.0));
        assert_eq!(rate("2.5").expect("a rate"), Rate::Bytes(2_500_000.0));
        assert_eq!(rate("3MB/s").expect("a rate"), Rate::Bytes(3_000_000.0));
        assert!(["", "%", "-1", "0", "inf", "NaN", "x"].iter().all(|text| rate(text).is_err()));
        assert_eq!(victim("7").expect("a node"), Victim::Node(7));
        assert!(victim("anyone").is_err());
        assert!(record_bytes("10").is_err() && record_bytes("100").is_ok());
    }

    #[test]
    fn dates() {
        let day = 86_400_000;
        for (days, text) in [(0, "1970-01-01"), (11_016, "2000-02-29"), (20_453, "2025-12-31"), (20_454, "2026-01-01")]
        {
            assert_eq!(date(days * day), text);
            assert_eq!(date(days * day + day - 1), text);
        }
    }
}
