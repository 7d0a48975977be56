//! The checked configuration, as the rest of the program sees it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::domain::change::IfMissing;
use crate::domain::value::ColumnType;

#[derive(Debug, Clone)]
pub struct Config {
    pub kafka: Kafka,
    /// Needed by formats whose records name a schema.
    pub schema_registry: Option<SchemaRegistry>,
    pub replica: Replica,
    /// In ascending order of their names; a topic named only by a table appears with defaults.
    pub topics: Vec<Topic>,
    /// In the order of the file.
    pub tables: Vec<Table>,
    pub freshness: Freshness,
    pub startup: Startup,
    pub dead_letters: DeadLetters,
    pub personal: PersonalData,
    pub http: Listener,
    pub admin: Listener,
    pub log: Log,
    pub on_config_change: OnConfigChange,
}

impl Config {
    /// Whether anything reads `$schema.version`.
    pub fn needs_schema_versions(&self) -> bool {
        let is_version = |from: &Expression| match from {
            Expression::Path(Path { root: Root::Schema, fields }) => {
                fields.first().is_some_and(|fact| fact == "version")
            }
            _ => false,
        };
        let of_topics = self.topics.iter().any(|topic| {
            let declared = topic.evolution.as_ref().map(|evolution| &evolution.version);
            let ids = topic.event_ids.as_ref().map(|ids| &ids.source);
            let upcasts = topic.evolution.iter().flat_map(|evolution| &evolution.upcasts);
            let upcast = upcasts.flat_map(Upcast::expressions);
            [declared, topic.version.as_ref(), topic.event_type.as_ref(), ids]
                .into_iter()
                .flatten()
                .chain(upcast)
                .any(is_version)
        });
        let of_rule = |rule: &Rule| rule.expressions().any(|(_, from)| is_version(from));
        let of_source = |source: &TableSource| match &source.mapping {
            Mapping::Rows => false,
            Mapping::Events(rules) => rules.values().any(of_rule),
        };
        of_topics
            || self.tables.iter().any(|table| {
                table.columns.iter().filter_map(|column| column.from.as_ref()).any(is_version)
                    || table.sources.iter().any(of_source)
            })
    }

    /// The sections of the file in which two configurations differ; what only says how a change is
    /// taken is not one.
    pub fn differences(&self, other: &Config) -> Vec<&'static str> {
        let Config { replica: Replica { name, target, rebuild_when_mapping_changes, rebuild }, .. } = self;
        let sections = [
            ("kafka", self.kafka != other.kafka),
            ("schema_registry", self.schema_registry != other.schema_registry),
            ("replica", (name, target) != (&other.replica.name, &other.replica.target)),
            (
                "rebuild_when_mapping_changes",
                *rebuild_when_mapping_changes != other.replica.rebuild_when_mapping_changes,
            ),
            ("rebuild", *rebuild != other.replica.rebuild),
            ("topics", self.topics != other.topics),
            ("tables", self.tables != other.tables),
            ("freshness", self.freshness != other.freshness),
            ("startup", self.startup != other.startup),
            ("dead_letters", self.dead_letters != other.dead_letters),
            ("personal", self.personal != other.personal),
            ("http", self.http != other.http),
            ("admin", self.admin != other.admin),
            ("log", self.log != other.log),
        ];
        sections.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Kafka {
    /// `host:port`, at least one.
    pub brokers: Vec<String>,
    /// librdkafka properties passed through; those that readside owns are refused when checking.
    pub properties: BTreeMap<String, String>,
    /// librdkafka property to the file its value is read from.
    pub secrets: BTreeMap<String, PathBuf>,
    /// Larger records (key and value together, decompressed) become dead letters without their value.
    pub max_record_bytes: usize,
}

/// A registry that speaks the API of Confluent's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaRegistry {
    /// `http` or `https`, perhaps with a path, without a `/` at the end; no user and no password.
    pub url: String,
    pub username: Option<String>,
    /// Holds the password; read again for every request.
    pub password_file: Option<PathBuf>,
    /// Certificates (PEM) to trust instead of the system's, for `https`.
    pub ca_file: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Replica {
    /// Stored in the replica; another name in the file means that it belongs to somebody else.
    pub name: String,
    pub target: Target,
    pub rebuild_when_mapping_changes: RebuildPolicy,
    pub rebuild: Rebuild,
}

/// What a rebuild beside the live copy has to fulfil.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rebuild {
    /// The part of its rows, from 0 to 1, that a table may lack in the new copy.
    pub max_loss: f64,
    /// Tables with fewer rows than this may lose all of them.
    pub min_rows: u64,
    pub min_free_bytes: u64,
}

