//! The views that readers see, and the state as SQL.

use crate::domain::state::State;

/// Now, ms since 1970: SQLite's clock has milliseconds. One value for a whole statement.
const NOW_MS: &str = "CAST(ROUND((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)";

/// RFC 3339 in UTC with milliseconds, of a column that holds ms since 1970.
fn rfc3339(ms: &str) -> String {
    format!("strftime('%Y-%m-%dT%H:%M:%fZ', {ms} / 1000.0, 'unixepoch')")
}

/// [`crate::domain::state::state`] over the columns of `_readside_facts`, as the place of the state
/// in [`State::ALL`]: the smaller, the worse.
pub(super) fn state_rank(now_ms: &str) -> String {
    format!(
        "CASE \
         WHEN stopped IS NOT NULL THEN {} \
         WHEN NOT complete THEN {} \
         WHEN NOT connected OR heartbeat_ms IS NULL OR ABS({now_ms} - heartbeat_ms) > heartbeat_limit_ms THEN {} \
         WHEN fresh_as_of_ms IS NULL OR {now_ms} - fresh_as_of_ms > max_staleness_ms \
           OR fresh_as_of_ms - {now_ms} > heartbeat_limit_ms THEN {} \
         WHEN missing_events THEN {} \
         WHEN rebuilding THEN {} \
         ELSE {} END",
        rank(State::Stopped),
        rank(State::Building),
        rank(State::Disconnected),
        rank(State::Stale),
        rank(State::Incomplete),
        rank(State::Rebuilding),
        rank(State::Live),
    )
}

fn rank(state: State) -> usize {
    State::ALL.iter().position(|known| *known == state).unwrap_or(0)
}

fn state_name(rank: &str) -> String {
    let cases: String = State::ALL
        .iter()
        .enumerate()
        .map(|(index, state)| format!(" WHEN {index} THEN '{}'", state.name()))
        .collect();
    format!("CASE {rank}{cases} END")
}

/// Fresh-as-of and lag over a group of partitions, unknown when one of them is.
const OVER_PARTITIONS: &str = "
  CASE WHEN COUNT(p.fresh_as_of_ms) = COUNT(*) THEN MIN(p.fresh_as_of_ms) END AS fresh_as_of_ms,
  CASE WHEN COUNT(p.end_offset) = COUNT(*) AND COUNT(p.next_offset) = COUNT(*)
    THEN SUM(MAX(p.end_offset - p.next_offset, 0)) END AS lag_records";

/// Definitions in an order in which each finds what it needs.
pub(super) fn definitions() -> Vec<String> {
    vec![
        // What states follow from, without the time. A topic whose partitions are not known yet
        // joins with nothing and so makes its tables' freshness unknown.
        format!(
            "CREATE VIEW _readside_facts AS
SELECT t.ordinal, t.table_name, g.stopped, g.complete, g.connected, g.heartbeat_ms, r.heartbeat_limit_ms,
  f.fresh_as_of_ms, f.lag_records, t.max_staleness_ms, t.missing_events,
  EXISTS (SELECT 1 FROM _readside_meta_generations n WHERE n.role = 'next') AS rebuilding, t.rows,
  (SELECT COUNT(*) FROM _readside_meta_dead_letters d WHERE d.generation = t.generation AND (
    d.table_name = t.table_name OR d.table_name = '' AND d.topic IN (SELECT s.topic FROM _readside_meta_sources s
      WHERE s.generation = t.generation AND s.table_name = t.table_name))) AS dead_letters,
  t.generation
FROM _readside_meta_replica r
JOIN _readside_meta_generations g ON g.generation = r.live
JOIN _readside_meta_tables t ON t.generation = g.generation
LEFT JOIN (
  SELECT s.generation, s.table_name, {OVER_PARTITIONS}
  FROM _readside_meta_sources s
  LEFT JOIN _readside_meta_partitions p ON p.generation = s.generation AND p.topic = s.topic
  GROUP BY s.generation, s.table_name
) f ON f.generation = t.generation AND f.table_name = t.table_name"
        ),
        format!(
            "CREATE VIEW _readside_replica_facts AS
SELECT {OVER_PARTITIONS},
  (SELECT COUNT(*) FROM _readside_meta_dead_letters d WHERE d.generation = r.live) AS dead_letters,
  MAX(r.heartbeat_limit_ms) AS heartbeat_limit_ms
FROM _readside_meta_replica r
JOIN _readside_meta_topics t ON t.generation = r.live
LEFT JOIN _readside_meta_partitions p ON p.generation = t.generation AND p.topic = t.topic"
        ),
        format!(
            "CREATE VIEW _readside_status AS
SELECT table_name, {} AS state, {} AS fresh_as_of, fresh_as_of_ms, lag_records, max_staleness_ms, rows,
  dead_letters, generation, complete, rebuilding, missing_events
FROM (
  SELECT ordinal, table_name, {rank} AS rank, {believable} AS fresh_as_of_ms, lag_records, max_staleness_ms, rows,
    dead_letters, generation, complete, rebuilding, missing_events
  FROM _readside_facts
  UNION ALL
  SELECT 9223372036854775807, NULL, MIN({rank}), (SELECT {believable} FROM _readside_replica_facts),
    (SELECT lag_records FROM _readside_replica_facts), MIN(max_staleness_ms), SUM(rows),
    (SELECT dead_letters FROM _readside_replica_facts), MAX(generation), MIN(complete), MAX(rebuilding),
    MAX(missing_events)
  FROM _readside_facts
)
ORDER BY ordinal",
            state_name("rank"),
            rfc3339("fresh_as_of_ms"),
            rank = state_rank(NOW_MS),
            believable =
                format!("CASE WHEN fresh_as_of_ms - {NOW_MS} <= heartbeat_limit_ms THEN fresh_as_of_ms END"),
        ),
        "CREATE VIEW _readside_positions AS
SELECT p.generation, p.topic, p.\"partition\", p.next_offset, p.end_offset, p.leader_epoch, t.topic_id, g.cluster_id,
  p.fresh_as_of_ms
FROM _readside_meta_partitions p
JOIN _readside_meta_topics t ON t.generation = p.generation AND t.topic = p.topic
JOIN _readside_meta_generations g ON g.generation = p.generation AND g.role <> 'dropped'"
            .into(),
        format!(
            "CREATE VIEW _readside_dead_letters AS
SELECT topic, \"partition\", \"offset\", NULLIF(table_name, '') AS table_name, path, reason, {} AS first_seen,
  \"key\", \"value\", headers, message, {} AS produced
FROM _readside_meta_dead_letters
WHERE generation = (SELECT live FROM _readside_meta_replica)",
            rfc3339("first_seen_ms"),
            rfc3339("produced_ms")
        ),
        format!(
            "CREATE VIEW _readside_tables AS
SELECT t.table_name, t.generation, t.fingerprint, t.rows, {} AS built_at, t.snapshot_phase AS snapshot
FROM _readside_meta_tables t
JOIN _readside_meta_generations g ON g.generation = t.generation AND g.role <> 'dropped'
ORDER BY t.generation, t.ordinal",
            rfc3339("t.built_at_ms")
        ),
    ]
}
