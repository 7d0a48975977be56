//! The configuration as a whole: examples, invalid files with their messages, the environment.

mod description;
mod hostile;
mod reference;

use std::fs;
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use super::*;
use crate::domain::change::IfMissing;
use crate::domain::value::ColumnType;

fn no_variables() -> impl Iterator<Item = (String, String)> {
    std::iter::empty()
}

fn variables(pairs: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> + use<> {
    let owned: Vec<(String, String)> =
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    owned.into_iter()
}

fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let folder = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("config").join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

fn name_of(file: &FilePath) -> String {
    file.file_name().unwrap().to_str().unwrap().to_owned()
}

fn example(name: &str) -> Loaded {
    let folder = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("config/examples");
    load(&folder.join(name), no_variables()).unwrap()
}

fn errors(text: &str) -> String {
    match parse(text, "f.yaml", no_variables()) {
        Ok(_) => String::new(),
        Err(errors) => errors.to_string(),
    }
}

fn minimal() -> String {
    fs::read_to_string(FilePath::new(env!("CARGO_MANIFEST_DIR")).join("config/examples/minimal.yaml"))
        .unwrap()
}

fn sqlite_path(config: &Config) -> PathBuf {
    match &config.replica.target {
        Target::Sqlite(sqlite) => sqlite.path.clone(),
        Target::Redis(redis) => panic!("{redis:?}"),
    }
}

fn redis(config: &Config) -> Redis {
    match &config.replica.target {
        Target::Redis(redis) => redis.clone(),
        Target::Sqlite(sqlite) => panic!("{sqlite:?}"),
    }
}

#[test]
fn every_example_is_valid_and_without_warnings() {
    for file in files("examples", "yaml") {
        let loaded = load(&file, no_variables()).unwrap_or_else(|errors| panic!("{errors}"));
        if file.ends_with("minimal.yaml") {
            // It shall stay minimal, and says nothing of its personal data.
            let [warning] = &loaded.warnings[..] else { panic!("{:?}", loaded.warnings) };
            assert_eq!(warning.text.as_deref(), Some("email"));
            continue;
        }
        assert_eq!(loaded.warnings, [], "{}", file.display());
    }
}

/// Each file of `config/invalid` has its messages beside it. `READSIDE_BLESS=1` writes them.
#[test]
fn every_invalid_file_says_what_is_wrong() {
    for file in files("invalid", "yaml") {
        let text = fs::read(&file).unwrap();
        let found = match parse_bytes(&text, &name_of(&file), no_variables()) {
            Ok(loaded) => {
                assert!(!loaded.warnings.is_empty(), "{} is valid", file.display());
                loaded.warnings
            }
            Err(errors) => errors.problems.into_iter().chain(errors.warnings).collect(),
        };
        let found: String = found.iter().map(|problem| format!("{problem}\n")).collect();
        let expected = file.with_extension("expected");
        if std::env::var_os("READSIDE_BLESS").is_some() {
            fs::write(&expected, &found).unwrap();
        }
        let expected = fs::read_to_string(&expected).unwrap_or_default();
        assert_eq!(found, expected, "{}", file.display());
    }
}

#[test]
fn the_smallest_file_has_visible_defaults() {
    let config = example("minimal.yaml").config;
    assert_eq!(config.kafka.brokers, ["kafka:9092"]);
    assert_eq!(config.kafka.max_record_bytes, 1 << 20);
    assert_eq!(config.replica.name, "readside");
    assert_eq!(sqlite_path(&config), PathBuf::from("/replica/replica.db"));
    assert_eq!(config.replica.rebuild_when_mapping_changes, RebuildPolicy::Auto);
    assert_eq!(config.freshness.interval, Duration::from_secs(1));
    assert_eq!(config.startup.gate, Gate::Auto);
    assert_eq!(config.startup.max_age, Duration::from_secs(3600));
    assert_eq!((config.dead_letters.max, config.dead_letters.max_bytes), (1000, 16 << 20));
    assert_eq!(config.dead_letters.keep, Keep::Coordinates);
    assert_eq!(config.http.listen.to_string(), "0.0.0.0:9464");
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:9465");
    assert_eq!((config.log.level.as_str(), config.log.format), ("info", LogFormat::Auto));

    let [topic] = config.topics.as_slice() else { panic!() };
    assert_eq!(topic.name, "users.snapshots");
    assert_eq!((topic.format, topic.key_format), (Format::Json, None));
    assert_eq!(
        (topic.otherwise, topic.on_error, topic.on_gap),
        (Otherwise::DeadLetter, OnError::DeadLetter, OnGap::Auto)
    );
    assert_eq!(topic.placeholder, "__debezium_unavailable_value");

    let [table] = config.tables.as_slice() else { panic!() };
    assert_eq!((table.name.as_str(), table.key.as_slice()), ("users", &[0][..]));
    assert_eq!(
        (table.max_staleness, table.delete_marks),
        (Duration::from_secs(30), Duration::from_secs(7 * 86_400))
    );
    let columns: Vec<_> = table.columns.iter().map(|c| (c.name.as_str(), c.ty, c.nullable)).collect();
    assert_eq!(
        columns,
        [
            ("id", ColumnType::Integer, false),
            ("name", ColumnType::Text, false),
            ("email", ColumnType::Text, true)
        ]
    );
    let [source] = table.sources.as_slice() else { panic!() };
    assert_eq!(source.topic, 0);
    assert!(matches!(source.mapping, Mapping::Rows));
}

#[test]
fn events_become_rules_and_topics_are_sorted() {
    let config = example("events.yaml").config;
    let names: Vec<&str> = config.topics.iter().map(|topic| topic.name.as_str()).collect();
    assert_eq!(names, ["customers.contact", "customers.events", "orders.events"]);
    assert_eq!(config.topics[2].ignore, ["OrderViewed"]);
    assert_eq!(config.topics[0].otherwise, Otherwise::Ignore);

    let orders = &config.tables[0];
    assert_eq!(orders.sources[0].topic, 2);
    assert_eq!(orders.indexes, [vec![2], vec![1, 4]]);
    let Mapping::Events(rules) = &orders.sources[0].mapping else { panic!() };
    let Rule::Upsert { columns } = &rules["OrderPlaced"] else { panic!() };
    assert_eq!(columns[&1], Expression::Literal("\"placed\"".into()));
    let path = Path { root: Root::Row, fields: vec!["order".into(), "id".into()] };
    assert_eq!(columns[&0], Expression::Path(path));
    assert!(
        matches!(&rules["OrderShipped"], Rule::Patch { columns, if_missing: IfMissing::Hold } if columns.len() == 2)
    );
    assert!(matches!(&rules["OrderErased"], Rule::Delete { key } if key.len() == 1));

    let customers = &config.tables[2];
    assert_eq!(customers.key, [0, 1]);
    assert_eq!(customers.sources.iter().map(|source| source.topic).collect::<Vec<_>>(), [1, 0]);
    assert_eq!(customers.max_staleness, Duration::from_secs(120));
}

#[test]
fn event_ids_have_a_place_and_a_window() {
    let text =
        fs::read_to_string(FilePath::new(env!("CARGO_MANIFEST_DIR")).join("config/examples/event-ids.yaml"));
    let text = text.unwrap();
    let of = |text: &str| parse(text, "f.yaml", no_variables()).unwrap().config.topics[0].event_ids.clone();
    let path = Expression::Path(Path { root: Root::Row, fields: vec!["id".into()] });
    assert_eq!(of(&text), Some(EventIds { source: path.clone(), window: 50_000 }));
    assert_eq!(of(&text.replace("event_id_window", "# ")), Some(EventIds { source: path, window: 10_000 }));
    let key = Expression::Path(Path { root: Root::Key, fields: Vec::new() });
    assert_eq!(of(&text.replace("event_id: .id ", "event_id: $key ")).unwrap().source, key);
    // In a source it means the same.
    let sources = "sources: [{ topic: parcels.events, event_type: .type, event_id: .id, event_id_window: 7, events: { A: { delete: { id: .x } } } }]";
    let (head, _) = text.split_once("topics:").unwrap();
    let text =
        format!("{head}tables: {{ p: {{ key: id, columns: {{ id: text, n: 'text?' }}, {sources} }} }}\n");
    assert_eq!(of(&text).unwrap().window, 7);
    assert_eq!(of(&text.replace("event_id: .id, event_id_window: 7,", "")), None);
}

#[test]
fn defaults_reach_topics_and_tables_that_say_nothing() {
    let config = example("debezium.yaml").config;
    let on_error: Vec<OnError> = config.topics.iter().map(|topic| topic.on_error).collect();
    assert_eq!(on_error, [OnError::Stop, OnError::DeadLetter, OnError::DeadLetter]);
    let products = &config.tables[0];
    assert_eq!(products.columns[6].encoding, Some(Encoding::Days));
    let from = Expression::Path(Path { root: Root::Event, fields: vec!["source".into(), "db".into()] });
    assert_eq!(products.columns[8].from, Some(from));
    let key_from = Expression::Path(Path { root: Root::Key, fields: vec!["Id".into()] });
    assert_eq!(config.tables[2].sources[0].key_from[&0], key_from);
}

#[test]
fn secrets_are_files_and_nothing_else() {
    let config = example("secured.yaml").config;
    assert_eq!(config.kafka.secrets["sasl.password"], PathBuf::from("/run/secrets/kafka/password"));
    assert_eq!(config.kafka.properties["sasl.username"], "orders");
    assert!(!config.kafka.properties.contains_key("sasl.password"));
}

#[test]
fn an_inline_secret_is_refused_and_never_repeated() {
    let secret = "hunter2-canary";
    for written in [
        format!("properties: {{ sasl.password: {secret} }}"),
        format!("secrets: {{ sasl.password: {secret}/ }}"),
        format!("secrets: {{ sasl.password: {{ x: {secret} }} }}"),
        format!("secrets: {{ sasl.password: {secret} }}"),
    ] {
        let text = minimal().replace("brokers: kafka:9092", &format!("brokers: kafka:9092\n  {written}"));
        let said = match parse(&text, "f.yaml", no_variables()) {
            Ok(loaded) => format!("{:?}", loaded.warnings),
            Err(errors) => format!("{errors} {errors:?}"),
        };
        assert!(said.contains("sasl.password") || said.contains("f.yaml:"), "{said}");
        assert!(!said.contains(secret), "{said}");
    }
    for written in [
        format!("url: 'redis://:{secret}@cache:6379/0'"),
        format!("url: 'redis://user:{secret}@cache:6379/0'"),
        format!("url: 'redis://user%3A{secret}@cache:6379/0'"),
        format!("url: 'redis://cache:6379/{secret}'"),
        format!("url: redis://cache\n    password: {secret}"),
        format!("url: redis://cache\n    password_file: {secret}"),
        format!("url: redis://cache\n    password_file: {secret}/"),
    ] {
        let text = minimal()
            .replace("  sqlite:\n    path: /replica/replica.db\n", &format!("  redis:\n    {written}\n"));
        let said = match parse(&text, "f.yaml", no_variables()) {
            Ok(loaded) => format!("{:?}", loaded.warnings),
            Err(errors) => format!("{errors} {errors:?}"),
        };
        assert!(said.contains("f.yaml"), "{said}");
        assert!(!said.contains(secret), "{said}");
    }
    let url = ("READSIDE__REPLICA__REDIS__URL", format!("redis://:{secret}@cache"));
    let text = minimal().replace("  sqlite:\n    path: /replica/replica.db\n", "");
    let errors = parse(&text, "f.yaml", variables(&[(url.0, &url.1)])).unwrap_err();
    assert!(errors.to_string().starts_with("READSIDE__REPLICA__REDIS__URL: a password"), "{errors}");
    assert!(!format!("{errors} {errors:?}").contains(secret), "{errors}");
    for name in ["READSIDE__KAFKA__PROPERTIES__SASL__PASSWORD", "READSIDE__KAFKA__SECRET__SASL__PASSWORD"] {
        let errors = parse(&minimal(), "f.yaml", variables(&[(name, secret)])).unwrap_err();
        assert!(!format!("{errors} {errors:?}").contains(secret), "{errors}");
    }
}

#[test]
fn a_replica_in_redis_has_visible_defaults_and_only_differs_in_its_section() {
    let text =
        minimal().replace("sqlite:", "redis:").replace("path: /replica/replica.db", "url: redis://cache");
    let expected = Redis {
        url: RedisUrl {
            server: RedisServer::Tcp { host: "cache".into(), port: 6379, tls: false },
            database: 0,
        },
        username: None,
        password_file: None,
        ca_file: None,
        prefix: String::new(),
        dedicated: false,
        encoding: RowEncoding::Hash,
    };
    assert_eq!(redis(&parse(&text, "f.yaml", no_variables()).unwrap().config), expected);
    let of_variables = parse(
        &minimal().replace("  sqlite:\n    path: /replica/replica.db\n", ""),
        "f.yaml",
        variables(&[
            ("READSIDE__REPLICA__REDIS__URL", "unix:/run/redis.sock?db=2"),
            ("READSIDE__REPLICA__REDIS__PASSWORD_FILE", "/run/secrets/redis"),
            ("READSIDE__REPLICA__REDIS__DEDICATED", "true"),
        ]),
    );
    let found = redis(&of_variables.unwrap().config);
    let server = RedisServer::Unix { path: "/run/redis.sock".into() };
    assert_eq!(found.url, RedisUrl { server, database: 2 });
    assert_eq!(found.password_file, Some(PathBuf::from("/run/secrets/redis")));
    assert!(found.dedicated);
    let example = redis(&example("redis.yaml").config);
    assert_eq!((example.prefix.as_str(), example.username.as_deref()), ("shop:", Some("readside")));
}

#[test]
fn variables_win_over_the_file_and_fill_what_it_leaves_out() {
    let text = minimal().replace("kafka:\n  brokers: kafka:9092\n", "");
    let loaded = parse(
        &text,
        "f.yaml",
        variables(&[
            ("READSIDE__KAFKA__BROKERS", "a:9092, b:9093"),
            ("READSIDE__KAFKA__SECRETS__SASL__PASSWORD", "/run/secrets/p"),
            ("READSIDE__REPLICA__SQLITE__PATH", "/elsewhere/r.db"),
            ("READSIDE__LOG__FORMAT", "json"),
            ("readside__dead_letters__max_bytes", "1MiB"),
            ("READSIDE_SERVICE_HOST", "10.0.0.1"),
            ("PATH", "/bin"),
        ]),
    );
    let config = loaded.unwrap().config;
    assert_eq!(config.kafka.brokers, ["a:9092", "b:9093"]);
    assert_eq!(config.kafka.secrets["sasl.password"], PathBuf::from("/run/secrets/p"));
    assert_eq!(sqlite_path(&config), PathBuf::from("/elsewhere/r.db"));
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.dead_letters.max_bytes, 1 << 20);
}

