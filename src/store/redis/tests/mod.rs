//! What only a server can do wrong; the rest is in the contract suite.

pub(in crate::store) mod server;
