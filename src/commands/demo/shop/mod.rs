//! A small shop that makes change events: the same ones for the same seed and times.
//!
//! Three services, three ways to publish: users as Debezium reports their table, products as rows,
//! orders as events. They misbehave as real ones do: events are sent twice, a connector starts
//! again and repeats its latest ones, and some arrive behind newer ones. The shop knows at any
//! moment which rows a right replica has, because it is the source.

mod orders;
mod products;
mod random;
#[cfg(test)]
mod tests;
mod users;

use std::collections::VecDeque;

use self::orders::{Basket, Orders};
use self::products::Products;
use self::random::Random;
use self::users::Users;
use crate::domain::value::Value;

/// Topics with their numbers of partitions.
pub const TOPICS: [(&str, i32); 3] = [(users::TOPIC, 3), (products::TOPIC, 1), (orders::TOPIC, 3)];

const OPENING_USERS: i64 = 2_000;
const OPENING_PRODUCTS: i64 = 500;
const OPENING_ORDERS: i64 = 3_000;
/// How long ago the shop opened, which spreads the first orders over time.
const OPENING_AGO_MS: i64 = 30 * 24 * 3_600 * 1_000;
/// Events that may be sent once more: of users by a connector that starts again, of orders one by one.
const RECENT_MAX: usize = 12;

/// One value per column, in the column order of the configuration.
pub type Row = Vec<Value>;

/// A record to be produced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub topic: &'static str,
    pub key: String,
    /// `None` is a tombstone.
    pub value: Option<String>,
    pub headers: Vec<(&'static str, String)>,
}

/// What was sent so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sent {
    pub records: u64,
    /// Of these: sent before, word for word.
    pub repeated: u64,
    /// Of these: sent behind a newer event of the same row.
    pub late: u64,
}

/// Rows of one table as the replica should have them.
#[derive(Debug, Clone, PartialEq)]
pub struct Expected {
    pub table: &'static str,
    pub rows: Vec<Row>,
}

#[derive(Debug)]
pub struct Shop {
    random: Random,
    users: Users,
    products: Products,
    orders: Orders,
    /// Messages held back, with the number of steps until they are sent.
    late: VecDeque<(u32, Message)>,
    recent_users: VecDeque<Message>,
    recent_orders: VecDeque<Message>,
    out: Vec<Message>,
    sent: Sent,
}

impl Shop {
    pub fn new(seed: u64) -> Shop {
        Shop {
            random: Random::new(seed),
            users: Users::default(),
            products: Products::default(),
            orders: Orders::default(),
            late: VecDeque::new(),
            recent_users: VecDeque::new(),
            recent_orders: VecDeque::new(),
            out: Vec::new(),
            sent: Sent::default(),
        }
    }

    /// What lies in the topics when somebody starts to read them: a snapshot of the users, the
    /// products, a month of orders, and what changed since.
    pub fn open(&mut self, now_ms: i64) -> Vec<Message> {
        let opened_ms = now_ms - OPENING_AGO_MS;
        for message in self.users.snapshot(OPENING_USERS, &mut self.random, opened_ms) {
            self.emit(message);
        }
        for _ in 0..OPENING_PRODUCTS {
            let message = self.products.add(&mut self.random, opened_ms);
            self.emit(message);
        }
        for nth in 1..=OPENING_ORDERS {
            let at = opened_ms + OPENING_AGO_MS / OPENING_ORDERS * nth;
            self.release();
            self.order(at);
            match self.random.between(0, 100) {
                0..75 => self.ship(at),
                75..80 => self.cancel(at),
                80..90 => self.change_user(at),
                90..92 => self.lose_user(at),
                92..94 => self.repeat_order_event(),
                94..95 => self.overtake_user(at),
                95..96 => self.overtake_order(at),
                96 if nth % 10 == 0 => self.restart_connector(),
                _ => {}
            }
        }
        std::mem::take(&mut self.out)
    }

    /// One thing that happens in the shop: one record or a few.
    pub fn step(&mut self, now_ms: i64) -> Vec<Message> {
        self.release();
        match self.random.between(0, 100) {
            0..20 => self.change_user(now_ms),
            20..28 => {
                let message = self.users.register(&mut self.random, now_ms);
                self.emit(message);
            }
            28..31 => self.lose_user(now_ms),
            31..41 => self.reprice(now_ms),
            41..43 => {
                let message = self.products.add(&mut self.random, now_ms);
                self.emit(message);
            }
            43..44 => self.discontinue(),
            44..66 => self.order(now_ms),
            66..80 => self.ship(now_ms),
            80..83 => self.cancel(now_ms),
            83..87 => {
                let message = self.orders.view(&mut self.random, now_ms);
                self.emit_all(message);
            }
            87..90 => self.repeat_order_event(),
            90..92 => self.repeat_product(),
            92..95 => self.overtake_user(now_ms),
            95..98 => self.overtake_order(now_ms),
            98..99 => self.restart_connector(),
            _ => self.change_user(now_ms),
        }
        std::mem::take(&mut self.out)
    }

    /// Sends what was held back, so that nothing is missing at the end.
    pub fn close(&mut self) -> Vec<Message> {
        while let Some((_, message)) = self.late.pop_front() {
            self.emit(message);
        }
        std::mem::take(&mut self.out)
    }

    pub fn sent(&self) -> Sent {
        self.sent
    }