/// Where the replica is.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    Sqlite(Sqlite),
    Redis(Redis),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Sqlite(sqlite) => write!(f, "{}", sqlite.path.display()),
            Target::Redis(redis) => write!(f, "{}", redis.url),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Sqlite {
    pub path: PathBuf,
    /// Bound on a write-ahead log that a reader keeps from being reused.
    pub max_wal_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redis {
    pub url: RedisUrl,
    /// An ACL user; `None`: the default user.
    pub username: Option<String>,
    /// Holds the password; read at every connection. `None`: no password is sent.
    pub password_file: Option<PathBuf>,
    /// Certificates (PEM) to trust instead of the system's, for `rediss`.
    pub ca_file: Option<PathBuf>,
    /// Before every key.
    pub prefix: String,
    /// Nobody else keeps keys in this logical database or the next one.
    pub dedicated: bool,
    pub encoding: RowEncoding,
}

/// A server and a logical database; no user and no password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisUrl {
    pub server: RedisServer,
    pub database: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisServer {
    Tcp {
        /// A name or an address; IPv6 without brackets.
        host: String,
        port: u16,
        tls: bool,
    },
    Unix {
        path: PathBuf,
    },
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let database = self.database;
        match &self.server {
            RedisServer::Tcp { host, port, tls } => {
                let scheme = if *tls { "rediss" } else { "redis" };
                match host.contains(':') {
                    true => write!(f, "{scheme}://[{host}]:{port}/{database}"),
                    false => write!(f, "{scheme}://{host}:{port}/{database}"),
                }
            }
            RedisServer::Unix { path } if database == 0 => write!(f, "unix:{}", path.display()),
            RedisServer::Unix { path } => write!(f, "unix:{}?db={database}", path.display()),
        }
    }
}

/// How a row is kept in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowEncoding {
    /// A hash: one field per column that is not null.
    Hash,
    /// A string that holds a JSON object.
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RebuildPolicy {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Topic {
    pub name: String,
    pub format: Format,
    pub key_format: Option<KeyFormat>,
    /// Where the event's type is; `None` for topics whose records are rows. Not a literal.
    pub event_type: Option<Expression>,
    /// Where the version is; `None`: the format's own, else the position. Not a literal.
    pub version: Option<Expression>,
    /// The position orders events also where the format has an order of its own.
    pub by_position: bool,
    /// How repeated events are recognised; `None`: they are not.
    pub event_ids: Option<EventIds>,
    /// Event types that are skipped and counted.
    pub ignore: Vec<String>,
    /// Event types that no table of this topic names.
    pub otherwise: Otherwise,
    pub on_error: OnError,
    pub on_gap: OnGap,
    /// Debezium's `unavailable.value.placeholder`.
    pub placeholder: String,
    /// What becomes of rows that a whole snapshot does not list.
    pub snapshots: Snapshots,
    /// The schema of values that do not name one; `avro` and `protobuf` only.
    pub schema_file: Option<PathBuf>,
    /// Full name of the message in `schema_file`; `protobuf` only.
    pub message: Option<String>,
    /// Which versions of their schema events have; `None`: there is only one.
    pub evolution: Option<Evolution>,
}

/// The versions of a topic's events, and how older ones become the one that the mapping is written for.
#[derive(Debug, Clone, PartialEq)]
pub struct Evolution {
    /// Where the version of an event is. Not a literal.
    pub version: Expression,
    /// The one that the mapping is written for.
    pub current: String,
    /// The one of events that do not say; `None`: they are not applied.
    pub missing: Option<String>,
    pub unknown: Unknown,
    /// At most one from each version; they lead to the current one.
    pub upcasts: Vec<Upcast>,
}

impl Evolution {
    /// Every version that events may have, with the steps that lead from it to the current one: first the
    /// current one, with none.
    pub fn versions(&self) -> Vec<(&str, Vec<&Upcast>)> {
        let mut versions = vec![(self.current.as_str(), Vec::new())];
        for upcast in &self.upcasts {
            let mut steps = vec![upcast];
            // Their number bounds the way; a configuration whose steps go round was refused.
            while let Some(last) = steps.last()
                && last.to != self.current
                && steps.len() <= self.upcasts.len()
                && let Some(next) = self.upcasts.iter().find(|next| next.from == last.to)
            {
                steps.push(next);
            }
            versions.push((upcast.from.as_str(), steps));
        }
        versions
    }
}

/// From one version to the next.
#[derive(Debug, Clone, PartialEq)]
pub struct Upcast {
    pub from: String,
    pub to: String,
    /// Only these event types; `None`: all.
    pub events: Option<Vec<String>>,
    pub rules: Vec<UpcastRule>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct UpcastRule {
    /// Fields from `.` down, in the newer version; no rule's lie below another's.
    pub target: Vec<String>,
    pub change: Change,
}

/// Where the newer version's field comes from; expressions are those of the older version.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    Rename(Vec<String>),
    /// Where the older event has nothing there.
    Default(Expression),
    Set(Expression),
}

/// What becomes of events of a version that nobody declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unknown {
    DeadLetter,
    Stop,
    Ignore,
    /// They are read as the current one.
    Accept,
}

