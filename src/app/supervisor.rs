//! The supervisor: which generation serves, which one is being built, and what follows from an end.
//!
//! One thread. It looks around several times a second, which is as fast as a switch, a request or
//! an end has to be noticed by it: what readers see changes in the store, not here.

mod rebuilding;
mod recovery;

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
use crate::pipeline::progress::Progress;
use crate::pipeline::rebuild::{RebuildDesk, Running};
use crate::pipeline::{Clock, Ended, Failure};
use crate::store::{Next, Rebuild, Replica, Store};

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
    /// Builds that are out of use and still end.
    ending: Vec<Build>,
    wanted: Option<Wanted>,
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
    reason: String,
    may_go_back: bool,
    since_ms: i64,
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
                let (metrics, progress) = match self.kept.take() {
                    Some((metrics, progress)) => (metrics.beside(&catalog), progress),
                    None => (Metrics::new(&catalog), Arc::default()),
                };
                let serving = admin::Context { catalog, metrics: Arc::new(metrics), progress, reader };
                Live::Frozen(Frozen::new(self.config, serving, generation, now_ms))
            }
        };
        let next = match next {
            None => None,
            Some((store, Next { reason, may_go_back, .. })) => {
                wanted = None;
                let plan = Plan::compile(self.config);
                info!(generation = store.generation(), reason, "going on with the rebuild");
                let metrics = Arc::new(live.metrics().beside(plan.catalog()));
                let build = self.build(plan, store, metrics, Arc::default())?;
                Some(NextBuild { build, reason, may_go_back, since_ms: (self.clock)() })
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
            ending: Vec::new(),
            wanted,
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
            let report = self.reports.1.recv_timeout(ROUND).ok();
            if let Some(report) = report
                && let Err(failure) = self.take(report)
            {
                break Err(failure);
            }
            // A switch comes first: what is asked for then is asked of the new one.
            if self.next.as_ref().is_some_and(|next| next.build.progress.is_gate_open()) {
                self.promote();
            }
            for request in self.desk.take_requests() {
                self.answer(request);
            }
            self.want();
            if let Err(failure) = self.look_after() {
                break Err(failure);
            }
            self.publish();
        };
        self.close(outcome)
    }

    /// What follows from the end of a build.
    fn take(&mut self, report: Report) -> Result<(), Failure> {
        if let Some(at) = self.ending.iter().position(|build| build.id == report.build) {
            self.ending.swap_remove(at).join();
            return Ok(());
        }
        if self.next.as_ref().is_some_and(|next| next.build.id == report.build) {
            return self.next_ended(report.outcome);
        }
        if !matches!(&self.live, Live::Applying(build) if build.id == report.build) {
            // Of one that was ended and waited for: a loss ends both builds, and each tells of it.
            return Ok(());
        }
        match report.outcome {
            Ok(Ended::Rebuild { reason }) => self.freeze(reason),
            Ok(Ended::Lost { reason }) => self.start_over(&reason),
            // Told to stop; or the next one has taken over, which is about to be noticed.
            Ok(Ended::Stopped | Ended::Retired | Ended::Refused { .. }) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    fn next_ended(&mut self, outcome: Result<Ended, Failure>) -> Result<(), Failure> {
        let Some(NextBuild { build, reason, .. }) = self.next.take() else { return Ok(()) };
        let generation = build.generation;
        let has_switched = build.progress.is_gate_open();
        let frozen = matches!(self.live, Live::Frozen(_));
        if has_switched {
            // It serves: its end is that of the live generation.
            self.next = Some(NextBuild { build, reason, may_go_back: false, since_ms: 0 });
            self.promote();
            return match outcome {
                Ok(Ended::Rebuild { reason }) => self.freeze(reason),
                Ok(Ended::Lost { reason }) => self.start_over(&reason),
                Ok(_) => Ok(()),
                Err(failure) => Err(failure),
            };
        }
        build.join();
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
                let rebuild = Rebuild {
                    reason,
                    may_go_back: true,
                    accepts_loss: false,
                    live_is_frozen: frozen,
                    from_live: false,
                };
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
        self.replica.freeze(None)?;
        let serving = build.serving(Place::of(&self.config).reader(&build.catalog));
        let frozen = Frozen::going_on(&self.config, serving, build.generation);
        if let Live::Applying(build) = std::mem::replace(&mut self.live, Live::Frozen(frozen)) {
            build.join();
        }
        if let Some(next) = self.next.take() {
            // It was begun as if the live one went on.
            next.build.stop();
            self.ending.push(next.build);
            self.abandon();
        }
        let rebuild = Rebuild {
            reason,
            may_go_back: true,
            accepts_loss: false,
            live_is_frozen: true,
            from_live: false,
        };
        self.wanted = Some(Wanted { rebuild, only_if_whole: false, again: Instant::now() });
        Ok(())
    }

    /// The next generation serves: everything that looks at the live one looks at it now.
    fn promote(&mut self) {
        let Some(NextBuild { build, .. }) = self.next.take() else { return };
        info!(generation = build.generation, "the new generation serves");
        self.ended(Some(build.generation), RebuildResult::Switched, None);
        match std::mem::replace(&mut self.live, Live::Applying(build)) {
            Live::Applying(old) => {
                old.progress.open_gate();
                old.stop();
                self.ending.push(old);
            }
            Live::Frozen(old) => old.serving.progress.open_gate(),
        }
        self.wanted = None;
        self.desk.update(|status| status.frozen = None);
        self.serving.send_replace(self.live.serving(&Place::of(&self.config)));
    }

    fn publish(&mut self) {
        let now_ms = (self.clock)();
        let building = self.next.as_ref();
        if let Live::Frozen(frozen) = &mut self.live {
            frozen.keep_up(building.map(|next| &*next.build.progress), now_ms);
        }
        let running = building.map(|next| Running {
            generation: next.build.generation,
            reason: next.reason.clone(),
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
