//! The orders of the shop: events of three types that matter, numbered per order.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::random::Random;
use super::{Message, Row, money, timestamp};
use crate::domain::value::Value;

pub(super) const TOPIC: &str = "orders.events";

const CARRIERS: [&str; 3] = ["bicycle", "night train", "post"];

#[derive(Debug, Clone)]
struct Order {
    user_id: i64,
    sku: String,
    quantity: i64,
    total_cents: i64,
    status: &'static str,
    carrier: Option<&'static str>,
    placed_us: i64,
    shipped_us: Option<i64>,
    /// Number of its latest event.
    sequence: i64,
}

/// What a customer puts into the basket.
#[derive(Debug, Clone)]
pub(super) struct Basket {
    pub user_id: i64,
    pub sku: String,
    pub quantity: i64,
    pub total_cents: i64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Orders {
    rows: BTreeMap<i64, Order>,
    /// Placed and not shipped yet.
    open: Vec<i64>,
    last_id: i64,
}

impl Orders {
    pub fn place(&mut self, basket: Basket, now_ms: i64) -> (i64, Message) {
        self.last_id += 1;
        let id = self.last_id;
        let placed_us = now_ms * 1_000;
        let event = json!({
            "type": "OrderPlaced", "sequence": 1, "at": timestamp(placed_us),
            "order": {
                "id": id, "user_id": basket.user_id, "sku": basket.sku, "quantity": basket.quantity,
                "total": money(basket.total_cents),
            },
        });
        let Basket { user_id, sku, quantity, total_cents } = basket;
        let order = Order {
            user_id,
            sku,
            quantity,
            total_cents,
            status: "placed",
            carrier: None,
            placed_us,
            shipped_us: None,
            sequence: 1,
        };
        self.rows.insert(id, order);
        self.open.push(id);
        (id, message(id, &event))
    }

    pub fn ship(&mut self, id: i64, random: &mut Random, now_ms: i64) -> Option<Message> {
        self.open.retain(|open| *open != id);
        let order = self.rows.get_mut(&id)?;
        let carrier = random.pick(&CARRIERS);
        order.sequence += 1;
        order.status = "shipped";
        order.carrier = Some(carrier);
        order.shipped_us = Some(now_ms * 1_000);
        let event = json!({
            "type": "OrderShipped", "sequence": order.sequence, "at": timestamp(now_ms * 1_000),
            "order_id": id, "carrier": carrier,
        });
        Some(message(id, &event))
    }

    pub fn cancel(&mut self, id: i64, now_ms: i64) -> Option<Message> {
        self.open.retain(|open| *open != id);
        let order = self.rows.remove(&id)?;
        let event = json!({
            "type": "OrderCancelled", "sequence": order.sequence + 1, "at": timestamp(now_ms * 1_000),
            "order_id": id,
        });
        Some(message(id, &event))
    }

    /// An event that says nothing about the row.
    pub fn view(&self, random: &mut Random, now_ms: i64) -> Option<Message> {
        let from = random.between(1, self.last_id + 1);
        let (id, order) = self.rows.range(from..).next()?;
        let event = json!({
            "type": "OrderViewed", "sequence": order.sequence, "at": timestamp(now_ms * 1_000),
            "order_id": id,
        });
        Some(message(*id, &event))
    }

    pub fn any_open(&self, random: &mut Random) -> Option<i64> {
        self.open.get(random.between(0, self.open.len() as i64) as usize).copied()
    }

    /// Rows as the replica should have them, in the column order of the configuration.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::with_capacity(self.rows.len());
        for (id, order) in &self.rows {
            rows.push(vec![
                Value::Integer(*id),
                Value::Integer(order.user_id),
                Value::Text(order.sku.clone()),
                Value::Integer(order.quantity),
                Value::Text(money(order.total_cents)),
                Value::Text(order.status.to_owned()),
                order.carrier.map_or(Value::Null, |carrier| Value::Text(carrier.to_owned())),
                Value::Text(timestamp(order.placed_us)),
                order.shipped_us.map_or(Value::Null, |at| Value::Text(timestamp(at))),
            ]);
        }
        rows
    }
}

fn message(id: i64, event: &Json) -> Message {
    Message { topic: TOPIC, key: id.to_string(), value: Some(event.to_string()), headers: Vec::new() }
}
