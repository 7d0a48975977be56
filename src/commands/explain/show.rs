//! An explanation for people.

use std::fmt::Write as _;

use super::letters::{LetterText, Letters};
use super::plan::{RuleText, SourceText};
use super::{Coordinates, Explanation, RowStanding, Stamp};
use crate::commands::printable;
use crate::commands::status::Lines;

/// Dead letters that are listed.
const LETTERS_SHOWN: usize = 10;

pub fn text(explanation: &Explanation) -> String {
    let Explanation { table, key, state, says, dead_letters, mapping, .. } = explanation;
    let key: Vec<String> = key
        .iter()
        .map(|(name, value)| format!("{name} {}", printable(value.as_str().unwrap_or_default())))
        .collect();
    let word = match state {
        RowStanding::Visible => "visible",
        RowStanding::Held => "held",
        RowStanding::Deleted => "deleted",
        RowStanding::Unknown => "unknown",
    };
    let mut out = format!("{table}, {}: {word}\n{}\n", key.join(", "), printable(says));
    out.push_str(&columns(explanation));
    if let Some(mark) = &explanation.deleted {
        let _ = match mark.record {
            Some(_) => writeln!(out, "\ndeleted by {}; what is not newer than that is gone", stamp(mark)),
            None => writeln!(out, "\nit began anew at {}; what is older than that is gone", stamp(mark)),
        };
    }
    out.push_str(&events(explanation));
    out.push_str(&letters(dead_letters));
    for source in mapping {
        out.push_str(&source_text(source));
    }
    for note in &explanation.notes {
        let _ = writeln!(out, "\n{note}");
    }
    out
}

fn stamp(stamp: &Stamp) -> String {
    let version = match &stamp.version {
        serde_json::Value::String(text) => format!("version {}", printable(text)),
        version => format!("version {version}"),
    };
    match &stamp.record {
        None => version,
        Some(Coordinates { topic, partition, offset }) => {
            let place = format!("{} {partition}/{offset}", printable(topic));
            if stamp.version_kind == "position" { place } else { format!("{place}, {version}") }
        }
    }
}

fn columns(explanation: &Explanation) -> String {
    if explanation.columns.is_empty() {
        return String::new();
    }
    let titles = ["COLUMN", "TYPE", "VALUE", "SET BY"];
    let mut lines = Lines::new(&titles, titles.len());
    for column in &explanation.columns {
        let set_by = match (&column.set_by, column.is_key) {
            (Some(set_by), _) if set_by.record.is_none() => format!("(another key), {}", stamp(set_by)),
            (Some(set_by), _) => stamp(set_by),
            (None, true) => "(key)".to_owned(),
            (None, false) => "(nothing yet)".to_owned(),
        };
        let value = column.value.as_deref().map_or("-".to_owned(), printable);
        lines.push([printable(&column.name), column.ty.clone(), value, set_by]);
    }
    format!("\n{}", lines.finish())
}

fn events(explanation: &Explanation) -> String {
    let mut out = String::new();
    for event in &explanation.events {
        let Some(original) = &event.original else { continue };
        let what = match &original.missing {
            Some(why) => format!("cannot be read again: {}", printable(why)),
            None => {
                let time = original.timestamp.as_deref().unwrap_or("no time");
                let name = original
                    .event_type
                    .as_deref()
                    .map_or(String::new(), |name| format!("{}, ", printable(name)));
                let length =
                    |bytes: Option<usize>| bytes.map_or("none".to_owned(), |bytes| format!("{bytes} bytes"));
                format!(
                    "{name}{time}, key {}, value {}",
                    length(original.key_bytes),
                    length(original.value_bytes)
                )
            }
        };
        let _ = writeln!(out, "{}: {what}", stamp(&event.stamp));
    }
    if out.is_empty() { out } else { format!("\nthe events in the log\n{out}") }
}

fn letters(letters: &Letters) -> String {
    let mut out = String::new();
    let line = |letter: &LetterText| {
        let at =
            if letter.path.is_empty() { String::new() } else { format!(" at {}", printable(&letter.path)) };
        let LetterText { topic, partition, offset, reason, message, .. } = letter;
        format!(
            "{} {partition}/{offset}: {}{at}: {}\n",
            printable(topic),
            printable(reason),
            printable(message)
        )
    };
    if !letters.of_this_key.is_empty() {
        out.push_str("\ndead letters with this key\n");
        out.extend(letters.of_this_key.iter().take(LETTERS_SHOWN).map(line));
    }
    if !letters.of_unknown_key.is_empty() {
        let count = letters.of_unknown_key.len();
        let _ = writeln!(
            out,
            "\n{count} dead letter{} of the topics that feed it, whose key is not kept (dead_letters.keep: bytes keeps \
             it; --fetch reads it again)",
            if count == 1 { "" } else { "s" }
        );
        out.extend(letters.of_unknown_key.iter().take(LETTERS_SHOWN).map(line));
    }
    if letters.more || letters.of_this_key.len().max(letters.of_unknown_key.len()) > LETTERS_SHOWN {
        out.push_str("there are more: readside dead-letters list\n");
    }
    out
}

fn source_text(source: &SourceText) -> String {
    let SourceText { topic, format, ordered_by, rules } = source;
    let mut out = format!("\nfrom {} ({format}, ordered by {})\n", printable(topic), printable(ordered_by));
    for rule in rules {
        let RuleText { event_type, does, when, if_missing, each, columns } = rule;
        let name =
            event_type.as_deref().unwrap_or(if *does == "delete" { "no value" } else { "every record" });
        let _ = write!(out, "  {}: {does}", printable(name));
        if let Some(word) = if_missing {
            let _ = write!(out, ", if missing {word}");
        }
        if let Some(when) = when {
            let _ = write!(out, ", when {}", printable(when));
        }
        if let Some(list) = each {
            let _ = write!(out, ", each of {} as .", printable(list));
        }
        out.push('\n');
        for column in columns {
            let _ =
                write!(out, "    {} {} <- {}", printable(&column.column), column.ty, printable(&column.from));
            for word in [column.encoding, column.treated].into_iter().flatten() {
                let _ = write!(out, " ({word})");
            }
            out.push('\n');
        }
    }
    out
}
