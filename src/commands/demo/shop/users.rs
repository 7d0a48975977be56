//! The users of the shop: a PostgreSQL table as Debezium reports it (schemaless JSON, decimals as
//! strings, default replica identity).

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::random::Random;
use super::{Message, Row, boolean, money, timestamp};
use crate::domain::value::Value;

pub(super) const TOPIC: &str = "shop.public.users";
/// What Debezium sends for a long value that an update did not touch.
pub(super) const PLACEHOLDER: &str = "__debezium_unavailable_value";

/// Nobody's names.
const COLOURS: [&str; 12] = [
    "Amber", "Azure", "Coral", "Crimson", "Golden", "Hazel", "Indigo", "Ivory", "Jade", "Olive", "Scarlet",
    "Violet",
];
const BIRDS: [&str; 12] = [
    "Bunting", "Crane", "Finch", "Heron", "Kestrel", "Lapwing", "Linnet", "Plover", "Robin", "Starling",
    "Swift", "Wren",
];
const COUNTRIES: [&str; 8] = ["AT", "BR", "CA", "DE", "FR", "IN", "JP", "PT"];
/// Between two registrations before the snapshot.
const REGISTRATION_EVERY_MS: i64 = 8 * 3_600 * 1_000;
const PLANS: [&str; 4] = ["free", "free", "plus", "pro"];

#[derive(Debug, Clone)]
struct User {
    id: i64,
    email: String,
    full_name: String,
    country: &'static str,
    plan: &'static str,
    balance_cents: i64,
    newsletter: Option<bool>,
    /// Long where there is one, so that PostgreSQL keeps it out of line.
    bio: Option<String>,
    created_us: i64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Users {
    rows: BTreeMap<i64, User>,
    last_id: i64,
    log: Wal,
}

/// PostgreSQL's write-ahead log, as far as events show it.
#[derive(Debug, Clone)]
struct Wal {
    lsn: i64,
    last_commit: Option<i64>,
    transaction: i64,
    connector_run: i64,
}

impl Default for Wal {
    fn default() -> Self {
        Wal { lsn: 144_443_824, last_commit: None, transaction: 740, connector_run: 1 }
    }
}

/// The part of an event that differs between operations.
struct Envelope {
    op: &'static str,
    before: Json,
    after: Json,
    /// Where in a snapshot the event stands; null outside of one.
    snapshot: Json,
}

impl Envelope {
    fn new(op: &'static str, after: Json) -> Envelope {
        Envelope { op, before: Json::Null, after, snapshot: Json::Null }
    }
}

impl Users {
    /// What a first snapshot of the table reports.
    pub fn snapshot(&mut self, count: i64, random: &mut Random, now_ms: i64) -> Vec<Message> {
        let mut messages = Vec::new();
        for nth in 1..=count {
            let user = self.invent(random, now_ms - (count - nth) * REGISTRATION_EVERY_MS);
            let mark = match nth {
                1 => "first",
                _ if nth == count => "last",
                _ => "true",
            };
            let after = row_json(&user, false);
            let event = self.event(Envelope { snapshot: json!(mark), ..Envelope::new("r", after) }, now_ms);
            messages.push(self.message(user.id, Some(event)));
            self.rows.insert(user.id, user);
        }
        self.log.lsn += 56;
        messages
    }

    pub fn register(&mut self, random: &mut Random, now_ms: i64) -> Message {
        let user = self.invent(random, now_ms);
        self.begin(random);
        let event = self.event(Envelope::new("c", row_json(&user, false)), now_ms);
        let message = self.message(user.id, Some(event));
        self.commit();
        self.rows.insert(user.id, user);
        message
    }

    /// Somebody changes something about themselves.
    pub fn change(&mut self, id: i64, random: &mut Random, now_ms: i64) -> Option<Message> {
        let mut user = self.rows.get(&id)?.clone();
        let mut bio_changed = false;
        match random.between(0, 12) {
            0..4 => user.balance_cents += random.between(100, 20_000),
            4..6 => user.plan = random.pick(&PLANS),
            6..8 => user.newsletter = Some(!user.newsletter.unwrap_or(false)),
            8..10 => user.email = format!("user{}.{}@example.com", user.id, random.between(10, 99)),
            10 => user.country = random.pick(&COUNTRIES),
            _ => {
                bio_changed = true;
                user.bio = Some(invent_bio(&user.full_name, random));
            }
        }
        self.begin(random);
        let event = self.event(Envelope::new("u", row_json(&user, !bio_changed)), now_ms);
        let message = self.message(id, Some(event));
        self.commit();
        self.rows.insert(id, user);
        Some(message)
    }

