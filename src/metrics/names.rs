//! Every series: name, help text, type and labels. `docs/METRICS.md` lists the same ones.

/// One family of series.
#[derive(Debug)]
pub struct Family {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    /// As in the `# TYPE` line of the text format.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

macro_rules! families {
    ($($id:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub const $id: Family =
            Family { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };)*
        /// All families, in the order of the documentation.
        pub const ALL: &[&Family] = &[$(&$id),*];
    };
}

families! {
    STATE = Gauge "readside_state" ["table", "state"]
        "1 for the state the table is in, 0 for the others.";
    FRESH_AS_OF = Gauge "readside_fresh_as_of_timestamp_seconds" ["table"]
        "Every event committed before this time is in the table or among its dead letters; NaN while unknown.";
    MAX_STALENESS = Gauge "readside_max_staleness_seconds" ["table"]
        "Beyond this age readers see the table as stale.";
    LAG_SECONDS = Gauge "readside_replication_lag_seconds" ["topic"]
        "Now minus the time as of which the topic's worst partition is fresh; NaN while unknown.";
    LAG_RECORDS = Gauge "readside_replication_lag_records" ["topic", "partition"]
        "End offset as last observed minus the position in the replica; NaN while unknown.";
    CAUGHT_UP = Gauge "readside_caught_up" []
        "1 when the ends captured at start have been reached, else 0.";
    BOOTSTRAP_REMAINING = Gauge "readside_bootstrap_remaining_records" []
        "Records up to the ends captured at start; NaN while these are unknown.";
    EVENT_TO_VISIBLE = Histogram "readside_event_to_visible_seconds" ["topic"]
        "From the timestamp of a record to its commit in the replica.";
    EVENTS_APPLIED = Counter "readside_events_applied_total" ["topic", "table", "op"]
        "Changes handed to the replica; those it had newer rows for are among the skipped, too.";
    EVENTS_SKIPPED = Counter "readside_events_skipped_total" ["topic", "reason"]
        "Events that changed nothing, by reason.";
    DEAD_LETTERS_TOTAL = Counter "readside_dead_letters_total" ["topic", "reason"]
        "Events that could not be applied and became dead letters.";
    DEAD_LETTERS = Gauge "readside_dead_letters" ["topic"]
        "Dead letters kept in the replica; NaN while unknown.";
    DEAD_LETTERS_RETRIED = Counter "readside_dead_letters_retried_total" ["topic", "result"]
        "Dead letters that were tried again, by what became of them.";
    DEAD_LETTERS_DROPPED = Counter "readside_dead_letters_dropped_total" ["topic"]
        "Dead letters that were given up by a person.";
    DEAD_LETTERS_PRODUCED = Counter "readside_dead_letters_produced_total" ["topic", "result"]
        "Dead letters written to dead_letters.topic, by what of them; failed: tried again later.";
    DEAD_LETTERS_UNPRODUCED = Gauge "readside_dead_letters_unproduced" []
        "Dead letters that dead_letters.topic does not have yet; NaN while unknown and without such a topic.";
    DEAD_LETTER_TOPIC_BREAKER_OPEN = Gauge "readside_dead_letter_topic_breaker_open" []
        "1 while dead_letters.topic is left alone after several failures in a row, else 0.";
    APPLY_DURATION = Histogram "readside_apply_duration_seconds" []
        "Time of one atomic step of the replica.";
    BATCH_EVENTS = Histogram "readside_batch_events" []
        "Events in one atomic step of the replica.";
    STORE_RETRIES = Counter "readside_store_retries_total" ["reason"]
        "Batches that were tried again because the store refused them for now.";
    SOURCE_ERRORS = Counter "readside_source_errors_total" ["reason"]
        "Errors of the connection to Kafka.";
    GAPS = Counter "readside_gaps_total" ["reason"]
        "Times at which the log was found not to continue where the replica stands.";
    REGISTRY_REQUESTS = Counter "readside_schema_registry_requests_total" ["outcome"]
        "Schemas asked for at the schema registry, by outcome.";
    REGISTRY_BREAKER_OPEN = Gauge "readside_schema_registry_breaker_open" []
        "1 while the schema registry is left alone after several failures in a row, else 0.";
    WAITING_PARTITIONS = Gauge "readside_waiting_partitions" ["topic"]
        "Partitions that stand still until the schema of their next record can be fetched.";
    OPEN_TRANSACTION_SECONDS = Gauge "readside_open_transaction_seconds" ["topic"]
        "How long a partition has stood still before an open transaction, the longest of its topic; 0 when none does, NaN while unknown.";
    GENERATION = Gauge "readside_generation" []
        "Number of the generation that serves; NaN while unknown.";
    REBUILD_RUNNING = Gauge "readside_rebuild_running" []
        "1 while a new generation is being built beside the live one, else 0.";
    REBUILD_REMAINING = Gauge "readside_rebuild_remaining_records" []
        "Records between the new generation and the ends of the log when it was begun; NaN while unknown or none is built.";
    REBUILDS = Counter "readside_rebuilds_total" ["result"]
        "Rebuilds that have ended, by how: switched, refused, failed.";
    KAFKA_CONNECTED = Gauge "readside_kafka_connected" []
        "1 when the last round of questions to the brokers was answered, else 0.";
    STORE_CONNECTED = Gauge "readside_store_connected" []
        "1 when the store accepts batches, else 0.";
    TABLE_ROWS = Gauge "readside_table_rows" ["table"]
        "Rows that readers see; NaN while unknown.";
    HELD_ROWS = Gauge "readside_held_rows" ["table"]
        "Rows that are invisible because a column that may not be null has no value yet; NaN while unknown.";
    SNAPSHOT_UNFINISHED = Gauge "readside_snapshot_unfinished" ["table"]
        "1 while a whole snapshot of the source is under way or was not swept: deleted rows may be left.";
    ROWS_SWEPT = Counter "readside_rows_swept_total" ["table"]
        "Rows that went because a whole snapshot of the source did not list them.";
    MOVED_ROWS_INCOMPLETE = Counter "readside_moved_rows_incomplete_total" ["table"]
        "Rows that got another key by an event that leaves columns out, which come from the old key where known.";
    DELETE_MARKS = Gauge "readside_delete_marks" ["table"]
        "Versions of deleted rows that are kept so that a late event cannot bring them back; NaN while unknown.";
    DELETE_MARKS_DROPPED = Counter "readside_delete_marks_dropped_total" []
        "Delete marks dropped because they were old enough.";
    REPLICA_SIZE = Gauge "readside_replica_size_bytes" []
        "Size of the replica without its write-ahead log; NaN while unknown.";
    WAL_SIZE = Gauge "readside_wal_size_bytes" []
        "Size of the write-ahead log; NaN while unknown.";
    WAL_PAGES_PINNED = Gauge "readside_wal_pages_pinned" []
        "Pages of the write-ahead log that a long read transaction keeps from being reused; NaN while unknown.";
    WAL_PINNED_SECONDS = Gauge "readside_wal_pinned_seconds" []
        "How long the same read transaction has kept the write-ahead log from being reused, 0 when none does; NaN while unknown.";
    LONG_READERS = Counter "readside_long_readers_total" []
        "Read transactions that kept the write-ahead log from being reused for a minute.";
    REPLICA_LOSSES = Counter "readside_replica_losses_total" []
        "Times the replica had lost data (flushed, restored, failed over) and the daemon went on from what was left.";
    CONFIG_RELOAD_SUCCESS = Gauge "readside_config_reload_success" []
        "1 when the configuration was accepted the last time it was read, else 0.";
    BUILD_INFO = Gauge "readside_build_info" ["version", "os", "arch"]
        "Always 1; the labels say which build is running.";
}
