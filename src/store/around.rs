//! A store with something done before its calls, for tests.

use super::{Applied, BatchLimits, Completion, Figures, Maintenance, Preparer, Store, StoreError};
use crate::domain::batch::Batch;
use crate::domain::checkpoint::Checkpoint;
use crate::domain::shelving::Shelves;
use crate::domain::version::VersionKind;

type BeforeApply = dyn FnMut(&Batch) -> Result<(), StoreError> + Send;
type BeforeMaintain = dyn FnMut() -> Result<(), StoreError> + Send;
type BeforeComplete = dyn FnMut() -> Option<Completion> + Send;

pub(crate) struct Around<S> {
    store: S,
    before_apply: Box<BeforeApply>,
    before_maintain: Box<BeforeMaintain>,
    before_complete: Box<BeforeComplete>,
    preparer: Option<Preparer>,
}

impl<S: Store> Around<S> {
    pub fn new(store: S) -> Around<S> {
        let preparer = store.preparer();
        Around {
            store,
            before_apply: Box::new(|_| Ok(())),
            before_maintain: Box::new(|| Ok(())),
            before_complete: Box::new(|| None),
            preparer,
        }
    }

    /// An error takes the place of what would have been done.
    pub fn before_apply(self, before: impl FnMut(&Batch) -> Result<(), StoreError> + Send + 'static) -> Self {
        Around { before_apply: Box::new(before), ..self }
    }

    /// The same of housekeeping.
    pub fn before_maintain(self, before: impl FnMut() -> Result<(), StoreError> + Send + 'static) -> Self {
        Around { before_maintain: Box::new(before), ..self }
    }

    /// What it says takes the place of what would have been done.
    pub fn before_complete(self, before: impl FnMut() -> Option<Completion> + Send + 'static) -> Self {
        Around { before_complete: Box::new(before), ..self }
    }

    /// Another one than the store has.
    pub fn prepared_by(self, preparer: Preparer) -> Self {
        Around { preparer: Some(preparer), ..self }
    }
}

impl<S: Store> Store for Around<S> {
    fn generation(&self) -> u32 {
        self.store.generation()
    }

    fn version_kinds(&mut self) -> Result<Vec<Option<VersionKind>>, StoreError> {
        self.store.version_kinds()
    }

    fn checkpoint(&mut self) -> Result<Checkpoint, StoreError> {
        self.store.checkpoint()
    }

    fn apply(&mut self, batch: &Batch) -> Result<Applied, StoreError> {
        (self.before_apply)(batch)?;
        self.store.apply(batch)
    }

    fn complete(&mut self) -> Result<Completion, StoreError> {
        match (self.before_complete)() {
            Some(completion) => Ok(completion),
            None => self.store.complete(),
        }
    }

    fn maintain(&mut self, now_ms: i64) -> Result<Maintenance, StoreError> {
        (self.before_maintain)()?;
        self.store.maintain(now_ms)
    }

    fn figures(&mut self) -> Figures {
        self.store.figures()
    }

    fn batch_limits(&self) -> BatchLimits {
        self.store.batch_limits()
    }

    fn shelves(&self) -> Shelves {
        self.store.shelves()
    }

    fn preparer(&self) -> Option<Preparer> {
        self.preparer.clone()
    }
}
