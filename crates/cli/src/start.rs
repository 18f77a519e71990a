//! `ottla start`.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use broker::admin_http::AdminServer;
use broker::config::{BrokerConfig, Properties};
use broker::loggers::LogFilter;
use broker::{Ending, RunningBroker, StopReport};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{ConfigArgs, StartArgs, logging, tell};

/// Threads for file I/O.
const BLOCKING_THREADS_MAX: usize = 16;

/// Name of the file in the state directory that says "ready" and holds the admin address.
pub(crate) const READY_FILE: &str = "admin";

/// Runs a broker until it is told to stop, or cannot go on.
pub(crate) fn run(arguments: StartArgs) -> Result<()> {
    let log_filter = logging::install();
    let (config, notices) = BrokerConfig::load(properties(&arguments.node)?, arguments.insecure)?;
    notices.log();
    // Blocking work is file I/O of the local store: more threads than this only queue in the device, and each has a
    // stack of its own, which counts towards the memory bound.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let outcome = runtime.block_on(serve(config, log_filter, arguments.state_dir.as_deref()));
    // What still runs belongs to nobody: the broker has stopped, or cannot be trusted to.
    runtime.shutdown_background();
    outcome
}

/// Merges file, environment and flags.
pub(crate) fn properties(arguments: &ConfigArgs) -> Result<Properties> {
    let mut properties = match &arguments.config {
        Some(path) => {
            let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            let text = String::from_utf8(bytes).map_err(|_| anyhow!("{} is not UTF-8 text", path.display()))?;
            Properties::parse(&text).with_context(|| path.display().to_string())?
        }
        None => Properties::default(),
    };
    properties.set_from_environment(std::env::vars_os());
    if let Some(directory) = &arguments.data_dir {
        let text = directory.to_str().ok_or_else(|| anyhow!("--data-dir {} is not UTF-8", directory.display()))?;
        if text.contains(',') {
            bail!("--data-dir {text}: a comma separates directories in log.dirs and cannot be part of one");
        }
        properties.set("log.dirs", text);
    }
    for assignment in &arguments.properties {
        properties.set_override(assignment).map_err(|problem| anyhow!("-x {problem}"))?;
    }
    Ok(properties)
}

async fn serve(config: BrokerConfig, log_filter: Arc<dyn LogFilter>, state_dir: Option<&Path>) -> Result<()> {
    // Before anything else: a signal that comes early must not find nobody listening.
    let mut stops = Stops::new()?;
    if !config.quorum.is_broker {
        return serve_controller(config, &mut stops, state_dir).await;
    }
    loop {
        match live(config.clone(), &log_filter, &mut stops, state_dir).await? {
            None => return Ok(()),
            Some(Ending::Fenced) => tracing::warn!("the cluster took this broker for lost: it starts a new life"),
            Some(Ending::Failed(reason)) => bail!("{reason}"),
        }
    }
}

/// One life of a broker, until it is told to stop (`None`), or cannot go on.
async fn live(
    config: BrokerConfig,
    log_filter: &Arc<dyn LogFilter>,
    stops: &mut Stops,
    state_dir: Option<&Path>,
) -> Result<Option<Ending>> {
    let admin = AdminServer::bind(&config).await?;
    let running = tokio::select! {
        running = broker::start(config) => running?,
        () = stops.next() => bail!("stopped before the broker was ready"),
    };
    // Nobody else sets it.
    let _ = running.broker().log_filter.set(Arc::clone(log_filter));
    let admin_address = admin.as_ref().map(AdminServer::address);
    if let Some(admin) = admin {
        admin.serve(running.broker());
    }
    tell_ready(&running, admin_address);
    if let Some(directory) = state_dir {
        let address = admin_address.map_or_else(|| "off".to_owned(), |address| address.to_string());
        write_ready(directory, &address)?;
    }
    let ending = tokio::select! {
        ending = running.ended() => Some(ending),
        () = stops.next() => None,
    };
    remove_ready(state_dir);
    if let Some(ending) = ending {
        if ending == Ending::Fenced {
            running.abandon().await;
        }
        return Ok(Some(ending));
    }
    tracing::info!("stopping");
    let report = tokio::select! {
        report = running.stop() => report,
        () = stops.next() => bail!("stopped at once, as a crash would: the next start recovers from the log"),
    };
    tell_stopped(report);
    Ok(None)
}

/// A controller without a broker.
async fn serve_controller(config: BrokerConfig, stops: &mut Stops, state_dir: Option<&Path>) -> Result<()> {
    let node = config.node_id;
    let running = tokio::select! {
        running = broker::start_controller(config) => running?,
        () = stops.next() => bail!("stopped before the controller was ready"),
    };
    tell(&format!("Ottla {} is a controller on {} (node {node})", env!("CARGO_PKG_VERSION"), running.address()));
    if let Some(directory) = state_dir {
        write_ready(directory, "off")?;
    }
    let failed = tokio::select! {
        reason = running.failed() => Some(reason),
        () = stops.next() => None,
    };
    remove_ready(state_dir);
    if let Some(reason) = failed {
        bail!("{reason}");
    }
    running.stop().await;
    Ok(())
}

/// It is only a sign; without it the command that looks for it waits for the process instead.
fn remove_ready(state_dir: Option<&Path>) {
    if let Some(directory) = state_dir {
        let _ = std::fs::remove_file(directory.join(READY_FILE));
    }
}

fn tell_ready(running: &RunningBroker, admin: Option<std::net::SocketAddr>) {
    let listeners: Vec<String> = running
        .listeners()
        .iter()
        .map(|listener| format!("{}://{}:{}", listener.name, listener.advertised_host, listener.advertised_port))
        .collect();
    let admin = admin.map(|address| format!(", admin http://{address}")).unwrap_or_default();
    tell(&format!(
        "Ottla {} is ready on {} (node {}, data {}{admin})",
        env!("CARGO_PKG_VERSION"),
        listeners.join(", "),
        running.broker().config.node_id,
        running.data_dir().display(),
    ));
}

/// Written under another name first, so that whoever sees it sees it whole.
fn write_ready(directory: &Path, address: &str) -> Result<()> {
    let (draft, path) = (directory.join(".admin.new"), directory.join(READY_FILE));
    std::fs::write(&draft, format!("{address}\n"))
        .and_then(|()| std::fs::rename(&draft, &path))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn tell_stopped(report: StopReport) {
    match report.left_in_wal {
        0 => tracing::info!("stopped; everything is in the object store"),
        bytes => tracing::warn!(
            bytes,
            "stopped; the object store could not be reached in time, so that these bytes are only in the write-ahead \
             log: keep its directory, the next start has them"
        ),
    }
}

/// SIGTERM and SIGINT.
pub(crate) struct Stops {
    terminate: Signal,
    interrupt: Signal,
}

impl Stops {
    pub(crate) fn new() -> Result<Self> {
        let install = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self { terminate: install(SignalKind::terminate())?, interrupt: install(SignalKind::interrupt())? })
    }

    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
