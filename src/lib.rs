//! readside: a local, read-only copy of other services' data, fed from their change events.
//!
//! Start with `docs/ARCHITECTURE.md`. Imports between the modules point one way:
//! `domain, jq ← config ← metrics ← decode, mapping ← store ← source ← pipeline ← admin ← app ← commands ← cli`.

pub mod admin;
pub mod app;
pub mod cli;
pub mod commands;
pub mod config;
pub mod decode;
pub mod domain;
pub mod jq;
pub mod mapping;
pub mod metrics;
pub mod pipeline;
pub mod source;
pub mod store;
pub mod telemetry;
#[cfg(test)]
mod testing;