impl Upcast {
    pub fn expressions(&self) -> impl Iterator<Item = &Expression> {
        self.rules.iter().filter_map(|rule| match &rule.change {
            Change::Rename(_) => None,
            Change::Default(from) | Change::Set(from) => Some(from),
        })
    }
}

impl Topic {
    /// What decides which of two events of one row is newer, in words.
    pub fn order(&self) -> String {
        match (&self.version, self.format) {
            (Some(path), _) => path.to_string(),
            (None, _) if !self.has_own_order() => "position in the log".to_owned(),
            (None, format) if format.is_flattened() => "__source_sequence or __lsn".to_owned(),
            (None, _) => "source.sequence".to_owned(),
        }
    }

    /// Whether the format says which of two events is newer, and is believed.
    pub fn has_own_order(&self) -> bool {
        self.format.is_debezium() && !self.by_position
    }

    /// Whether versions come from events rather than from positions.
    pub fn has_versions(&self) -> bool {
        self.version.is_some() || self.has_own_order()
    }

    /// How record keys are read by a table with so many key columns.
    pub fn key_format_of(&self, key_columns: usize) -> KeyFormat {
        if let Some(format) = self.key_format {
            return format;
        }
        match self.format {
            Format::Json | Format::CloudEvents if key_columns == 1 => KeyFormat::Text,
            Format::Json | Format::CloudEvents | Format::DebeziumJson => KeyFormat::Json,
            Format::DebeziumFlat | Format::Maxwell | Format::Canal => KeyFormat::Json,
            Format::Raw => KeyFormat::Text,
            // A file holds the schema of values only.
            _ if self.schema_file.is_some() => KeyFormat::Text,
            Format::Avro | Format::DebeziumAvro | Format::DebeziumFlatAvro => KeyFormat::Avro,
            Format::Protobuf => KeyFormat::Protobuf,
            Format::JsonSchema => KeyFormat::JsonSchema,
        }
    }
}

/// An event with the id of one that was applied lately is skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventIds {
    /// Not a literal.
    pub source: Expression,
    /// How many are remembered.
    pub window: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    Json,
    DebeziumJson,
    /// Rows behind `ExtractNewRecordState`.
    DebeziumFlat,
    DebeziumFlatAvro,
    Maxwell,
    Canal,
    CloudEvents,
    /// With a schema from the registry, or from `schema_file`.
    Avro,
    DebeziumAvro,
    /// With a schema from the registry, or from `schema_file`.
    Protobuf,
    JsonSchema,
    /// Bytes without structure.
    Raw,
}

impl Format {
    /// Whether `.` and `$event` are the same.
    pub fn row_is_event(self) -> bool {
        !self.has_before_and_after() && !self.is_mysql() && self != Format::CloudEvents
    }

    /// Debezium's, in whatever encoding, with its envelope or without.
    pub fn is_debezium(self) -> bool {
        self.has_before_and_after() || self.is_flattened()
    }

    /// Whether records name their schema in a registry, unless a file has it.
    pub fn names_schema(self) -> bool {
        matches!(
            self,
            Format::Avro
                | Format::DebeziumAvro
                | Format::DebeziumFlatAvro
                | Format::Protobuf
                | Format::JsonSchema
        )
    }

    /// Debezium's envelope, in whatever encoding.
    pub fn has_before_and_after(self) -> bool {
        matches!(self, Format::DebeziumJson | Format::DebeziumAvro)
    }

    /// Debezium's rows without their envelope, in whatever encoding.
    pub fn is_flattened(self) -> bool {
        matches!(self, Format::DebeziumFlat | Format::DebeziumFlatAvro)
    }

