//! `topics`, and what the sources of tables say about their topics.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::config::fields::{Fields, Given, entries, few, scalar};
use crate::config::model::{
    EventIds, Expression, Format, KeyFormat, OnError, OnGap, Otherwise, Path, Root, Snapshots, Topic,
};
use crate::config::problem::{Place, Problem, Report};
use crate::config::scalar::{file, text, topic_name, word};
use crate::config::sections::TOPIC;
use crate::config::tree::{Content, Node};
use crate::config::words::Word as _;
use crate::domain::event_ids::WINDOW_DEFAULT;

use super::Defaults;
use super::evolution::{self, Schema, Upcasts};
use super::sources::{event_id, event_type, event_types, on_gap, version, window};

/// What Debezium sends unless `unavailable.value.placeholder` says otherwise.
const PLACEHOLDER: &str = "__debezium_unavailable_value";

const TOPICS_MAX: usize = 1_000;

/// All topics by name: declared ones and those that tables name.
#[derive(Default)]
pub(super) struct Topics {
    drafts: BTreeMap<String, Draft>,
}

/// What is known about one topic; each setting may be repeated but not contradicted.
#[derive(Default)]
struct Draft {
    /// Where it stands under `topics`.
    declared: Option<Place>,
    format: Option<Given<Format>>,
    key_format: Option<Given<KeyFormat>>,
    event_type: Option<Given<Expression>>,
    version: Option<Given<Expression>>,
    /// `version: position`.
    by_position: Option<Given<()>>,
    event_id: Option<Given<Expression>>,
    event_id_window: Option<Given<usize>>,
    ignore: Option<Given<Vec<String>>>,
    otherwise: Option<Given<Otherwise>>,
    on_error: Option<Given<OnError>>,
    on_gap: Option<Given<OnGap>>,
    placeholder: Option<Given<String>>,
    snapshots: Option<Given<Snapshots>>,
    schema_file: Option<Given<PathBuf>>,
    message: Option<Given<String>>,
    schema: Option<Given<Schema>>,
    upcast: Option<Given<Upcasts>>,
    uses: Vec<Use>,
    /// A setting was wrong, and reported: what follows from it is not checked.
    broken: bool,
}

/// A table that is fed by the topic.
pub(super) struct Use {
    /// Where the table names the topic.
    pub place: Place,
    /// Where its `events` are, and the types they name.
    pub events: Option<Given<Vec<Given<String>>>>,
    /// A patch becomes a dead letter where its row is missing.
    pub patches_need_rows: bool,
    /// How many columns of the table's key are not constant.
    pub key_columns: usize,
    /// Columns that take something of the schema: what, and where the table names the topic.
    pub schema_facts: Vec<(String, Place)>,
    /// A `when` that compares a field of the value.
    pub when_field: Option<Place>,
    /// A column that takes a field of the value rather than the value, the key or a constant.
    pub field_column: Option<String>,
    /// A column of bytes.
    pub blob_column: Option<String>,
}

impl Topics {
    /// Reads `topics`.
    pub fn declare(&mut self, report: &mut Report, node: &Node) {
        let topics = entries(report, node, "`topics`").unwrap_or_default();
        if !few(report, node, topics, TOPICS_MAX, "topics") {
            return;
        }
        for entry in topics {
            if let Err(wrong) = topic_name(&entry.key) {
                report.push(Problem::new(&entry.key_place, wrong.message).about(&entry.key));
                continue;
            }
            let draft = self.drafts.entry(entry.key.clone()).or_default();
            draft.declared = Some(entry.key_place.clone());
            if let Some(fields) = Fields::open(report, &entry.value, &TOPIC) {
                draft.settle(report, &fields, &entry.key);
            }
        }
    }

    /// Adds what a source of a table says about its topic.
    pub fn settle(&mut self, report: &mut Report, topic: &str, fields: &Fields) {
        self.drafts.entry(topic.to_owned()).or_default().settle(report, fields, topic);
    }

    pub fn add_use(&mut self, topic: &str, used: Use) {
        self.drafts.entry(topic.to_owned()).or_default().uses.push(used);
    }

    /// Checks each topic against the tables that it feeds.
    pub fn check(&self, report: &mut Report, has_registry: bool) {
        for (name, draft) in &self.drafts {
            draft.check(report, name);
            draft.check_schema(report, name, has_registry);
        }
    }

