//! `readside demo`: the whole program against a shop inside this process.
//!
//! Only the broker is not real (librdkafka's mock cluster); the configuration is read from a file,
//! and the pipeline, the replica (a file, or a private Redis), the probes and the metrics are those of `readside run`. At the
//! end the replica is compared, row by row, with what the shop knows to be right.

mod home;
mod producing;
mod proof;
mod server;
mod shop;
mod view;
mod words;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use self::home::{Addresses, Home};
use self::producing::{Producing, produce_opening};
use self::server::Server;
use self::shop::{Shop, TOPICS};
use self::view::View;
use crate::admin::{self, Listeners};
use crate::app::{self, Running, Signals};
use crate::commands::Exit;
use crate::config::{self, Config};
use crate::pipeline::{Clock, Failure};
use crate::source::kafka::mock::{MockBroker, MockError, Producer};
use crate::telemetry;

const SEED: u64 = 20_260_101;
/// For the last events to reach the replica.
const CATCH_UP_MAX: Duration = Duration::from_secs(30);

/// Runs until Ctrl-C, or for this long. Returns the exit code: 0 when the replica was right at the
/// end, 1 when it was not, 64 or 74 when `directory` cannot be used.
/// With `redis` the replica is in a Redis of the demo's own; 69 where none is installed.
pub fn run(for_: Option<Duration>, directory: PathBuf, redis: bool) -> anyhow::Result<u8> {
    let deadline = for_.and_then(|length| Instant::now().checked_add(length));
    let outcome = app::runtime().and_then(|runtime| {
        let outcome = runtime.block_on(perform(directory, redis, deadline));
        // What still blocks after a signal must not hold up the end.
        runtime.shutdown_background();
        outcome
    });
    outcome.map_err(|Failure { exit_code, reason }| Exit { code: exit_code, message: reason }.into())
}

async fn perform(directory: PathBuf, redis: bool, deadline: Option<Instant>) -> Result<u8, Failure> {
    let mut signals = Signals::new().map_err(|error| Failure::other(format!("signals: {error}")))?;
    let preparing = tokio::task::spawn_blocking(move || Demo::prepare(&directory, redis));
    tokio::select! {
        demo = preparing => {
            let demo = demo.map_err(|error| Failure::other(format!("start: {error}")))??;
            demo.play(signals, deadline).await
        }
        _ = signals.next() => Ok(stopped_early()),
    }
}

/// Everything that is needed before the pipeline starts. Dropped in this order: clients, broker,
/// Redis, and then the lock on the directory.
struct Demo {
    shop: Shop,
    producer: Producer,
    config: Config,
    /// Held from before their addresses are written down: what else starts meanwhile takes others.
    listeners: Listeners,
    clock: Clock,
    broker: MockBroker,
    /// `None`: the replica is a file.
    redis: Option<Server>,
    home: Home,
}

impl Demo {
    fn prepare(directory: &Path, redis: bool) -> Result<Demo, Failure> {
        let mut home = Home::prepare(directory)?;
        let redis = if redis { Some(Server::start(directory)?) } else { None };
        let broker = MockBroker::start(&TOPICS).map_err(broker_failed)?;
        let listeners = listen()?;
        let (http, admin) = (app::local_address(&listeners.http)?, app::local_address(&listeners.admin)?);
        let socket = redis.as_ref().map(|server| server.socket.as_path());
        home.write_config(Addresses { brokers: broker.bootstrap(), redis: socket, http, admin })?;
        // Variables of the environment could lead the demo to somebody's real brokers.
        let loaded = config::load(&home.config_path, std::iter::empty())
            .map_err(|errors| Failure { exit_code: 64, reason: errors.to_string() })?;
        let mut config = loaded.config;
        // What the demo prints is for people; the log only speaks up when something is wrong.
        config.log.level = "warn".to_owned();
        // Fails only where a log was set up before, and then that one is meant.
        let _ = telemetry::init(&config.log);
        words::say(&words::heading(&config.replica.target));
        let clock = app::clock();
        let producer = broker.producer().map_err(broker_failed)?;
        let mut shop = Shop::new(SEED);
        produce_opening(&mut shop, &producer, clock()).map_err(broker_failed)?;
        Ok(Demo { shop, producer, config, listeners, clock, broker, redis, home })
    }

