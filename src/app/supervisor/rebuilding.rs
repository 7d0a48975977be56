//! When a rebuild begins, when it is given up, and what is said of it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use tracing::{error, info, warn};

use super::{AGAIN, LOOK_AFTER_EVERY, Live, MAPPING_CHANGED, NextBuild, Supervisor, Wanted};
use crate::app::log;
use crate::config::Config;
use crate::mapping::Plan;
use crate::metrics::RebuildResult;
use crate::pipeline::Failure;
use crate::pipeline::rebuild::{Answer, Last, Request};
use crate::store::{Rebuild, StopCode, StoreError};

impl Supervisor {
    /// Begins what is wanted, as soon as it may.
    pub(super) fn want(&mut self) {
        if let Some(asked) = &self.asked
            && let Ok(answer) = asked.try_recv()
        {
            self.asked = None;
            self.decide(answer);
        }
        let Some(wanted) = &mut self.wanted else { return };
        if self.asked.is_some() || self.next.is_some() || Instant::now() < wanted.again {
            return;
        }
        wanted.again = Instant::now() + AGAIN;
        if wanted.only_if_whole {
            self.asked = ask_log(self.config.clone(), Arc::clone(&self.stop));
            return;
        }
        let rebuild = wanted.rebuild.clone();
        match self.begin(rebuild) {
            Ok(Ok(_)) => self.wanted = None,
            Ok(Err(lack)) => self.say_stopped(&format!("a rebuild is needed and cannot begin: {lack}")),
            Err(failure) => warn!(reason = %failure, "a rebuild cannot begin; trying again"),
        }
    }

    /// Now and then: whether a rebuild takes room that the copy that serves needs, and whether a copy
    /// that nobody writes is still ours.
    pub(super) fn look_after(&mut self) -> Result<(), Failure> {
        if self.looked.elapsed() < LOOK_AFTER_EVERY {
            return Ok(());
        }
        self.looked = Instant::now();
        if let Some(stopped) = self.owed.freeze.take()
            && let Err(error) = self.say(stopped)
        {
            // Whether the replica is still ours is looked at below.
            warn!(%error, "readers are not told that the copy is left as it is");
        }
        if self.owed.abandon && self.next.is_none() {
            self.abandon();
        }
        if self.next.is_some() {
            self.mind_the_room();
            return Ok(());
        }
        if self.unwritten {
            self.go_on()?;
        }
        if matches!(self.live, Live::Applying(_)) {
            return Ok(());
        }
        match self.replica.keep() {
            Ok(()) => Ok(()),
            // It is tried again soon.
            Err(StoreError::Retry { message, .. }) => {
                warn!(error = %message, "it is not known whether the replica is still ours");
                Ok(())
            }
            Err(StoreError::Stop { exit: StopCode::Lost, message }) => self.start_over(&message),
            Err(error) => Err(error.into()),
        }
    }

    /// Also if others fill the volume meanwhile.
    fn mind_the_room(&mut self) {
        let Some(next) = self.next.as_ref().filter(|next| next.given_up.is_none()) else { return };
        let Ok(Some(lack)) = self.replica.lacks_room() else { return };
        let message = format!("{lack}: what was built is dropped");
        error!(generation = next.build.generation, "the rebuild is given up: {message}");
        if matches!(self.live, Live::Frozen(_)) {
            let rebuild = Rebuild { live_is_frozen: true, ..next.rebuild.clone() };
            self.wanted = Some(Wanted { rebuild, only_if_whole: false, again: Instant::now() + AGAIN });
        }
        self.give_up(message);
    }

    /// Has the one that is being built end. The store may be about to switch to it, which nothing can
    /// keep it from: what becomes of it is seen when it has ended.
    pub(super) fn give_up(&mut self, why: String) {
        if let Some(next) = &mut self.next {
            next.build.stop();
            next.given_up.get_or_insert(why);
        }
    }

    /// The mapping has changed, and this is what the log holds.
    pub(super) fn decide(&mut self, answer: Result<Vec<String>, String>) {
        let Some(wanted) = &mut self.wanted else { return };
        match answer {
            Ok(gone) if gone.is_empty() => {
                wanted.only_if_whole = false;
                wanted.again = Instant::now();
            }
            Ok(gone) => {
                self.wanted = None;
                let reason = format!(
                    "{MAPPING_CHANGED}, and the log cannot give back everything ({}): restore the mapping, or \
                     rebuild from what there is with readside rebuild or rebuild_when_mapping_changes: always",
                    gone.join("; ")
                );
                error!(reason, "the copy stays under its old mapping: a person is needed");
                self.say_stopped(&reason);
            }
            Err(reason) => {
                warn!(reason, "what the log holds is not known yet; asking again before the rebuild begins");
            }
        }
    }

