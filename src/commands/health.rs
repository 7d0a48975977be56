//! `readside health`: a probe for where no HTTP client is at hand, such as an image without a shell.

use std::time::{Duration, Instant};

use super::client::{Endpoint, block_on, get};
use super::{DONE, Exit, print};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    Startup,
    Ready,
    Live,
}

impl Probe {
    pub const ALL: [Probe; 3] = [Probe::Startup, Probe::Ready, Probe::Live];

    pub fn name(self) -> &'static str {
        match self {
            Probe::Startup => "startup",
            Probe::Ready => "ready",
            Probe::Live => "live",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Probe::Startup => "/startupz",
            Probe::Ready => "/readyz",
            Probe::Live => "/livez",
        }
    }
}

/// Between two questions of somebody who waits.
const PAUSE: Duration = Duration::from_millis(250);

/// 0 when the probe is answered with 200, else 69. Asks again for the time `wait`, then gives the last
/// answer's reason: what holds back other containers where Kubernetes has no native sidecars.
pub fn run(http: &Endpoint, probe: Probe, timeout: Duration, wait: Duration) -> anyhow::Result<u8> {
    let begin = Instant::now();
    loop {
        match ask(http, probe, timeout) {
            Err(_) if begin.elapsed() < wait => std::thread::sleep(PAUSE),
            outcome => return outcome,
        }
    }
}

fn ask(http: &Endpoint, probe: Probe, timeout: Duration) -> anyhow::Result<u8> {
    let answer = block_on(async { Ok(get(http, probe.path(), timeout).await?) })?;
    if answer.status == 200 {
        print(&format!("{}\n", answer.body.trim_end()))?;
        return Ok(DONE);
    }
    Err(Exit::unavailable(format!("the {} probe fails: {}", probe.name(), answer.message())).into())
}

#[cfg(test)]
mod tests {
    use super::super::client::tests::{answering, response};
    use super::super::{UNAVAILABLE, exit_code};
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn each_probe_has_its_path() {
        for (probe, path) in
            [(Probe::Startup, "/startupz"), (Probe::Ready, "/readyz"), (Probe::Live, "/livez")]
        {
            let (endpoint, asked) = answering(response("200 OK", "{}"));
            assert_eq!(run(&endpoint, probe, PATIENCE, Duration::ZERO).unwrap(), DONE);
            assert!(asked.join().unwrap().starts_with(&format!("GET {path} ")));
        }
    }

    #[test]
    fn a_probe_that_fails_is_exit_code_69_with_the_reason() {
        let body = r#"{"error":"starting","message":"the gate is closed"}"#;
        let (endpoint, _asked) = answering(response("503 Service Unavailable", body));
        let error = run(&endpoint, Probe::Ready, PATIENCE, Duration::ZERO).unwrap_err();
        assert_eq!(exit_code(&error), UNAVAILABLE);
        assert_eq!(error.to_string(), "the ready probe fails: the gate is closed");
    }
}
