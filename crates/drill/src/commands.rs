//! An operator who does things by shell commands: whatever starts and stops the brokers, Ottla's or others'.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use parking_lot::Mutex;

use crate::client::{Operator, Traffic};
use crate::http;
use crate::plan::Action;
use crate::sockets::Sockets;

/// The brokers' counter of the tail bytes that partition moves sent to other brokers.
const TAIL_METRIC: &str = "ottla_moved_tail_bytes_total";

/// Commands by verb; `{node}` in one stands for the node's number.
#[derive(Debug, Default)]
pub struct Commands {
    commands: BTreeMap<String, String>,
    nodes: Mutex<Vec<u32>>,
    sockets: Mutex<Sockets>,
    tails: Mutex<Tails>,
}

/// Counters of brokers, which begin again when a broker does.
#[derive(Debug, Default)]
struct Tails {
    /// What each broker counted last.
    last: BTreeMap<u32, u64>,
    /// What brokers had counted before they were started again.
    before: u64,
}

impl Tails {
    /// Notes what brokers count now, those that answer; returns what all have counted so far.
    fn note(&mut self, counted: impl Iterator<Item = (u32, u64)>) -> Option<u64> {
        for (node, count) in counted {
            let last = self.last.entry(node).or_default();
            if count < *last {
                self.before += *last;
            }
            *last = count;
        }
        (!self.last.is_empty()).then(|| self.before + self.last.values().sum::<u64>())
    }
}

/// Verbs beside those of [`Action`]: what prints a node's process id, and its admin address.
const QUESTIONS: [&str; 2] = ["pid", "admin"];

const VERBS: [&str; 10] =
    ["kill", "stop", "start", "pause", "resume", "drain", "undrain", "add", "store-down", "store-up"];

impl Commands {
    /// No commands yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The commands of a cluster that was started by `ottla local start -d DIR`, or by something with its interface
    /// (`launcher` is then the words before the verb): `DIR/ID/pid` is the process of node ID.
    #[must_use]
    pub fn of_launcher(launcher: &str, directory: &str) -> Self {
        let dir = quote(directory);
        let pid = format!("cat {dir}/{{node}}/pid");
        let preset = [
            ("kill", format!("{launcher} kill -d {dir} {{node}}")),
            ("stop", format!("{launcher} stop -d {dir} {{node}}")),
            ("start", format!("{launcher} restart -d {dir} {{node}}")),
            ("pause", format!("kill -STOP $({pid})")),
            ("resume", format!("kill -CONT $({pid})")),
            ("pid", pid),
        ];
        let commands = preset.into_iter().map(|(verb, command)| (verb.to_owned(), command)).collect();
        Self { commands, ..Self::default() }
    }

    /// The commands of a cluster of `ottla local`, whose binary is `ottla`.
    #[must_use]
    pub fn of_ottla(ottla: &str, directory: &str) -> Self {
        let (ottla, dir) = (quote(ottla), quote(directory));
        let mut commands = Self::of_launcher(&format!("{ottla} local"), directory);
        let admin = format!("cat {dir}/{{node}}/admin");
        let beyond = [
            ("add", format!("{ottla} local add -d {dir} {{node}}")),
            ("drain", format!("{ottla} broker drain --admin $({admin}) {{node}}")),
            ("undrain", format!("{ottla} broker resume --admin $({admin}) {{node}}")),
            // A file where the store's directory was: every request fails at once and nothing can be made in its place.
            ("store-down", format!("mv {dir}/store {dir}/store.away && : > {dir}/store")),
            ("store-up", format!("rm {dir}/store && mv {dir}/store.away {dir}/store")),
            ("admin", admin),
        ];
        commands.commands.extend(beyond.map(|(verb, command)| (verb.to_owned(), command)));
        commands
    }

    /// Sets the command of a verb.
    ///
    /// # Errors
    /// There is no such verb.
    pub fn set(&mut self, verb: &str, command: &str) -> Result<()> {
        if !VERBS.contains(&verb) && !QUESTIONS.contains(&verb) {
            bail!("{verb} is none of {}, {}", VERBS.join(", "), QUESTIONS.join(", "));
        }
        self.commands.insert(verb.to_owned(), command.to_owned());
        Ok(())
    }

    /// The nodes there are, for counting what goes between them.
    pub fn watch(&self, nodes: &[u32]) {
        let mut known = self.nodes.lock();
        known.extend_from_slice(nodes);
        known.sort_unstable();
        known.dedup();
    }

