//! The supervisor: which generation serves, which one is being built, and what follows from an end.
//!
//! One thread. It looks around several times a second, which is as fast as a switch, a request or
//! an end has to be noticed by it: what readers see changes in the store, not here.

mod rebuilding;
mod recovery;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{error, info, warn};

use super::build::{Build, Parts, Report};
use super::frozen::Frozen;
use super::replica::{Found, Place, Serves};
use crate::admin;
use crate::config::{Config, RebuildPolicy};
use crate::domain::retry::Backoff;
use crate::mapping::Plan;
use crate::metrics::{Metrics, RebuildResult};
use crate::pipeline::progress::{Loops, Progress};
use crate::pipeline::rebuild::{RebuildDesk, Running};
use crate::pipeline::{Clock, Ended, Failure};
use crate::store::{Next, Rebuild, Replica, Store, StoreError};

const ROUND: Duration = Duration::from_millis(200);
/// Between two attempts to find out what the log holds, or to begin a rebuild that is needed.
const AGAIN: Duration = Duration::from_secs(10);

/// Asking how much room is left is cheap; a volume fills in minutes.
const LOOK_AFTER_EVERY: Duration = Duration::from_secs(1);

const MAPPING_CHANGED: &str = "the mapping has changed";

pub struct Supervisor {
    config: Config,
    clock: Clock,
    stop: Arc<AtomicBool>,
    serving: watch::Sender<admin::Context>,
    desk: Arc<RebuildDesk>,
    reports: (Sender<Report>, Receiver<Report>),
    builds: u64,
    replica: Box<dyn Replica>,
    live: Live,
    next: Option<NextBuild>,
    /// The build of the generation that serves has ended, not with a failure: another has to go on.
    unwritten: bool,
    /// Builds that are out of use and still end.
    ending: Vec<Build>,
    wanted: Option<Wanted>,
    /// What the replica did not take when it was told, and is told again.
    owed: Owed,
    /// After the room that a rebuild takes, and whether the replica is still ours.
    looked: Instant,
    /// Times the replica lost data since it was last whole.
    losses: Backoff,
    /// The answer of a thread that asks what the log holds.
    asked: Option<Receiver<Result<Vec<String>, String>>>,
}

enum Live {
    Applying(Build),
    Frozen(Frozen),
}

struct NextBuild {
    build: Build,
    /// Why and how it was begun.
    rebuild: Rebuild,
    since_ms: i64,
    /// It was told to end, and why. Whether it has switched meanwhile is known when it has ended.
    given_up: Option<String>,
}

#[derive(Default)]
struct Owed {
    /// See [`Replica::freeze`].
    freeze: Option<Option<String>>,
    /// See [`Replica::abandon`].
    abandon: bool,
}

/// A rebuild that has to come and has not begun.
struct Wanted {
    rebuild: Rebuild,
    /// Only if the log can give everything back.
    only_if_whole: bool,
    again: Instant,
}

/// What the supervisor is started with.
pub struct Setting {
    pub config: Config,
    pub clock: Clock,
    pub stop: Arc<AtomicBool>,
    pub desk: Arc<RebuildDesk>,
}

/// What was found, as it serves and as it is built.
struct TakenUp {
    live: Live,
    next: Option<NextBuild>,
    wanted: Option<Wanted>,
}

/// What it takes to go on with what was found.
struct Start<'a> {
    config: &'a Config,
    clock: &'a Clock,
    reports: &'a Sender<Report>,
    /// Numbers of builds that are taken.
    builds: u64,
    /// Of the generation that served before in this process.
    kept: Option<(Arc<Metrics>, Arc<Progress>)>,
}

