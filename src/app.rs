//! Wiring, supervision and shutdown of `readside run`: the only place that knows everything.
//!
//! [`start`] builds every part in order and gives back what is running; [`run`] adds signals and
//! the progress display. The main thread serves HTTP, the supervisor has a thread, and so have the
//! pipeline and the writer of each generation; the Kafka client brings its own.

mod build;
mod frozen;
pub mod heap;
mod log;
mod producing;
pub mod replica;
mod supervisor;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{oneshot, watch};
use tracing::{info, warn};

use crate::admin;
use crate::app::replica::Found;
use crate::app::supervisor::{Setting, Supervisor};
use crate::config::Config;
use crate::mapping::Plan;
use crate::metrics::Metrics;
use crate::pipeline::letters::Log;
use crate::pipeline::progress::Progress;
use crate::pipeline::rebuild::RebuildDesk;
use crate::pipeline::{Clock, Failure};
use crate::source::kafka::fetch::{Fetched, fetch};

/// A shutdown that takes longer than this ends the process anyway: the replica is consistent at
/// any moment, only the last batch would be read again.
const SHUTDOWN_MAX: Duration = Duration::from_secs(5);

/// The parts of a running daemon.
pub struct Running {
    /// The generation that serves, from now on.
    pub serving: watch::Receiver<admin::Context>,
    stop: Arc<AtomicBool>,
    ended: Option<oneshot::Receiver<Result<(), Failure>>>,
    supervisor: Option<JoinHandle<()>>,
    http_stop: oneshot::Sender<()>,
    http: tokio::task::JoinHandle<std::io::Result<()>>,
    /// Where the listeners are, also when the configuration left the port open.
    pub http_address: SocketAddr,
    pub admin_address: SocketAddr,
}

/// The wall clock, ms since 1970.
pub fn clock() -> Clock {
    Arc::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

/// Runs until SIGTERM, SIGINT or a failure that needs a person, or until `beside` ends, whose result
/// is then given back.
///
/// All of them commit what is complete; a second signal ends the process at once. `beside` shows the
/// progress of the start and watches the configuration.
pub async fn run<F, T>(
    config: &Config,
    signals: &mut Signals,
    beside: impl FnOnce(Arc<Progress>, Arc<Metrics>) -> F,
) -> Result<Option<T>, Failure>
where
    F: Future<Output = T>,
{
    let listeners = listen(config)?;
    let stop = Arc::new(AtomicBool::new(false));
    let starting = {
        let (config, stop) = (config.clone(), Arc::clone(&stop));
        tokio::task::spawn_blocking(move || prepare(&config, &stop))
    };
    let prepared = tokio::select! {
        prepared = starting => prepared.map_err(|error| Failure::other(format!("start: {error}")))??,
        name = signals.next() => {
            info!(signal = name, "stopping before the start was complete");
            stop.store(true, Ordering::Relaxed);
            return Ok(None);
        }
    };
    let Some(prepared) = prepared else { return Ok(None) };
    let mut running = prepared.start(config, listeners, stop).await?;
    let admin::Context { progress, metrics, .. } = running.serving.borrow().clone();
    let beside = beside(progress, metrics);
    let outcome = tokio::select! {
        outcome = running.ended() => outcome.map(|()| None),
        name = signals.next() => {
            info!(signal = name, "stopping: committing what is complete");
            running.stop();
            running.ended_in_time(signals).await.map(|()| None)
        }
        result = beside => {
            running.stop();
            tokio::select! {
                outcome = running.ended() => outcome.map(|()| Some(result)),
                name = signals.next() => {
                    info!(signal = name, "stopping: committing what is complete");
                    running.ended_in_time(signals).await.map(|()| None)
                }
            }
        }
    };
    running.finish().await;
    outcome
}

/// One thread is enough for two listeners that answer probes.
pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(8)
        .build()
        .map_err(|error| Failure::other(format!("cannot start the runtime: {error}")))
}

/// Starts everything for a caller that brings its own signals and listeners, such as the demo.
pub async fn start(config: &Config, listeners: admin::Listeners) -> Result<Running, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let prepared = {
        let (config, stop) = (config.clone(), Arc::clone(&stop));
        tokio::task::spawn_blocking(move || prepare(&config, &stop))
            .await
            .map_err(|error| Failure::other(format!("start: {error}")))??
    };
    match prepared {
        Some(prepared) => prepared.start(config, listeners, stop).await,
        None => Err(Failure::other("stopped before the start was complete")),
    }
}

/// What can fail before anything runs: mapping, replica.
struct Prepared {
    plan: Plan,
    found: Found,
}

