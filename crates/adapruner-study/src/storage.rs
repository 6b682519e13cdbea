//! Storage of studies and trials.
//!
//! Workers share all data through a [`Storage`]. Each call sees what other workers did before
//! it; concurrent operations have one outcome for all.

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

/// A change of a trial that is not finished.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Sets a parameter. Its distribution must be of the same kind, with the
    /// same choices or pool, in all trials ([`Error::Space`](crate::Error::Space)
    /// otherwise).
    Param {
        /// Name of the parameter.
        name: String,
        /// What it can be.
        distribution: Distribution,
        /// What it is.
        value: ParamValue,
    },
    /// The value at a step; NaN and infinities as well.
    Report {
        /// The step.
        step: u64,
        /// The value there.
        value: f64,
    },
    /// Sets an attribute of the user.
    UserAttr {
        /// Its key.
        key: String,
        /// Its value.
        value: Value,
    },
    /// Sets an attribute for samplers and pruners.
    SystemAttr {
        /// Its key.
        key: String,
        /// Its value.
        value: Value,
    },
    /// Ends it: a complete one with a value for each objective, a pruned one perhaps, a
    /// failed one without. A value is never NaN.
    Finish {
        /// How.
        state: TrialState,
        /// The objectives' values; none, or as many as the study has directions.
        values: Vec<f64>,
    },
}

/// What a worker begins, once it has seen what there is.
#[derive(Debug, Clone, PartialEq)]
pub enum Beginning {
    /// The oldest queued trial, or a new one where none is queued, unless other
    /// workers have begun more than `others` trials since.
    Next {
        /// How many trials of others do not matter; `None` for any number.
        others: Option<u64>,
    },
    /// A new trial with these system attributes; if there are some, only where no
    /// other worker has begun any since.
    New {
        /// Its system attributes.
        system: Attrs,
    },
}

/// A trial that was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// Its number.
    pub number: u64,
    /// Whether it was queued.
    pub queued: bool,
}

/// What [`Storage::begin`] tells of a study before a trial begins.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Its trials, by number.
    pub trials: &'a [Arc<Trial>],
    /// Its system attributes.
    pub system: &'a Attrs,
}

/// Decides what is begun; `None` for nothing. May be asked again, where another
/// worker was faster.
pub type Decide<'a> = dyn FnMut(Seen<'_>) -> Option<Beginning> + 'a;

/// A running trial and its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silence {
    /// Number of the trial.
    pub number: u64,
    /// How long nothing was heard of its worker; `None` where that cannot be
    /// known, as its worker is of another implementation.
    pub silent: Option<Duration>,
}

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
    /// Creates the study, or opens it; the directions, one for each objective, must agree.
    fn open_study(&self, name: &str, directions: &[Direction]) -> Result<StudyId>;

    /// The directions of a study, one for each objective; none where its creator left one
    /// open.
    fn directions(&self, study: &str) -> Result<Vec<Direction>>;

    /// Names of all studies, in the order in which they were created.
    fn study_names(&self) -> Result<Vec<String>>;

    /// Begins a trial and gives its number.
    fn create_trial(&self, study: StudyId) -> Result<u64>;

    /// Begins what `decide` says, with the attributes `user` of the user, as one
    /// step: between what `decide` saw last and the beginning, no other worker has
    /// begun more than it allows.
    fn begin(&self, study: StudyId, user: &Attrs, decide: &mut Decide<'_>)
    -> Result<Option<Begun>>;

    /// Queues a trial with the parameters that it shall have, and gives its
    /// number.
    fn enqueue_trial(
        &self,
        study: StudyId,
        params: BTreeMap<String, (Distribution, ParamValue)>,
    ) -> Result<u64>;

    /// Queues a trial as [`enqueue_trial`](Self::enqueue_trial), unless the study
    /// has one already, queued or begun.
    fn enqueue_first(
        &self,
        study: StudyId,
        params: BTreeMap<String, (Distribution, ParamValue)>,
    ) -> Result<Option<u64>>;

    /// Begins the oldest queued trial, if any. Of several workers one gets it.
    fn claim_waiting(&self, study: StudyId) -> Result<Option<u64>>;

    /// Makes changes of a trial, in this order and together.
    fn change(&self, study: StudyId, number: u64, changes: &[Change]) -> Result<()>;

    /// Makes the change [`Change::Param`].
    fn set_param(
        &self,
        study: StudyId,
        number: u64,
        name: &str,
        distribution: &Distribution,
        value: &ParamValue,
    ) -> Result<()> {
        let (distribution, value) = (distribution.clone(), value.clone());
        self.change(study, number, &[Change::Param { name: name.into(), distribution, value }])
    }

    /// Makes the change [`Change::Report`].
    fn report(&self, study: StudyId, number: u64, step: u64, value: f64) -> Result<()> {
        self.change(study, number, &[Change::Report { step, value }])
    }

    /// Makes the change [`Change::Finish`] for one objective.
    fn finish(
        &self,
        study: StudyId,
        number: u64,
        state: TrialState,
        value: Option<f64>,
    ) -> Result<()> {
        let values = value.into_iter().collect();
        self.change(study, number, &[Change::Finish { state, values }])
    }

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

    /// The trials as of the last call that read the storage; reads nothing.
    fn known_trials(&self, study: StudyId) -> Result<Vec<Arc<Trial>>>;

    /// Whether every call waits for a network, so that few calls are best.
    fn is_remote(&self) -> bool;

    /// The running trials, and how long nothing was heard of their workers.
    fn silences(&self, study: StudyId) -> Result<Vec<Silence>>;

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
