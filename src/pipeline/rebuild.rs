//! Where a rebuild is asked for, and where it says how far it is.
//!
//! The desk stands between those who ask (`POST /rebuild`) and the supervisor, who looks at it in
//! every round.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::sync::oneshot;

use super::progress::Build;

/// Requests that wait at the same time; more are answered as if one were running.
const REQUESTS_MAX: usize = 16;

/// One per process.
#[derive(Debug, Default)]
pub struct RebuildDesk {
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    requests: Vec<Request>,
    status: RebuildStatus,
}

/// Somebody wants a rebuild and waits to hear whether it has begun.
#[derive(Debug)]
pub struct Request {
    pub accepts_loss: bool,
    pub reply: oneshot::Sender<Answer>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It has begun; the number of the new generation.
    Begun(u32),
    /// One is being built already.
    Running(u32),
    /// It cannot be built: no room, for example.
    Refused(String),
}

/// How rebuilding stands, as `GET /status` says it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RebuildStatus {
    /// The generation that serves; `None` where the store does not count them.
    pub generation: Option<u32>,
    pub running: Option<Running>,
    /// How the last one of this process ended.
    pub last: Option<Last>,
    /// Why nothing is applied to the copy that serves, if so.
    pub frozen: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Running {
    /// Of the new copy.
    pub generation: u32,
    pub reason: String,
    pub since_ms: i64,
    /// `None` until the ends of the log are known.
    pub build: Option<Build>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Last {
    /// `None`: it was not begun.
    pub generation: Option<u32>,
    /// `switched`, `refused` or `failed`.
    pub result: &'static str,
    /// Why, unless it has switched.
    pub message: Option<String>,
    pub at_ms: i64,
}

impl RebuildDesk {
    /// Asks for a rebuild. The answer comes when the supervisor comes round; none, when it ends.
    pub fn ask(&self, accepts_loss: bool) -> oneshot::Receiver<Answer> {
        let (reply, answer) = oneshot::channel();
        let mut inside = self.lock();
        if inside.requests.len() < REQUESTS_MAX {
            inside.requests.push(Request { accepts_loss, reply });
        }
        answer
    }

    pub fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.lock().requests)
    }

    pub fn status(&self) -> RebuildStatus {
        self.lock().status.clone()
    }

    pub fn update(&self, change: impl FnOnce(&mut RebuildStatus)) {
        change(&mut self.lock().status);
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
