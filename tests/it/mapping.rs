//! What a mapping can say, against a real broker: the examples of `config/examples` that are about it.

use crate::daemon::{Daemon, header, reader, rows};
use crate::examples::{dead_letters, example, feed, start};
use crate::formats::Avro;
use crate::kafka::{self, Message};
use crate::registry;

#[test]
fn what_the_log_knows_of_a_record_becomes_columns() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    for (topic, partitions) in [("parcels.eu", 2), ("parcels.us", 1), ("parcels.audit", 2)] {
        broker.create_topic(topic, partitions, &[]);
    }
    let event = |message: Message, kind: &str, id: &str, sequence: u32| {
        let message = message.header("type", kind.as_bytes()).header("id", id.as_bytes());
        message.header("sequence", sequence.to_string().as_bytes())
    };
    broker.produce(
        "parcels.eu",
        [
            event(Message::new("1", "{}"), "ParcelDelivered", "e2", 2).to(0),
            event(Message::new("1", "{}"), "ParcelSent", "e1", 1).header("trace-id", b"t1").to(1),
            event(Message::new("2", "{}"), "ParcelSent", "e3", 3).to(0),
            // Once more, and a type that the tombstone has.
            event(Message::new("2", "{}"), "ParcelSent", "e3", 9).to(0),
            event(Message::tombstone("2"), "ParcelForgotten", "e4", 4).to(0),
            // Without a version, without a type, with another key than a number.
            Message::new("3", "{}").header("type", b"ParcelSent").header("id", b"e5").to(0),
            Message::new("3", "{}").to(0),
            event(Message::new("three", "{}"), "ParcelSent", "e6", 1).to(0),
        ],
    );
    broker.produce("parcels.us", [event(Message::new("1", "{}"), "ParcelSent", "e1", 1)]);
    broker.produce(
        "parcels.audit",
        [
            Message::without_key(r#"{"what":"a"}"#).to(1),
            Message::without_key(r#"{"what":"b"}"#).to(1),
            Message::without_key(r#"{"what":"c"}"#).to(0),
        ],
    );
    let mut daemon = start(dir.path(), &example("metadata.yaml"), &broker.bootstrap(), &[]);
    daemon.started();
    let connection = reader(dir.path());
    let parcels = "SELECT origin, id, status, trace FROM parcels ORDER BY origin, id";
    let expected = ["parcels.eu|1|delivered|t1", "parcels.us|1|sent|NULL"];
    assert_eq!(rows(&connection, parcels), expected);
    let now = "SELECT count(*) FROM parcels WHERE changed_at > datetime('now', '-1 day')";
    assert_eq!(rows(&connection, now), ["2"]);
    let journal = "SELECT part, nr, what FROM journal ORDER BY part, nr";
    assert_eq!(rows(&connection, journal), ["0|0|c", "1|0|a", "1|1|b"]);
    assert_eq!(
        dead_letters(dir.path()),
        [
            "parcels.eu|version|$headers.sequence",
            "parcels.eu|unknown_type|$headers.type",
            "parcels.eu|wrong_type|$key",
        ]
    );
    let forgotten = event(Message::tombstone("1"), "ParcelForgotten", "e2", 2);
    feed(&mut daemon, broker, "parcels.us", [forgotten]);
    assert_eq!(rows(&connection, parcels), expected[..1]);
}

#[test]
fn what_a_path_cannot_say_is_calculated() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = "baskets.events";
    broker.create_topic(topic, 2, &[]);
    let event = |name: &str, id: u32, epoch: u32, sequence: u32, rest: &str| {
        let meta = format!(
            r#"{{"name":"shop.basket.{name}","epoch":{epoch},"sequence":{sequence},"source":"s","id":"{id}-{epoch}-{sequence}"}}"#
        );
        Message::without_key(format!(r#"{{"meta":{meta},"id":{id}{rest}}}"#))
    };
    let lines = r#","lines":[{"sku":"b","quantity":3,"price":19.99},{"sku":"a","quantity":1,"price":0.10},{"sku":"b","quantity":1,"price":1}]"#;
    let contacts = r#","phone":"+49 (30) 1234-5","contacts":[{"kind":"fax","value":"1"},{"kind":"mail","value":"ADA@x.org"},{"kind":"mail","value":"b@x"}]"#;
    broker.produce(
        topic,
        [
            // The newer epoch wins over the higher sequence.
            event("Changed", 1, 2, 1, &format!("{lines}{contacts}")).header("user", b"eve@shop").to(0),
            event("Changed", 1, 1, 9, r#","lines":[]"#).to(1),
            event("Changed", 2, 1, 1, r#","lines":[],"comment":"later""#).to(1),
            event("Changed", 2, 1, 1, r#","lines":[],"comment":"once more""#).to(1),
            event("Emptied", 3, 1, 2, "").to(0),
            event("Changed", 3, 1, 1, lines).to(1),
            // Wrong ones: no lines, lines that are text, too much of something.
            event("Changed", 4, 1, 1, "").to(0),
            event("Changed", 4, 1, 2, r#","lines":[{"sku":"a","quantity":"3","price":{}}]"#).to(0),
            event(
                "Changed",
                4,
                1,
                3,
                &format!(r#","lines":[{{"sku":"a","quantity":100000000,"price":"{}"}}]"#, "x".repeat(100)),
            )
            .to(0),
            Message::without_key(r#"{"meta":{"name":5}}"#).to(0),
        ],
    );
    let mut daemon = start(dir.path(), &example("jq.yaml"), &broker.bootstrap(), &[]);
    daemon.started();
    let connection = reader(dir.path());
    let all = "SELECT id, total, positions, skus, mail, phone, note, changed_by FROM baskets ORDER BY id";
    assert_eq!(
        rows(&connection, all),
        [
            r#"1|61.07|3|["a","b"]|ada@x.org|+493012345|NULL|eve"#,
            "2|0|0|[]|NULL|NULL|later|unknown",
            "3|0|0|[]|NULL|NULL|NULL|unknown",
        ]
    );
    let letters = "SELECT reason, path, message FROM _readside_dead_letters ORDER BY \"offset\"";
    assert_eq!(
        rows(&connection, letters),
        [
            "expression|[.lines[] | .quantity * .price] | add // 0|cannot iterate over null",
            "expression|[.lines[] | .quantity * .price] | add // 0|cannot multiply a string and an object",
            "expression_limit|[.lines[] | .quantity * .price] | add // 0|makes too many or too large values",
            "expression|.meta.name | split(\".\") | last|a number where a string is needed",
        ]
    );
    for (reason, count) in [("expression", 3.0), ("expression_limit", 1.0)] {
        let series = format!("readside_dead_letters_total{{reason=\"{reason}\",topic=\"{topic}\"}}");
        assert_eq!(daemon.metric(&series), Some(count), "{series}");
    }
    feed(&mut daemon, broker, topic, [event("Dropped", 1, 2, 2, "")]);
    assert_eq!(rows(&connection, all).len(), 2);
}

#[test]
fn rows_that_stop_to_match_are_deleted_and_rules_choose_their_events() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    for topic in ["catalog.articles", "shop.public.stock", "reviews.events"] {
        broker.create_topic(topic, 2, &[]);
    }
    let article = |sku: &str, revision: u32, status: &str, market: &str| {
        Message::new(
            sku,
            format!(
                r#"{{"sku":"{sku}","title":"t{revision}","price":"1.50","revision":{revision},"status":"{status}","market":{market}}}"#
            ),
        )
    };
    broker.produce(
        "catalog.articles",
        [
            article("a", 1, "published", "\"eu\"").to(0),
            article("b", 1, "published", "null").to(0),
            article("c", 1, "draft", "\"eu\"").to(0),
            article("d", 1, "published", "\"us\"").to(0),
            // No longer wanted, in whatever order the revisions come.
            article("a", 3, "retired", "\"eu\"").to(1),
            article("a", 2, "published", "\"eu\"").to(0),
            article("e", 2, "published", "\"eu\"").to(1),
            article("e", 1, "draft", "\"eu\"").to(0),
        ],
    );
    let stock = |id: u32, quantity: &str, lsn: u32| {
        let sequence = format!(r#"[\"{lsn}\",\"{lsn}\"]"#);
        let value = format!(
            r#"{{"before":null,"after":{{"id":{id},"sku":"s{id}","quantity":{quantity}}},"op":"u","source":{{"sequence":"{sequence}"}}}}"#
        );
        Message::new(format!(r#"{{"id":{id}}}"#), value)
    };
    broker.produce(
        "shop.public.stock",
        [stock(1, "5", 10), stock(2, "1", 11), stock(2, "0", 12), stock(3, "null", 13)],
    );
    let review =
        |id: u32, rest: &str| Message::without_key(format!(r#"{{"id":{id},"sku":"a",{rest}}}"#)).to(0);
    broker.produce(
        "reviews.events",
        [
            review(1, r#""type":"Reviewed","stars":5"#),
            review(2, r#""type":"Reviewed","stars":1"#),
            review(3, r#""type":"Reviewed","stars":4,"flags":["x","spam"]"#),
            review(4, r#""type":"Reviewed","stars":4,"flags":["x"]"#),
            review(1, r#""type":"Answered","text":"thanks","public":true"#),
            review(4, r#""type":"Answered","text":"secret","public":false"#),
            review(4, r#""type":"Withdrawn","reason":"test""#),
        ],
    );
    let mut daemon = start(dir.path(), &example("when.yaml"), &broker.bootstrap(), &[]);
    daemon.started();
    let connection = reader(dir.path());
    let articles = "SELECT sku, title FROM articles ORDER BY sku";
    assert_eq!(rows(&connection, articles), ["b|t1", "e|t2"]);
    assert_eq!(rows(&connection, "SELECT id, quantity FROM stock"), ["1|5"]);
    let reviews = "SELECT id, stars, answer FROM reviews ORDER BY id";
    assert_eq!(rows(&connection, reviews), ["1|5|thanks", "4|4|NULL"]);
    assert_eq!(dead_letters(dir.path()), [""; 0]);
    let filtered = "readside_events_skipped_total{reason=\"filtered\",topic=\"reviews.events\"}";
    assert_eq!(daemon.metric(filtered), Some(2.0));
    feed(&mut daemon, broker, "reviews.events", [review(1, r#""type":"Reviewed","stars":2"#)]);
    assert_eq!(rows(&connection, reviews), ["4|4|NULL"]);
    // Wanted again: whole, without what it had before.
    feed(&mut daemon, broker, "reviews.events", [review(1, r#""type":"Reviewed","stars":3"#)]);
    assert_eq!(rows(&connection, reviews), ["1|3|NULL", "4|4|NULL"]);
    feed(&mut daemon, broker, "catalog.articles", [article("c", 2, "published", "\"eu\"")]);
    assert_eq!(rows(&connection, articles), ["b|t1", "c|t2", "e|t2"]);
}

/// What is personal stays out of the files of the replica and out of the log, by whatever way.
#[test]
fn personal_data_is_hashed_masked_or_dropped_and_nowhere_in_clear() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (accounts, logins) = ("accounts.current", "logins.events");
    for topic in [accounts, logins] {
        broker.create_topic(topic, 1, &[]);
    }
    const MAIL: &str = "canary-mail@x.org";
    let account = |mail: &str, phone: &str, more: &str| {
        Message::new(
            mail,
            format!(r#"{{"email":"{mail}","phone":{phone},"country":"DE","contact_name":"Ada","secret":"canary-unmapped"{more}}}"#),
        )
        .header("who", b"canary-header")
    };
    let login = |id: u32, mail: &str| {
        let value = format!(
            r#"{{"id":"00000000-0000-4000-8000-00000000000{id}","user":{{"email":"{mail}"}},"ip":"192.0.2.{id}","at":"2026-03-01T12:00:00Z"}}"#
        );
        Message::without_key(value)
    };
    broker.produce(
        accounts,
        [
            account(
                MAIL,
                "\"+49 canary 5678\"",
                r#","date_of_birth":"canary-day","company_address":"Main St""#,
            ),
            account("b@x.org", "null", ""),
            // Refused in every way.
            account("canary-1@x", "[\"canary-list\"]", ""),
            account("canary-2@x", "\"1\",\"phone\":\"canary-twice\"", ""),
            Message::new("canary-3@x", "{\"email\":\"canary-broken"),
            Message::new("canary-4@x", r#"{"email":{"canary":1},"country":"DE"}"#),
            Message::tombstone("b@x.org"),
        ],
    );
    let wrong = r#"{"id":"canary-id","user":{"email":7},"ip":"canary-ip","at":"canary-at"}"#;
    broker.produce(
        logins,
        [login(1, &MAIL.to_uppercase()), login(2, "other@x.org"), Message::without_key(wrong)],
    );
    let key = dir.path().join("hash-key");
    std::fs::write(&key, "canary-key-canary-key\n").unwrap();
    let key = key.display().to_string();
    let variables = [("READSIDE__PERSONAL__HASH_KEY_FILE", key.as_str()), ("READSIDE__LOG__LEVEL", "trace")];
    let mut daemon = start(dir.path(), &example("personal.yaml"), &broker.bootstrap(), &variables);
    daemon.started();
    let connection = reader(dir.path());
    let joined = "SELECT length(email), phone, date_of_birth, country, company_address, contact_name, ip FROM accounts \
                  JOIN logins ON account = email";
    assert_eq!(rows(&connection, joined), ["64|+** ****** 5678|NULL|DE|Main St|Ada|192.0.2.0"]);
    assert_eq!(rows(&connection, "SELECT count(*) FROM accounts"), ["1"], "a tombstone finds the hashed key");
    assert_eq!(rows(&connection, "SELECT count(*) FROM logins"), ["2"]);
    assert_eq!(dead_letters(dir.path()).len(), 5);
    let said = |daemon: &mut crate::daemon::Daemon| {
        let mut said = daemon.log().to_lowercase();
        for path in ["/status", "/dead-letters?bytes=true"] {
            said.push_str(&daemon.admin(path).expect("an answer").1.to_lowercase());
        }
        said
    };
    assert!(!said(&mut daemon).contains("canary"), "{}", said(&mut daemon));
    drop(daemon);
    let mut looked_at = 0;
    for file in std::fs::read_dir(crate::daemon::replica(dir.path()).parent().unwrap()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        looked_at += bytes.len();
        let lower = bytes.to_ascii_lowercase();
        assert!(!lower.windows(6).any(|window| window == b"canary"), "in clear in the replica");
        assert!(!lower.windows(7).any(|window| window == b"b@x.org"));
    }
    assert!(looked_at > 10_000);

    // Another key is another mapping: the copy is built anew.
    std::fs::write(&key, "another-key-another-key\n").unwrap();
    let before = rows(&reader(dir.path()), "SELECT account FROM logins ORDER BY id");
    let mut daemon = start(dir.path(), &example("personal.yaml"), &broker.bootstrap(), &variables);
    crate::kafka::eventually("a copy under the new key", || {
        daemon.get("/startupz").filter(|(status, _)| *status == 200)?;
        let after = rows(&reader(dir.path()), "SELECT account FROM logins ORDER BY id");
        (after.len() == 2 && after[0] != before[0]).then_some(())
    });
    // And without one nothing begins.
    drop(daemon);
    std::fs::write(&key, "short").unwrap();
    let mut daemon = start(dir.path(), &example("personal.yaml"), &broker.bootstrap(), &variables);
    assert_eq!(daemon.wait().code(), Some(64));
    assert!(daemon.log().contains("the key of hashed columns has 5 bytes"), "{}", daemon.log());
}

#[test]
fn events_of_every_version_lead_to_the_same_rows() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = "orders.history";
    broker.create_topic(topic, 2, &[]);
    let placed = |schema: &str, sequence: u32, order: &str| {
        Message::without_key(format!(
            r#"{{"type":"OrderPlaced",{schema}"sequence":{sequence},"order":{order}}}"#
        ))
    };
    broker.produce(
        topic,
        [
            placed("", 1, r#"{"id":1,"customer":7,"total":1.50,"weight_kilos":0.5}"#).to(0),
            placed(r#""schema":2,"#, 2, r#"{"id":2,"customer":{"id":7},"total":1.50,"currency":"EUR"}"#).to(1),
            placed(r#""schema":"3","#, 3, r#"{"id":3,"customer":{"id":7},"amount":{"value":1.50,"currency":"EUR"},"channel":"shop","weight_grams":9}"#).to(0),
            placed(r#""schema":1,"#, 4, r#"{"id":4,"customer":7,"total":2,"currency":"CHF"}"#).to(0),
            Message::without_key(r#"{"type":"OrderShipped","schema":1,"sequence":5,"order_id":1}"#).to(1),
            // Of the wrong shape for their version, and of one that nobody has declared.
            placed(r#""schema":3,"#, 6, r#"{"id":5,"customer":7,"total":1.50}"#).to(0),
            placed(r#""schema":4,"#, 7, r#"{"id":6}"#).to(0),
        ],
    );
    let mut daemon = start(dir.path(), &example("evolution.yaml"), &broker.bootstrap(), &[]);
    daemon.started();
    let connection = reader(dir.path());
    let all = "SELECT id, customer, total, currency, channel, weight, status FROM orders ORDER BY id";
    assert_eq!(
        rows(&connection, all),
        [
            "1|7|1.50|EUR|web|500|shipped",
            "2|7|1.50|EUR|web|NULL|placed",
            "3|7|1.50|EUR|shop|9|placed",
            "4|7|2|CHF|web|NULL|placed",
        ]
    );
    assert_eq!(
        dead_letters(dir.path()),
        ["orders.history|wrong_type|.order.customer.id", "orders.history|schema_version|.schema"]
    );
    let moved = placed("", 8, r#"{"id":2,"customer":8,"total":3}"#);
    feed(&mut daemon, broker, topic, [moved]);
    assert_eq!(rows(&connection, all)[1], "2|8|3|EUR|web|NULL|placed");
}

/// The version under the topic's subject decides how a record is read.
#[test]
fn the_version_of_a_schema_in_the_registry_chooses_how_a_record_is_read() {
    let (Some(broker), Some(registry)) = (kafka::shared(), registry::shared()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("registry-versions");
    broker.create_topic(&topic, 1, &[]);
    let schema = |fields: &str| {
        format!(r#"{{"type":"record","name":"Person","fields":[{{"name":"id","type":"long"}},{fields}]}}"#)
    };
    let subject = format!("{topic}-value");
    let title = schema(r#"{"name":"title","type":"string"}"#);
    let name =
        schema(r#"{"name":"name","type":"string"},{"name":"title","type":["null","string"],"default":null}"#);
    let third = schema(r#"{"name":"name","type":"string"}"#);
    // The same schema elsewhere, under another version.
    registry.register(&format!("{topic}-elsewhere"), "AVRO", &name, &[]);
    let first = registry.register(&subject, "AVRO", &title, &[]);
    let second = registry.register(&subject, "AVRO", &name, &[]);
    let third = registry.register(&subject, "AVRO", &third, &[]);
    broker.produce(
        &topic,
        [
            Message::new("1", Avro::of(first).long(1).bytes("Ada").0),
            Message::new("2", Avro::of(second).long(2).bytes("Bob").long(1).bytes("Dr").0),
            Message::new("3", Avro::of(third).long(3).bytes("Cleo").0),
        ],
    );
    let yaml = format!(
        "{}schema_registry: {{ url: \"{}\" }}\n\
         topics:\n  {topic}:\n    format: avro\n    key_format: text\n    \
         schema: {{ version: $schema.version, current: 2 }}\n    \
         upcast: [{{ from: 1, to: 2, rename: {{ .name: .title }} }}]\n\
         tables:\n  people:\n    topic: {topic}\n    key: id\n    \
         columns: {{ id: integer, name: text, title: text?, v: {{ type: integer, from: $schema.version }}, \
         schema_id: {{ type: integer, from: $schema.id }}, record: {{ type: text, from: $schema.name }} }}\n",
        header(&broker.bootstrap(), dir.path()),
        registry.url(),
    );
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    assert_eq!(
        rows(&reader(dir.path()), "SELECT id, name, title, v, schema_id, record FROM people ORDER BY id"),
        [format!("1|Ada|NULL|1|{first}|Person"), format!("2|Bob|Dr|2|{second}|Person")]
    );
    assert_eq!(dead_letters(dir.path()), [format!("{topic}|schema_version|$schema.version")]);
}