    /// Records of those who read MySQL's binlog: a delete has the row, an update what its key was.
    pub fn is_mysql(self) -> bool {
        matches!(self, Format::Maxwell | Format::Canal)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Snapshots {
    Sweep,
    Keep,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyFormat {
    Text,
    Json,
    Avro,
    Protobuf,
    JsonSchema,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Otherwise {
    Ignore,
    DeadLetter,
    Stop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OnError {
    DeadLetter,
    Stop,
    Skip,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OnGap {
    Auto,
    Rebuild,
    Stop,
    Continue,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    pub name: String,
    pub columns: Vec<Column>,
    /// Column indexes, in key order.
    pub key: Vec<usize>,
    pub indexes: Vec<Vec<usize>>,
    pub sources: Vec<TableSource>,
    pub max_staleness: Duration,
    pub delete_marks: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    pub name: String,
    pub ty: ColumnType,
    pub nullable: bool,
    /// `None`: the field of the column's own name.
    pub from: Option<Expression>,
    /// How a number is to be read, where the type alone does not say.
    pub encoding: Option<Encoding>,
    /// `None`: nothing was said.
    pub personal: Option<Personal>,
    /// How many characters at the end of a masked text are shown.
    pub show_last: usize,
}

/// What a copy does with a value that may be personal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Personal {
    /// It is not personal, whatever its name looks like.
    No,
    /// It is, and is copied as it is on purpose.
    Clear,
    /// HMAC-SHA-256, with the key of [`PersonalData`].
    Hash,
    Mask,
    /// It is not read, and NULL.
    Drop,
}

/// What concerns all personal columns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PersonalData {
    /// Holds the key of all hashes; read when a copy begins or goes on.
    pub hash_key_file: Option<PathBuf>,
}

/// Units and encodings of values that are not self-describing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Numbers since 1970-01-01T00:00:00Z (or since midnight, for `time`).
    Seconds,
    Millis,
    Micros,
    Nanos,
    Days,
    /// Bytes as text.
    Base64,
    Hex,
}

#[derive(Debug, Clone, PartialEq)]
pub struct TableSource {
    /// Index into [`Config::topics`].
    pub topic: usize,
    pub mapping: Mapping,
    /// Key column index to where it is in the record key, for deletes whose key has other names. Not a
    /// literal, and nothing that reads the value.
    pub key_from: BTreeMap<usize, Expression>,
    pub when: When,
}

/// Which events a table wants.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct When {
    /// Of a source of rows.
    pub rows: Option<Condition>,
    /// By event type.
    pub events: BTreeMap<String, Condition>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// As it was written.
    pub text: String,
    pub test: Test,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// Comparisons of paths with constants, which need no jq when they are applied.
    Simple(crate::jq::condition::Condition),
    Jq(Jq),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Mapping {
    /// Every record is a row of this table; columns say where their values come from.
    Rows,
    /// By event type.
    Events(BTreeMap<String, Rule>),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    /// Column index to expression. Columns that are not named take the field of their own name.
    Upsert { columns: BTreeMap<usize, Expression> },
    /// Only the named columns (the key columns always) are set.
    Patch { columns: BTreeMap<usize, Expression>, if_missing: IfMissing },
    /// Key column index to expression. Those of the first key columns alone delete every row with them.
    Delete { key: BTreeMap<usize, Expression> },
    /// The rows whose key begins with `prefix` become those of the elements of a list.
    Replace {
        /// Key column index to expression: the first columns of the key, not all.
        prefix: BTreeMap<usize, Expression>,
        each: Expression,
        /// Column index to expression, where `.` is the element. Columns that neither this nor `prefix`
        /// names take the element's field of their own name.
        row: BTreeMap<usize, Expression>,
    },
}

impl Rule {
    /// Of every column that it names.
    pub fn expressions(&self) -> impl Iterator<Item = (usize, &Expression)> {
        let (first, second) = match self {
            Rule::Upsert { columns } | Rule::Patch { columns, .. } | Rule::Delete { key: columns } => {
                (columns, None)
            }
            Rule::Replace { prefix, row, .. } => (prefix, Some(row)),
        };
        first.iter().chain(second.into_iter().flatten()).map(|(column, from)| (*column, from))
    }

    /// By how many columns of the table's key it clears rows, where it does not delete single ones.
    pub fn prefix(&self, table: &Table) -> Option<usize> {
        match self {
            Rule::Upsert { .. } | Rule::Patch { .. } => None,
            Rule::Delete { key } => {
                let given =
                    |column: &&usize| key.contains_key(*column) || table.columns[**column].from.is_some();
                let columns = table.key.iter().take_while(given).count();
                (columns < table.key.len()).then_some(columns)
            }
            Rule::Replace { prefix, .. } => Some(prefix.len()),
        }
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Expression {
    Path(Path),
    /// A jq literal, as JSON text: `"placed"`, `42`, `true`, `null`.
    Literal(String),
    /// What a path cannot say.
    Jq(Jq),
}

impl Expression {
    /// Whether the value of a record has to be there to read it.
    pub fn reads_value(&self) -> bool {
        match self {
            Expression::Path(path) => path.root.is_value(),
            Expression::Literal(_) => false,
            Expression::Jq(program) => program.reads.value(),
        }
    }
}

/// A program that `crate::jq` has taken.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Jq {
    pub text: String,
    pub reads: crate::jq::Reads,
}

/// A plain jq path: `.user.name`, `."odd name"`, `$event.source.ts_ms`, `$key.id`, `$headers.trace`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Path {
    pub root: Root,
    /// Field names from the root; empty for the root itself.
    pub fields: Vec<String>,
}

impl Path {
    /// Field names from the event on, in a format whose row is its field `row`.
    pub fn from_event(&self, row: &str) -> Vec<String> {
        let row = (self.root == Root::Row).then(|| row.to_owned());
        row.into_iter().chain(self.fields.iter().cloned()).collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Root {
    /// `.`: the row of a row format, the whole event otherwise.
    Row,
    /// `$event`: the whole event, envelope included.
    Event,
    /// `$key`: the record key.
    Key,
    /// `$topic`: the name of the record's topic.
    Topic,
    Partition,
    Offset,
    /// `$timestamp`: that of the record.
    Timestamp,
    /// `$headers`: the record's headers by name, as text.
    Headers,
    /// `$schema.name`, `$schema.id`, `$schema.version`: of the schema that the record was written with.
    Schema,
}

impl Root {
    pub const ALL: [Root; 9] = [
        Root::Row,
        Root::Event,
        Root::Key,
        Root::Topic,
        Root::Partition,
        Root::Offset,
        Root::Timestamp,
        Root::Headers,
        Root::Schema,
    ];

    /// As it is written in front of a path.
    pub fn name(self) -> &'static str {
        match self {
            Root::Row => ".",
            Root::Event => "$event",
            Root::Key => "$key",
            Root::Topic => "$topic",
            Root::Partition => "$partition",
            Root::Offset => "$offset",
            Root::Timestamp => "$timestamp",
            Root::Headers => "$headers",
            Root::Schema => "$schema",
        }
    }

    /// Whether it is, or is in, the record's value, or what that names.
    pub fn is_value(self) -> bool {
        matches!(self, Root::Row | Root::Event | Root::Schema)
    }

    /// Whether it is what the log knows of a record, besides its key and its value.
    pub fn is_metadata(self) -> bool {
        !self.is_value() && self != Root::Key
    }

    /// How many names a path from here may have.
    pub fn depth_max(self) -> usize {
        match self {
            // Nobody's events nest deeper than this, and the projection recurses.
            Root::Row | Root::Event | Root::Key => 32,
            Root::Headers | Root::Schema => 1,
            _ => 0,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Freshness {
    pub interval: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Startup {
    pub gate: Gate,
    /// How old a complete copy may be to start with it, for [`Gate::Auto`] and [`Gate::CompleteCopy`].
    pub max_age: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// `CompleteCopy` if there is one that is young enough, else `CaughtUp`.
    Auto,
    CaughtUp,
    CompleteCopy,
}

#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetters {
    /// A table with this many takes no more: the daemon stops before the next one.
    pub max: u64,
    /// A table that gets more than this stops the daemon too; `None`: no such limit.
    pub max_rate: Option<Rate>,
    pub keep: Keep,
    /// Bound on the kept bytes of records.
    pub max_bytes: u64,
    /// Where they are produced to as well.
    pub topic: Option<String>,
}

/// So many within a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub count: u64,
    pub within: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    Coordinates,
    Bytes,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    pub listen: SocketAddr,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// A `tracing-subscriber` filter: `info`, `readside=debug`.
    pub level: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// JSON when stderr is not a terminal.
    Auto,
    Text,
    Json,
}

/// What a running daemon does with a file that has changed and is valid. The log's level is taken at
/// once in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConfigChange {
    /// It takes effect at the next start.
    Wait,
    /// Commits what is complete and starts with it, in the same process.
    Restart,
}
