//! The command line: what people type.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::admin::parse_duration;
use crate::commands;
use crate::commands::client::Endpoint;
use crate::commands::dead_letters::{self, Part, Which};
use crate::commands::health::Probe;
use crate::commands::status::Sources;
use crate::config::{self, Loaded};
use crate::store::LetterFilter;

/// Where the configuration is when nobody says.
const CONFIG_DEFAULT: &str = "/etc/readside/readside.yaml";
const HTTP_DEFAULT: &str = "127.0.0.1:9464";
const ADMIN_DEFAULT: &str = "127.0.0.1:9465";

static VERSION: LazyLock<String> = LazyLock::new(|| {
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    format!("{} ({profile} build, {os}, {arch})", env!("CARGO_PKG_VERSION"))
});

const EXIT_CODES: &str = "\
Exit codes:
  0   done, also after SIGTERM
  64  the configuration or the command line is wrong
  69  a service is unavailable
  74  an error of input or output
  78  the replica belongs to another configuration, cluster or program
  1   anything else";

/// A local, read-only copy of other services' data in SQLite or Redis, kept fresh from their change
/// events in Kafka.
#[derive(Debug, Parser)]
#[command(name = "readside", version = VERSION.as_str(), after_long_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keep the replica fresh until told to stop
    ///
    /// Reads every partition of the configured topics from the position stored in the replica,
    /// and keeps going on. SIGTERM or SIGINT commits what is complete and ends with exit code 0; a
    /// second signal ends at once.
    #[command(after_long_help = "Example:\n  readside run --config readside.yaml")]
    Run {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Try it without any server: a made-up shop feeds a replica
    ///
    /// The broker is a mock cluster in this process, everything else is the real thing. Goes on
    /// until Ctrl-C, then compares the replica with what the shop knows to be right; exit code 1
    /// when they differ.
    #[command(
        after_long_help = "Examples:\n  readside demo --for 10s --dir /tmp/demo\n  readside demo --redis"
    )]
    Demo {
        /// End after this time, such as 10s; the first copy is always completed
        #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
        length: Option<Duration>,
        /// Where the replica and its configuration go; those of an earlier demo are replaced
        #[arg(long, value_name = "DIR", default_value = "demo")]
        dir: PathBuf,
        /// Keep the replica in a private redis-server instead of a file; one must be installed
        #[arg(long)]
        redis: bool,
    },
    /// Check the configuration without any network
    ///
    /// Reports all problems at once, each with file, line and column.
    #[command(after_long_help = "Example:\n  readside validate --config readside.yaml -o json")]
    Validate {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        output: OutputFormat,
    },
    /// Check that everything the daemon needs is there: brokers, topics, replica
    ///
    /// Connects, names what failed and what to do, and ends within the time limit: with exit code 0,
    /// or 69 when something is missing. Every version of a schema that the registry has for a topic is
    /// compared with the mapping; exit code 1 when one would break it.
    #[command(after_long_help = "Examples:\n  readside check --config readside.yaml --timeout 5s\n  \
                                 readside check --schemas\n  readside check --schema prices.current=price.avsc -o json")]
    Check {
        #[command(flatten)]
        config: ConfigFile,
        /// Compare nothing but the registry's schemas with the mapping: no broker and no replica is asked
        #[arg(long)]
        schemas: bool,
        /// Compare a schema that is not registered yet with the mapping, and do nothing else: for the CI
        /// of whoever produces the events; may be given several times
        #[arg(long, value_name = "TOPIC=FILE", value_parser = topic_and_file, conflicts_with = "schemas")]
        schema: Vec<(String, PathBuf)>,
        /// Write about so many of the last records of each topic as fixtures for `readside test`, and do
        /// nothing else; real records may hold personal data
        #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=1000), conflicts_with_all = ["schemas", "schema"])]
        sample: Option<u16>,
        /// Where the fixtures go
        #[arg(long, value_name = "DIR", default_value = "fixtures", requires = "sample")]
        into: PathBuf,
        /// Give up after this time
        #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
        timeout: Duration,
        #[command(flatten)]
        output: OutputFormat,
    },
    /// Test the mapping: events in, rows expected, in whatever order and however often they come
    ///
    /// Needs no network and no replica. Each case is also run with every event delivered twice, with
    /// the partitions interleaved, and with everything up to each event delivered again; all of that
    /// has to end in the same rows. Exit code 1 when a case fails, 64 when a file is wrong.
    #[command(
        after_long_help = "Examples:\n  readside test\n  readside test fixtures/orders.yaml -o json\n  \
                                 readside test fixtures --junit readside.xml"
    )]
    Test {
        /// Files, or directories with *.yaml in them
        #[arg(value_name = "PATH", default_value = "fixtures")]
        paths: Vec<PathBuf>,
        /// Write the results for a CI system into this file, too
        #[arg(long, value_name = "FILE")]
        junit: Option<PathBuf>,
        #[command(flatten)]
        output: OutputFormat,
    },
    /// Show how fresh the replica is
    ///
    /// Asks the running daemon and, where that does not answer, the replica itself. The same is
    /// there for SQL: SELECT * FROM _readside_status.
    #[command(after_long_help = "Examples:\n  readside status\n  readside status --verbose --watch\n  \
                                 readside status -o json | jq -r .state")]
    Status {
        #[command(flatten)]
        admin: Admin,
        #[command(flatten)]
        output: OutputFormat,
        /// Show the position in every partition, too
        #[arg(short, long)]
        verbose: bool,
        /// Show it again every two seconds until interrupted
        #[arg(short, long)]
        watch: bool,
    },
    /// Wait until an event is in the replica: read your writes
    ///
    /// Say which event by its coordinates in Kafka, or by the row and the version it leads to.
    /// Ends with exit code 0 when the replica has it, with 1 when it became a dead letter, and with 69
    /// when it has not come in time.
    #[command(
        group = clap::ArgGroup::new("what").args(["topic", "table"]).required(true),
        after_long_help = "Examples:\n  readside wait --topic users --partition 3 --offset 1042\n  \
                           readside wait --table users --key '[42]' --version 7 --timeout 500ms"
    )]
    Wait {
        /// Topic of the event
        #[arg(long, requires_all = ["partition", "offset"])]
        topic: Option<String>,
        /// Partition of the event
        #[arg(long, requires = "topic", value_name = "NUMBER", value_parser = clap::value_parser!(i32).range(0..))]
        partition: Option<i32>,
        /// Offset of the event, as the producer was told when it was written
        #[arg(long, requires = "topic", value_name = "NUMBER", value_parser = clap::value_parser!(i64).range(0..))]
        offset: Option<i64>,
        /// Table of the row
        #[arg(long, requires_all = ["key", "version"])]
        table: Option<String>,
        /// Key of the row: a JSON array in the order of the key columns, such as '["acme", 42]'
        #[arg(long, requires = "table", value_name = "JSON")]
        key: Option<String>,
        /// Version of the event: an integer, an RFC 3339 time or a JSON array of integers
        #[arg(long, requires = "table", allow_hyphen_values = true)]
        version: Option<String>,
        /// Give up after this time, at most 5m
        #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
        timeout: Duration,
        #[command(flatten)]
        admin: Admin,
        #[command(flatten)]
        output: OutputFormat,
    },
    /// Say which events made a row what it is, and how the mapping makes rows
    ///
    /// Reads the replica itself, also while a daemon writes it. Ends with exit code 0, or with 1 when
    /// nothing is kept of the row.
    #[command(
        after_long_help = "Examples:\n  readside explain users 42\n  readside explain order_lines 7 2 --fetch\n  \
                                 readside explain customers '[\"acme\", 42]' -o json"
    )]
    Explain {
        /// Table of the row
        table: String,
        /// Key of the row: a word per key column, or a JSON array
        #[arg(required = true, allow_negative_numbers = true)]
        key: Vec<String>,
        /// Read the events from the log again, to show their times and types
        #[arg(long)]
        fetch: bool,
        /// Give up reading the log after this time
        #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
        timeout: Duration,
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        output: OutputFormat,
    },
    /// Build the replica anew beside the copy that serves
    ///
    /// The running daemon reads the log from its start into a second copy, while the first one
    /// serves and goes on applying, and then switches in one transaction. It refuses to switch when
    /// the new copy has suspiciously fewer rows.
    #[command(after_long_help = "Examples:\n  readside rebuild --wait\n  readside rebuild --accept-loss")]
    Rebuild {
        /// Wait until the new copy serves; exit code 1 when it will not
        #[arg(short, long)]
        wait: bool,
        /// Switch also when the new copy has fewer rows than `rebuild.max_loss` allows
        #[arg(long)]
        accept_loss: bool,
        #[command(flatten)]
        admin: Admin,
    },
    /// Look at events that could not be applied; try them again or give them up
    #[command(
        name = "dead-letters",
        after_long_help = "Examples:\n  readside dead-letters list --table users --reason wrong_type\n  \
                           readside dead-letters show --topic users --partition 0 --offset 1042\n  \
                           readside dead-letters retry --all\n  readside dead-letters drop --topic users"
    )]
    DeadLetters {
        #[command(subcommand)]
        action: LettersAction,
    },
    /// Ask a probe of the running daemon, for images without an HTTP client
    ///
    /// Ends with exit code 0 or 69.
    #[command(after_long_help = "Examples:\n  readside health startup --timeout 1s\n  \
                                 readside health startup --wait 10m")]
    Health {
        /// Which probe to ask
        #[arg(default_value = "ready")]
        probe: ProbeName,
        /// Where the daemon answers probes [default: http.listen of the configuration, else
        /// http://127.0.0.1:9464]
        #[arg(long, value_name = "URL", env = "READSIDE_HTTP_URL")]
        http: Option<Endpoint>,
        #[command(flatten)]
        config: ConfigFile,
        /// Give up after this time
        #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
        timeout: Duration,
        /// Ask again until the probe passes, for this time
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        wait: Option<Duration>,
    },
    /// Print the JSON Schema of the configuration, for editors
    Schema,
    /// Print a completion script for a shell
    #[command(after_long_help = "Example:\n  readside completions bash > /etc/bash_completion.d/readside")]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man {
        /// Write one page a command into this directory instead
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum LettersAction {
    /// List them in the order of the log, a page at a time
    ///
    /// Asks the running daemon and, where that does not answer, the replica itself. The same is there
    /// for SQL: SELECT * FROM _readside_dead_letters.
    List {
        #[command(flatten)]
        which: LettersWhich,
        /// How many at most
        #[arg(long, value_name = "NUMBER", default_value = "100", value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
        /// Go on behind this one: what the page before has named
        #[arg(long, value_name = "TOPIC/PARTITION/OFFSET/TABLE")]
        after: Option<String>,
        #[command(flatten)]
        admin: Admin,
        #[command(flatten)]
        output: OutputFormat,
    },
    /// Show one with everything that is kept of it; exit code 1 when there is none
    Show {
        /// Topic of the record
        #[arg(long)]
        topic: String,
        /// Partition of the record
        #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i32).range(0..))]
        partition: i32,
        /// Offset of the record
        #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i64).range(0..))]
        offset: i64,
        #[command(flatten)]
        admin: Admin,
        #[command(flatten)]
        output: OutputFormat,
    },
    /// Try them again, with the mapping of the running daemon
    ///
    /// Their records are read from the log again, or taken from the replica where it keeps bytes and
    /// the log has them no more. What is newer in the replica stays, and no position moves. Exit code
    /// 1 when one of them could not be applied.
    Retry {
        #[command(flatten)]
        which: LettersWhich,
        /// Every one
        #[arg(long)]
        all: bool,
        /// Also those that are so old that a later delete of the row may have been forgotten
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        admin: Admin,
        #[command(flatten)]
        output: OutputFormat,
    },
    /// Give them up: nothing is applied, and they are gone
    ///
    /// By the running daemon or, where none runs, in the replica itself.
    Drop {
        #[command(flatten)]
        which: LettersWhich,
        /// Every one
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        admin: Admin,
        #[command(flatten)]
        output: OutputFormat,
    },
}