    /// Whether each of the actions has a command.
    ///
    /// # Errors
    /// One has none: names it, and the option that gives it.
    pub fn check(&self, actions: &[Action]) -> Result<()> {
        actions.iter().try_for_each(|action| self.command(action.verb(), action.node()).map(drop))
    }

    fn command(&self, verb: &str, node: Option<u32>) -> Result<String> {
        let template = self.commands.get(verb);
        let template = template.ok_or_else(|| anyhow!("how to {verb}? Say --command {verb}=COMMAND"))?;
        Ok(node.map_or_else(|| template.clone(), |node| template.replace("{node}", &node.to_string())))
    }

    fn ask(&self, verb: &str, node: u32) -> Option<String> {
        let command = self.command(verb, Some(node)).ok()?;
        let output = Command::new("sh").arg("-c").arg(command).stderr(Stdio::null()).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        (output.status.success() && !text.is_empty()).then_some(text)
    }
}

/// One word for the shell, whatever is in it.
#[must_use]
pub fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

impl Operator for Commands {
    fn can(&self, action: Action) -> bool {
        self.commands.contains_key(action.verb())
    }

    fn act(&self, action: Action) -> Result<()> {
        let command = self.command(action.verb(), action.node())?;
        if let Action::Add(node) = action {
            self.watch(&[node]);
        }
        // Its output goes to no pipe: what it starts would hold that open, and be waited for.
        let status = Command::new("sh").arg("-c").arg(&command).stdin(Stdio::null()).stdout(Stdio::null()).status();
        let status = status.context("cannot run sh")?;
        if !status.success() {
            bail!("{action}: {command}: {status}");
        }
        Ok(())
    }

    fn traffic(&self) -> Traffic {
        let nodes = self.nodes.lock().clone();
        let pids: Vec<u32> = nodes.iter().filter_map(|&node| self.ask("pid", node)?.parse().ok()).collect();
        let kernel_bytes = if pids.is_empty() { None } else { self.sockets.lock().look(&pids) };
        let counted =
            nodes.iter().filter_map(|&node| Some((node, http::metric(&self.ask("admin", node)?, TAIL_METRIC)?)));
        Traffic { kernel_bytes, tail_bytes: self.tails.lock().note(counted) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_run_for_their_node() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().to_str().expect("text");
        let mut commands = Commands::new();
        assert!(commands.act(Action::Kill(7)).is_err(), "nobody said how");
        commands.set("kill", &format!("echo {{node}} > {}/out", quote(path))).expect("a verb");
        commands.act(Action::Kill(7)).expect("done");
        assert_eq!(std::fs::read_to_string(directory.path().join("out")).expect("written"), "7\n");
        commands.set("kill", "exit 3").expect("a verb");
        let error = commands.act(Action::Kill(7)).expect_err("it failed").to_string();
        assert!(error.contains("exit 3") && error.contains("kill 7"), "{error}");
        assert!(commands.set("explode", "true").is_err());
        assert!(commands.check(&[Action::Kill(1), Action::StoreDown]).is_err());
    }

    #[test]
    fn a_store_goes_away_and_comes_back() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = directory.path().join("store");
        std::fs::create_dir_all(store.join("a")).expect("made");
        let commands = Commands::of_ottla("ottla", directory.path().to_str().expect("text"));
        commands.act(Action::StoreDown).expect("done");
        assert!(std::fs::read_dir(&store).is_err() && std::fs::create_dir_all(store.join("b")).is_err());
        commands.act(Action::StoreUp).expect("done");
        assert!(store.join("a").is_dir());
    }

    #[test]
    fn quoting() {
        let output = Command::new("sh").arg("-c").arg(format!("printf %s {}", quote("a'b $c"))).output().expect("sh");
        assert_eq!(output.stdout, b"a'b $c");
    }

    #[test]
    fn counters_that_begin_again_are_added() {
        let mut tails = Tails::default();
        assert_eq!(tails.note([].into_iter()), None);
        assert_eq!(tails.note([(1, 10), (2, 5)].into_iter()), Some(15));
        assert_eq!(tails.note([(2, 7)].into_iter()), Some(17), "1 is away");
        assert_eq!(tails.note([(1, 3), (2, 7)].into_iter()), Some(20), "and back");
    }
}