    /// The delete and the tombstone behind it.
    pub fn leave(&mut self, id: i64, random: &mut Random, now_ms: i64) -> Vec<Message> {
        if self.rows.remove(&id).is_none() {
            return Vec::new();
        }
        // With the default replica identity only the key of `before` is real.
        let before = json!({
            "id": id, "email": "", "full_name": "", "country": "", "plan": "free", "balance": "0",
            "newsletter": null, "bio": null, "created_at": "1970-01-01T00:00:00.000000Z",
        });
        self.begin(random);
        let event = self.event(Envelope { before, ..Envelope::new("d", Json::Null) }, now_ms);
        let messages = vec![self.message(id, Some(event)), self.message(id, None)];
        self.commit();
        messages
    }

    /// The connector starts again; it will send its latest events once more.
    pub fn restart_connector(&mut self) {
        self.log.connector_run += 1;
    }

    /// Somebody who is there; `None` when nobody is.
    pub fn anybody(&self, random: &mut Random) -> Option<i64> {
        let from = random.between(1, self.last_id + 1);
        let (id, _) = self.rows.range(from..).next().or_else(|| self.rows.first_key_value())?;
        Some(*id)
    }

    /// Rows as the replica should have them, in the column order of the configuration.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::with_capacity(self.rows.len());
        for user in self.rows.values() {
            rows.push(vec![
                Value::Integer(user.id),
                Value::Text(user.email.clone()),
                Value::Text(user.full_name.clone()),
                Value::Text(user.country.to_owned()),
                Value::Text(user.plan.to_owned()),
                Value::Text(money(user.balance_cents)),
                user.newsletter.map_or(Value::Null, boolean),
                user.bio.clone().map_or(Value::Null, Value::Text),
                Value::Text(timestamp(user.created_us)),
            ]);
        }
        rows
    }

    fn invent(&mut self, random: &mut Random, now_ms: i64) -> User {
        self.last_id += 1;
        let full_name = format!("{} {}", random.pick(&COLOURS), random.pick(&BIRDS));
        let bio = random.percent(4).then(|| invent_bio(&full_name, random));
        User {
            id: self.last_id,
            email: format!("user{}@example.com", self.last_id),
            full_name,
            country: random.pick(&COUNTRIES),
            plan: random.pick(&PLANS),
            balance_cents: random.between(0, 50_000),
            newsletter: random.percent(70).then(|| random.percent(50)),
            bio,
            created_us: now_ms * 1_000 + random.between(0, 1_000),
        }
    }

    /// Every change is a transaction of its own.
    fn begin(&mut self, random: &mut Random) {
        self.log.lsn += random.between(56, 4_000);
        self.log.transaction += 1;
    }

    fn commit(&mut self) {
        self.log.lsn += 48;
        self.log.last_commit = Some(self.log.lsn);
    }

    fn event(&self, envelope: Envelope, now_ms: i64) -> Json {
        let Envelope { op, before, after, snapshot } = envelope;
        let Wal { lsn, last_commit, transaction, .. } = self.log;
        let sequence = json!([last_commit.map(|lsn| lsn.to_string()), lsn.to_string()]).to_string();
        json!({
            "before": before,
            "after": after,
            "source": {
                "version": "3.6.1.Final", "connector": "postgresql", "name": "shop", "ts_ms": now_ms,
                "snapshot": snapshot, "db": "shop", "sequence": sequence, "schema": "public",
                "table": "users", "txId": transaction, "lsn": lsn, "xmin": null,
            },
            "transaction": null,
            "op": op,
            "ts_ms": now_ms + 4,
        })
    }

    fn message(&self, id: i64, event: Option<Json>) -> Message {
        let run = format!("5f0c1d6e-0000-4000-8000-{:012x}", self.log.connector_run);
        Message {
            topic: TOPIC,
            key: json!({ "id": id }).to_string(),
            value: event.map(|event| event.to_string()),
            headers: vec![
                ("__debezium.context.connectorLogicalName", "shop".into()),
                ("__debezium.context.taskId", "0".into()),
                ("__debezium.context.connectorName", "postgresql".into()),
                ("__debezium.context.runId", run),
            ],
        }
    }
}

fn row_json(user: &User, bio_untouched: bool) -> Json {
    let bio = match &user.bio {
        Some(_) if bio_untouched => json!(PLACEHOLDER),
        bio => json!(bio),
    };
    json!({
        "id": user.id, "email": user.email, "full_name": user.full_name, "country": user.country,
        "plan": user.plan, "balance": money(user.balance_cents), "newsletter": user.newsletter,
        "bio": bio, "created_at": timestamp(user.created_us),
    })
}

/// More than the 2 kB from which PostgreSQL keeps a value out of line.
fn invent_bio(name: &str, random: &mut Random) -> String {
    const LIKES: [&str; 6] =
        ["long walks", "old maps", "green tea", "chess by mail", "small boats", "night trains"];
    let mut bio = format!("{name} likes");
    while bio.len() < 2_100 {
        bio.push(' ');
        bio.push_str(random.pick(&LIKES));
        bio.push(',');
    }
    bio.push_str(" and the sea.");
    bio
}
