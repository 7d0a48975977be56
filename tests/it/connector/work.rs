//! What a service does to its database: statements at random, over few keys, so that each key has a
//! history.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::history::Random;

/// Keys that come, go and come again; above them those that rows are moved to, once each.
const KEYS: u64 = 120;
const TENANTS: [&str; 3] = ["", "zürich", "new york"];

pub struct Work {
    random: Random,
    nth: u64,
    /// Keys whose rows were moved away: nobody takes them again. Where a large value that was not sent
    /// comes from is not to be known otherwise (docs/FORMATS.md).
    retired: BTreeSet<u64>,
    moved: u64,
    /// From now on no row gets another key.
    pub keys_stay: bool,
}

impl Work {
    pub fn new(seed: u64) -> Work {
        Work { random: Random(seed), nth: 0, retired: BTreeSet::new(), moved: 0, keys_stay: false }
    }

    /// So many transactions, some of them rolled back as a whole or in part.
    pub fn transactions(&mut self, count: u64) -> String {
        let mut sql = String::new();
        for _ in 0..count {
            sql.push_str("BEGIN;\n");
            for _ in 0..=self.random.below(5) {
                let in_part = self.random.below(12) == 0;
                if in_part {
                    sql.push_str("SAVEPOINT s;\n");
                }
                let statement = self.statement();
                writeln!(sql, "{statement};").unwrap();
                if in_part {
                    sql.push_str("ROLLBACK TO s;\n");
                }
            }
            let end = if self.random.below(10) == 0 { "ROLLBACK" } else { "COMMIT" };
            writeln!(sql, "{end};").unwrap();
        }
        sql
    }

    pub fn deletes(&mut self, count: u64) -> String {
        (0..count)
            .map(|_| format!("DELETE FROM customers WHERE id = {};\n", self.random.below(KEYS)))
            .collect()
    }

    fn statement(&mut self) -> String {
        self.nth += 1;
        match self.random.below(100) {
            0..40 => self.customer(),
            40..55 => {
                let (id, price) = (self.any(), self.price());
                format!("UPDATE customers SET price = {price}, active = NOT active WHERE id = {id}")
            }
            55..60 => {
                let (id, bio) = (self.any(), self.text());
                format!("UPDATE customers SET bio = {bio}, seen = NULL, mood = 'busy' WHERE id = {id}")
            }
            60..64 => format!("UPDATE customers SET name = name WHERE id % 7 = {}", self.random.below(7)),
            64..74 => format!("DELETE FROM customers WHERE id = {}", self.any()),
            74..79 if !self.keys_stay => self.move_away(),
            74..94 => self.line(),
            94..98 => {
                let (tenant, no) = self.line_key();
                format!("DELETE FROM lines WHERE tenant = '{tenant}' AND no = {no}")
            }
            98 => {
                let (tenant, no) = self.line_key();
                format!(
                    "TRUNCATE lines; INSERT INTO lines (tenant, no, sku) VALUES ('{tenant}', {no}, 'refilled')"
                )
            }
            _ => format!("UPDATE lines SET note = NULL WHERE no % 5 = {}", self.random.below(5)),
        }
    }

    /// All columns, in all their forms.
    fn customer(&mut self) -> String {
        let id = self.unmoved();
        let nth = self.nth;
        let (bio, price) = (self.text(), self.price());
        let (sign, days) = (["", "-"][self.random.below(2) as usize], self.random.below(40_000));
        let micros = self.random.below(86_400_000_000);
        let nullable = self.random.below(4) == 0;
        let or_null = |value: String| if nullable { "NULL".to_owned() } else { value };
        let values = [
            id.to_string(),
            format!("'n{nth} «Größe» \"q\" ''s'' 🚲'"),
            bio,
            price,
            or_null(format!("{sign}{nth}.{:05}", micros % 100_000)),
            or_null(format!("{sign}{}::float8 / 8", nth * 3 + 1)),
            nth.is_multiple_of(2).to_string(),
            or_null(format!("date '1920-02-29' + {days}")),
            or_null(format!("timestamptz '1950-01-01 00:00:00+02' + {micros} * interval '1 microsecond'")),
            or_null(format!("timestamp '2020-02-29' + {micros} * interval '1 microsecond'")),
            or_null(format!("time '00:00' + {micros} * interval '1 microsecond'")),
            or_null(format!("md5('{nth}')::uuid")),
            or_null(format!(
                r#"'{{"n": {nth}.0, "a": [1, null, "ü"], "big": 123456789012345678901234567890}}'"#
            )),
            or_null(format!("ARRAY['a{nth}', NULL, 'b \"c\"', '']")),
            or_null(format!("decode(md5('{nth}'), 'hex')")),
            or_null("'calm'".to_owned()),
        ];
        // The second time it is a new version of the same row, which names every column.
        format!(
            "INSERT INTO customers VALUES ({}) ON CONFLICT (id) DO UPDATE SET name = excluded.name, \
             price = excluded.price, amount = excluded.amount, rate = excluded.rate, born = excluded.born, \
             opened = excluded.opened, doc = excluded.doc, tags = excluded.tags, raw = excluded.raw",
            values.join(", ")
        )
    }

    fn line(&mut self) -> String {
        let ((tenant, no), nth) = (self.line_key(), self.nth);
        let note = self.text();
        format!(
            "INSERT INTO lines VALUES ('{tenant}', {no}, 's{nth}', {note}) ON CONFLICT (tenant, no) \
             DO UPDATE SET sku = excluded.sku"
        )
    }

    /// A row gets another key; a large value that it has is not sent again.
    fn move_away(&mut self) -> String {
        let id = self.unmoved();
        self.retired.insert(id);
        self.moved += 1;
        format!("UPDATE customers SET id = {} WHERE id = {id}", 1_000 + self.moved)
    }

    fn unmoved(&mut self) -> u64 {
        loop {
            // Where many were retired there are others above.
            let id = self.random.below(KEYS + self.moved);
            if !self.retired.contains(&id) {
                return id;
            }
        }
    }

    fn any(&mut self) -> u64 {
        match self.moved > 0 && self.random.below(4) == 0 {
            true => 1_001 + self.random.below(self.moved),
            false => self.random.below(KEYS + self.moved),
        }
    }

    fn line_key(&mut self) -> (&'static str, u64) {
        (TENANTS[self.random.below(3) as usize], self.random.below(20))
    }

    fn price(&mut self) -> String {
        match self.random.below(6) {
            0 => "NULL".to_owned(),
            1 => "-0.01".to_owned(),
            2 => "9999999999.99".to_owned(),
            _ => format!("{}.{:02}", self.random.below(100_000), self.random.below(100)),
        }
    }

    /// Nothing, a few words, or so much that PostgreSQL stores it elsewhere (from about 2 kB).
    fn text(&mut self) -> String {
        match self.random.below(4) {
            0 => "NULL".to_owned(),
            1 => format!("'short {}'", self.nth),
            _ => {
                let pieces = 70 + self.random.below(100);
                format!(
                    "(SELECT string_agg(md5(n || '{}'), '') FROM generate_series(1, {pieces}) n)",
                    self.nth
                )
            }
        }
    }
}
