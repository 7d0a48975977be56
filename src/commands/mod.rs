//! Subcommands, one file each.

pub mod demo;
pub mod schema;
pub mod validate;