    pub(super) fn answer(&mut self, request: Request) {
        let answer = if let Some(next) = &self.next {
            match &next.given_up {
                None => Answer::Running(next.build.generation),
                Some(why) => {
                    Answer::Refused(format!("the last one is being given up ({why}): ask again in a moment"))
                }
            }
        } else if self.unwritten {
            Answer::Refused("the copy that serves is being opened: ask again in a moment".into())
        } else {
            let frozen = matches!(self.live, Live::Frozen(_));
            let earlier = self.wanted.as_ref().map(|wanted| &wanted.rebuild);
            let rebuild = Rebuild {
                reason: "asked for".into(),
                may_go_back: self.live.may_go_back() || earlier.is_some_and(|rebuild| rebuild.may_go_back),
                accepts_loss: request.accepts_loss,
                live_is_frozen: frozen,
                from_live: false,
            };
            match self.begin(rebuild) {
                Ok(Ok(generation)) => {
                    self.wanted = None;
                    self.asked = None;
                    Answer::Begun(generation)
                }
                Ok(Err(lack)) => Answer::Refused(lack),
                Err(failure) => Answer::Refused(failure.reason),
            }
        };
        // Whoever asked may have gone.
        let _ = request.reply.send(answer);
    }

    /// `Err` inside: there is no room.
    pub(super) fn begin(&mut self, rebuild: Rebuild) -> Result<Result<u32, String>, Failure> {
        let plan = Plan::compile(&self.config);
        let store = match self.replica.begin(Arc::clone(plan.catalog()), &rebuild) {
            Ok(Ok(store)) => store,
            Ok(Err(lack)) => {
                error!(reason = lack, "a rebuild cannot begin");
                self.ended(None, RebuildResult::Refused, Some(lack.clone()));
                return Ok(Err(lack));
            }
            Err(error) => return Err(error.into()),
        };
        self.owed.abandon = false;
        if matches!(self.live, Live::Frozen(_))
            && let Err(error) = self.say(None)
        {
            warn!(%error, "readers are not told that a rebuild runs");
        }
        let metrics = Arc::new(self.live.metrics().beside(plan.catalog()));
        let build = match self.build(plan, store, metrics, Arc::default()) {
            Ok(build) => build,
            Err(failure) => {
                self.ended(None, RebuildResult::Failed, Some(failure.reason.clone()));
                self.abandon();
                return Err(failure);
            }
        };
        let generation = build.generation;
        info!(generation, reason = rebuild.reason, "rebuilding beside the copy that serves");
        self.next = Some(NextBuild { build, rebuild, since_ms: (self.clock)(), given_up: None });
        Ok(Ok(generation))
    }

    /// Drops what was built; tried again until it is.
    pub(super) fn abandon(&mut self) {
        let abandoned = self.replica.abandon();
        self.owed.abandon = matches!(abandoned, Err(StoreError::Retry { .. }));
        if let Err(error) = abandoned {
            warn!(%error, "what was built is not dropped yet");
        }
    }

    /// Tells readers of the copy that is left as it is that it is, and why if a person is needed; tried
    /// again until they are told.
    pub(super) fn say(&mut self, stopped: Option<String>) -> Result<(), StoreError> {
        match self.replica.freeze(stopped.as_deref()) {
            Err(StoreError::Retry { message, .. }) => {
                warn!(error = %message, "readers are not told yet that the copy is left as it is");
                self.owed.freeze = Some(stopped);
                Ok(())
            }
            said => {
                self.owed.freeze = None;
                said
            }
        }
    }

    /// Readers of a copy that is left as it is are told why.
    pub(super) fn say_stopped(&mut self, reason: &str) {
        if matches!(self.live, Live::Frozen(_))
            && let Err(error) = self.say(Some(reason.to_owned()))
        {
            warn!(%error, "readers are not told why nothing is applied");
        }
        if let Live::Frozen(frozen) = &mut self.live {
            frozen.look_soon();
        }
        self.desk.update(|status| status.frozen = Some(reason.to_owned()));
    }

    pub(super) fn ended(&self, generation: Option<u32>, result: RebuildResult, message: Option<String>) {
        self.live.metrics().rebuilt(result);
        let at_ms = (self.clock)();
        let last = Last { generation, result: result.name(), message, at_ms };
        self.desk.update(|status| status.last = Some(last));
    }
}

/// Asks on a thread of its own: brokers may be silent for long.
fn ask_log(config: Config, stop: Arc<AtomicBool>) -> Option<Receiver<Result<Vec<String>, String>>> {
    let (sender, receiver) = channel();
    let topics: Vec<String> = config.topics.iter().map(|topic| topic.name.clone()).collect();
    let thread = std::thread::Builder::new().name("log".into()).spawn(move || {
        // Nobody listens any more when the process ends.
        let _ = sender.send(log::what_is_gone(&config, &topics, &stop));
    });
    match thread {
        Ok(_) => Some(receiver),
        Err(error) => {
            warn!(%error, "cannot start a thread");
            None
        }
    }
}