impl Start<'_> {
    fn take_up(
        &mut self,
        plan: Plan,
        serves: Serves,
        next: Option<(Box<dyn Store>, Next)>,
    ) -> Result<TakenUp, Failure> {
        let mut wanted = None;
        let live = match serves {
            Serves::Live(store) => {
                let kept = self.kept.take();
                let (metrics, progress) = kept
                    .unwrap_or_else(|| (Arc::new(Metrics::new(plan.catalog())), Arc::<Progress>::default()));
                Live::Applying(self.build(plan, store, metrics, progress)?)
            }
            Serves::Frozen { catalog, needs_log } => {
                let now_ms = (self.clock)();
                let reader = Place::of(self.config).reader(&catalog);
                let status = reader.status(now_ms)?;
                let generation = status.tables.iter().map(|table| table.generation).max().unwrap_or(0);
                let rebuild = Rebuild {
                    reason: MAPPING_CHANGED.into(),
                    may_go_back: false,
                    accepts_loss: false,
                    live_is_frozen: true,
                    from_live: !needs_log,
                };
                let only_if_whole =
                    needs_log && self.config.replica.rebuild_when_mapping_changes == RebuildPolicy::Auto;
                wanted = Some(Wanted { rebuild, only_if_whole, again: Instant::now() });
                info!(generation, "the copy that serves is left as it is: it is to be replaced by a new one");
                let may_go_back = next.as_ref().is_some_and(|(_, next)| next.may_go_back);
                let (metrics, progress) = match self.kept.take() {
                    Some((metrics, progress)) => (metrics.beside(&catalog), progress),
                    None => (Metrics::new(&catalog), Arc::default()),
                };
                let serving = admin::Context { catalog, metrics: Arc::new(metrics), progress, reader };
                Live::Frozen(Frozen::new(self.config, serving, (generation, may_go_back), now_ms))
            }
        };
        let next = match next {
            None => None,
            Some((store, Next { reason, may_go_back, live_is_frozen, .. })) => {
                wanted = None;
                let plan = Plan::compile(self.config);
                info!(generation = store.generation(), reason, "going on with the rebuild");
                let metrics = Arc::new(live.metrics().beside(plan.catalog()));
                let build = self.build(plan, store, metrics, Arc::default())?;
                let rebuild =
                    Rebuild { reason, may_go_back, accepts_loss: false, live_is_frozen, from_live: false };
                Some(NextBuild { build, rebuild, since_ms: (self.clock)(), given_up: None })
            }
        };
        Ok(TakenUp { live, next, wanted })
    }

    fn build(
        &mut self,
        plan: Plan,
        store: Box<dyn Store>,
        metrics: Arc<Metrics>,
        progress: Arc<Progress>,
    ) -> Result<Build, Failure> {
        let parts = Parts {
            config: self.config,
            clock: Arc::clone(self.clock),
            metrics,
            progress,
            reports: self.reports.clone(),
        };
        self.builds += 1;
        Build::start(self.builds, plan, store, parts)
    }
}

impl Supervisor {
    /// Starts what was found. The receiver tells which generation serves, from now on.
    pub fn start(
        setting: Setting,
        plan: Plan,
        found: Found,
    ) -> Result<(Supervisor, watch::Receiver<admin::Context>), Failure> {
        let Setting { config, clock, stop, desk } = setting;
        let Found { replica, serves, next } = found;
        let reports = channel();
        let mut start = Start { config: &config, clock: &clock, reports: &reports.0, builds: 0, kept: None };
        let TakenUp { live, next, wanted } = start.take_up(plan, serves, next)?;
        let builds = start.builds;
        let (serving, served) = watch::channel(live.serving(&Place::of(&config)));
        let supervisor = Supervisor {
            config,
            clock,
            stop,
            serving,
            desk,
            reports,
            builds,
            replica,
            live,
            next,
            unwritten: false,
            ending: Vec::new(),
            wanted,
            owed: Owed::default(),
            looked: Instant::now(),
            losses: recovery::patience(),
            asked: None,
        };
        Ok((supervisor, served))
    }

    /// Runs until it is told to stop or the generation that serves cannot go on. Everything is
    /// closed then.
    pub fn run(mut self) -> Result<(), Failure> {
        let outcome = loop {
            if self.stop.load(Ordering::Relaxed) {
                break Ok(());
            }
            if let Err(failure) = self.round() {
                break Err(failure);
            }
        };
        self.close(outcome)
    }

    fn round(&mut self) -> Result<(), Failure> {
        if let Ok(report) = self.reports.1.recv_timeout(ROUND) {
            self.take(report)?;
        }
        // A switch comes first: what is asked for then is asked of the new one.
        if self.next.as_ref().is_some_and(|next| next.build.progress.is_gate_open()) {
            self.promote();
        }
        for request in self.desk.take_requests() {
            self.answer(request);
        }
        self.want();
        self.look_after()?;
        self.publish();
        Ok(())
    }

    /// What follows from the end of a build.
    fn take(&mut self, report: Report) -> Result<(), Failure> {
        if self.next.as_ref().is_some_and(|next| next.build.id == report.build) {
            return self.next_ended(report.outcome);
        }
        if !matches!(&self.live, Live::Applying(build) if build.id == report.build) {
            // Of one that is out of use: nothing follows from its end.
            return Ok(());
        }
        self.live_ended(report.outcome)
    }