#[derive(Debug, Args)]
struct LettersWhich {
    /// Of this topic
    #[arg(long)]
    topic: Option<String>,
    /// Of this partition
    #[arg(long, value_name = "NUMBER", requires = "topic", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// Of the record at this offset
    #[arg(long, value_name = "NUMBER", requires = "partition", value_parser = clap::value_parser!(i64).range(0..))]
    offset: Option<i64>,
    /// Of this table
    #[arg(long)]
    table: Option<String>,
    /// With this reason, such as wrong_type
    #[arg(long)]
    reason: Option<String>,
}

impl LettersWhich {
    fn which(self, all: bool) -> Which {
        let LettersWhich { topic, partition, offset, table, reason } = self;
        Which { filter: LetterFilter { topic, partition, offset, table, reason, produced: None }, all }
    }

    /// For what changes something: all of them only when that is said.
    fn choice(self, all: bool) -> anyhow::Result<Which> {
        let which = self.which(all);
        match all == (which.filter == LetterFilter::default()) {
            true => Ok(which),
            false if all => Err(commands::Exit::usage("--all goes with no other choice").into()),
            false => {
                let message = "say which: --topic, --table or --reason, or --all";
                Err(commands::Exit::usage(message).into())
            }
        }
    }
}

impl LettersAction {
    fn dispatch(self) -> anyhow::Result<u8> {
        match self {
            LettersAction::List { which, limit, after, admin, output } => {
                let part = Part { after, limit: usize::from(limit) };
                dead_letters::list(&admin.sources()?, &which.which(false), &part, output.is_json())
            }
            LettersAction::Show { topic, partition, offset, admin, output } => {
                let filter = LetterFilter {
                    topic: Some(topic),
                    partition: Some(partition),
                    offset: Some(offset),
                    ..LetterFilter::default()
                };
                dead_letters::show(&admin.sources()?, &Which { filter, all: false }, output.is_json())
            }
            LettersAction::Retry { which, all, force, admin, output } => {
                let which = which.choice(all)?;
                dead_letters::retry(&admin.sources()?.admin, &which, force, output.is_json())
            }
            LettersAction::Drop { which, all, admin, output } => {
                let which = which.choice(all)?;
                dead_letters::drop(&admin.sources()?, &which, output.is_json())
            }
        }
    }
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// Configuration file [default: /etc/readside/readside.yaml]
    #[arg(short, long, value_name = "FILE", env = "READSIDE_CONFIG")]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Admin {
    /// Where the daemon answers [default: admin.listen of the configuration, else
    /// http://127.0.0.1:9465]
    #[arg(long, value_name = "URL", env = "READSIDE_ADMIN_URL")]
    admin: Option<Endpoint>,
    #[command(flatten)]
    config: ConfigFile,
}

