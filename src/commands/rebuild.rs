//! `readside rebuild`: a new copy beside the one that serves.

use std::time::Duration;

use serde::Deserialize;

use super::client::{Answer, Endpoint, block_on, get, post};
use super::{DONE, Exit, FAILED, UNAVAILABLE, USAGE, print, printable};

/// To begin one, or to say how far it is.
const PATIENCE: Duration = Duration::from_secs(40);
/// Between two looks at it.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Until the new copy serves, or will not.
    pub wait: bool,
    /// Switch to it also when it has suspiciously fewer rows.
    pub accept_loss: bool,
}

/// 0 once it has begun or, with `wait`, once the new copy serves; 1 when it is refused or fails, 69
/// when nobody answers, 64 where it cannot be done.
pub fn run(admin: &Endpoint, options: Options) -> anyhow::Result<u8> {
    block_on(async {
        let path = if options.accept_loss { "/rebuild?accept_loss=true" } else { "/rebuild" };
        let answer = post(admin, path, PATIENCE).await?;
        if answer.status != 202 {
            return Err(refused(&answer).into());
        }
        let Begun { generation } = answer.read()?;
        print(&format!("building generation {generation} beside the copy that serves\n"))?;
        if options.wait {
            wait(admin, generation).await?;
            print(&format!("generation {generation} serves\n"))?;
        }
        Ok(DONE)
    })
}

fn refused(answer: &Answer) -> Exit {
    let code = match answer.status {
        400 | 403 | 404 | 405 | 501 => USAGE,
        503 => UNAVAILABLE,
        _ => FAILED,
    };
    Exit { code, message: answer.message() }
}

/// `generation` is the one that is being built. A daemon that is started again meanwhile goes on
/// with it.
async fn wait(admin: &Endpoint, generation: u32) -> Result<(), Exit> {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let answer = get(admin, "/status", PATIENCE).await?;
        let Status { rebuild } = answer.read()?;
        if rebuild.generation == Some(generation) {
            return Ok(());
        }
        if rebuild.running.is_some_and(|running| running.generation == generation) {
            continue;
        }
        let message = match rebuild.last {
            Some(Last { generation: Some(ended), result, message }) if ended == generation => {
                format!(
                    "{}: {}",
                    printable(&result),
                    printable(message.as_deref().unwrap_or("it says no more"))
                )
            }
            _ => "the rebuild is gone, and nobody says why: see the log of the daemon".to_owned(),
        };
        return Err(Exit { code: FAILED, message });
    }
}

#[derive(Debug, Deserialize)]
struct Begun {
    generation: u32,
}

#[derive(Debug, Deserialize)]
struct Status {
    rebuild: Rebuild,
}

#[derive(Debug, Deserialize)]
struct Rebuild {
    generation: Option<u32>,
    running: Option<Running>,
    last: Option<Last>,
}

#[derive(Debug, Deserialize)]
struct Running {
    generation: u32,
}

#[derive(Debug, Deserialize)]
struct Last {
    generation: Option<u32>,
    result: String,
    message: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::super::client::tests::{answering, response};
    use super::super::exit_code;
    use super::*;

    #[test]
    fn it_says_which_generation_is_built_and_asks_as_it_was_told() {
        for (accept_loss, asks) in
            [(false, "POST /rebuild HTTP"), (true, "POST /rebuild?accept_loss=true HTTP")]
        {
            let (endpoint, asked) = answering(response("202 Accepted", r#"{"generation":7}"#));
            assert_eq!(run(&endpoint, Options { wait: false, accept_loss }).unwrap(), DONE);
            let asked = asked.join().unwrap();
            assert!(asked.starts_with(asks), "{asked}");
        }
    }

    #[test]
    fn the_exit_code_says_whether_to_try_again() {
        for (status, code) in [
            ("409 Conflict", FAILED),
            ("507 Insufficient Storage", FAILED),
            ("501 Not Implemented", USAGE),
            ("503 Service Unavailable", UNAVAILABLE),
            ("403 Forbidden", USAGE),
        ] {
            let (endpoint, _asked) = answering(response(status, r#"{"message":"no"}"#));
            let error = run(&endpoint, Options::default()).unwrap_err();
            assert_eq!((exit_code(&error), error.to_string().as_str()), (code, "no"), "{status}");
        }
        let (endpoint, _asked) = answering(response("202 Accepted", "hello"));
        assert_eq!(exit_code(&run(&endpoint, Options::default()).unwrap_err()), UNAVAILABLE);
    }
}