    async fn play(self, mut signals: Signals, deadline: Option<Instant>) -> Result<u8, Failure> {
        let Demo { shop, producer, config, listeners, clock, broker, redis, home } = self;
        // A replica that cannot be opened for now is waited for.
        let mut running = tokio::select! {
            running = app::start(&config, listeners) => running?,
            _ = signals.next() => return Ok(stopped_early()),
        };
        let view = View::new(&running, Arc::clone(&clock));
        let mut producing = Producing::start(shop, producer, move || clock())
            .map_err(|error| Failure::other(format!("cannot start a thread: {error}")))?;
        let guide = words::guide(&words::program(), &config, &home.config_path);
        let ended = tokio::select! {
            ended = running.ended() => Err(unexpected(ended)),
            finished = producing.finished() => Err(finished.err().map_or_else(
                || Failure::other("the shop ended unexpectedly"),
                broker_failed,
            )),
            shown = view.show(&guide, deadline) => shown,
            _ = signals.next() => Ok(()),
        };
        let outcome = match ended {
            Ok(()) if view.is_gate_open() => {
                words::say("\nThe shop has closed; comparing the replica with its books …\n");
                tokio::select! {
                    ended = running.ended() => Err(unexpected(ended)),
                    proven = prove(&mut producing, &view) => proven,
                    _ = signals.next() => Err(Failure::other("interrupted before the replica was compared")),
                }
            }
            Ok(()) => Ok(stopped_early()),
            Err(failure) => Err(failure),
        };
        let closed = close(running).await;
        drop(broker);
        drop(redis);
        let exit_code = outcome?;
        closed?;
        Ok(exit_code)
    }
}

/// Lets the replica catch up with a shop that has closed, and compares.
async fn prove(producing: &mut Producing, view: &View) -> Result<u8, Failure> {
    producing.stop();
    let finished = producing.finished().await.map_err(broker_failed)?;
    if tokio::time::timeout(CATCH_UP_MAX, view.reached(&finished.ends)).await.is_err() {
        let seconds = CATCH_UP_MAX.as_secs();
        return Err(Failure::other(format!("the replica did not catch up within {seconds} s")));
    }
    let sent = finished.shop.sent();
    let comparisons = view.compare(finished.shop.expected().into()).await?;
    let status = view.status().await?;
    words::say(&words::summary(sent, &comparisons, &status, view.now_ms()));
    Ok(if comparisons.iter().all(proof::Comparison::is_equal) { 0 } else { 1 })
}

async fn close(mut running: Running) -> Result<(), Failure> {
    running.stop();
    let ended = running.ended().await;
    running.finish().await;
    ended
}

fn stopped_early() -> u8 {
    words::say("stopped before the first copy was complete");
    0
}

fn unexpected(ended: Result<(), Failure>) -> Failure {
    ended.err().unwrap_or_else(|| Failure::other("the pipeline ended unexpectedly"))
}

fn broker_failed(error: MockError) -> Failure {
    Failure::other(error.to_string())
}

/// At the usual ports, or at free ones where something else listens there.
fn listen() -> Result<Listeners, Failure> {
    let bind = |port| {
        let at = |port| admin::bind((Ipv4Addr::LOCALHOST, port).into());
        at(port).or_else(|_| at(0)).map_err(|error| Failure { exit_code: 74, reason: error.to_string() })
    };
    Ok(Listeners { http: bind(9464)?, admin: bind(9465)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second used to be given the addresses that the first had chosen and did not hold.
    #[test]
    fn two_demos_that_start_together_have_addresses_of_their_own() {
        let taken = [listen().unwrap(), listen().unwrap()];
        let mut addresses: Vec<_> = taken
            .iter()
            .flat_map(|both| [&both.http, &both.admin])
            .map(|one| one.local_addr().unwrap())
            .collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), 4, "{addresses:?}");
    }
}
