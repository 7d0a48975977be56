//! Rules that every store follows, so that all of them say and do the same.

use super::{StopCode, StoreError};
use crate::domain::catalog::Table;
use crate::domain::checkpoint::TopicPartition;
use crate::domain::dead_letter::{DeadLetter, Reason, Rejection};
use crate::domain::row::RowState;
use crate::domain::value::Value;
use crate::domain::version::Coordinates;

/// How far behind a table's freshness a delete mark is kept where order is that of positions:
/// covers clocks of brokers and daemon that differ.
const MARK_MARGIN_MS: i64 = 60_000;

/// Delete marks made before this may go; `None`: none of them yet.
///
/// A mark matters while an older event of its key can still arrive. Where the order is that of
/// positions, all of those were committed before the mark was, and are in the replica once it is
/// fresh as of a later time.
pub(super) fn marks_before_ms(table: &Table, fresh_as_of_ms: Option<i64>, now_ms: i64) -> Option<i64> {
    if table.ordered_by_position {
        Some(fresh_as_of_ms?.saturating_sub(MARK_MARGIN_MS))
    } else {
        Some(now_ms.saturating_sub(table.delete_marks_ms))
    }
}

/// The row of a key nobody has heard of. `values` has the key columns set.
pub(super) fn nothing_known(table: &Table, values: &[Value]) -> RowState {
    let mut known = vec![Value::Absent; table.columns.len()];
    for &column in &table.key {
        known[column] = values[column].clone();
    }
    RowState::unknown(known)
}

/// The dead letter of a patch that needs a row and found none.
pub(super) fn missing_row(table: usize, shape: &Table, at: Coordinates, now_ms: i64) -> DeadLetter {
    DeadLetter {
        at: TopicPartition { topic: at.topic as usize, partition: at.partition },
        offset: at.offset,
        rejection: Rejection {
            table: Some(table),
            path: String::new(),
            reason: Reason::MissingRow,
            message: format!("a patch of {}, whose row is not there", shape.name),
        },
        first_seen_ms: now_ms,
        record: None,
    }
}

pub(super) fn another_writer(
    topic: &str,
    partition: i32,
    found: Option<i64>,
    expected: Option<i64>,
) -> StoreError {
    let offset = |offset: Option<i64>| offset.map_or("none".into(), |offset| offset.to_string());
    StoreError::Stop {
        exit: StopCode::Foreign,
        message: format!(
            "the position of {topic}/{partition} in the replica is {}, not {}: another writer uses this \
             replica; stop it or give each its own path",
            offset(found),
            offset(expected),
        ),
    }
}

pub(super) fn another_cluster(stored: &str, seen: &str) -> StoreError {
    StoreError::Stop {
        exit: StopCode::Foreign,
        message: format!(
            "the replica was fed from Kafka cluster {stored}, and kafka.brokers is cluster {seen}: correct \
             kafka.brokers, or delete the replica to build it from the other cluster"
        ),
    }
}

pub(super) fn another_topic(topic: &str, stored: &str, seen: &str) -> StoreError {
    StoreError::Stop {
        exit: StopCode::Foreign,
        message: format!(
            "topic {topic} was deleted and created again (id {stored} in the replica, {seen} now): its offsets \
             mean other records; delete the replica to build it anew"
        ),
    }
}
