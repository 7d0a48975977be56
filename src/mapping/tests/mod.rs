mod conversions;
mod debezium;
mod events;
mod fingerprints;
mod hostile;
mod rows;
mod support;
