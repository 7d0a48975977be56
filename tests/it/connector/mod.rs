//! The whole way from a database: PostgreSQL, Debezium's connector in Kafka Connect, a broker, readside.
//! What the replica has to hold is what PostgreSQL answers; nothing in between is scripted.

mod connect;
mod postgres;
mod work;

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use self::connect::{Connect, Connector, Converter};
use self::postgres::Postgres;
use self::work::Work;
use crate::daemon::{Daemon, header, output, reader, rows, said};
use crate::kafka::{self, eventually, eventually_or};
use crate::registry;

const UNWRAP: (&str, &str) = ("transforms.unwrap.type", "io.debezium.transforms.ExtractNewRecordState");
const REWRITE: (&str, &str) = ("transforms.unwrap.delete.tombstone.handling.mode", "rewrite");
const FIELDS: (&str, &str) =
    ("transforms.unwrap.add.fields", "op,lsn,source.sequence,source.snapshot,ts_ms,source.ts_ms");

/// The same database by several connectors, as they are set up in earnest. Truncates are sent where one
/// asks for them, and never without the envelope.
const CONNECTORS: [Connector; 5] = [
    // Everything as text, and no schemas.
    Connector {
        name: "plain",
        format: "debezium-json",
        converter: Converter::Json,
        properties: &[
            ("value.converter.replace.null.with.default", "false"),
            ("decimal.handling.mode", "string"),
            ("time.precision.mode", "isostring"),
            ("skipped.operations", "none"),
        ],
    },
    // Its own defaults, which are numbers that schemas explain.
    Connector {
        name: "schemas",
        format: "debezium-json",
        converter: Converter::JsonWithSchemas,
        properties: &[("skipped.operations", "none")],
    },
    Connector {
        name: "avro",
        format: "debezium-avro",
        converter: Converter::Avro,
        properties: &[("skipped.operations", "none")],
    },
    Connector {
        name: "flat",
        format: "debezium-flat",
        converter: Converter::Json,
        properties: &[
            ("decimal.handling.mode", "string"),
            ("time.precision.mode", "isostring"),
            ("transforms", "unwrap"),
            UNWRAP,
            REWRITE,
            FIELDS,
        ],
    },
    Connector {
        name: "flat_avro",
        format: "debezium-flat-avro",
        converter: Converter::Avro,
        properties: &[("transforms", "unwrap"), UNWRAP, REWRITE, FIELDS],
    },
];

const SCHEMA: &str = "
CREATE TYPE mood AS ENUM ('calm', 'busy');
CREATE TABLE customers (
  id bigint PRIMARY KEY, name text NOT NULL, bio text, price numeric(12,2), amount numeric,
  rate double precision, active boolean NOT NULL, born date, seen timestamptz, opened timestamp,
  wakes time, uid uuid, doc jsonb, tags text[], raw bytea, mood mood
);
CREATE TABLE lines (tenant text, no int, sku text NOT NULL, note text, PRIMARY KEY (tenant, no));
CREATE TABLE signals (id text PRIMARY KEY, type text, data text);
";

/// Columns of `customers`: name and type in the replica, and what PostgreSQL says in the replica's form.
const CUSTOMERS: [(&str, &str, &str); 16] = [
    ("id", "integer", "id"),
    ("name", "text", "name"),
    ("bio", "text?", "bio"),
    ("price", "decimal?", "price"),
    ("amount", "decimal?", "amount"),
    ("rate", "real?", "rate"),
    ("active", "boolean", "active::int"),
    ("born", "date?", "to_char(born, 'YYYY-MM-DD')"),
    ("seen", "timestamp?", "to_char(seen AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"),
    ("opened", "timestamp?", "to_char(opened, 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"),
    ("wakes", "time?", "to_char(wakes, 'HH24:MI:SS.US')"),
    ("uid", "uuid?", "uid"),
    ("doc", "json?", "doc"),
    ("tags", "json?", "to_json(tags)"),
    ("raw", "blob?", "upper(encode(raw, 'hex'))"),
    ("mood", "text?", "mood"),
];
const LINES: [(&str, &str, &str); 4] = [
    ("tenant", "text", "tenant"),
    ("no", "integer", "no"),
    ("sku", "text", "sku"),
    ("note", "text?", "note"),
];

struct Table {
    name: &'static str,
    key: &'static str,
    columns: &'static [(&'static str, &'static str, &'static str)],
}

