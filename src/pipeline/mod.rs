//! The pipeline: the one loop that turns records into batches and hands them to the store.

pub mod progress;
