//! Commands that any broker's admin port carries out.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Subcommand};
use serde_json::Value;

use crate::tell;

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(40);
/// How often a drain is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Whom to ask.
#[derive(Args)]
pub(crate) struct AdminArgs {
    /// Admin address of any broker
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9644")]
    admin: String,
}

/// What can be asked about brokers.
#[derive(Subcommand)]
pub(crate) enum BrokerCommand {
    /// Lists brokers: state, what they lead, their write-ahead logs and who can reach these
    List(AdminArgs),
    /// Has a broker give away all it leads, and waits; it leads nothing until it is resumed
    Drain {
        #[command(flatten)]
        admin: AdminArgs,
        /// The broker
        id: i32,
    },
    /// Ends a drain
    Resume {
        #[command(flatten)]
        admin: AdminArgs,
        /// The broker
        id: i32,
    },
}

/// What can be asked about the metadata quorum.
#[derive(Subcommand)]
pub(crate) enum QuorumCommand {
    /// Shows who leads, who votes, and how far each has the log
    Describe(AdminArgs),
    /// Gives a node that has joined a vote
    Add {
        #[command(flatten)]
        admin: AdminArgs,
        /// The node
        id: i32,
    },
    /// Takes a node's vote away; it is still followed up
    Remove {
        #[command(flatten)]
        admin: AdminArgs,
        /// The node
        id: i32,
    },
}

/// Does it.
pub(crate) fn broker(command: BrokerCommand) -> Result<()> {
    match command {
        BrokerCommand::List(admin) => list(&admin.ask("GET", "/brokers")?),
        BrokerCommand::Drain { admin, id } => {
            admin.ask("POST", &format!("/brokers/{id}/drain"))?;
            wait_drained(&admin, id)
        }
        BrokerCommand::Resume { admin, id } => {
            admin.ask("POST", &format!("/brokers/{id}/resume"))?;
            tell(&format!("broker {id} takes partitions again"));
            Ok(())
        }
    }
}

/// What can be asked about the balancer.
#[derive(Subcommand)]
pub(crate) enum BalanceCommand {
    /// Shows what the balancer would move now, and why
    Plan(AdminArgs),
    /// Shows whether the balancer acts, and what it has decided of late; ask the active controller
    Status(AdminArgs),
}

/// Does it.
pub(crate) fn balance(command: &BalanceCommand) -> Result<()> {
    let (admin, what) = match command {
        BalanceCommand::Plan(admin) => (admin, "plan"),
        BalanceCommand::Status(admin) => (admin, "decisions"),
    };
    let answer = admin.ask("GET", "/balance")?;
    let active = if answer["active"] == true { "this node is the active controller" } else { "another node decides" };
    tell(&format!("balancer: {}; {active}", text(&answer["mode"])));
    for line in answer["nodes"].as_array().into_iter().flatten() {
        tell(text(line));
    }
    for line in answer[what].as_array().into_iter().flatten() {
        tell(&format!("  {}", text(line)));
    }
    Ok(())
}

/// Does it.
pub(crate) fn quorum(command: QuorumCommand) -> Result<()> {
    let quorum = match command {
        QuorumCommand::Describe(admin) => admin.ask("GET", "/quorum")?,
        QuorumCommand::Add { admin, id } => admin.ask("POST", &format!("/quorum/{id}/add"))?,
        QuorumCommand::Remove { admin, id } => admin.ask("POST", &format!("/quorum/{id}/remove"))?,
    };
    tell(&format!("leader {}, term {}, committed up to {}", quorum["leader"], quorum["term"], quorum["committed_end"]));
    tell(&format!("{:>6}  {:<5}  {:>12}  address", "node", "votes", "log end"));
    for member in quorum["members"].as_array().into_iter().flatten() {
        let votes = if member["votes"] == true { "yes" } else { "no" };
        let (id, log_end, address) = (&member["id"], &member["log_end"], text(&member["address"]));
        tell(&format!("{id:>6}  {votes:<5}  {log_end:>12}  {address}"));
    }
    Ok(())
}

/// Gives up what a log holds that nobody can reach.
pub(crate) fn abandon(admin: &AdminArgs, wal: &str, accept_data_loss: bool) -> Result<()> {
    if !accept_data_loss {
        bail!(
            "acknowledged records that are only in write-ahead log {wal} would be lost for good: say --accept-data-loss \
             if its disk will not come back"
        );
    }
    let answer = admin.ask("POST", &format!("/wals/{wal}/abandon"))?;
    tell(&format!("write-ahead log {wal} was given up; these partitions keep what lies below the offset:"));
    for one in answer["partitions"].as_array().into_iter().flatten() {
        tell(&format!("  {}-{}: {}", text(&one["topic"]), one["partition"], one["kept_up_to_offset"]));
    }
    Ok(())
}

fn list(answer: &Value) -> Result<()> {
    let brokers = answer["brokers"].as_array().ok_or_else(|| anyhow!("the answer names no brokers"))?;
    tell(&format!(
        "{:>6}  {:<9}  {:>7}  {:<12}  {:<24}  write-ahead logs",
        "broker", "state", "leads", "rack", "clients"
    ));
    for broker in brokers {
        let wals = broker["wals"].as_array().into_iter().flatten().map(|wal| {
            let (class, state) = (text(&wal["class"]), text(&wal["state"]));
            format!("{} {class} {state} {}", text(&wal["uuid"]), text(&wal["location"]))
        });
        tell(&format!(
            "{:>6}  {:<9}  {:>7}  {:<12}  {:<24}  {}",
            broker["id"],
            text(&broker["state"]),
            broker["leads"],
            broker["rack"].as_str().unwrap_or("-"),
            text(&broker["endpoints"][0]),
            wals.collect::<Vec<_>>().join("; ")
        ));
    }
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn wait_drained(admin: &AdminArgs, id: i32) -> Result<()> {
    let mut last = None;
    loop {
        let answer = admin.ask("GET", "/brokers")?;
        let broker = answer["brokers"].as_array().into_iter().flatten().find(|broker| broker["id"] == id);
        let broker = broker.ok_or_else(|| anyhow!("broker {id} is not registered"))?;
        let leads = broker["leads"].as_u64().unwrap_or(0);
        if last != Some(leads) {
            tell(&format!("broker {id} leads {leads} partitions"));
            last = Some(leads);
        }
        if leads == 0 {
            return Ok(());
        }
        if text(&broker["state"]) != "draining" {
            bail!("broker {id} is {} now: the drain was ended", text(&broker["state"]));
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

impl AdminArgs {
    /// The answer of the admin port.
    pub(crate) fn ask(&self, method: &str, path: &str) -> Result<Value> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
        runtime.block_on(self.request(method, path))
    }

    async fn request(&self, method: &str, path: &str) -> Result<Value> {
        let url = format!("http://{}{path}", self.admin);
        let client = reqwest::Client::builder().no_proxy().timeout(REQUEST_TIMEOUT).build()?;
        let method = reqwest::Method::from_bytes(method.as_bytes())?;
        let asked = client.request(method, &url).send().await;
        let answer =
            asked.with_context(|| format!("no answer from {}: is it a broker's ottla.admin.listener?", self.admin))?;
        let status = answer.status();
        let body = answer.text().await?;
        if !status.is_success() {
            bail!("{}", body.trim_end());
        }
        serde_json::from_str(&body).with_context(|| format!("{url} answered what is no JSON"))
    }
}