    /// Where `upcast` of each topic is.
    pub fn upcasts(&self) -> BTreeMap<String, Place> {
        let place = |draft: &Draft| Some(draft.upcast.as_ref()?.place.clone());
        self.drafts.iter().filter_map(|(name, draft)| Some((name.clone(), place(draft)?))).collect()
    }

    /// In ascending order: the position in this list is the topic's index.
    pub fn names(&self) -> Vec<String> {
        self.drafts.keys().cloned().collect()
    }

    /// What orders the events of this topic; `None` where that cannot be told after a problem.
    pub fn order(&self, topic: &str) -> Option<Order> {
        match self.drafts.get(topic) {
            Some(draft) if draft.broken => None,
            Some(draft) if draft.version.is_some() => Some(Order::Declared),
            Some(draft) if draft.by_position.is_some() => Some(Order::Position),
            Some(draft) if draft.format().is_debezium() => Some(Order::Debezium),
            _ => Some(Order::Position),
        }
    }

    pub fn finish(self, defaults: &Defaults) -> Vec<Topic> {
        self.drafts.into_iter().map(|(name, draft)| draft.finish(name, defaults)).collect()
    }
}

/// What `version` says where the order is that of the log.
const BY_POSITION: &str = "position";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// By the field that `version` names.
    Declared,
    /// By Debezium's `source.sequence`.
    Debezium,
    Position,
}

impl Draft {
    fn format(&self) -> Format {
        self.format.as_ref().map_or(Format::Json, |given| given.value)
    }

    /// Reads the topic's own keys, from `topics` or from a source.
    fn settle(&mut self, report: &mut Report, fields: &Fields, topic: &str) {
        let mut agree = Agree { report, topic, broken: false };
        agree.take(&mut self.format, fields, "format", |report, node| scalar(report, node, word));
        agree.take(&mut self.key_format, fields, "key_format", |report, node| scalar(report, node, word));
        agree.take(&mut self.event_type, fields, "event_type", event_type);
        let differed = self.version.is_some() && self.by_position.is_some();
        match fields.get("version").map(|node| &node.content) {
            Some(Content::Scalar { text, .. }) if text == BY_POSITION => {
                let given =
                    |_: &mut Report, node: &Node| Some(Given { value: (), place: node.place.clone() });
                agree.take(&mut self.by_position, fields, "version", given);
            }
            _ => agree.take(&mut self.version, fields, "version", version),
        }
        if let (Some(field), Some(position), false) = (&self.version, &self.by_position, differed) {
            let in_order = field.place < position.place;
            let (earlier, place) =
                if in_order { (&field.place, &position.place) } else { (&position.place, &field.place) };
            agree.report.error(place, agree.differs("version", earlier));
        }
        agree.take(&mut self.event_id, fields, "event_id", event_id);
        agree.take(&mut self.event_id_window, fields, "event_id_window", window);
        agree.take(&mut self.ignore, fields, "ignore", event_types);
        agree.take(&mut self.otherwise, fields, "otherwise", |report, node| scalar(report, node, word));
        agree.take(&mut self.on_error, fields, "on_error", |report, node| scalar(report, node, word));
        agree.take(&mut self.on_gap, fields, "on_gap", on_gap);
        agree.take(&mut self.placeholder, fields, "placeholder", |report, node| scalar(report, node, text));
        agree.take(&mut self.snapshots, fields, "snapshots", |report, node| scalar(report, node, word));
        agree.take(&mut self.schema_file, fields, "schema_file", |report, node| scalar(report, node, file));
        agree.take(&mut self.message, fields, "message", |report, node| scalar(report, node, text));
        agree.take(&mut self.schema, fields, "schema", evolution::lower_schema);
        agree.take(&mut self.upcast, fields, "upcast", evolution::lower_upcasts);
        self.broken |= agree.broken;
    }

