//! Log lines on standard error: one for each significant event, more with `OTTLA_LOG`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Raft tells every heartbeat and vote; what an operator needs of it, Ottla tells itself.
const DEFAULT: &str = "info,openraft=error";

/// Installs the subscriber. An unreadable `OTTLA_LOG` is said to be so, and the default used.
pub fn install() {
    let given = std::env::var("OTTLA_LOG").ok().filter(|filter| !filter.is_empty());
    let (filter, problem) = match given.map(EnvFilter::try_new) {
        None => (EnvFilter::new(DEFAULT), None),
        Some(Ok(filter)) => (filter, None),
        Some(Err(problem)) => (EnvFilter::new(DEFAULT), Some(problem)),
    };
    let installed = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
    if let Some(problem) = problem {
        tracing::warn!(%problem, "OTTLA_LOG is not a filter and is ignored");
    }
    if let Err(problem) = installed {
        crate::tell_error(&format!("ottla: no log: {problem}"));
    }
}
