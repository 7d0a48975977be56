//! Subcommands, one file each.

pub mod schema;
pub mod validate;