    fn live_ended(&mut self, outcome: Result<Ended, Failure>) -> Result<(), Failure> {
        match outcome {
            Ok(Ended::Rebuild { reason }) => self.freeze(reason),
            Ok(Ended::Lost { reason }) => self.start_over(&reason),
            // The next one has taken over, which is about to be noticed unless it ends with that; or
            // this one did so while it was told to end.
            Ok(Ended::Stopped | Ended::Retired | Ended::Refused { .. }) => {
                self.unwritten = true;
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }

    /// Another build goes on with the generation that serves, whose own has ended.
    fn go_on(&mut self) -> Result<(), Failure> {
        let admin::Context { metrics, progress, .. } = self.live.serving(&Place::of(&self.config));
        let plan = Plan::compile(&self.config);
        let store = match self.replica.open_live(Arc::clone(plan.catalog())) {
            Ok(store) => store,
            Err(StoreError::Retry { message, .. }) => {
                warn!(error = %message, "the generation that serves cannot be opened; trying again");
                let now_ms = (self.clock)();
                progress.tick_as(Loops { pipeline_ms: now_ms, writer_ms: now_ms, in_store: false });
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        info!(generation = store.generation(), "going on with the generation that serves");
        let build = self.build(plan, store, metrics, progress)?;
        if let Live::Applying(ended) = std::mem::replace(&mut self.live, Live::Applying(build)) {
            self.ending.push(ended);
        }
        self.unwritten = false;
        self.serving.send_replace(self.live.serving(&Place::of(&self.config)));
        Ok(())
    }

    /// See [`Start::build`].
    fn build(
        &mut self,
        plan: Plan,
        store: Box<dyn Store>,
        metrics: Arc<Metrics>,
        progress: Arc<Progress>,
    ) -> Result<Build, Failure> {
        let mut start = Start {
            config: &self.config,
            clock: &self.clock,
            reports: &self.reports.0,
            builds: self.builds,
            kept: None,
        };
        let build = start.build(plan, store, metrics, progress);
        self.builds = start.builds;
        build
    }

    fn next_ended(&mut self, outcome: Result<Ended, Failure>) -> Result<(), Failure> {
        if self.next.as_ref().is_some_and(|next| next.build.progress.has_switched()) {
            // It serves: its end is that of the live generation.
            self.promote();
            return self.live_ended(outcome);
        }
        let Some(NextBuild { build, rebuild, given_up, .. }) = self.next.take() else { return Ok(()) };
        let generation = build.generation;
        let frozen = matches!(self.live, Live::Frozen(_));
        build.join();
        if let Some(why) = given_up {
            self.ended(Some(generation), RebuildResult::Failed, Some(why));
            self.abandon();
            return Ok(());
        }
        match outcome {
            Ok(Ended::Stopped | Ended::Retired) => {}
            Ok(Ended::Lost { reason: why }) => {
                self.ended(Some(generation), RebuildResult::Failed, Some(why.clone()));
                // Nobody else writes who would notice it.
                if frozen {
                    return self.start_over(&why);
                }
                self.abandon();
            }
            Ok(Ended::Refused { reason: why }) => {
                error!(reason = %why, "the rebuild is refused: the copy that serves is fuller");
                let advice = format!(
                    "{why}; to switch nevertheless: readside rebuild --accept-loss, or raise rebuild.max_loss"
                );
                self.ended(Some(generation), RebuildResult::Refused, Some(advice.clone()));
                self.abandon();
                if frozen {
                    self.say_stopped(&format!("a rebuild was refused: {advice}"));
                }
            }
            Ok(Ended::Rebuild { reason: gap }) => {
                warn!(reason = %gap, "the log has changed under the rebuild: beginning again");
                self.ended(Some(generation), RebuildResult::Failed, Some(gap));
                self.abandon();
                if let Live::Frozen(frozen) = &mut self.live {
                    frozen.may_go_back = true;
                }
                let rebuild =
                    Rebuild { may_go_back: true, live_is_frozen: frozen, from_live: false, ..rebuild };
                self.wanted = Some(Wanted { rebuild, only_if_whole: false, again: Instant::now() + AGAIN });
            }
            Err(failure) if frozen => return Err(failure),
            Err(failure) => {
                error!(reason = %failure, "the rebuild has failed; the live generation goes on");
                self.ended(Some(generation), RebuildResult::Failed, Some(failure.reason));
                self.abandon();
            }
        }
        Ok(())
    }

    /// The live generation cannot go on from where it stands.
    fn freeze(&mut self, reason: String) -> Result<(), Failure> {
        let Live::Applying(build) = &self.live else { return Ok(()) };
        warn!(reason, "the copy is served as it is while a new one is built");
        let serving = build.serving(Place::of(&self.config).reader(&build.catalog));
        let frozen = Frozen::going_on(&self.config, serving, build.generation, true);
        self.say(None)?;
        if let Live::Applying(build) = std::mem::replace(&mut self.live, Live::Frozen(frozen)) {
            build.join();
        }
        // It was begun as if the live one went on.
        self.give_up("the copy that serves cannot be gone on with".into());
        let accepts_loss = self.next.as_ref().is_some_and(|next| next.rebuild.accepts_loss);
        let rebuild =
            Rebuild { reason, may_go_back: true, accepts_loss, live_is_frozen: true, from_live: false };
        self.wanted = Some(Wanted { rebuild, only_if_whole: false, again: Instant::now() });
        Ok(())
    }

    /// The next generation serves: everything that looks at the live one looks at it now.
    fn promote(&mut self) {
        let Some(NextBuild { build, .. }) = self.next.take() else { return };
        info!(generation = build.generation, "the new generation serves");
        // Its pipeline may have ended before it could.
        build.progress.open_gate();
        self.ended(Some(build.generation), RebuildResult::Switched, None);
        match std::mem::replace(&mut self.live, Live::Applying(build)) {
            Live::Applying(old) => {
                old.progress.open_gate();
                old.stop();
                self.ending.push(old);
            }
            Live::Frozen(old) => old.serving.progress.open_gate(),
        }
        (self.wanted, self.owed, self.unwritten) = (None, Owed::default(), false);
        self.desk.update(|status| status.frozen = None);
        self.serving.send_replace(self.live.serving(&Place::of(&self.config)));
    }

    fn publish(&mut self) {
        for ended in self.ending.extract_if(.., |build| build.has_ended()) {
            ended.join();
        }
        let now_ms = (self.clock)();
        let building = self.next.as_ref();
        if let Live::Frozen(frozen) = &mut self.live {
            frozen.keep_up(building.map(|next| &*next.build.progress), now_ms);
        }
        let running = building.map(|next| Running {
            generation: next.build.generation,
            reason: next.rebuild.reason.clone(),
            since_ms: next.since_ms,
            build: next.build.progress.read(|shared| shared.build),
        });
        let remaining = running.as_ref().and_then(|running| running.build);
        let remaining = remaining.map(|build| build.remaining_records);
        let generation = self.live.generation();
        self.live.metrics().generations(Some(generation), running.is_some(), remaining);
        self.live.progress().set_rebuilding(running.is_some());
        let frozen = match &self.live {
            Live::Applying(_) => None,
            Live::Frozen(_) => Some(match (&running, &self.wanted) {
                (Some(running), _) => running.reason.clone(),
                (None, Some(wanted)) => wanted.rebuild.reason.clone(),
                (None, None) => MAPPING_CHANGED.to_owned(),
            }),
        };
        self.desk.update(|status| {
            status.generation = Some(generation);
            status.running = running;
            // What a person has to know says more than the reason of the beginning.
            if frozen.is_none() || status.frozen.is_none() || status.running.is_some() {
                status.frozen = frozen;
            }
        });
    }

    /// Ends every build. The end of the one that serves is the end of all.
    fn close(mut self, mut outcome: Result<(), Failure>) -> Result<(), Failure> {
        self.stop.store(true, Ordering::Relaxed);
        let live = match self.live {
            Live::Applying(build) => Some(build),
            Live::Frozen(_) => None,
        };
        let live_id = live.as_ref().map(|build| build.id);
        self.ending.extend(self.next.map(|next| next.build));
        self.ending.extend(live);
        for build in &self.ending {
            build.stop();
        }
        for build in self.ending {
            build.join();
        }
        drop(self.reports.0);
        for report in self.reports.1 {
            if let (Err(failure), Some(id), Ok(())) = (report.outcome, live_id, &outcome)
                && id == report.build
            {
                outcome = Err(failure);
            }
        }
        outcome
    }
}

impl Live {
    /// See [`Rebuild::may_go_back`].
    fn may_go_back(&self) -> bool {
        matches!(self, Live::Frozen(frozen) if frozen.may_go_back)
    }

    fn metrics(&self) -> &Metrics {
        match self {
            Live::Applying(build) => &build.metrics,
            Live::Frozen(frozen) => &frozen.serving.metrics,
        }
    }

    fn progress(&self) -> &Progress {
        match self {
            Live::Applying(build) => &build.progress,
            Live::Frozen(frozen) => &frozen.serving.progress,
        }
    }

    fn generation(&self) -> u32 {
        match self {
            Live::Applying(build) => build.generation,
            Live::Frozen(frozen) => frozen.generation,
        }
    }

    fn serving(&self, place: &Place) -> admin::Context {
        match self {
            Live::Applying(build) => build.serving(place.reader(&build.catalog)),
            Live::Frozen(frozen) => frozen.serving.clone(),
        }
    }
}