    fn check(&self, report: &mut Report, name: &str) {
        if let (Some(declared), true) = (&self.declared, self.uses.is_empty()) {
            report.push_warning(Problem::new(declared, "no table is fed by this topic").about(name));
        }
        self.check_key_format(report, name);
        self.check_event_id(report, name);
        self.check_schema_facts(report, name);
        if !self.broken {
            let types = self.uses.iter().filter_map(|used| used.events.as_ref());
            let types = types.flat_map(|events| &events.value).map(|event| event.value.as_str());
            let types: Vec<&str> = types.collect();
            let (schema, upcast) = (self.schema.as_ref(), self.upcast.as_ref());
            evolution::check(report, name, self.format(), (schema, upcast), &types);
        }
        if let (Some(given), false, false) = (&self.snapshots, self.format().is_debezium(), self.broken) {
            let message = format!("`snapshots` means something in Debezium's formats only, not for `{name}`");
            report.error(&given.place, message);
        }
        match self.format() {
            _ if self.broken => {}
            format if format.is_debezium() => {
                self.check_rows(report, name);
                self.check_flattened(report, name);
            }
            format if format.is_mysql() => {
                self.check_rows(report, name);
                self.check_canal(report, name);
            }
            Format::Raw => {
                self.check_rows(report, name);
                self.check_raw(report, name);
            }
            format => self.check_events(report, name, format),
        }
    }

    /// A record key that is one text cannot say which row of a table with several key columns goes.
    fn check_key_format(&self, report: &mut Report, name: &str) {
        let Some(Given { value: KeyFormat::Text, .. }) = self.key_format else { return };
        for used in self.uses.iter().filter(|used| used.events.is_none() && used.key_columns > 1) {
            let message = format!(
                "record keys of the topic `{name}` are single texts (`key_format: text`), and this table has {} key columns",
                used.key_columns
            );
            report.error(&used.place, message);
        }
    }

    fn check_event_id(&self, report: &mut Report, name: &str) {
        let Some(event_id) = &self.event_id else {
            if let Some(window) = &self.event_id_window
                && !self.broken
            {
                let message = format!("`event_id_window` needs `event_id`, which is not given for `{name}`");
                report.error(&window.place, message);
            }
            return;
        };
        if self.format().is_debezium() {
            let why = match self.by_position {
                None => "carry their order, so that a repeated one changes nothing",
                Some(_) => "have no id that one keeps when it is sent again",
            };
            let message = format!(
                "`event_id` cannot be given for `{name}`: events in the format `{}` {why}",
                self.format().word()
            );
            report.error(&event_id.place, message);
        }
        // Whether such a patch is applied only the replica knows, too late for the id of the event.
        for used in self.uses.iter().filter(|used| used.patches_need_rows) {
            let place = used.events.as_ref().map_or(&used.place, |events| &events.place);
            let message = format!(
                "the topic `{name}` has an `event_id`, with which a patch cannot have `if_missing: dead_letter`: sent again later, it would be skipped; `hold` keeps it until its row arrives"
            );
            report.error(place, message);
        }
    }

    /// Debezium's records are rows; nothing in them chooses a rule.
    fn check_rows(&self, report: &mut Report, name: &str) {
        let word = self.format().word();
        let not_here = format!("topics in the format `{word}` carry rows and have no event types");
        let instead = "leave it out, and give columns a `from`; a list in a row is one `json` column (`replace` with `each` needs events)";
        let mut is_said = false;
        for events in self.uses.iter().filter_map(|used| used.events.as_ref()) {
            let message = format!("`events` cannot be given for `{name}`: {not_here}; {instead}");
            report.error(&events.place, message);
            is_said = true;
        }
        for (given, key) in [
            (self.event_type.as_ref().map(|given| &given.place), "event_type"),
            (self.ignore.as_ref().map(|given| &given.place), "ignore"),
            (self.otherwise.as_ref().map(|given| &given.place), "otherwise"),
        ] {
            let Some(place) = given else { continue };
            let why = if is_said { " either".to_owned() } else { format!(": {not_here}") };
            report.error(place, format!("`{key}` cannot be given for `{name}`{why}"));
            is_said = true;
        }
    }

    /// Converters of keys and values are mostly the same.
    fn check_flattened(&self, report: &mut Report, name: &str) {
        if self.format() == Format::DebeziumFlat
            && let Some(given) = &self.key_format
            && matches!(given.value, KeyFormat::Avro | KeyFormat::Protobuf | KeyFormat::JsonSchema)
        {
            let word = given.value.word();
            let instead = match given.value {
                KeyFormat::Avro => "`format: debezium-flat-avro`".to_owned(),
                _ => format!("`format: {word}` and a `version`"),
            };
            let message = format!(
                "the values of `{name}` are read as JSON (`debezium-flat`), only its keys as this says; if values are written like keys, give {instead} (docs/FORMATS.md)"
            );
            report.push_warning(Problem::new(&given.place, message).about(word));
        }
    }

