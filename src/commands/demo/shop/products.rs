//! The products of the shop: one JSON object per record, a record without value deletes.

use std::collections::BTreeMap;

use serde_json::json;

use super::random::Random;
use super::{Message, Row, money, timestamp};
use crate::domain::value::Value;

pub(super) const TOPIC: &str = "shop.products";

const KINDS: [(&str, &str, &str); 10] = [
    ("MUG", "mug", "kitchen"),
    ("TEA", "tea pot", "kitchen"),
    ("LMP", "desk lamp", "home"),
    ("RUG", "rug", "home"),
    ("PEN", "fountain pen", "office"),
    ("NTB", "notebook", "office"),
    ("BAG", "shoulder bag", "travel"),
    ("MAP", "folding map", "travel"),
    ("KIT", "kite", "outdoor"),
    ("TNT", "tent", "outdoor"),
];
const LOOKS: [&str; 8] = ["Blue", "Green", "Plain", "Red", "Small", "Striped", "Tall", "White"];

#[derive(Debug, Clone)]
struct Product {
    name: String,
    category: &'static str,
    price_cents: i64,
    stock: i64,
    updated_us: i64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Products {
    rows: BTreeMap<String, Product>,
    last_number: i64,
}

impl Products {
    pub fn add(&mut self, random: &mut Random, now_ms: i64) -> Message {
        let (prefix, noun, category) = random.pick(&KINDS);
        self.last_number += 1;
        let sku = format!("{prefix}-{:04}", self.last_number);
        let product = Product {
            name: format!("{} {noun}", random.pick(&LOOKS)),
            category,
            price_cents: random.between(250, 25_000),
            stock: random.between(20, 400),
            updated_us: now_ms * 1_000,
        };
        let message = message(&sku, Some(&product));
        self.rows.insert(sku, product);
        message
    }

    pub fn reprice(&mut self, sku: &str, random: &mut Random, now_ms: i64) -> Option<Message> {
        let product = self.rows.get_mut(sku)?;
        product.price_cents = (product.price_cents * random.between(85, 120) / 100).max(100);
        product.updated_us = now_ms * 1_000;
        Some(message(sku, Some(product)))
    }

    /// Takes `quantity` off the stock, filling up what runs short. Gives the price of one as well.
    pub fn sell(&mut self, sku: &str, quantity: i64, now_ms: i64) -> Option<(i64, Message)> {
        let product = self.rows.get_mut(sku)?;
        product.stock -= quantity;
        if product.stock < 10 {
            product.stock += 200;
        }
        product.updated_us = now_ms * 1_000;
        Some((product.price_cents, message(sku, Some(product))))
    }

    pub fn discontinue(&mut self, sku: &str) -> Option<Message> {
        self.rows.remove(sku).map(|_| message(sku, None))
    }

    /// The current row once more, as a producer that retries sends it.
    pub fn repeat(&self, sku: &str) -> Option<Message> {
        self.rows.get(sku).map(|product| message(sku, Some(product)))
    }

    /// One that is there; `None` when there is none.
    pub fn any(&self, random: &mut Random) -> Option<String> {
        let nth = random.between(0, self.rows.len() as i64) as usize;
        self.rows.keys().nth(nth).cloned()
    }

    /// Rows as the replica should have them, in the column order of the configuration.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::with_capacity(self.rows.len());
        for (sku, product) in &self.rows {
            rows.push(vec![
                Value::Text(sku.clone()),
                Value::Text(product.name.clone()),
                Value::Text(product.category.to_owned()),
                Value::Text(money(product.price_cents)),
                Value::Integer(product.stock),
                Value::Text(timestamp(product.updated_us)),
            ]);
        }
        rows
    }
}

fn message(sku: &str, product: Option<&Product>) -> Message {
    let value = product.map(|product| {
        json!({
            "sku": sku, "name": product.name, "category": product.category,
            "price": money(product.price_cents), "stock": product.stock,
            "updated_at": timestamp(product.updated_us),
        })
        .to_string()
    });
    Message { topic: TOPIC, key: sku.to_owned(), value, headers: Vec::new() }
}