#[derive(Debug, Args)]
struct OutputFormat {
    /// Whom the output is for: people or programs
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// The `PROBE` argument.
#[derive(Debug, Clone, Copy)]
struct ProbeName(Probe);

impl ValueEnum for ProbeName {
    fn value_variants<'a>() -> &'a [ProbeName] {
        const ALL: [ProbeName; 3] =
            [ProbeName(Probe::Startup), ProbeName(Probe::Ready), ProbeName(Probe::Live)];
        &ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(self.0.name().into())
    }
}

impl ConfigFile {
    fn path(&self) -> &Path {
        self.config.as_deref().unwrap_or(Path::new(CONFIG_DEFAULT))
    }

    fn load(&self) -> anyhow::Result<Loaded> {
        Ok(config::load(self.path(), config::process_environment())?)
    }

    /// The configuration, if one was named or is where it is looked for; for commands that do
    /// without.
    fn load_if_there(&self) -> anyhow::Result<Option<Loaded>> {
        if self.config.is_none() && !self.path().exists() {
            return Ok(None);
        }
        self.load().map(Some)
    }
}

impl Admin {
    /// The daemon of the configuration has a replica that can be asked, too; one that is named by
    /// its address may be anywhere.
    fn sources(self) -> anyhow::Result<Sources> {
        if let Some(admin) = self.admin {
            return Ok(Sources { admin, config: None });
        }
        match self.config.load_if_there()? {
            Some(Loaded { config, .. }) => Ok(Sources {
                admin: Endpoint::of_listener(config.admin.listen),
                config: Some(Box::new(config)),
            }),
            None => {
                Ok(Sources { admin: ADMIN_DEFAULT.parse().map_err(commands::Exit::usage)?, config: None })
            }
        }
    }
}

fn topic_and_file(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((topic, file)) if !topic.is_empty() && !file.is_empty() => Ok((topic.to_owned(), file.into())),
        _ => Err("expected TOPIC=FILE, such as prices.current=price.avsc".to_owned()),
    }
}