    fn check_raw(&self, report: &mut Report, name: &str) {
        let reads =
            "a value in the format `raw` has no fields; a column takes it as `.`, the record key as `$key`";
        for used in &self.uses {
            if let Some(column) = &used.field_column {
                let message = format!("the column `{column}` reads a field of the topic `{name}`: {reads}");
                report.error(&used.place, message);
            }
        }
        for place in self.uses.iter().filter_map(|used| used.when_field.as_ref()) {
            report.error(place, format!("`when` reads a field of the topic `{name}`: {reads}"));
        }
        for (source, key) in [(&self.version, "version"), (&self.event_id, "event_id")] {
            if let Some(source) = source
                && matches!(&source.value, Expression::Path(path) if path.root.is_value())
            {
                report.error(&source.place, format!("`{key}` of `{name}` reads a field: {reads}"));
            }
        }
    }

    /// What is not text in the database cannot be told from its text.
    fn check_canal(&self, report: &mut Report, name: &str) {
        if self.format() != Format::Canal {
            return;
        }
        for used in &self.uses {
            if let Some(column) = &used.blob_column {
                let message = format!(
                    "the column `{column}` is a blob, and records in the format `canal` have no bytes, only text of unknown encoding; the topic is `{name}`"
                );
                report.error(&used.place, message);
            }
        }
    }

    /// What only a schema says can only be read where there is one.
    fn check_schema_facts(&self, report: &mut Report, name: &str) {
        let format = self.format();
        let known: &[&str] = match (format, &self.schema_file) {
            _ if self.broken => return,
            (Format::Avro | Format::Protobuf, Some(_)) => &["name"],
            (Format::JsonSchema, _) => &["id", "version"],
            (format, None) if format.names_schema() => &["name", "id", "version"],
            _ => &[],
        };
        let declared = self.schema.iter().map(|given| (&given.value.version, &given.value.version_place));
        let sources = [&self.event_type, &self.version, &self.event_id].into_iter().flatten();
        let sources = sources.map(|given| (&given.value, &given.place));
        let columns = self.uses.iter().flat_map(|used| &used.schema_facts);
        let upcasts = self.upcast.iter().flat_map(|given| given.value.expressions());
        let facts = declared.chain(sources).chain(upcasts).filter_map(|(from, place)| match from {
            Expression::Path(Path { root: Root::Schema, fields }) => Some((fields.first()?, place)),
            _ => None,
        });
        for (fact, place) in facts.chain(columns.map(|(fact, place)| (fact, place))) {
            if !known.contains(&fact.as_str()) {
                let message =
                    format!("the topic `{name}` has no `$schema.{fact}`: its records name no such thing");
                report.error(place, message);
            }
        }
    }

    /// Where schemas come from.
    fn check_schema(&self, report: &mut Report, name: &str, has_registry: bool) {
        if self.broken {
            return;
        }
        let format = self.format();
        if let Some(file) = &self.schema_file
            && !matches!(format, Format::Avro | Format::Protobuf)
        {
            let message = format!(
                "`schema_file` means something in the formats `avro` and `protobuf` only, not for `{name}`"
            );
            report.error(&file.place, message);
        }
        match (&self.message, &self.schema_file) {
            (Some(message), None) => {
                report.error(&message.place, "`message` needs a `schema_file` that it is in");
            }
            (Some(message), Some(_)) if format != Format::Protobuf => {
                let text =
                    format!("`message` means something in the format `protobuf` only, not for `{name}`");
                report.error(&message.place, text);
            }
            (None, Some(file)) if format == Format::Protobuf => {
                report.error(
                    &file.place,
                    "`message` is missing: the full name of the values' message in this file",
                );
            }
            _ => {}
        }
        if has_registry {
            return;
        }
        if let (Some(given), true, None) = (&self.format, format.names_schema(), &self.schema_file) {
            let or_file = match format {
                Format::Avro | Format::Protobuf => ", or `schema_file` where values have no header",
                _ => "",
            };
            let message = format!("this format needs `schema_registry: {{ url: … }}`{or_file}");
            report.push(Problem::new(&given.place, message).about(format.word()));
        }
        if let Some(given) = &self.key_format
            && matches!(given.value, KeyFormat::Avro | KeyFormat::Protobuf | KeyFormat::JsonSchema)
        {
            let message = "this key format needs `schema_registry: { url: … }`";
            report.push(Problem::new(&given.place, message).about(given.value.word()));
        }
    }

