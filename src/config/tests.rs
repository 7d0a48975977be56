//! The configuration as a whole: examples, invalid files with their messages, the environment.

use std::fs;
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;

use super::sections::{Key, Presence, ROOT, Section, Shape, for_each_section};
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

#[test]
fn every_example_is_valid_and_without_warnings() {
    for file in files("examples", "yaml") {
        let loaded = load(&file, no_variables()).unwrap_or_else(|errors| panic!("{errors}"));
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
    assert_eq!(config.replica.sqlite.path, PathBuf::from("/replica/replica.db"));
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
fn defaults_reach_topics_and_tables_that_say_nothing() {
    let config = example("debezium.yaml").config;
    let on_error: Vec<OnError> = config.topics.iter().map(|topic| topic.on_error).collect();
    assert_eq!(on_error, [OnError::Stop, OnError::DeadLetter, OnError::DeadLetter]);
    let products = &config.tables[0];
    assert_eq!(products.columns[6].encoding, Some(Encoding::Days));
    let from = Expression::Path(Path { root: Root::Event, fields: vec!["source".into(), "db".into()] });
    assert_eq!(products.columns[8].from, Some(from));
    let key_from = Path { root: Root::Key, fields: vec!["Id".into()] };
    assert_eq!(config.tables[2].sources[0].key_from[&0], key_from);
}

#[test]
fn secrets_are_files_and_nothing_else() {
    let config = example("secured.yaml").config;
    assert_eq!(config.kafka.secrets["sasl.password"], PathBuf::from("/run/secrets/kafka/password"));
    assert_eq!(config.kafka.properties["group.id"], "orders-readside");
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
    for name in ["READSIDE__KAFKA__PROPERTIES__SASL__PASSWORD", "READSIDE__KAFKA__SECRET__SASL__PASSWORD"] {
        let errors = parse(&minimal(), "f.yaml", variables(&[(name, secret)])).unwrap_err();
        assert!(!format!("{errors} {errors:?}").contains(secret), "{errors}");
    }
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
    assert_eq!(config.replica.sqlite.path, PathBuf::from("/elsewhere/r.db"));
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
    assert!(with("READSIDE__SCHEMA_REGISTRY", "a").contains("this version does not support"));
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

/// The key is the only one of its section that is wrong: it is read, and its problem is found there.
#[test]
fn every_described_key_is_read() {
    let mut seen = 0;
    let mut visit = |path: &[&str], key: &'static Key| {
        seen += 1;
        // A mapping where a value is expected, a value where a mapping is expected.
        let wrong = match key.shape {
            Shape::Section(_) | Shape::Map { .. } => "\"a text\"",
            _ => "{ a: { b: c } }",
        };
        let mut text = String::new();
        for (depth, name) in path.iter().enumerate() {
            text.push_str(&format!("{}{name}:\n", "  ".repeat(depth)));
        }
        text.push_str(&format!("{}{}: {wrong}\n", "  ".repeat(path.len()), key.name));
        let line = path.len() + 1;
        let found = parse(&text, "f.yaml", no_variables()).unwrap_err();
        let here: Vec<&Problem> = found
            .problems
            .iter()
            .filter(|problem| problem.place.line() == Some(line) && !problem.message.contains("is missing"))
            .collect();
        assert!(!here.is_empty(), "{text}\n{found}");
        assert!(here.iter().all(|problem| !problem.message.contains("unknown key")), "{text}\n{found}");
    };
    let mut todo: Vec<(Vec<&str>, &'static Section)> = vec![(vec![], &ROOT)];
    while let Some((path, section)) = todo.pop() {
        for key in section.keys() {
            visit(&path, key);
            let mut inner = path.clone();
            inner.push(key.name);
            match &key.shape {
                Shape::Section(section) => todo.push((inner, section)),
                Shape::Map { value: Shape::Section(section), .. } => {
                    inner.push("x");
                    todo.push((inner, section));
                }
                _ => {}
            }
        }
    }
    assert!(seen > 50, "{seen}");
}

#[test]
fn every_described_default_is_valid_and_every_section_is_described() {
    for_each_section(&mut |section| {
        assert!(!section.help.is_empty());
        for key in section.keys() {
            assert!(key.help.ends_with('.') || key.help.ends_with('`'), "{}.{}", section.name, key.name);
            if let Presence::Default(text) = key.presence {
                assert!(!text.is_empty());
            }
            assert!(!section.unsupported.contains(&key.name));
        }
    });
    // The minimal file uses all defaults; a wrong one would be missing from the result.
    example("minimal.yaml");
}

/// Checks a YAML tree against the schema: names by `properties`, shapes by `type` and `anyOf`.
fn check_schema(root: &Value, schema: &Value, node: &tree::Node, at: &str) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.strip_prefix("#/$defs/").unwrap();
        return check_schema(root, &root["$defs"][name], node, at);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let all: Vec<_> = any.iter().map(|schema| check_schema(root, schema, node, at)).collect();
        return match all.iter().any(Result::is_ok) {
            true => Ok(()),
            false => Err(format!("{at}: {all:?}")),
        };
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
        _ => vec!["string"],
    };
    match &node.content {
        tree::Content::Mapping(entries) => {
            if !types.contains(&"object") {
                return Err(format!("{at}: a mapping"));
            }
            for required in schema["required"].as_array().into_iter().flatten() {
                if !entries.iter().any(|entry| required == &Value::from(entry.key.as_str())) {
                    return Err(format!("{at}: {required} is missing"));
                }
            }
            for entry in entries {
                let inner = match &schema["properties"][&entry.key] {
                    Value::Null => &schema["additionalProperties"],
                    found => found,
                };
                let at = format!("{at}.{}", entry.key);
                if !inner.is_object() {
                    return Err(format!("{at}: unknown"));
                }
                check_schema(root, inner, &entry.value, &at)?;
            }
            Ok(())
        }
        tree::Content::Sequence(items) => {
            if !types.contains(&"array") {
                return Err(format!("{at}: a list"));
            }
            items.iter().try_for_each(|item| check_schema(root, &schema["items"], item, at))
        }
        tree::Content::Scalar { text, .. } => {
            if let Some(words) = schema["enum"].as_array() {
                return match words.contains(&Value::from(text.as_str())) {
                    true => Ok(()),
                    false => Err(format!("{at}: {text} is none of {words:?}")),
                };
            }
            match types.iter().any(|ty| matches!(*ty, "string" | "integer" | "number" | "boolean")) {
                true => Ok(()),
                false => Err(format!("{at}: a value")),
            }
        }
    }
}

#[test]
fn the_schema_knows_every_example() {
    let schema = schema::json_schema();
    for file in files("examples", "yaml") {
        let text = fs::read_to_string(&file).unwrap();
        let mut report = Report::default();
        let root = tree::read(&text, &"f.yaml".into(), &mut report).unwrap();
        check_schema(&schema, &schema, &root, &name_of(&file)).unwrap();
    }
}

#[test]
fn the_schema_has_every_key_that_is_read_and_no_other() {
    let schema = schema::json_schema();
    let definitions = schema["$defs"].as_object().unwrap();
    let mut sections = 0;
    for_each_section(&mut |section| {
        sections += 1;
        let described = match section.name {
            "the configuration" => &schema,
            name => &definitions[name.strip_prefix("a ").unwrap_or(name)],
        };
        let mut found: Vec<&String> = described["properties"].as_object().unwrap().keys().collect();
        let mut expected: Vec<&str> = section.keys().map(|key| key.name).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{}", section.name);
        assert_eq!(described["additionalProperties"], false);
    });
    assert_eq!(definitions.len() + 1, sections);
}

#[test]
fn an_invalid_name_is_refused_by_the_schema_check_too() {
    let schema = schema::json_schema();
    let mut report = Report::default();
    let root = tree::read(&minimal().replace("topic:", "topik:"), &"f.yaml".into(), &mut report).unwrap();
    assert_eq!(check_schema(&schema, &schema, &root, "f"), Err("f.tables.users.topik: unknown".into()));
}

#[test]
fn all_problems_are_found_at_once() {
    let said = errors(
        "kafka: { brokers: kafka }\nreplica: { sqlite: {} }\nfreshness: { interval: 1 }\ntables: { a: { key: id, columns: { id: int } } }\n",
    );
    assert_eq!(said.lines().count(), 5, "{said}");
}

fn any_example() -> impl Strategy<Value = Vec<u8>> {
    let texts: Vec<Vec<u8>> = files("examples", "yaml")
        .into_iter()
        .chain(files("invalid", "yaml"))
        .map(|file| fs::read(file).unwrap())
        .collect();
    prop::sample::select(texts)
}

/// Pieces that mean something to YAML or to the configuration.
const PIECES: &[&str] = &[
    "\n",
    "  ",
    "- ",
    ": ",
    "? ",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "'",
    "|\n",
    ">\n",
    "&a ",
    "*a",
    "!t ",
    "#",
    "---\n",
    "...\n",
    "%YAML 1.2\n",
    "~",
    "null",
    "\t",
    "\u{feff}",
    "\0",
    "topic: x\n",
    "key: []",
    "sources: [{topic: a}, {topic: b}]",
    "<<: ",
    "99999999999999999999d",
    ".a[0]",
    "$key",
    "events: {a: {patch: {}}}",
    "columns: {}",
    "é",
    "\r",
];

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse_bytes(&bytes, "f.yaml", no_variables());
    }

    #[test]
    fn no_yaml_like_text_makes_it_panic(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..60)) {
        let _ = parse(&pieces.concat(), "f.yaml", no_variables());
    }

    /// What is cut out of a good file, or put into it, gives a configuration or located errors.
    #[test]
    fn no_mutated_file_makes_it_panic(
        text in any_example(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, prop::sample::select(PIECES)), 1..6),
    ) {
        let mut bytes = text;
        for (at, cut, piece) in edits {
            let start = at.index(bytes.len() + 1);
            let end = (start + cut).min(bytes.len());
            bytes.splice(start..end, piece.bytes());
        }
        if let Err(errors) = parse_bytes(&bytes, "f.yaml", no_variables()) {
            prop_assert!(!errors.problems.is_empty());
            for problem in &errors.problems {
                prop_assert!(problem.to_string().starts_with("f.yaml:"), "{}", problem);
            }
        }
    }

    #[test]
    fn no_variable_makes_it_panic(name in "[A-Z_.a-z]{0,20}", value in any::<String>()) {
        let name = format!("READSIDE__{name}");
        let _ = parse(&minimal(), "f.yaml", [(name, value)].into_iter());
    }
}

/// Whatever is in 4 MiB, the answer comes soon: no step compares each line with each.
#[test]
fn a_large_wrong_file_is_answered() {
    let rows = |line: &str| (0..60_000).map(|n| line.replace('#', &n.to_string())).collect::<String>();
    for text in [
        rows("key#: x\n"),
        format!("tables:\n{}", rows("  t#: x\n")),
        format!("topics:\n{}", rows("  t#: x\n")),
        format!("topics: {{ a: {{ ignore: [{}] }} }}\n", rows("e#, ")),
        format!("tables: {{ a: {{ columns: {{ {} }} }} }}\n", rows("c#: text, ")),
        format!("tables: {{ a: {{ columns: {{ id: text }}, key: [{}] }} }}\n", rows("c#, ")),
        format!("kafka: {{ properties: {{ {} }} }}\n", rows("p.#: x, ")),
    ] {
        let found = parse(&text, "f.yaml", no_variables()).unwrap_err();
        assert!(found.problems.len() <= 101, "{}", found.problems.len());
    }
}
