//! Log lines on standard error: one for each significant event, more with `OTTLA_LOG`. Levels change while the process
//! runs as Kafka's broker loggers do.

use std::io::IsTerminal;
use std::sync::Arc;

use broker::loggers::{Levels, LogFilter, ROOT};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

/// Raft tells every heartbeat and vote; what an operator needs of it, Ottla tells itself.
const DEFAULT: &str = "info,openraft=error";

/// The filter in force.
struct Filter(reload::Handle<Targets, Registry>);

/// Installs the subscriber. An unreadable `OTTLA_LOG` is said to be so, and the default used.
pub(crate) fn install() -> Arc<dyn LogFilter> {
    let given = std::env::var("OTTLA_LOG").ok().filter(|filter| !filter.is_empty());
    let default = || DEFAULT.parse::<Targets>().unwrap_or_default();
    let (targets, problem) = match given.map(|given| given.parse::<Targets>()) {
        None => (default(), None),
        Some(Ok(targets)) => (targets, None),
        Some(Err(problem)) => (default(), Some(problem)),
    };
    let (filter, handle) = reload::Layer::new(targets);
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let installed = tracing_subscriber::registry().with(filter).with(lines).try_init();
    if let Some(problem) = problem {
        tracing::warn!(%problem, "OTTLA_LOG is not a filter and is ignored");
    }
    if let Err(problem) = installed {
        crate::tell_error(&format!("ottla: no log: {problem}"));
    }
    Arc::new(Filter(handle))
}

impl LogFilter for Filter {
    fn levels(&self) -> Levels {
        self.0.with_current(levels).unwrap_or_default()
    }

    fn set(&self, levels: &Levels) -> Result<(), String> {
        self.0.reload(targets(levels)).map_err(|error| error.to_string())
    }
}

fn levels(targets: &Targets) -> Levels {
    let root = (ROOT.to_owned(), targets.default_level().unwrap_or(LevelFilter::OFF));
    targets.iter().map(|(name, level)| (name.replace("::", "."), level)).chain([root]).collect()
}

fn targets(levels: &Levels) -> Targets {
    let own = levels.iter().filter(|(name, _)| *name != ROOT).map(|(name, level)| (name.replace('.', "::"), *level));
    let root = levels.get(ROOT).copied().unwrap_or(LevelFilter::OFF);
    own.collect::<Targets>().with_default(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_the_same_after_it_was_told_and_set() {
        let filter: Targets = "info,openraft=error,ottla_broker::network=debug".parse().expect("a filter");
        let told = levels(&filter);
        assert_eq!(told[ROOT], LevelFilter::INFO);
        assert_eq!(told["ottla_broker.network"], LevelFilter::DEBUG);
        assert_eq!(targets(&told), filter);
    }

    #[test]
    fn a_changed_filter_lets_other_lines_pass() {
        let (layer, handle) = reload::Layer::new(DEFAULT.parse::<Targets>().expect("a filter"));
        let filter = Filter(handle);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let is_told = || tracing::enabled!(target: "ottla_broker::network", tracing::Level::DEBUG);
            assert!(!is_told());
            let mut levels = filter.levels();
            levels.insert("ottla_broker.network".to_owned(), LevelFilter::DEBUG);
            filter.set(&levels).expect("the filter is there");
            assert!(is_told());
        });
    }
}
