//! The integration tests: one binary, against a real Apache Kafka.

mod bad_input;
mod bounds;
mod crash;
mod daemon;
mod event_ids;
mod gaps;
mod kafka;
mod layers;
mod replica;
mod source;