    /// The rows of a replica that has applied everything, [`Shop::close`] included.
    pub fn expected(&self) -> [Expected; 3] {
        [
            Expected { table: "users", rows: self.users.rows() },
            Expected { table: "products", rows: self.products.rows() },
            Expected { table: "orders", rows: self.orders.rows() },
        ]
    }

    fn change_user(&mut self, now_ms: i64) {
        let Some(id) = self.users.anybody(&mut self.random) else { return };
        let message = self.users.change(id, &mut self.random, now_ms);
        self.emit_all(message);
    }

    fn lose_user(&mut self, now_ms: i64) {
        let Some(id) = self.users.anybody(&mut self.random) else { return };
        let messages = self.users.leave(id, &mut self.random, now_ms);
        self.emit_all(messages);
    }

    fn reprice(&mut self, now_ms: i64) {
        let Some(sku) = self.products.any(&mut self.random) else { return };
        let message = self.products.reprice(&sku, &mut self.random, now_ms);
        self.emit_all(message);
    }

    fn discontinue(&mut self) {
        let Some(sku) = self.products.any(&mut self.random) else { return };
        let message = self.products.discontinue(&sku);
        self.emit_all(message);
    }

    fn order(&mut self, now_ms: i64) {
        if let Some((_, placed)) = self.place(now_ms) {
            self.emit(placed);
        }
    }

    /// The order's number and its first event; what it does to the stock is sent at once.
    fn place(&mut self, now_ms: i64) -> Option<(i64, Message)> {
        let user_id = self.users.anybody(&mut self.random)?;
        let sku = self.products.any(&mut self.random)?;
        let quantity = self.random.between(1, 5);
        let (price_cents, stock) = self.products.sell(&sku, quantity, now_ms)?;
        self.emit(stock);
        let basket = Basket { user_id, sku, quantity, total_cents: price_cents * quantity };
        Some(self.orders.place(basket, now_ms))
    }

    fn ship(&mut self, now_ms: i64) {
        let Some(id) = self.orders.any_open(&mut self.random) else { return };
        let message = self.orders.ship(id, &mut self.random, now_ms);
        self.emit_all(message);
    }

    fn cancel(&mut self, now_ms: i64) {
        let Some(id) = self.orders.any_open(&mut self.random) else { return };
        let message = self.orders.cancel(id, now_ms);
        self.emit_all(message);
    }

    /// Two changes of one user of which the first arrives behind the second.
    fn overtake_user(&mut self, now_ms: i64) {
        let Some(id) = self.users.anybody(&mut self.random) else { return };
        let older = self.users.change(id, &mut self.random, now_ms);
        let newer = self.users.change(id, &mut self.random, now_ms + 1);
        self.emit_all(newer);
        self.hold_back(older);
    }

    /// An order that is shipped before anybody hears that it was placed.
    fn overtake_order(&mut self, now_ms: i64) {
        let Some((id, placed)) = self.place(now_ms) else { return };
        let shipped = self.orders.ship(id, &mut self.random, now_ms + 1);
        self.emit_all(shipped);
        self.hold_back(Some(placed));
    }

    /// Kafka Connect died before it stored its offsets and sends its latest events again.
    fn restart_connector(&mut self) {
        self.users.restart_connector();
        self.sent.repeated += self.recent_users.len() as u64;
        self.sent.records += self.recent_users.len() as u64;
        self.out.extend(self.recent_users.iter().cloned());
    }

    fn repeat_order_event(&mut self) {
        let nth = self.random.between(0, self.recent_orders.len() as i64) as usize;
        if let Some(message) = self.recent_orders.get(nth).cloned() {
            self.sent.repeated += 1;
            self.sent.records += 1;
            self.out.push(message);
        }
    }

    fn repeat_product(&mut self) {
        let Some(sku) = self.products.any(&mut self.random) else { return };
        if let Some(message) = self.products.repeat(&sku) {
            self.sent.repeated += 1;
            self.sent.records += 1;
            self.out.push(message);
        }
    }

    fn hold_back(&mut self, message: Option<Message>) {
        if let Some(message) = message {
            let steps = self.random.between(5, 40) as u32;
            self.sent.late += 1;
            self.late.push_back((steps, message));
        }
    }

    /// One step has passed for what is held back.
    fn release(&mut self) {
        for _ in 0..self.late.len() {
            match self.late.pop_front() {
                Some((0, message)) => self.emit(message),
                Some((steps, message)) => self.late.push_back((steps - 1, message)),
                None => {}
            }
        }
    }

    fn emit_all(&mut self, messages: impl IntoIterator<Item = Message>) {
        for message in messages {
            self.emit(message);
        }
    }

    fn emit(&mut self, message: Message) {
        let recent = match message.topic {
            users::TOPIC => Some(&mut self.recent_users),
            orders::TOPIC => Some(&mut self.recent_orders),
            _ => None,
        };
        if let Some(recent) = recent {
            if recent.len() == RECENT_MAX {
                recent.pop_front();
            }
            recent.push_back(message.clone());
        }
        self.sent.records += 1;
        self.out.push(message);
    }
}

/// Cents as a decimal number.
fn money(cents: i64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

/// Microseconds since 1970 as an RFC 3339 time in UTC.
fn timestamp(micros: i64) -> String {
    format!("{:.6}", jiff::Timestamp::from_microsecond(micros).unwrap_or_default())
}

fn boolean(value: bool) -> Value {
    Value::Integer(i64::from(value))
}
