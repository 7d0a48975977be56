//! Metrics: every name, help text and label in one place, and methods named for what happened.
