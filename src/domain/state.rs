//! The state a reader sees. It is computed when it is read, never stored, so that it turns bad by
//! itself when the daemon dies. Stores that compute it in their own language (the SQL of
//! `_readside_status`) are held to this function by the contract suite.

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// An error needs a person.
    Stopped,
    /// The first copy is not whole yet.
    Building,
    /// No proof from the brokers lately, or no daemon.
    Disconnected,
    /// Older than `max_staleness`, or of unknown age.
    Stale,
    /// Events are known to be missing.
    Incomplete,
    /// A new generation is being built beside this one.
    Rebuilding,
    Live,
}

impl State {
    pub const ALL: [State; 7] = [
        State::Stopped,
        State::Building,
        State::Disconnected,
        State::Stale,
        State::Incomplete,
        State::Rebuilding,
        State::Live,
    ];

    pub fn name(self) -> &'static str {
        match self {
            State::Stopped => "stopped",
            State::Building => "building",
            State::Disconnected => "disconnected",
            State::Stale => "stale",
            State::Incomplete => "incomplete",
            State::Rebuilding => "rebuilding",
            State::Live => "live",
        }
    }
}

/// What the state follows from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    pub stopped: bool,
    pub complete: bool,
    pub connected: bool,
    /// When the daemon last wrote, ms since 1970.
    pub heartbeat_ms: Option<i64>,
    /// Heartbeats older than this mean that there is no daemon.
    pub heartbeat_limit_ms: i64,
    pub fresh_as_of_ms: Option<i64>,
    pub max_staleness_ms: i64,
    pub missing_events: bool,
    pub rebuilding: bool,
}

/// The first that holds, in the order of the enum.
pub fn state(facts: &Facts, now_ms: i64) -> State {
    if facts.stopped {
        State::Stopped
    } else if !facts.complete {
        State::Building
    } else if !facts.connected || facts.heartbeat_ms.is_none_or(|at| now_ms - at > facts.heartbeat_limit_ms) {
        State::Disconnected
    } else if facts.fresh_as_of_ms.is_none_or(|at| now_ms - at > facts.max_staleness_ms) {
        State::Stale
    } else if facts.missing_events {
        State::Incomplete
    } else if facts.rebuilding {
        State::Rebuilding
    } else {
        State::Live
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVE: Facts = Facts {
        stopped: false,
        complete: true,
        connected: true,
        heartbeat_ms: Some(10_000),
        heartbeat_limit_ms: 3_000,
        fresh_as_of_ms: Some(9_500),
        max_staleness_ms: 30_000,
        missing_events: false,
        rebuilding: false,
    };

    #[test]
    fn the_first_fact_that_holds_names_the_state() {
        let cases = [
            (LIVE, State::Live),
            (Facts { rebuilding: true, ..LIVE }, State::Rebuilding),
            (Facts { missing_events: true, rebuilding: true, ..LIVE }, State::Incomplete),
            (Facts { fresh_as_of_ms: None, missing_events: true, ..LIVE }, State::Stale),
            (Facts { connected: false, fresh_as_of_ms: None, ..LIVE }, State::Disconnected),
            (Facts { complete: false, connected: false, ..LIVE }, State::Building),
            (Facts { stopped: true, complete: false, ..LIVE }, State::Stopped),
            (Facts { heartbeat_ms: None, ..LIVE }, State::Disconnected),
        ];
        for (facts, expected) in cases {
            assert_eq!(state(&facts, 10_000), expected, "{facts:?}");
        }
    }

    #[test]
    fn time_alone_turns_the_state_bad() {
        assert_eq!(state(&LIVE, 13_000), State::Live);
        assert_eq!(state(&LIVE, 13_001), State::Disconnected);
        let patient = Facts { heartbeat_limit_ms: i64::MAX, ..LIVE };
        assert_eq!(state(&patient, 39_500), State::Live);
        assert_eq!(state(&patient, 39_501), State::Stale);
    }
}
