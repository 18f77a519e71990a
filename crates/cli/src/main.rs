//! `ottla`: one binary that is a broker, a throw-away local cluster, and the tools that look into what brokers
//! leave on disk and in the object store.

mod admin;
#[cfg(feature = "drill")]
mod drill;
mod inspect;
mod local;
mod logging;
mod metadata;
mod start;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "ottla",
    version,
    about = "A Kafka-compatible broker on shared storage",
    arg_required_else_help = true,
    after_help = "OTTLA_LOG sets what is logged, as in OTTLA_LOG=debug or OTTLA_LOG=info,ottla_broker::network=debug."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a broker in the foreground until SIGTERM or SIGINT
    Start(StartArgs),
    /// Runs a throw-away cluster on this machine
    #[command(subcommand)]
    Local(local::LocalCommand),
    /// Disturbs a cluster under load and prints what its clients saw
    #[cfg(feature = "drill")]
    Drill(Box<drill::DrillArgs>),
    /// Disturbs a cluster under load; not in this build, which is without `--features drill`
    #[cfg(not(feature = "drill"))]
    #[command(disable_help_flag = true)]
    Drill {
        /// Whatever it is
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        arguments: Vec<String>,
    },
    /// Lists brokers, and drains them
    #[command(subcommand)]
    Broker(admin::BrokerCommand),
    /// Shows what the balancer does
    #[command(subcommand)]
    Balance(admin::BalanceCommand),
    /// Shows and changes who votes on metadata
    #[command(subcommand)]
    Quorum(admin::QuorumCommand),
    /// Rebuilds metadata from its copy in the object store
    #[command(subcommand)]
    Metadata(metadata::MetadataCommand),
    /// Looks into a write-ahead log, or gives one up
    #[command(subcommand)]
    Wal(WalCommand),
    /// Looks into an object
    #[command(subcommand)]
    Object(ObjectCommand),
}

/// Properties come from the file, then from the environment (KAFKA_NUM_PARTITIONS sets num.partitions,
/// OTTLA_WAL_URL sets ottla.wal.url), then from --data-dir, then from -x: later ones win.
///
/// SIGTERM and SIGINT stop gracefully: what is only in the write-ahead log is uploaded, so that the log's
/// directory may be deleted afterwards. If the object store cannot be reached within 20 seconds, the rest stays
/// in the log, is reported, and the next start has it; the process ends after 30 seconds at the latest. A second
/// signal ends it at once, as a crash would: nothing acknowledged is lost.
#[derive(Args)]
struct StartArgs {
    #[command(flatten)]
    node: ConfigArgs,
    /// Allows listeners beyond this machine although nobody has to authenticate
    #[arg(long)]
    insecure: bool,
    /// Writes the admin address to DIR/admin once the broker is ready, and removes it on the way down
    #[arg(long, value_name = "DIR", hide = true)]
    state_dir: Option<PathBuf>,
}

/// Where a node's properties come from.
#[derive(Args)]
struct ConfigArgs {
    /// A Kafka server.properties file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the write-ahead log, metadata, and by default the object store live [default: ./ottla-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Sets a property; may be repeated
    #[arg(short = 'x', value_name = "KEY=VALUE")]
    properties: Vec<String>,
}

#[derive(Subcommand)]
enum WalCommand {
    /// Decodes and verifies a log, without changing it
    Inspect {
        /// The log's directory, or a block device
        path: PathBuf,
    },
    /// Gives up what the log of a lost broker holds and nobody can reach, so that its partitions go on without it
    Abandon {
        #[command(flatten)]
        admin: admin::AdminArgs,
        /// The log, as `ottla broker list` names it
        uuid: String,
        /// Acknowledged records that were not uploaded will be lost
        #[arg(long)]
        accept_data_loss: bool,
    },
}

#[derive(Subcommand)]
enum ObjectCommand {
    /// Decodes and verifies an object
    Inspect {
        /// A file, or a URL such as s3://bucket/prefix/key?endpoint=…
        #[arg(value_name = "FILE|URL")]
        object: String,
    },
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Start(arguments) => start::run(arguments),
        Command::Local(command) => local::run(command),
        #[cfg(feature = "drill")]
        Command::Drill(arguments) => drill::run(&arguments),
        #[cfg(not(feature = "drill"))]
        Command::Drill { .. } => {
            Err(anyhow::anyhow!("this build has no drill: it wants librdkafka, cargo build -p ottla --features drill"))
        }
        Command::Broker(command) => admin::broker(command),
        Command::Balance(command) => admin::balance(&command),
        Command::Quorum(command) => admin::quorum(command),
        Command::Metadata(command) => metadata::run(command),
        Command::Wal(WalCommand::Inspect { path }) => inspect::wal(&path),
        Command::Wal(WalCommand::Abandon { admin, uuid, accept_data_loss }) => {
            admin::abandon(&admin, &uuid, accept_data_loss)
        }
        Command::Object(ObjectCommand::Inspect { object }) => inspect::object(&object),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell_error(&format!("ottla: {}", sentence(&error)));
            ExitCode::FAILURE
        }
    }
}

/// The whole chain of causes in one line; some errors tell their cause themselves.
fn sentence(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match told.is_empty() {
        true => cause,
        false if told.contains(&cause) => told,
        false => format!("{told}: {cause}"),
    })
}

/// A line for the person or the program that runs the command.
#[allow(clippy::print_stdout, reason = "this is the command's answer")]
fn tell(line: &str) {
    use std::io::Write;
    // Nobody may be listening any more, which is no reason to stop.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A line about what went wrong.
fn tell_error(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{line}");
}
