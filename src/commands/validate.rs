//! `readside validate`: is the configuration right? Needs no network and opens no replica.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::config::{
    self, Config, ConfigErrors, Loaded, Mapping, Place, Problem, Table, process_environment,
};

/// Configuration or usage; see the exit codes in the reference.
const EXIT_CONFIGURATION: u8 = 64;

/// Prints what was found to stdout and gives the exit code.
pub fn run(path: &Path, json: bool) -> anyhow::Result<u8> {
    let (text, code) = check(path, json);
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(code)
}

/// What to print, and the exit code.
fn check(path: &Path, json: bool) -> (String, u8) {
    let result = config::load(path, process_environment());
    let file = path.display().to_string();
    let text = if json { format!("{:#}\n", as_json(&file, &result)) } else { as_text(&file, &result) };
    (text, if result.is_ok() { 0 } else { EXIT_CONFIGURATION })
}

fn as_text(file: &str, result: &Result<Loaded, ConfigErrors>) -> String {
    let mut out = String::new();
    let (problems, warnings) = match result {
        Ok(loaded) => (&[][..], &loaded.warnings),
        Err(errors) => (errors.problems.as_slice(), &errors.warnings),
    };
    for problem in problems {
        let _ = writeln!(out, "{problem}");
    }
    for warning in warnings {
        let _ = writeln!(out, "warning: {warning}");
    }
    match result {
        Ok(loaded) => {
            let _ = writeln!(out, "{file} is valid");
            for table in &loaded.config.tables {
                let _ = writeln!(out, "  {}: {}", table.name, describe(&loaded.config, table));
            }
        }
        Err(_) => {
            let plural = if problems.len() == 1 { "problem" } else { "problems" };
            let _ = writeln!(out, "{file} has {} {plural}", problems.len());
        }
    }
    out
}

/// `key (tenant, id), 4 columns, from customers.events (by event type, ordered by .sequence)`
fn describe(config: &Config, table: &Table) -> String {
    let key: Vec<&str> = key_names(table);
    let sources: Vec<String> = table
        .sources
        .iter()
        .filter_map(|source| {
            let topic = config.topics.get(source.topic)?;
            let how = match source.mapping {
                Mapping::Rows => "rows",
                Mapping::Events(_) => "by event type",
            };
            Some(format!("{} ({how}, ordered by {})", topic.name, topic.order()))
        })
        .collect();
    format!("key ({}), {} columns, from {}", key.join(", "), table.columns.len(), sources.join(" and "))
}

fn key_names(table: &Table) -> Vec<&str> {
    table.key.iter().filter_map(|&column| Some(table.columns.get(column)?.name.as_str())).collect()
}

fn as_json(file: &str, result: &Result<Loaded, ConfigErrors>) -> Value {
    let problems = |list: &[Problem]| list.iter().map(problem_json).collect::<Vec<_>>();
    match result {
        Ok(loaded) => json!({
            "file": file,
            "valid": true,
            "problems": [],
            "warnings": problems(&loaded.warnings),
            "tables": loaded.config.tables.iter().map(|table| table_json(&loaded.config, table)).collect::<Vec<_>>(),
        }),
        Err(errors) => json!({
            "file": file,
            "valid": false,
            "problems": problems(&errors.problems),
            "warnings": problems(&errors.warnings),
        }),
    }
}

fn table_json(config: &Config, table: &Table) -> Value {
    let sources: Vec<Value> = table
        .sources
        .iter()
        .filter_map(|source| {
            let topic = config.topics.get(source.topic)?;
            Some(json!({"topic": topic.name, "ordered_by": topic.order()}))
        })
        .collect();
    json!({
        "name": table.name,
        "key": key_names(table),
        "columns": table.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>(),
        "sources": sources,
    })
}

fn problem_json(problem: &Problem) -> Value {
    let variable = match &problem.place {
        Place::Variable(name) => Some(name.as_ref()),
        _ => None,
    };
    json!({
        "line": problem.place.line(),
        "column": problem.place.column(),
        "variable": variable,
        "text": problem.text,
        "message": problem.message,
        "suggestion": problem.suggestion,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Loaded, ConfigErrors> {
        config::parse(text, "readside.yaml", std::iter::empty())
    }

    const VALID: &str = "kafka: { brokers: kafka:9092 }\nreplica: { sqlite: { path: /r.db } }\ntables: { users: { topic: users, key: id, columns: { id: integer, name: text } } }\n";

    #[test]
    fn a_valid_file_is_summed_up() {
        let result = parse(VALID);
        assert_eq!(
            as_text("readside.yaml", &result),
            "readside.yaml is valid\n  users: key (id), 2 columns, from users (rows, ordered by position in the log)\n"
        );
        let json = as_json("readside.yaml", &result);
        assert_eq!(json["valid"], true);
        assert_eq!(json["tables"][0]["key"], json!(["id"]));
        assert_eq!(json["tables"][0]["sources"][0]["ordered_by"], "position in the log");
    }

    #[test]
    fn problems_are_for_people_and_for_machines() {
        let result = parse(&VALID.replace("brokers", "brokres"));
        let text = as_text("readside.yaml", &result);
        assert!(
            text.contains("readside.yaml:1:10: `brokres`: unknown key in `kafka`; did you mean `brokers`?\n"),
            "{text}"
        );
        assert!(text.ends_with("readside.yaml has 2 problems\n"), "{text}");
        let json = as_json("readside.yaml", &result);
        assert_eq!(json["valid"], false);
        assert_eq!(json["problems"][1]["line"], 1);
        assert_eq!(json["problems"][1]["suggestion"], "brokers");
    }

    #[test]
    fn the_exit_code_tells_right_from_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("readside.yaml");
        std::fs::write(&file, VALID).unwrap();
        assert_eq!(check(&file, false).1, 0);
        std::fs::write(&file, "kafka:\n").unwrap();
        assert_eq!(check(&file, true).1, 64);
        assert_eq!(check(&folder.path().join("missing"), false).1, 64);
    }
}
