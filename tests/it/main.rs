//! The integration tests: one binary, against a real Apache Kafka.

mod bad_input;
mod bounds;
mod commands;
mod crash;
mod daemon;
mod event_ids;
mod examples;
mod freshness;
mod gaps;
mod history;
mod kafka;
mod layers;
mod rebuild;
mod redis;
mod redis_server;
mod replica;
mod source;
