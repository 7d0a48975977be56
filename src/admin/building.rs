//! How far the start has come, for who looks at the terminal or at the log.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use crate::pipeline::progress::{Build, Progress};

const REDRAW: Duration = Duration::from_millis(200);
const LOG_EVERY: Duration = Duration::from_secs(10);
const BAR_CELLS: u64 = 30;
/// Carriage return, clear to the end of the line.
const CLEAR_LINE: &str = "\r\x1b[K";

/// Shows the start until the gate opens: a bar on stderr when that is a `terminal`, else a log line
/// every ten seconds. Ends with one log line that says how long it took.
pub async fn show_building(progress: &Progress, terminal: bool) {
    let begun = Instant::now();
    let mut gate = progress.watch_gate();
    let every = if terminal { REDRAW } else { LOG_EVERY };
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !progress.is_gate_open() {
        tokio::select! {
            opened = gate.wait_for(|is_open| *is_open) => {
                if opened.is_err() {
                    break;
                }
            }
            _ = ticks.tick() => {
                let (build, connected) = progress.read(|shared| (shared.build, shared.connected));
                if terminal {
                    // The cursor stays at the start of the line, so that a log line covers the bar.
                    draw(&format!("{CLEAR_LINE}{}\r", bar(build.as_ref(), connected)));
                } else {
                    log(build.as_ref(), connected);
                }
            }
        }
    }
    if terminal {
        draw(CLEAR_LINE);
    }
    if progress.is_gate_open() {
        let build = progress.read(|shared| shared.build);
        let records = build.map(|build| build.total_records.saturating_sub(build.remaining_records));
        tracing::info!(records, seconds = begun.elapsed().as_secs_f64(), "start-up gate opened");
    }
}

/// A terminal that is gone is no reason to stop.
fn draw(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

fn log(build: Option<&Build>, connected: bool) {
    match build {
        Some(build) => tracing::info!(
            remaining_records = build.remaining_records,
            total_records = build.total_records,
            records_per_second = build.rate.round(),
            eta_seconds = build.eta_seconds.map(f64::round),
            connected,
            "building"
        ),
        None => tracing::info!(connected, "waiting for the brokers to say how much there is to read"),
    }
}

fn bar(build: Option<&Build>, connected: bool) -> String {
    let Some(build) = build else {
        return if connected { "asking for the ends of all partitions" } else { "connecting to Kafka" }
            .to_owned();
    };
    let done = build.total_records.saturating_sub(build.remaining_records);
    // An empty log is a whole copy.
    let share = |of: u64| match build.total_records {
        0 => of,
        total => u64::try_from(u128::from(done) * u128::from(of) / u128::from(total)).unwrap_or(of),
    };
    let filled = share(BAR_CELLS);
    let left = match build.eta_seconds {
        Some(seconds) => format!("{} left", clock(seconds)),
        None => "time left unknown".to_owned(),
    };
    format!(
        "[{}{}] {:>3} %  {done}/{} records  {:.0}/s  {left}{}",
        "#".repeat(usize::try_from(filled).unwrap_or(0)),
        ".".repeat(usize::try_from(BAR_CELLS - filled).unwrap_or(0)),
        share(100),
        build.total_records,
        build.rate,
        if connected { "" } else { "  (not connected)" },
    )
}

/// `1:05`, `2:03:04`.
fn clock(seconds: f64) -> String {
    // Saturates; NaN becomes 0.
    let seconds = seconds.ceil() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(remaining_records: u64, total_records: u64, eta_seconds: Option<f64>) -> Build {
        Build { remaining_records, total_records, rate: 1234.5, eta_seconds }
    }

    #[test]
    fn the_bar_fills_as_records_arrive() {
        for (build, expected) in [
            (
                build(1000, 1000, None),
                "[..............................]   0 %  0/1000 records  1234/s  time left unknown",
            ),
            (
                build(500, 1000, Some(65.0)),
                "[###############...............]  50 %  500/1000 records  1234/s  1:05 left",
            ),
            (
                build(1, 1000, Some(0.2)),
                "[#############################.]  99 %  999/1000 records  1234/s  0:01 left",
            ),
            (
                build(0, 1000, Some(0.0)),
                "[##############################] 100 %  1000/1000 records  1234/s  0:00 left",
            ),
            (
                build(0, 0, Some(7384.0)),
                "[##############################] 100 %  0/0 records  1234/s  2:03:04 left",
            ),
        ] {
            assert_eq!(bar(Some(&build), true), expected);
        }
        let impossible = build(9, 3, Some(f64::NAN));
        assert!(bar(Some(&impossible), false).ends_with("0:00 left  (not connected)"));
        let huge = build(0, u64::MAX, Some(f64::INFINITY));
        assert!(bar(Some(&huge), true).contains("100 %"));
        assert_eq!(bar(None, false), "connecting to Kafka");
    }

    #[tokio::test]
    async fn it_ends_when_the_gate_opens() {
        let progress = Progress::default();
        tokio::join!(show_building(&progress, false), async {
            progress.update(|shared| shared.build = Some(build(0, 10, None)));
            tokio::task::yield_now().await;
            progress.open_gate();
        });
        // And at once when it is open already.
        show_building(&progress, false).await;
    }
}
