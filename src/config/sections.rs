//! The one description of the configuration file: its sections, their keys, their defaults.
//!
//! Unknown keys, suggestions, environment variables, defaults and the JSON Schema all come from
//! here; the lowering asks for keys by name and is checked against it.

use crate::domain::change::IfMissing;

use super::model::{
    Encoding, Format, Gate, Keep, KeyFormat, LogFormat, OnConfigChange, OnError, OnGap, Otherwise, Personal,
    RebuildPolicy, RowEncoding, Snapshots, Unknown,
};
use super::words::words;

pub(super) struct Section {
    /// Its name in messages and in the schema's definitions.
    pub name: &'static str,
    pub help: &'static str,
    /// In groups, so that sections can share keys.
    pub keys: &'static [&'static [Key]],
    pub unsupported: &'static [&'static str],
}

pub(super) struct Key {
    pub name: &'static str,
    pub help: &'static str,
    pub shape: Shape,
    pub presence: Presence,
}

#[derive(Clone, Copy)]
pub(super) enum Presence {
    Required,
    Optional,
    /// Absent means this text.
    Default(&'static str),
}

pub(super) enum Shape {
    /// Any text that is not empty.
    Text,
    Duration,
    Size,
    Count,
    /// A whole number from 0 to 100, `%` behind it.
    Percent,
    /// `count/duration`, or `none`.
    Rate,
    /// `address:port` to listen on.
    Address,
    /// The path of a file.
    File,
    /// A Redis server and database, without credentials.
    RedisUrl,
    /// `http` or `https`, without credentials.
    RegistryUrl,
    /// `true` or `false`.
    Bool,
    Word(fn() -> Vec<&'static str>),
    /// A jq path.
    Path,
    /// A jq path, a literal, or any other jq.
    Expression,
    /// jq that gives true or false.
    Condition,
    /// A column type, `?` behind it for columns that may be null.
    ColumnType,
    Section(&'static Section),
    /// Free names, each with a value.
    Map {
        names: &'static str,
        value: &'static Shape,
    },
    List(&'static Shape),
    OneOf(&'static [Shape]),
}

impl Section {
    pub fn keys(&self) -> impl Iterator<Item = &'static Key> + use<> {
        self.keys.iter().copied().flatten()
    }

    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys().find(|key| key.name == name)
    }
}

use Presence::{Default, Optional, Required};

const fn key(name: &'static str, presence: Presence, shape: Shape, help: &'static str) -> Key {
    Key { name, help, shape, presence }
}

pub(super) static ROOT: Section = Section {
    name: "the configuration",
    help: "Configuration of readside.",
    keys: &[&[
        key("kafka", Required, Shape::Section(&KAFKA), "The cluster that the events come from."),
        key(
            "schema_registry",
            Optional,
            Shape::Section(&SCHEMA_REGISTRY),
            "Where the schemas are that records name by their ids.",
        ),
        key("replica", Required, Shape::Section(&REPLICA), "The local copy."),
        key(
            "rebuild_when_mapping_changes",
            Default("auto"),
            Shape::Word(words::<RebuildPolicy>),
            "What happens to a replica that was built under another mapping: `auto` rebuilds it if the log can give everything back, `always` in any case, `never` stops with exit code 78.",
        ),
        key(
            "defaults",
            Optional,
            Shape::Section(&DEFAULTS),
            "What topics and tables do unless they say otherwise.",
        ),
        key(
            "topics",
            Optional,
            Shape::Map { names: "topic", value: &Shape::Section(&TOPIC) },
            "What belongs to a topic, by its name.",
        ),
        key(
            "tables",
            Required,
            Shape::Map { names: "table", value: &Shape::Section(&TABLE) },
            "The tables of the replica, by name.",
        ),
        key(
            "rebuild",
            Optional,
            Shape::Section(&REBUILD),
            "What a rebuild beside the live copy has to fulfil.",
        ),
        key("freshness", Optional, Shape::Section(&FRESHNESS), "How freshness is measured."),
        key("startup", Optional, Shape::Section(&STARTUP), "When the replica counts as started."),
        key(
            "dead_letters",
            Optional,
            Shape::Section(&DEAD_LETTERS),
            "What is kept of events that could not be applied.",
        ),
        key(
            "personal",
            Optional,
            Shape::Section(&PERSONAL),
            "What columns with personal data need; see [Personal data](#personal-data).",
        ),
        key("http", Optional, Shape::Section(&HTTP), "The read-only listener: metrics and probes."),
        key("admin", Optional, Shape::Section(&ADMIN), "The listener for status and operations."),
        key("log", Optional, Shape::Section(&LOG), "Logs, on stderr."),
        key(
            "on_config_change",
            Default("wait"),
            Shape::Word(words::<OnConfigChange>),
            "What a running daemon does when this file has changed and is valid: `wait` for the next start, or `restart` with it in the same process, after what is complete has been committed. A new `log.level` is taken at once.",
        ),
    ]],
    unsupported: &[],
};

static KAFKA: Section = Section {
    name: "kafka",
    help: "The cluster that the events come from.",
    keys: &[&[
        key(
            "brokers",
            Required,
            Shape::OneOf(&[Shape::Text, Shape::List(&Shape::Text)]),
            "Brokers to begin with, `host:port`: a list, or text with commas.",
        ),
        key(
            "properties",
            Optional,
            Shape::Map { names: "librdkafka property", value: &Shape::Text },
            "librdkafka properties, passed through.",
        ),
        key(
            "secrets",
            Optional,
            Shape::Map { names: "librdkafka property", value: &Shape::File },
            "librdkafka properties whose value is read from a file.",
        ),
        key(
            "max_record_bytes",
            Default("1MiB"),
            Shape::Size,
            "Larger records become dead letters without their value.",
        ),
    ]],
    unsupported: &[],
};

static SCHEMA_REGISTRY: Section = Section {
    name: "schema_registry",
    help: "A schema registry that speaks the API of Confluent's; needed by the formats `avro`, `debezium-avro`, `debezium-flat-avro`, `protobuf` and `json-schema`.",
    keys: &[&[
        key(
            "url",
            Required,
            Shape::RegistryUrl,
            "`https://host:port`, perhaps with a path in front of `/schemas/ids/…`. Without user and password.",
        ),
        key("username", Optional, Shape::Text, "A user; needs `password_file`."),
        key(
            "password_file",
            Optional,
            Shape::File,
            "A file that holds the password; it is read again for every request.",
        ),
        key(
            "ca_file",
            Optional,
            Shape::File,
            "Certificates (PEM) to trust instead of the system's, for `https`.",
        ),
    ]],
    unsupported: &["bearer_token_file", "client_certificate"],
};

static REPLICA: Section = Section {
    name: "replica",
    help: "The local copy.",
    keys: &[&[
        key(
            "name",
            Default("readside"),
            Shape::Text,
            "Stored in the replica; another name means that it belongs to somebody else.",
        ),
        key("sqlite", Optional, Shape::Section(&SQLITE), "A replica in SQLite; either this or `redis`."),
        key("redis", Optional, Shape::Section(&REDIS), "A replica in Redis; either this or `sqlite`."),
    ]],
    unsupported: &[],
};

static SQLITE: Section = Section {
    name: "replica.sqlite",
    help: "A replica in SQLite.",
    keys: &[&[
        key("path", Required, Shape::File, "The database file; its directory is shared with the readers."),
        key(
            "max_wal",
            Default("4GiB"),
            Shape::Size,
            "How long the write-ahead log may get while a read transaction keeps it from being reused; nothing is applied beyond it until that ends. At least 64MiB.",
        ),
    ]],
    unsupported: &[],
};

static REDIS: Section = Section {
    name: "replica.redis",
    help: "A replica in Redis 7.0 or later.",
    keys: &[&[
        key(
            "url",
            Required,
            Shape::RedisUrl,
            "The server and the logical database: `redis://host:port/database`, `rediss://…` for TLS, `unix:/path?db=1` for a socket. Without user and password.",
        ),
        key("username", Optional, Shape::Text, "An ACL user; default: Redis' default user."),
        key(
            "password_file",
            Optional,
            Shape::File,
            "A file that holds the password; it is read at every connection.",
        ),
        key(
            "ca_file",
            Optional,
            Shape::File,
            "Certificates (PEM) to trust instead of the system's, for `rediss`.",
        ),
        key(
            "prefix",
            Optional,
            Shape::Text,
            "Before every key: letters, digits and `:_-.{}`; default: nothing.",
        ),
        key(
            "dedicated",
            Default("false"),
            Shape::Bool,
            "Whether nobody else keeps keys in this logical database or the next one: the first copy is then built there, and the two are swapped when it is whole.",
        ),
        key(
            "encoding",
            Default("hash"),
            Shape::Word(words::<RowEncoding>),
            "How a row is kept: a hash with a field per column, or a string that holds a JSON object.",
        ),
    ]],
    unsupported: &["cluster"],
};

static DEFAULTS: Section = Section {
    name: "defaults",
    help: "What topics and tables do unless they say otherwise.",
    keys: &[&[
        key(
            "on_error",
            Default("dead_letter"),
            Shape::Word(words::<OnError>),
            "What becomes of an event that cannot be applied.",
        ),
        key(
            "on_gap",
            Default("auto"),
            Shape::Word(words::<OnGap>),
            "What happens when the log does not continue where the copy stands; see [Gaps](OPERATIONS.md#gaps).",
        ),
        key(
            "max_staleness",
            Default("30s"),
            Shape::Duration,
            "Beyond this age readers see a table as stale.",
        ),
    ]],
    unsupported: &[],
};

/// Valid under `topics` and in an entry of a table's `sources`.
static TOPIC_KEYS: [Key; 16] = [
    key("format", Optional, Shape::Word(words::<Format>), "How values are encoded; default `json`."),
    key(
        "key_format",
        Optional,
        Shape::Word(words::<KeyFormat>),
        "How record keys are encoded; default: as the value; `json` and `cloudevents` read text for one key column and an object for several; `raw`, and values with a `schema_file`, go with text.",
    ),
    key(
        "schema_file",
        Optional,
        Shape::File,
        "The schema of values without a registry: an Avro schema (`avro`), or a `.proto` file or a descriptor set (`protobuf`). Values then have no header.",
    ),
    key("message", Optional, Shape::Text, "Full name of the message in `schema_file`, for `protobuf`."),
    key(
        "event_type",
        Optional,
        Shape::Expression,
        "Where the type of an event is, for tables with `events`.",
    ),
    key(
        "version",
        Optional,
        Shape::Expression,
        "Where the version is, or `position`: the position in the log; default: the format's own, else the position.",
    ),
    key(
        "event_id",
        Optional,
        Shape::Expression,
        "Where the id of an event is: an event with the id of one that was applied lately is skipped. For producers that may send an event twice; not for `debezium-json`.",
    ),
    key(
        "event_id_window",
        Optional,
        Shape::Count,
        "How many ids are remembered, over all partitions of the topic; 1 to 1000000, default 10000. Each takes about 50 bytes of memory.",
    ),
    key("ignore", Optional, Shape::List(&Shape::Text), "Event types that are skipped and counted."),
    key(
        "otherwise",
        Optional,
        Shape::Word(words::<Otherwise>),
        "What becomes of event types that no table names; default `dead_letter`.",
    ),
    key(
        "on_error",
        Optional,
        Shape::Word(words::<OnError>),
        "What becomes of an event that cannot be applied; default: `defaults.on_error`.",
    ),
    key(
        "on_gap",
        Optional,
        Shape::Word(words::<OnGap>),
        "What happens when the log does not continue where the copy stands; default: `defaults.on_gap`; see [Gaps](OPERATIONS.md#gaps).",
    ),
    key(
        "placeholder",
        Optional,
        Shape::Text,
        "Debezium's `unavailable.value.placeholder`; default `__debezium_unavailable_value`.",
    ),
    key(
        "snapshots",
        Optional,
        Shape::Word(words::<Snapshots>),
        "What becomes of rows that a whole snapshot of the source, taken again, does not list: `sweep` removes them, `keep` leaves them, for snapshots that leave rows out on purpose. Debezium's formats only; default `sweep`.",
    ),
    key(
        "schema",
        Optional,
        Shape::Section(&SCHEMA),
        "Which version of its schema an event has; see [EVOLUTION.md](EVOLUTION.md).",
    ),
    key(
        "upcast",
        Optional,
        Shape::List(&Shape::Section(&UPCAST)),
        "How events of older versions become the one that the mapping is written for.",
    ),
];
const TOPIC_UNSUPPORTED: &[&str] = &[];

pub(super) static SCHEMA: Section = Section {
    name: "a schema",
    help: "Which version of its schema an event has.",
    keys: &[&[
        key(
            "version",
            Required,
            Shape::Expression,
            "Where the version is: a field, a header, or `$schema.version` (of the registry), `$schema.id`, `$schema.name`.",
        ),
        key("current", Required, Shape::Text, "The version that the mapping is written for."),
        key(
            "missing",
            Optional,
            Shape::Text,
            "The version of events that do not say; default: they are of an unknown one.",
        ),
        key(
            "unknown",
            Default("dead_letter"),
            Shape::Word(words::<Unknown>),
            "What becomes of events of a version that is neither current nor upcast; `accept`: read as the current one.",
        ),
    ]],
    unsupported: &[],
};

pub(super) static UPCAST: Section = Section {
    name: "an upcast",
    help: "From one version to the next.",
    keys: &[&[
        key("from", Required, Shape::Text, "The older version."),
        key("to", Required, Shape::Text, "The newer version."),
        key("events", Optional, Shape::List(&Shape::Text), "Only these event types; default: all."),
        key(
            "rename",
            Optional,
            Shape::Map { names: "path in the newer version", value: &Shape::Path },
            "Fields that have another place in the older version.",
        ),
        key(
            "default",
            Optional,
            Shape::Map { names: "path in the newer version", value: &Shape::Expression },
            "What a field is where the older event has nothing there.",
        ),
        key(
            "set",
            Optional,
            Shape::Map { names: "path in the newer version", value: &Shape::Expression },
            "What a field is in any case: a constant, a path or jq on the older event.",
        ),
    ]],
    unsupported: &[],
};

pub(super) static TOPIC: Section = Section {
    name: "a topic",
    help: "What belongs to a topic.",
    keys: &[&TOPIC_KEYS],
    unsupported: TOPIC_UNSUPPORTED,
};

/// Valid in a table with one topic and in an entry of `sources`.
static FEED_KEYS: [Key; 4] = [
    key("topic", Optional, Shape::Text, "The topic that the rows come from."),
    key(
        "key_from",
        Optional,
        Shape::Map { names: "key column", value: &Shape::Expression },
        "Where a key column is in the record key, when names differ: `$key`, `$key.name`, or what is calculated of it.",
    ),
    key(
        "events",
        Optional,
        Shape::Map { names: "event type", value: &Shape::Section(&RULE) },
        "What events of a type do to this table.",
    ),
    key(
        "when",
        Optional,
        Shape::Condition,
        "Which rows the table wants: the row of an event that does not meet it is deleted. For topics of rows; rules of `events` have their own.",
    ),
];

pub(super) static SOURCE: Section = Section {
    name: "a source",
    help: "One of several topics that feed a table.",
    keys: &[&FEED_KEYS, &TOPIC_KEYS],
    unsupported: TOPIC_UNSUPPORTED,
};

pub(super) static TABLE: Section = Section {
    name: "a table",
    help: "A table of the replica.",
    keys: &[
        &[
            key(
                "columns",
                Required,
                Shape::Map {
                    names: "column",
                    value: &Shape::OneOf(&[Shape::ColumnType, Shape::Section(&COLUMN)]),
                },
                "Columns in order, each with its type.",
            ),
            key(
                "key",
                Required,
                Shape::OneOf(&[Shape::Text, Shape::List(&Shape::Text)]),
                "The column or columns that identify a row.",
            ),
            key(
                "indexes",
                Optional,
                Shape::List(&Shape::OneOf(&[Shape::Text, Shape::List(&Shape::Text)])),
                "Further indexes, each a column or a list of columns.",
            ),
            key(
                "sources",
                Optional,
                Shape::List(&Shape::Section(&SOURCE)),
                "The topics that feed this table, where `topic` is not enough.",
            ),
            key(
                "max_staleness",
                Optional,
                Shape::Duration,
                "Beyond this age readers see this table as stale; default: `defaults.max_staleness`.",
            ),
            key(
                "delete_marks",
                Default("7d"),
                Shape::Duration,
                "How long a deleted row is remembered, so that a late event cannot bring it back.",
            ),
        ],
        &FEED_KEYS,
    ],
    unsupported: &[],
};

pub(super) static COLUMN: Section = Section {
    name: "a column",
    help: "A column whose value is not simply the field of its own name.",
    keys: &[&[
        key("type", Required, Shape::ColumnType, "The column's type; `?` behind it: may be null or absent."),
        key(
            "from",
            Optional,
            Shape::Expression,
            "Where the value comes from; default: the field of the column's own name.",
        ),
        key(
            "encoding",
            Optional,
            Shape::Word(words::<Encoding>),
            "How a number or a text is to be read, where the type alone does not say.",
        ),
        key(
            "personal",
            Optional,
            Shape::Word(words::<Personal>),
            "Whether the column holds data of a person, and what the copy has of it: `hash`, `mask`, nothing (`drop`), or the value (`clear`, `no`).",
        ),
        key(
            "show_last",
            Optional,
            Shape::Count,
            "How many characters at the end a mask shows; 1 to 8, default none.",
        ),
    ]],
    unsupported: &[],
};

pub(super) static RULE: Section = Section {
    name: "a rule",
    help: "What an event does: one of `upsert`, `patch`, `delete` and `replace`.",
    keys: &[&[
        key(
            "upsert",
            Optional,
            Shape::Map { names: "column", value: &Shape::Expression },
            "Sets the whole row; columns that are not named take the field of their own name.",
        ),
        key(
            "patch",
            Optional,
            Shape::Map { names: "column", value: &Shape::Expression },
            "Sets the named columns and keeps the others.",
        ),
        key(
            "delete",
            Optional,
            Shape::Map { names: "key column", value: &Shape::Expression },
            "Deletes the row with this key, or all rows that have the first columns of the key in common, where only these are given.",
        ),
        key(
            "replace",
            Optional,
            Shape::Map { names: "key column", value: &Shape::Expression },
            "The rows that have these first columns of the key in common become those of a list in the event; with `each` and `row`.",
        ),
        key(
            "each",
            Optional,
            Shape::Expression,
            "Where the list is, for `replace`. An empty one leaves no row; null, or none, is an error of the event.",
        ),
        key(
            "row",
            Optional,
            Shape::Map { names: "column", value: &Shape::Expression },
            "What an element is as a row, for `replace`: `.` is the element and `$event` the event; columns that are not named take the element's field of their own name.",
        ),
        key(
            "if_missing",
            Optional,
            Shape::Word(words::<IfMissing>),
            "What a patch does when there is no row; default `hold`.",
        ),
        key(
            "when",
            Optional,
            Shape::Condition,
            "Which events the rule is for: an `upsert` deletes the row of an event that does not meet it, a `replace` all its rows; a `patch` or a `delete` passes it over.",
        ),
    ]],
    unsupported: &[],
};

static REBUILD: Section = Section {
    name: "rebuild",
    help: "What a rebuild beside the live copy has to fulfil.",
    keys: &[&[
        key(
            "max_loss",
            Default("10%"),
            Shape::Percent,
            "A table of the new copy may lack this part of its rows; a copy that lacks more does not replace the live one.",
        ),
        key(
            "min_rows",
            Default("100"),
            Shape::Count,
            "Tables with fewer rows than this may lose all of them.",
        ),
        key(
            "min_free",
            Default("64MiB"),
            Shape::Size,
            "What must stay free on the volume (Redis: below `maxmemory`) beside both copies; a rebuild that would need it does not begin.",
        ),
    ]],
    unsupported: &[],
};

static FRESHNESS: Section = Section {
    name: "freshness",
    help: "How freshness is measured.",
    keys: &[&[key(
        "interval",
        Default("1s"),
        Shape::Duration,
        "How often the brokers are asked for the ends of the log.",
    )]],
    unsupported: &[],
};

static STARTUP: Section = Section {
    name: "startup",
    help: "When the replica counts as started.",
    keys: &[&[
        key(
            "gate",
            Default("auto"),
            Shape::Word(words::<Gate>),
            "What opens /startupz; `auto`: a complete copy that is young enough, else having caught up.",
        ),
        key("max_age", Default("1h"), Shape::Duration, "How old a complete copy may be to start with it."),
    ]],
    unsupported: &[],
};

static DEAD_LETTERS: Section = Section {
    name: "dead_letters",
    help: "What is kept of events that could not be applied.",
    keys: &[&[
        key(
            "max",
            Default("1000"),
            Shape::Count,
            "How many a table may have; the daemon stops before the next one. One that came before any table counts for every table of its topic.",
        ),
        key(
            "max_rate",
            Default("100/1m"),
            Shape::Rate,
            "How many a table may get within a time, by the timestamps of the records; the daemon stops before the next one. `none`: no such limit.",
        ),
        key(
            "keep",
            Default("coordinates"),
            Shape::Word(words::<Keep>),
            "Whether the bytes of the record are kept in the replica too.",
        ),
        key("max_bytes", Default("16MiB"), Shape::Size, "Bound on the kept bytes of records."),
        key(
            "topic",
            Optional,
            Shape::Text,
            "A topic to which each is produced too: the record as it came, with headers that say where it was and why it was refused. At least once.",
        ),
    ]],
    unsupported: &[],
};

static PERSONAL: Section = Section {
    name: "personal",
    help: "What columns with personal data need.",
    keys: &[&[key(
        "hash_key_file",
        Optional,
        Shape::File,
        "A file that holds the key of all columns with `personal: hash`: 16 to 4096 bytes, without a line end behind them. A copy under another key is another copy.",
    )]],
    unsupported: &[],
};

static HTTP: Section = Section {
    name: "http",
    help: "The read-only listener: metrics and probes.",
    keys: &[&[key("listen", Default("0.0.0.0:9464"), Shape::Address, "Address and port.")]],
    unsupported: &[],
};

static ADMIN: Section = Section {
    name: "admin",
    help: "The listener for status and operations.",
    keys: &[&[key("listen", Default("127.0.0.1:9465"), Shape::Address, "Address and port.")]],
    unsupported: &[],
};

static LOG: Section = Section {
    name: "log",
    help: "Logs, on stderr.",
    keys: &[&[
        key("level", Default("info"), Shape::Text, "A level, or levels by module: `info,readside=debug`."),
        key(
            "format",
            Default("auto"),
            Shape::Word(words::<LogFormat>),
            "`auto`: JSON when stderr is not a terminal.",
        ),
    ]],
    unsupported: &[],
};

/// Calls `visit` for every section that can be reached from the root, once each.
pub(super) fn for_each_section(visit: &mut dyn FnMut(&'static Section)) {
    let mut seen: Vec<&str> = Vec::new();
    let mut todo: Vec<&'static Section> = vec![&ROOT];
    while let Some(section) = todo.pop() {
        if seen.contains(&section.name) {
            continue;
        }
        seen.push(section.name);
        visit(section);
        for key in section.keys() {
            sections_in(&key.shape, &mut todo);
        }
    }
}

fn sections_in(shape: &'static Shape, found: &mut Vec<&'static Section>) {
    match shape {
        Shape::Section(section) => found.push(section),
        Shape::Map { value, .. } | Shape::List(value) => sections_in(value, found),
        Shape::OneOf(shapes) => {
            for shape in *shapes {
                sections_in(shape, found);
            }
        }
        _ => {}
    }
}
