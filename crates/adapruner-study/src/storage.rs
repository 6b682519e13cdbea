//! Where the trials of studies are kept.
//!
//! All that workers share goes through a [`Storage`]. Each call sees what other
//! workers did before it; what two do at the same time has one outcome for both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::distribution::{Distribution, ParamValue};
use crate::error::Result;
use crate::journal::{JournalStorage, MemoryBackend};
use crate::trial::{Direction, Trial, TrialState};

/// A study of a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StudyId(pub u64);

/// Attributes by key.
pub type Attrs = BTreeMap<String, Value>;

/// Studies and their trials.
///
/// # Errors
///
/// Every operation fails if the storage cannot be read or written
/// ([`Error::Io`](crate::Error::Io), [`Error::Server`](crate::Error::Server)),
/// holds what it cannot understand ([`Error::Journal`](crate::Error::Journal)),
/// or lacks the study ([`Error::Study`](crate::Error::Study)) or the trial
/// ([`Error::Trial`](crate::Error::Trial)). A finished trial never changes: what
/// would change it fails with [`Error::Trial`](crate::Error::Trial).
pub trait Storage: Send + Sync {
    /// Creates the study, or opens it; the direction must agree.
    fn open_study(&self, name: &str, direction: Direction) -> Result<StudyId>;

    /// Names of all studies, in the order in which they were created.
    fn study_names(&self) -> Result<Vec<String>>;

    /// Begins a trial and gives its number.
    fn create_trial(&self, study: StudyId) -> Result<u64>;

    /// Queues a trial with the parameters that it shall have, and gives its
    /// number.
    fn enqueue_trial(
        &self,
        study: StudyId,
        params: BTreeMap<String, (Distribution, ParamValue)>,
    ) -> Result<u64>;

    /// Begins the oldest queued trial, if any. Of several workers one gets it.
    fn claim_waiting(&self, study: StudyId) -> Result<Option<u64>>;

    /// Sets a parameter. Its distribution must be of the same kind, with the
    /// same choices or pool, in all trials ([`Error::Space`](crate::Error::Space)
    /// otherwise).
    fn set_param(
        &self,
        study: StudyId,
        number: u64,
        name: &str,
        distribution: &Distribution,
        value: &ParamValue,
    ) -> Result<()>;

    /// Notes the value that a trial has at a step; NaN and infinities as well.
    fn report(&self, study: StudyId, number: u64, step: u64, value: f64) -> Result<()>;

    /// Ends a trial: a complete one with a value, a pruned one perhaps, a failed
    /// one without. A value is never NaN.
    fn finish(
        &self,
        study: StudyId,
        number: u64,
        state: TrialState,
        value: Option<f64>,
    ) -> Result<()>;

    /// Sets an attribute of a trial, or of the study if `number` is `None`.
    fn set_user_attr(
        &self,
        study: StudyId,
        number: Option<u64>,
        key: &str,
        value: Value,
    ) -> Result<()>;

    /// Sets an attribute for samplers and pruners, as
    /// [`set_user_attr`](Self::set_user_attr).
    fn set_system_attr(
        &self,
        study: StudyId,
        number: Option<u64>,
        key: &str,
        value: Value,
    ) -> Result<()>;

    /// All trials by number, as they are now. Cheap: shared, not copied.
    fn trials(&self, study: StudyId) -> Result<Vec<Arc<Trial>>>;

    /// The study's own attributes: the user's, and the system's.
    fn study_attrs(&self, study: StudyId) -> Result<(Attrs, Attrs)>;

    /// Tells that the worker of a trial is alive. May be called often.
    fn heartbeat(&self, study: StudyId, number: u64) -> Result<()>;

    /// Marks as failed the running trials whose worker was silent for longer
    /// than `grace`, and gives their numbers.
    fn fail_stale(&self, study: StudyId, grace: Duration) -> Result<Vec<u64>>;

    /// Marks as failed those of the trials `numbers` that are running, and gives
    /// their numbers, in the order given.
    fn fail_running(&self, study: StudyId, numbers: &[u64]) -> Result<Vec<u64>>;
}

/// Studies in memory, for one process.
pub type MemoryStorage = JournalStorage<MemoryBackend>;

impl MemoryStorage {
    /// A storage without studies.
    pub fn new() -> Self {
        // An empty journal in memory has nothing that could not be read, and
        // records that are dropped once read need not be few.
        Self::empty(MemoryBackend::default()).with_heartbeat_interval(Duration::ZERO)
    }
}

impl Default for MemoryStorage {
    fn default() -> Self {
        Self::new()
    }
}
