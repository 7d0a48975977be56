//! Logging: text on a terminal, JSON elsewhere, always on stderr.

use std::io::IsTerminal;

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::config::{Log, LogFormat};

const LEVELS: [&str; 6] = ["trace", "debug", "info", "warn", "error", "off"];

#[derive(Debug, thiserror::Error, PartialEq)]
pub enum TelemetryError {
    #[error(
        "log.level: {part:?} is not a level{}; write one of trace, debug, info, warn, error, off, or a list \
         such as `info,readside::source=debug`", .nearest.map(|level| format!(", perhaps {level}?")).unwrap_or_default()
    )]
    Filter { part: String, nearest: Option<&'static str> },
    #[error("logging was already set up in this process")]
    Twice,
}

/// What is logged, from now on.
#[derive(Debug, Clone)]
pub struct Level(reload::Handle<Targets, Registry>);

impl Level {
    /// Takes another `log.level`.
    pub fn set(&self, text: &str) -> Result<(), TelemetryError> {
        let filter = filter(text)?;
        // It fails only where the subscriber is gone, and with it the log.
        let _ = self.0.reload(filter);
        Ok(())
    }
}

/// Sends the logs of the whole process to stderr.
pub fn init(log: &Log) -> Result<Level, TelemetryError> {
    let (subscriber, level) = subscriber(log, std::io::stderr().is_terminal(), std::io::stderr)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| TelemetryError::Twice)?;
    Ok(level)
}

/// Whether a person watches stderr and sees text there: the place for a progress bar.
pub fn is_watched(log: &Log) -> bool {
    log.format != LogFormat::Json && std::io::stderr().is_terminal()
}

/// A filter from `level` or `target=level`, separated by commas.
///
/// `tracing-subscriber` takes a bare word that is no level for the name of a target, and then
/// `level: inof` would log everything of a crate that does not exist and nothing else: a word is
/// refused here unless it is a level.
pub fn filter(text: &str) -> Result<Targets, TelemetryError> {
    let mut targets = Targets::new();
    for part in text.split(',').map(str::trim) {
        match part.split_once('=') {
            Some((target, level)) => targets = targets.with_target(target.trim(), parse_level(level.trim())?),
            None => targets = targets.with_default(parse_level(part)?),
        }
    }
    Ok(targets)
}

fn parse_level(text: &str) -> Result<LevelFilter, TelemetryError> {
    let lower = text.to_ascii_lowercase();
    // Digits are levels to `tracing`, but nobody can read them.
    if LEVELS.contains(&lower.as_str())
        && let Ok(level) = lower.parse()
    {
        return Ok(level);
    }
    let nearest = LEVELS.into_iter().min_by_key(|level| strsim::osa_distance(level, &lower));
    let nearest = nearest.filter(|level| strsim::osa_distance(level, &lower) <= 2);
    Err(TelemetryError::Filter { part: text.to_owned(), nearest })
}

/// What [`init`] installs, for any writer. Colours are for terminals only, and not if `NO_COLOR` is
/// set (no-color.org).
fn subscriber<W>(
    log: &Log,
    terminal: bool,
    writer: W,
) -> Result<(Box<dyn Subscriber + Send + Sync>, Level), TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let text = match log.format {
        LogFormat::Auto => terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // A log that cannot be written must not end the daemon: reporting that error would print to
    // stderr, and printing to a closed stderr panics.
    let layer = fmt::layer().with_writer(writer).with_ansi(colour).log_internal_errors(false);
    let layer = if text {
        layer.boxed()
    } else {
        layer.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
    };
    let (filter, handle) = reload::Layer::new(filter(&log.level)?);
    Ok((Box::new(Registry::default().with(layer.with_filter(filter))), Level(handle)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: &str, format: LogFormat, terminal: bool) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = Log { level: level.to_owned(), format };
        let (subscriber, _) = subscriber(&log, terminal, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(topic = "users", offset = 7, "record skipped");
            tracing::debug!(target: "readside::source", "polled");
            tracing::debug!(target: "elsewhere", "noise");
        });
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn logs_are_json_where_no_person_reads_them() {
        let text = logged("info", LogFormat::Auto, false);
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!(line["message"], "record skipped");
        assert_eq!(line["topic"], "users");
        assert_eq!(line["offset"], 7);
        assert_eq!(line["level"], "INFO");
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn text_has_colours_on_a_terminal_only() {
        assert!(!logged("info", LogFormat::Text, false).contains('\u{1b}'));
        let text = logged("info", LogFormat::Auto, true);
        assert!(text.contains("record skipped") && !text.starts_with('{'), "{text}");
    }

    #[test]
    fn a_target_can_have_a_level_of_its_own() {
        let text = logged("info,readside::source=debug", LogFormat::Json, false);
        assert!(text.contains("polled") && !text.contains("noise"), "{text}");
        assert_eq!(logged("off", LogFormat::Json, false), "");
    }

    #[test]
    fn another_level_is_taken_at_once() {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = Log { level: "info".to_owned(), format: LogFormat::Text };
        let (subscriber, level) = subscriber(&log, false, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            let logged = || {
                tracing::debug!("looked closely");
                String::from_utf8(std::mem::take(&mut *lines.0.lock().unwrap())).unwrap()
            };
            assert_eq!(logged(), "");
            level.set("debug").unwrap();
            assert!(logged().contains("looked closely"));
            assert!(level.set("loud").is_err());
            level.set("warn").unwrap();
            assert_eq!(logged(), "");
        });
    }

    #[test]
    fn a_word_that_is_no_level_is_refused_with_the_nearest_one() {
        let refused = |text: &str| filter(text).unwrap_err().to_string();
        assert!(refused("inof").contains("perhaps info?"), "{}", refused("inof"));
        assert!(refused("info,readside=degub").contains("\"degub\""));
        for text in ["", "3", "loud", "info,,warn", "readside", "readside="] {
            assert!(filter(text).is_err(), "{text:?}");
        }
        assert!(filter("WARN").is_ok());
    }
}
