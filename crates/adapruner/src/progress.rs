//! Progress of stages.

/// Receives a stage's progress.
pub trait Progress: Sync {
    /// `done` of `all` units of `stage` are done.
    fn at(&self, stage: &'static str, done: u64, all: u64);

    /// A message to show with the next stage.
    fn note(&self, _message: &str) {}
}

/// Ignores progress.
impl Progress for () {
    fn at(&self, _: &'static str, _: u64, _: u64) {}
}
