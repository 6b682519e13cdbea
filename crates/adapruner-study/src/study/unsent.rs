//! Buffers changes of local trials for a remote storage.
//!
//! Every call to a remote storage waits for the network. So a trial's changes (parameters,
//! reports, attributes) are collected and sent together: by a thread as fast as calls complete,
//! if [`Study::attend`] runs one; otherwise with the next change after a second, and at the end
//! of the trial at the latest. A local storage gets changes at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::storage::Change;
use crate::study::Study;
use crate::trial::Trial;

/// How long changes are collected if no thread sends them.
const LONGEST_KEPT: Duration = Duration::from_secs(1);

/// Local state of the trials that run here.
#[derive(Default)]
pub(super) struct Here {
    state: Mutex<State>,
    changed: Condvar,
    /// Held while changes are taken and sent, so that they stay in order.
    telling: Mutex<()>,
}

#[derive(Default)]
struct State {
    running: BTreeMap<u64, Running>,
    /// Sending threads.
    attended: usize,
    /// Result of the last send, for the next change.
    error: Option<Error>,
}

#[derive(Default)]
struct Running {
    unsent: Vec<Change>,
    /// When the oldest of it was said.
    since: Option<Instant>,
    /// All reports, sent or not.
    reports: BTreeMap<u64, f64>,
}

impl Here {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A trial begins here.
    pub(super) fn enter(&self, number: u64) {
        self.state().running.entry(number).or_default();
    }

    /// A trial is at its end, or given up.
    pub(super) fn forget(&self, number: u64) {
        self.state().running.remove(&number);
    }
}

impl Study {
    /// Records a change of a local trial.
    pub(super) fn put(&self, number: u64, changes: Vec<Change>) -> Result<()> {
        if !self.storage.is_remote() {
            return self.storage.change(self.id, number, &changes);
        }
        let mut state = self.here.state();
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        let attended = state.attended > 0;
        let running = state.running.entry(number).or_default();
        for change in &changes {
            if let Change::Report { step, value } = change {
                running.reports.insert(*step, *value);
            }
        }
        running.unsent.extend(changes);
        let since = *running.since.get_or_insert_with(Instant::now);
        drop(state);
        if attended {
            self.here.changed.notify_all();
            return Ok(());
        }
        if since.elapsed() < LONGEST_KEPT { Ok(()) } else { self.send(number, Vec::new()) }
    }

    /// Sends the pending changes of a trial to the storage, and `more`.
    pub(super) fn send(&self, number: u64, more: Vec<Change>) -> Result<()> {
        let _one = self.here.telling.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changes = match self.here.state().running.get_mut(&number) {
            Some(running) => {
                running.since = None;
                std::mem::take(&mut running.unsent)
            }
            None => Vec::new(),
        };
        changes.extend(more);
        if changes.is_empty() { Ok(()) } else { self.storage.change(self.id, number, &changes) }
    }

    /// Trials with all that those which run here have reported.
    pub(super) fn as_here(&self, mut trials: Vec<Arc<Trial>>) -> Vec<Arc<Trial>> {
        if !self.storage.is_remote() {
            return trials;
        }
        for (number, running) in &self.here.state().running {
            let trial = trials.iter_mut().find(|trial| trial.number == *number);
            if let Some(trial) = trial.filter(|trial| !trial.state.is_finished()) {
                let reports = running.reports.iter().map(|(step, value)| (*step, *value));
                Arc::make_mut(trial).intermediate.extend(reports);
            }
        }
        trials
    }

    /// Does `work` while a thread sends changes of local trials to the storage, and a heartbeat
    /// every `every`.
    pub fn attend<R>(&self, every: Duration, work: impl FnOnce() -> R) -> R {
        let over = Mutex::new(false);
        thread::scope(|scope| {
            self.here.state().attended += 1;
            let teller = scope.spawn(|| self.tell_along(every, &over));
            let end = OnDrop(|| {
                *over.lock().unwrap_or_else(PoisonError::into_inner) = true;
                self.here.state().attended -= 1;
                self.here.changed.notify_all();
            });
            let done = work();
            drop(end);
            // It neither panics nor lasts: what is left is told with the ends of trials.
            let _ = teller.join();
            done
        })
    }

    fn tell_along(&self, every: Duration, over: &Mutex<bool>) {
        let mut beaten = Instant::now();
        let mut state = self.here.state();
        loop {
            if *over.lock().unwrap_or_else(PoisonError::into_inner) {
                return;
            }
            let unsent = state.running.iter().find(|(_, running)| !running.unsent.is_empty());
            if let Some(number) = unsent.map(|(number, _)| *number) {
                drop(state);
                let told = self.send(number, Vec::new());
                state = self.here.state();
                note(&mut state, told);
                continue;
            }
            let left = every.saturating_sub(beaten.elapsed());
            if !left.is_zero() {
                let waited = self.here.changed.wait_timeout(state, left);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            let running: Vec<u64> = state.running.keys().copied().collect();
            drop(state);
            let beats = running.into_iter().map(|number| self.storage.heartbeat(self.id, number));
            let beats: Vec<Result<()>> = beats.collect();
            state = self.here.state();
            beats.into_iter().for_each(|beat| note(&mut state, beat));
            beaten = Instant::now();
        }
    }
}

/// Keeps an error for the next change. A trial that was given up meanwhile is detected at its
/// end.
fn note(state: &mut State, told: Result<()>) {
    match told {
        Ok(()) | Err(Error::Trial { .. }) => {}
        Err(error) => {
            state.error.get_or_insert(error);
        }
    }
}

/// Calls a function when dropped.
pub(super) struct OnDrop<F: FnMut()>(pub(super) F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
