//! How stages tell how far they are.

/// Told by a stage how much of its work is done.
pub trait Progress: Sync {
    /// `done` of `all` units of `stage` are done.
    fn at(&self, stage: &'static str, done: u64, all: u64);

    /// Something to say beside the stage that comes next.
    fn note(&self, _message: &str) {}
}

/// Nobody listens.
impl Progress for () {
    fn at(&self, _: &'static str, _: u64, _: u64) {}
}