/// `None` when it was told to stop while the replica could not be opened yet.
fn prepare(config: &Config, stop: &AtomicBool) -> Result<Option<Prepared>, Failure> {
    let plan = Plan::compile(config);
    if let Some(problem) = plan.problems().into_iter().next() {
        return Err(Failure { exit_code: 64, reason: problem });
    }
    let Some(found) = Found::open(config, plan.catalog(), &|| !stop.load(Ordering::Relaxed))? else {
        return Ok(None);
    };
    Ok(Some(Prepared { plan, found }))
}

/// Both listeners of the configuration, or 74 with the key of the one that cannot be had.
pub fn listen(config: &Config) -> Result<admin::Listeners, Failure> {
    let bind = |key, address| {
        admin::bind(address).map_err(|error| Failure {
            exit_code: 74,
            reason: format!("{key}: {error}; is another readside running? choose another address"),
        })
    };
    Ok(admin::Listeners {
        http: bind("http.listen", config.http.listen)?,
        admin: bind("admin.listen", config.admin.listen)?,
    })
}

impl Prepared {
    async fn start(
        self,
        config: &Config,
        listeners: admin::Listeners,
        stop: Arc<AtomicBool>,
    ) -> Result<Running, Failure> {
        let http_address = local_address(&listeners.http)?;
        let admin_address = local_address(&listeners.admin)?;
        let desk = Arc::new(RebuildDesk::default());
        let setting = Setting {
            config: config.clone(),
            clock: clock(),
            stop: Arc::clone(&stop),
            desk: Arc::clone(&desk),
        };
        let (supervisor, serving) = Supervisor::start(setting, self.plan, self.found)?;
        heap::let_go_of_code();
        info!(http = %http_address, admin = %admin_address, "listening");
        let (http_stop, http_stopped) = oneshot::channel();
        let log = log_of(config);
        if let Some(topic) = config.dead_letters.topic.clone() {
            let parts = producing::Parts {
                topic,
                config: config.clone(),
                serving: serving.clone(),
                log: Arc::clone(&log),
                clock: clock(),
                stop: Arc::clone(&stop),
            };
            producing::spawn(parts)
                .map_err(|error| Failure::other(format!("cannot start a thread: {error}")))?;
        }
        let desks = admin::Desks { rebuilds: desk, log };
        let http = tokio::spawn(admin::serve(serving.clone(), desks, listeners, async {
            let _ = http_stopped.await;
        }));
        let (ended_tx, ended) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("supervisor".into())
            .spawn(move || {
                let _ = ended_tx.send(supervisor.run());
            })
            .map_err(|error| Failure::other(format!("cannot start a thread: {error}")))?;
        Ok(Running {
            serving,
            stop,
            ended: Some(ended),
            supervisor: Some(thread),
            http_stop,
            http,
            http_address,
            admin_address,
        })
    }
}

/// Reads single records again, with a client of its own each time.
fn log_of(config: &Config) -> Arc<Log> {
    let kafka = config.kafka.clone();
    Arc::new(move |places, limits| match fetch(&kafka, places, limits) {
        Ok(fetched) => fetched,
        Err(error) => places.iter().map(|_| Fetched::Unreachable(error.to_string())).collect(),
    })
}

pub fn local_address(listener: &TcpListener) -> Result<SocketAddr, Failure> {
    listener.local_addr().map_err(|error| Failure::other(format!("listener: {error}")))
}

impl Running {
    /// Asks both loops to commit what is complete and end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Resolves when every pipeline has ended and the replica is closed.
    pub async fn ended(&mut self) -> Result<(), Failure> {
        match &mut self.ended {
            Some(ended) => {
                let outcome = ended.await;
                self.ended = None;
                outcome.unwrap_or_else(|_| Err(Failure::other("the supervisor ended unexpectedly")))
            }
            None => Ok(()),
        }
    }

    /// As [`Running::ended`], after the signal to stop. It ends the process where that takes too long
    /// or there is another signal.
    async fn ended_in_time(&mut self, signals: &mut Signals) -> Result<(), Failure> {
        tokio::select! {
            outcome = self.ended() => outcome,
            name = signals.next() => {
                warn!(signal = name, "second signal: ending at once");
                std::process::exit(1);
            }
            () = tokio::time::sleep(SHUTDOWN_MAX) => {
                warn!("the store does not finish; ending without its last batch");
                std::process::exit(0);
            }
        }
    }

    /// Closes the listeners. To be called after [`Running::ended`].
    pub async fn finish(mut self) {
        let _ = self.http_stop.send(());
        if tokio::time::timeout(Duration::from_secs(1), self.http).await.is_err() {
            warn!("the HTTP listeners did not end in time");
        }
        if let Some(thread) = self.supervisor.take()
            && thread.join().is_err()
        {
            warn!("the supervisor thread panicked");
        }
    }
}

/// SIGTERM and SIGINT.
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    /// From now on they do not end the process.
    pub fn new() -> std::io::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The name of the next one.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
