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

/// A fresh-as-of that lies in the future was taken by a clock that has been set back since: it says
/// nothing. Clocks of a reader and a daemon may differ by `limit_ms`.
pub fn believable(fresh_as_of_ms: Option<i64>, now_ms: i64, limit_ms: i64) -> Option<i64> {
    fresh_as_of_ms.filter(|at| at.saturating_sub(now_ms) <= limit_ms)
}

/// The first that holds, in the order of the enum.
pub fn state(facts: &Facts, now_ms: i64) -> State {
    let limit_ms = facts.heartbeat_limit_ms;
    // Also when it lies in the future: then its writer's clock is not the one of now.
    let beats = facts.heartbeat_ms.is_some_and(|at| now_ms.saturating_sub(at).saturating_abs() <= limit_ms);
    let fresh = believable(facts.fresh_as_of_ms, now_ms, limit_ms);
    if facts.stopped {
        State::Stopped
    } else if !facts.complete {
        State::Building
    } else if !facts.connected || !beats {
        State::Disconnected
    } else if fresh.is_none_or(|at| now_ms.saturating_sub(at) > facts.max_staleness_ms) {
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

    #[test]
    fn a_clock_that_was_set_back_makes_nothing_look_alive_or_fresh() {
        assert_eq!(state(&LIVE, 7_000), State::Live, "clocks of two machines may differ a little");
        assert_eq!(state(&LIVE, 6_999), State::Disconnected, "a heartbeat of the future is of another clock");
        let beating = Facts { heartbeat_ms: Some(6_000), ..LIVE };
        assert_eq!(state(&beating, 6_500), State::Live);
        assert_eq!(state(&beating, 6_499), State::Stale);
        assert_eq!(believable(Some(9_500), 6_499, 3_000), None);
        assert_eq!(believable(Some(i64::MAX), i64::MIN, 3_000), None);
    }
}
