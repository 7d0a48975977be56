//! Time on a processor, for benchmarks of a server that has one thread at work.

use std::time::Duration;

/// Of the first thread of a process so far, to the nanosecond, however often somebody else was given the
/// processor in between.
pub fn busy(process: u32) -> Duration {
    let path = format!("/proc/{process}/task/{process}/schedstat");
    let stat = std::fs::read_to_string(path).expect("a running process");
    let nanos = stat.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.expect("a number"))
}