const TABLES: [Table; 2] = [
    Table { name: "customers", key: "id", columns: &CUSTOMERS },
    Table { name: "lines", key: "tenant, no", columns: &LINES },
];

impl Table {
    /// `lines` is truncated now and then.
    fn is_followed_by(&self, connector: &Connector) -> bool {
        !connector.format.starts_with("debezium-flat") || self.name != "lines"
    }

    /// As the connector sends it.
    fn in_postgres(&self, connector: &Connector, postgres: &Postgres) -> Vec<String> {
        let is_precise = !matches!(connector.converter, Converter::Json);
        let says = |(name, _, says): &(&str, &str, &'static str)| match *name {
            // As numbers the connector leaves out the zeros at the end where a column has no scale.
            "amount" if is_precise => "trim_scale(amount)",
            _ => *says,
        };
        let columns: Vec<&str> = self.columns.iter().map(says).collect();
        let key = self.key.replace("tenant", "tenant COLLATE \"C\"");
        postgres.rows(&format!("SELECT {} FROM {} ORDER BY {key}", columns.join(", "), self.name))
    }

    fn in_replica(&self, connector: &Connector, dir: &Path) -> Vec<String> {
        let column = |(name, ty, _): &(&str, &str, &str)| match *ty {
            "blob?" => format!("CASE WHEN {name} IS NOT NULL THEN hex({name}) END"),
            _ => (*name).to_owned(),
        };
        let columns: Vec<String> = self.columns.iter().map(column).collect();
        let sql = format!(
            "SELECT {} FROM {}_{} ORDER BY {}",
            columns.join(", "),
            connector.name,
            self.name,
            self.key
        );
        rows(&reader(dir), &sql)
    }
}

fn configuration(brokers: &str, registry: &str, dir: &Path) -> String {
    let (mut topics, mut tables) = (String::new(), String::new());
    for connector in &CONNECTORS {
        let format = connector.format;
        for table in TABLES.iter().filter(|table| table.is_followed_by(connector)) {
            let topic = format!("{}.public.{}", connector.name, table.name);
            writeln!(topics, "  {topic}: {{ format: {format} }}").unwrap();
            writeln!(
                tables,
                "  {}_{}:\n    topic: {topic}\n    key: [{}]",
                connector.name, table.name, table.key
            )
            .unwrap();
            writeln!(tables, "    columns:").unwrap();
            for (name, ty, _) in table.columns {
                writeln!(tables, "      {name}: {ty}").unwrap();
            }
        }
    }
    format!(
        "{}schema_registry: {{ url: {registry} }}\n\
         freshness: {{ interval: 200ms }}\nrebuild: {{ max_loss: 100% }}\ntopics:\n{topics}tables:\n{tables}",
        header(brokers, dir)
    )
}

/// A new row in each table: who has it has all that came before, also what changed nothing to see.
const MARK: &str = "
INSERT INTO customers (id, name, active)
  SELECT greatest(max(id), 1000000) + 1, 'mark ' || clock_timestamp(), true FROM customers;
INSERT INTO lines (tenant, no, sku)
  SELECT 'mark', coalesce(max(no), 0) + 1, 'mark ' || clock_timestamp() FROM lines;
";

/// Waits until the replica holds what PostgreSQL does, in each form in which it was sent.
fn same_rows(postgres: &Postgres, dir: &Path, when: &str) {
    postgres.run(MARK);
    for table in &TABLES {
        for connector in CONNECTORS.iter().filter(|connector| table.is_followed_by(connector)) {
            let expected = table.in_postgres(connector, postgres);
            let difference = || {
                let found = table.in_replica(connector, dir);
                let mut text =
                    format!("{when}: {}_{}: {}", connector.name, table.name, differences(&found, &expected));
                let wrong = found.iter().find(|row| !expected.contains(row));
                if let Some(key) = wrong.and_then(|row| row.split('|').next()) {
                    // With one column as key.
                    let mut command = Command::new(env!("CARGO_BIN_EXE_readside"));
                    let name = format!("{}_{}", connector.name, table.name);
                    command
                        .args(["explain", &name, key, "--fetch", "--config"])
                        .arg(dir.join("readside.yaml"));
                    text.push_str(&said(&output(&mut command)).1);
                }
                text
            };
            eventually_or(difference, || (table.in_replica(connector, dir) == expected).then_some(()));
        }
    }
}