fn http_endpoint(asked: Option<Endpoint>, config: &ConfigFile) -> anyhow::Result<Endpoint> {
    if let Some(endpoint) = asked {
        return Ok(endpoint);
    }
    match config.load_if_there()? {
        Some(loaded) => Ok(Endpoint::of_listener(loaded.config.http.listen)),
        None => Ok(HTTP_DEFAULT.parse().map_err(commands::Exit::usage)?),
    }
}

impl Cli {
    /// Does what was asked and returns the exit code.
    pub fn dispatch(self) -> anyhow::Result<u8> {
        match self.command {
            Command::Run { config } => commands::run::run(config.path()),
            Command::Demo { length, dir, redis } => commands::demo::run(length, dir, redis),
            Command::Validate { config, output } => commands::validate::run(config.path(), output.is_json()),
            Command::Check { config, sample: Some(count), into, timeout, output, .. } => {
                let asked = commands::sample::Asked { count: usize::from(count), into, timeout };
                commands::sample::run(config.path(), &config.load()?.config, &asked, output.is_json())
            }
            Command::Check { config, schemas, schema, timeout, output, .. } => {
                let json = output.is_json();
                let options =
                    commands::check::Options { timeout, json, schemas_only: schemas, candidates: schema };
                commands::check::run(&config.load()?.config, &options)
            }
            Command::Test { paths, junit, output } => {
                let options = commands::test::Options { json: output.is_json(), junit };
                commands::test::run(&paths, &options)
            }
            Command::Explain { table, key, fetch, timeout, config, output } => {
                let options = commands::explain::Options { json: output.is_json(), fetch, timeout };
                commands::explain::run(&config.load()?.config, &table, &key, options)
            }
            Command::Status { admin, output, verbose, watch } => {
                let options = commands::status::Options { json: output.is_json(), verbose, watch };
                commands::status::run(&admin.sources()?, options)
            }
            Command::Wait { topic, partition, offset, table, key, version, timeout, admin, output } => {
                let target = match (topic, partition, offset, table, key, version) {
                    (Some(topic), Some(partition), Some(offset), None, None, None) => {
                        commands::wait::Target::Offset { topic, partition, offset }
                    }
                    (None, None, None, Some(table), Some(key), Some(version)) => {
                        commands::wait::Target::Version { table, key, version }
                    }
                    _ => {
                        let message =
                            "wait for --topic, --partition and --offset, or for --table, --key and --version";
                        return Err(commands::Exit::usage(message).into());
                    }
                };
                commands::wait::run(&admin.sources()?.admin, &target, timeout, output.is_json())
            }
            Command::Rebuild { wait, accept_loss, admin } => {
                let options = commands::rebuild::Options { wait, accept_loss };
                commands::rebuild::run(&admin.sources()?.admin, options)
            }
            Command::DeadLetters { action } => action.dispatch(),
            Command::Health { probe, http, config, timeout, wait } => {
                let endpoint = http_endpoint(http, &config)?;
                commands::health::run(&endpoint, probe.0, timeout, wait.unwrap_or_default())
            }
            Command::Schema => commands::schema::run(),
            Command::Completions { shell } => commands::completions::run(Cli::command(), shell),
            Command::Man { dir } => commands::man::run(Cli::command(), dir.as_deref()),
        }
    }
}