    /// Formats whose records are rows or events, as the mapping says.
    fn check_events(&self, report: &mut Report, name: &str, format: Format) {
        if let Some(placeholder) = &self.placeholder {
            let message =
                format!("`placeholder` means something in Debezium's formats only, not for `{name}`");
            report.error(&placeholder.place, message);
        }
        // A CloudEvent has a type of its own, and so has what has a schema with a name.
        let has_type = matches!(format, Format::CloudEvents | Format::Avro | Format::Protobuf)
            && self.uses.iter().any(|used| used.events.is_some());
        if self.event_type.is_none() && !has_type {
            let with_events: Vec<&Place> =
                self.uses.iter().filter_map(|used| Some(&used.events.as_ref()?.place)).collect();
            for place in &with_events {
                let message = format!(
                    "`events` needs to know where the type is: give `event_type` for the topic `{name}`, such as `event_type: .type`"
                );
                report.error(place, message);
            }
            if with_events.is_empty() {
                for (place, key) in [
                    (self.ignore.as_ref().map(|given| &given.place), "ignore"),
                    (self.otherwise.as_ref().map(|given| &given.place), "otherwise"),
                ] {
                    if let Some(place) = place {
                        report.error(
                            place,
                            format!("`{key}` needs `event_type`, which is not given for `{name}`"),
                        );
                    }
                }
            }
            return;
        }
        for used in &self.uses {
            if used.events.is_none() {
                let message = format!(
                    "the topic `{name}` has an `event_type`: this table needs `events` that say what each type does"
                );
                report.error(&used.place, message);
            }
        }
        let ignored = self.ignore.as_ref();
        for events in self.uses.iter().filter_map(|used| used.events.as_ref()) {
            for event in &events.value {
                if ignored.is_some_and(|ignored| ignored.value.contains(&event.value)) {
                    let message = format!("the topic `{name}` ignores an event type that this table names");
                    report.push(Problem::new(&event.place, message).about(&event.value));
                }
            }
        }
    }

    fn finish(self, name: String, defaults: &Defaults) -> Topic {
        Topic {
            name,
            format: self.format(),
            key_format: self.key_format.map(|given| given.value),
            event_type: self.event_type.map(|given| given.value),
            version: self.version.map(|given| given.value),
            by_position: self.by_position.is_some(),
            event_ids: self.event_id.map(|given| EventIds {
                source: given.value,
                window: self.event_id_window.map_or(WINDOW_DEFAULT, |given| given.value),
            }),
            ignore: self.ignore.map(|given| given.value).unwrap_or_default(),
            otherwise: self.otherwise.map_or(Otherwise::DeadLetter, |given| given.value),
            on_error: self.on_error.map_or(defaults.on_error, |given| given.value),
            on_gap: self.on_gap.map_or(defaults.on_gap, |given| given.value),
            placeholder: self.placeholder.map_or_else(|| PLACEHOLDER.to_owned(), |given| given.value),
            snapshots: self.snapshots.map_or(Snapshots::Sweep, |given| given.value),
            schema_file: self.schema_file.map(|given| given.value),
            message: self.message.map(|given| given.value),
            evolution: self.schema.map(|given| given.value.with(self.upcast.map(|given| given.value))),
        }
    }
}

/// Takes settings of one topic from several places, which may repeat but not contradict.
struct Agree<'a> {
    report: &'a mut Report,
    topic: &'a str,
    broken: bool,
}

impl Agree<'_> {
    fn differs(&self, key: &str, earlier: &Place) -> String {
        format!(
            "`{key}` of the topic `{}` is given differently at {earlier}; say it once, under `topics`",
            self.topic
        )
    }

    fn take<T: PartialEq>(
        &mut self,
        slot: &mut Option<Given<T>>,
        fields: &Fields,
        key: &str,
        read: impl FnOnce(&mut Report, &Node) -> Option<Given<T>>,
    ) {
        let Some(node) = fields.get(key) else { return };
        let Some(given) = read(self.report, node) else {
            self.broken = true;
            return;
        };
        match slot {
            Some(earlier) if earlier.value != given.value => {
                let message = self.differs(key, &earlier.place);
                self.report.error(&given.place, message);
            }
            Some(_) => {}
            None => *slot = Some(given),
        }
    }
}
