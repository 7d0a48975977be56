//! The integration tests: one binary, against a real Apache Kafka.

mod kafka;
