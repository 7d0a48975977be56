//! Wiring, supervision and shutdown of `readside run`: the only place that knows everything.