/// Of the first few rows the cells that differ, shortened.
fn differences(found: &[String], expected: &[String]) -> String {
    let mut text = format!("{} rows of {}", found.len(), expected.len());
    let wrong = found.iter().filter(|row| !expected.contains(row)).map(|row| ("found", row));
    let missing = expected.iter().filter(|row| !found.contains(row)).map(|row| ("expected", row));
    for (what, row) in wrong.take(6).chain(missing.take(6)) {
        let others = if what == "found" { expected } else { found };
        let key = row.split('|').next();
        let other: Vec<&str> = others
            .iter()
            .find(|other| other.split('|').next() == key)
            .map(|other| other.split('|').collect())
            .unwrap_or_default();
        write!(text, "\n{what}").unwrap();
        for (nth, cell) in row.split('|').enumerate() {
            if nth == 0 || other.get(nth) != Some(&cell) {
                write!(text, " {cell:.60}").unwrap();
            }
        }
    }
    text
}

#[test]
fn the_rows_of_a_database_whatever_is_killed() {
    if !connect::is_there() {
        return;
    }
    let (Some(broker), Some(registry), Some(postgres)) =
        (kafka::shared(), registry::shared(), Postgres::start())
    else {
        return;
    };
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path();
    let connect_dir = tempfile::tempdir().unwrap();
    postgres.run(SCHEMA);
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(11);
    let mut work = Work::new(seed);
    for _ in 0..20 {
        postgres.run(&work.transactions(20));
    }
    let mut connect =
        Connect::start(connect_dir.path(), &broker.bootstrap(), &registry.origin(), &postgres, &CONNECTORS);
    let has_begun = || broker.topics().contains("plain.public.customers").then_some(());
    eventually_or(|| format!("a snapshot begins:\n{}", connect.words()), has_begun);

    // It dies within its first snapshots, or soon after them, and rows go meanwhile.
    connect.kill();
    postgres.run(&work.deletes(10));
    connect.restart(&CONNECTORS);
    let all = TABLES.iter().flat_map(|table| {
        let followed = CONNECTORS.iter().filter(|connector| table.is_followed_by(connector));
        followed.map(|connector| format!("{}.public.{}", connector.name, table.name))
    });
    let all: Vec<String> = all.collect();
    eventually("all topics", || {
        let there = broker.topics();
        all.iter().all(|topic| there.contains(topic)).then_some(())
    });
    let yaml = configuration(&broker.bootstrap(), &registry.url(), dir);
    let mut daemon = Daemon::start(dir, &yaml);
    daemon.started();
    same_rows(&postgres, dir, "after the snapshots");

    for round in 0..6 {
        for _ in 0..6 {
            postgres.run(&work.transactions(20));
        }
        match round {
            1 | 4 => {
                // What was sent since the last stored offset is sent again.
                connect.kill();
                postgres.run(&work.transactions(40));
                connect.restart(&CONNECTORS);
            }
            2 => {
                daemon.kill();
                postgres.run(&work.transactions(40));
                daemon = Daemon::start(dir, &yaml);
                daemon.started();
            }
            3 => {
                // What it reads is not carried over to another key within a minute.
                work.keys_stay = true;
                postgres.run(&format!(
                "INSERT INTO signals VALUES ('s{round}', 'execute-snapshot', '{{\"type\": \"incremental\", \
                 \"data-collections\": [\"public.customers\", \"public.lines\"]}}');"
                ));
            }
            _ => {}
        }
    }
    // Columns that the mapping does not name come, change and go; each time it is another schema. The
    // connector has to be up with the database: it ends on older events of a table that has changed.
    for change in [
        "ALTER TABLE customers ADD COLUMN origin text NOT NULL DEFAULT 'web'; ALTER TABLE lines ADD COLUMN extra int;",
        "ALTER TABLE lines ALTER COLUMN no TYPE bigint;",
        "ALTER TABLE customers DROP COLUMN origin; ALTER TABLE lines DROP COLUMN extra;",
    ] {
        same_rows(&postgres, dir, change);
        postgres.run(change);
        postgres.run(&work.transactions(20));
    }
    same_rows(&postgres, dir, "in the end");
    let letters = rows(&reader(dir), "SELECT * FROM _readside_dead_letters");
    assert!(letters.is_empty(), "{letters:#?}");
    assert_eq!(daemon.metric_sum("readside_gaps_total"), Some(0.0));
    daemon.terminate();
}