impl OutputFormat {
    fn is_json(&self) -> bool {
        self.output == Output::Json
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("readside").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_people_type_is_understood() {
        for line in [
            "run",
            "run --config readside.yaml",
            "run -c readside.yaml",
            "demo",
            "demo --for 10s --dir /tmp/demo",
            "demo --redis",
            "validate -o json",
            "check --timeout 5s -o json",
            "check --schemas",
            "check --sample 20 --into cases",
            "check --schema a=b.avsc --schema c=d.proto",
            "test",
            "test fixtures more/one.yaml -o json --junit out.xml",
            "explain users 42",
            "explain users -7 --fetch --timeout 2s -c readside.yaml -o json",
            "status --watch --verbose --admin http://127.0.0.1:9465",
            "wait --topic users --partition 3 --offset 1042 --timeout 500ms",
            "wait --table users --key [42] --version -7",
            "wait --table users --key [42] --version [1,2] -o json",
            "rebuild",
            "rebuild --wait --accept-loss --admin 127.0.0.1:9465",
            "dead-letters list",
            "dead-letters list --topic t --partition 0 --limit 10 --after t/0/7/users -o json",
            "dead-letters show --topic t --partition 0 --offset 7",
            "dead-letters retry --all --force",
            "dead-letters drop --table users --reason wrong_type --admin 127.0.0.1:9465",
            "health",
            "health startup --http 127.0.0.1:9464",
            "health startup --wait 10m",
            "schema",
            "completions zsh",
            "man --dir /tmp/man",
        ] {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn a_key_does_not_swallow_the_options_behind_it() {
        let line = "explain lines -7 x --fetch -c readside.yaml -o json";
        let Command::Explain { key, fetch, config, output, .. } = parse(line).unwrap().command else {
            panic!("{line}")
        };
        assert_eq!(key, ["-7", "x"]);
        assert!(fetch && output.is_json() && config.path() == Path::new("readside.yaml"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "",
            "rum",
            "status --admin https://127.0.0.1:9465",
            "check --schema a",
            "check --into cases",
            "check --sample 0",
            "check --schemas --schema a=b",
            "status -o yaml",
            "explain",
            "explain users",
            "wait",
            "wait --topic users",
            "wait --topic users --partition 3",
            "wait --topic users --partition -1 --offset 1",
            "wait --topic users --partition 0 --offset 0 --table users --key [1] --version 1",
            "wait --table users --key [1]",
            "wait --key [1]",
            "dead-letters",
            "dead-letters list --partition 0",
            "dead-letters list --limit 1001",
            "dead-letters show --topic t",
            "dead-letters retry --topic t --offset 7",
            "health asleep",
            "completions cmd",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn everything_says_what_it_is() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
        }
        let names: Vec<_> = Cli::command().get_subcommands().map(|each| each.get_name().to_owned()).collect();
        assert_eq!(
            names,
            [
                "run",
                "demo",
                "validate",
                "check",
                "test",
                "status",
                "wait",
                "explain",
                "rebuild",
                "dead-letters",
                "health",
                "schema",
                "completions",
                "man"
            ]
        );
    }

    #[test]
    fn the_readme_s_commands_are_understood() {
        let mut seen = 0;
        for line in include_str!("../README.md").lines().filter_map(|line| line.strip_prefix("readside ")) {
            let line = line.split('#').next().unwrap();
            seen += 1;
            parse(line).unwrap_or_else(|error| panic!("readside {line}: {error}"));
        }
        assert!(seen >= 5, "{seen}");
    }

    /// Commands with their long options, and the variables.
    #[test]
    fn the_reference_has_every_command() {
        let text = include_str!("../docs/REFERENCE.md");
        let (_, commands) = text.split_once("\n## Commands\n").unwrap();
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            let start = format!("| `{name}");
            let line = commands.lines().find(|line| line.starts_with(&start));
            let line = line.unwrap_or_else(|| panic!("docs/REFERENCE.md has no command {name}"));
            for argument in command.get_arguments() {
                let Some(option) =
                    argument.get_long().filter(|long| !matches!(*long, "config" | "output" | "admin"))
                else {
                    continue;
                };
                assert!(line.contains(&format!("--{option}")), "{name} --{option}: {line}");
            }
            for variable in command.get_arguments().filter_map(|argument| argument.get_env()) {
                assert!(text.contains(variable.to_str().unwrap()), "{variable:?}");
            }
        }
    }

    #[test]
    fn to_change_all_of_them_has_to_be_said() {
        for (line, ok) in [
            ("retry --all", true),
            ("retry --topic t", true),
            ("drop --reason malformed", true),
            ("drop", false),
            ("retry", false),
            ("drop --all --topic t", false),
        ] {
            let Command::DeadLetters { action } = parse(&format!("dead-letters {line}")).unwrap().command
            else {
                panic!("{line}")
            };
            let (LettersAction::Retry { which, all, .. } | LettersAction::Drop { which, all, .. }) = action
            else {
                panic!("{line}")
            };
            let choice = which.choice(all);
            assert_eq!(
                choice.as_ref().map_err(commands::exit_code).err(),
                (!ok).then_some(commands::USAGE),
                "{line}"
            );
        }
    }

    #[test]
    fn an_address_from_the_command_line_needs_no_configuration() {
        let admin = Admin {
            admin: Some("127.0.0.1:1".parse().unwrap()),
            config: ConfigFile { config: Some("/nowhere.yaml".into()) },
        };
        assert_eq!(admin.sources().unwrap().admin.to_string(), "http://127.0.0.1:1");
    }
}
