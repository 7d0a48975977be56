//! The integration tests: one binary, against a real Apache Kafka.

mod acls;
mod bad_input;
mod bounds;
mod canary;
mod children;
mod commands;
mod crash;
mod daemon;
mod dashboard;
mod dead_letters;
mod event_ids;
mod examples;
mod formats;
mod freshness;
mod fuzz;
mod gaps;
mod history;
mod kafka;
mod layers;
mod pod;
mod rebuild;
mod redis;
mod redis_server;
mod registry;
mod replica;
mod source;
