mod conversions;
mod debezium;
mod event_ids;
mod events;
mod fingerprints;
mod hostile;
mod rows;
mod support;
