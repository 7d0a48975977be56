//! Configuration: YAML and environment in, a checked [`Config`] out.
//!
//! [`Config`] holds no default that was not made visible here, no secret (only the files they come
//! from), and nothing that was not checked. Errors carry file, line, column, the offending text
//! and the nearest valid name, all of them at once.

mod model;
mod problem;
mod tree;

pub use model::*;
pub use problem::{ConfigErrors, Place, Problem};
