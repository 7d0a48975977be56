//! `readside wait`: read your writes, from a script.

use std::time::Duration;

use super::client::{Answer, Endpoint, block_on, escape, get};
use super::{DONE, Exit, FAILED, UNAVAILABLE, USAGE, print, printable};

/// What the network may add to the time that is waited.
const ALLOWANCE: Duration = Duration::from_secs(5);

/// What to wait for; values are as the daemon reads them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Offset { topic: String, partition: i32, offset: i64 },
    Version { table: String, key: String, version: String },
}

impl Target {
    fn query(&self) -> String {
        match self {
            Target::Offset { topic, partition, offset } => {
                format!("topic={}&partition={partition}&offset={offset}", escape(topic))
            }
            Target::Version { table, key, version } => {
                format!("table={}&key={}&version={}", escape(table), escape(key), escape(version))
            }
        }
    }
}

/// 0 once it is in the replica, 1 when it is a dead letter, 69 when it is not within `timeout`, 64 for
/// what cannot be waited for.
pub fn run(admin: &Endpoint, target: &Target, timeout: Duration, json: bool) -> anyhow::Result<u8> {
    let path = format!("/wait?{}&timeout={}ms", target.query(), timeout.as_millis());
    let answer = block_on(async { Ok(get(admin, &path, timeout.saturating_add(ALLOWANCE)).await?) })?;
    if json {
        print(&format!("{}\n", answer.body.trim_end()))?;
    }
    if answer.status == 200 {
        if !json {
            print(&format!("{}\n", printable(&outcome(&answer))))?;
        }
        return Ok(DONE);
    }
    let code = match answer.status {
        400 | 403 | 404 => USAGE,
        429 | 503 | 504 => UNAVAILABLE,
        _ => FAILED,
    };
    Err(Exit { code, message: answer.message() }.into())
}

/// The `outcome` of an answer: `applied`, `visible`, `superseded` or `deleted`.
fn outcome(answer: &Answer) -> String {
    let json: Option<serde_json::Value> = serde_json::from_str(&answer.body).ok();
    let outcome = json.as_ref().and_then(|json| json.get("outcome")?.as_str());
    outcome.map_or_else(|| answer.body.trim_end().to_owned(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::super::client::tests::{answering, response};
    use super::super::exit_code;
    use super::*;
    use crate::testing::PATIENCE;

    fn target() -> Target {
        Target::Version { table: "users".to_owned(), key: r#"["a b"]"#.to_owned(), version: "+1".to_owned() }
    }

    #[test]
    fn what_is_asked_survives_the_query() {
        let (endpoint, asked) = answering(response("200 OK", r#"{"outcome":"visible"}"#));
        assert_eq!(run(&endpoint, &target(), Duration::from_millis(60_500), false).unwrap(), DONE);
        let asked = asked.join().unwrap();
        let path = "GET /wait?table=users&key=%5B%22a%20b%22%5D&version=%2B1&timeout=60500ms ";
        assert!(asked.starts_with(path), "{asked}");
        let offset = Target::Offset { topic: "a&b".to_owned(), partition: 3, offset: 9 };
        assert_eq!(offset.query(), "topic=a%26b&partition=3&offset=9");
    }

    #[test]
    fn the_exit_code_says_whether_to_try_again() {
        for (status, code) in [
            ("504 Gateway Timeout", UNAVAILABLE),
            ("429 Too Many Requests", UNAVAILABLE),
            ("503 Service Unavailable", UNAVAILABLE),
            ("400 Bad Request", USAGE),
            ("404 Not Found", USAGE),
            ("409 Conflict", FAILED),
        ] {
            let (endpoint, _asked) = answering(response(status, r#"{"message":"no"}"#));
            let error = run(&endpoint, &target(), PATIENCE, true).unwrap_err();
            assert_eq!((exit_code(&error), error.to_string().as_str()), (code, "no"), "{status}");
        }
    }
}
