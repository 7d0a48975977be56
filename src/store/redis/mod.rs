use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::config::{RedisUrl, RowEncoding};
use crate::domain::catalog::Catalog;
use crate::domain::version::VersionKind;

#[derive(Debug, Clone)]
pub struct RedisSettings {
    pub url: RedisUrl,
    pub username: Option<String>,
    pub password_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub prefix: String,
    pub dedicated: bool,
    pub encoding: RowEncoding,
    pub replica_name: String,
    pub heartbeat_limit: Duration,
    pub dead_letter_bytes_max: u64,
}
pub struct RedisStore;
impl RedisStore {
    pub fn open(_: &RedisSettings, _: Arc<Catalog>) -> Result<RedisStore, StoreError> {
        unimplemented!()
    }
    pub fn version_kinds(&mut self) -> Result<Vec<Option<VersionKind>>, StoreError> {
        unimplemented!()
    }
}
impl Store for RedisStore {
    fn checkpoint(&mut self) -> Result<Checkpoint, StoreError> {
        unimplemented!()
    }
    fn apply(&mut self, _: &Batch) -> Result<Applied, StoreError> {
        unimplemented!()
    }
    fn complete(&mut self) -> Result<(), StoreError> {
        unimplemented!()
    }
    fn maintain(&mut self, _: i64) -> Result<Maintenance, StoreError> {
        unimplemented!()
    }
    fn figures(&mut self) -> Figures {
        unimplemented!()
    }
}
pub struct RedisReader;
impl RedisReader {
    pub fn new(_: &RedisSettings, _: Arc<Catalog>) -> RedisReader {
        RedisReader
    }
}
impl Reader for RedisReader {
    fn status(&self, _: i64) -> Result<Status, StoreError> {
        unimplemented!()
    }
    fn row(&self, _: usize, _: &[Value]) -> Result<RowLookup, StoreError> {
        unimplemented!()
    }
    fn is_dead_letter(&self, _: TopicPartition, _: i64) -> Result<bool, StoreError> {
        unimplemented!()
    }
}
pub fn redis_check(_: &RedisSettings, _: Duration) -> Result<String, StoreError> {
    unimplemented!()
}