#[test]
fn problems_in_variables_name_the_variable() {
    let with = |name: &str, value: &str| match parse(&minimal(), "f.yaml", variables(&[(name, value)])) {
        Ok(_) => panic!("{name}={value} is fine"),
        Err(errors) => errors.to_string(),
    };
    assert!(
        with("READSIDE__KAFKA__BROKERS", "kafka")
            .starts_with("READSIDE__KAFKA__BROKERS: `kafka`: expected a broker as `host:port`"),
    );
    assert!(with("READSIDE__KAFKA__BROKERS", "").starts_with("READSIDE__KAFKA__BROKERS: a value is missing"));
    assert_eq!(
        with("READSIDE__KAFKA__BROKRES", "a:1"),
        "READSIDE__KAFKA__BROKRES: this variable sets nothing that readside knows; did you mean `READSIDE__KAFKA__BROKERS`?"
    );
    assert!(with("READSIDE__TABLES__USERS__KEY", "id").contains("can only be set in the file"));
    assert!(with("READSIDE__KAFKA", "a").contains("sets nothing"));
    assert!(with("READSIDE__KAFKA__BROKERS__X", "a").contains("sets nothing"));
    assert!(
        with("READSIDE__SCHEMA_REGISTRY__BEARER_TOKEN_FILE", "a").contains("this version does not support")
    );
    assert!(with("READSIDE__LOG__LEVEL", "inof").contains("did you mean `info`?"));
    let two = variables(&[("READSIDE__LOG__LEVEL", "info"), ("readside__log__level", "warn")]);
    assert!(parse(&minimal(), "f.yaml", two).unwrap_err().to_string().contains("two spellings"));
}

#[test]
fn a_file_that_is_none_is_said_to_be_none() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.yaml");
    let said = load(&missing, no_variables()).unwrap_err().to_string();
    assert!(said.contains("missing.yaml: the configuration cannot be read"), "{said}");
    assert!(load(folder.path(), no_variables()).unwrap_err().to_string().contains("cannot be read"));

    let huge = folder.path().join("huge.yaml");
    fs::write(&huge, vec![b'#'; (FILE_MAX + 1) as usize]).unwrap();
    assert!(load(&huge, no_variables()).unwrap_err().to_string().contains("larger than 4 MiB"));

    let latin = folder.path().join("latin.yaml");
    fs::write(&latin, b"kafka:\n  brokers: \xC3\xA4\xE4").unwrap();
    let said = load(&latin, no_variables()).unwrap_err().to_string();
    assert!(said.ends_with("latin.yaml:2:13: the file is not UTF-8 text"), "{said}");
}

#[test]
fn all_problems_are_found_at_once() {
    let said = errors(
        "kafka: { brokers: kafka }\nreplica: { sqlite: {} }\nfreshness: { interval: 1 }\ntables: { a: { key: id, columns: { id: int } } }\n",
    );
    assert_eq!(said.lines().count(), 5, "{said}");
}
