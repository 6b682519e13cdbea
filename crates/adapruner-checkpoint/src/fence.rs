//! Calls into libraries that panic on hostile input.
//!
//! A fenced call turns a panic into an error message. The panic hook still runs
//! first; a program that prints its own messages asks [`active`] there and
//! stays silent, because the caller of the fenced call reports the error.

use std::{any::Any, cell::Cell, panic::AssertUnwindSafe, thread};

/// Stack for work that recurses as deeply as a hostile file says, in bytes.
const DEEP_STACK: usize = 256 << 20;

thread_local! {
    /// Fenced calls that this thread is in.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// Whether this thread is in a fenced call, so that a panic becomes an error.
pub fn active() -> bool {
    DEPTH.get() > 0
}

/// Counts a fenced call until it is dropped.
struct Entered;

impl Entered {
    fn new() -> Self {
        DEPTH.set(DEPTH.get() + 1);
        Self
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

/// What `work` returns.
///
/// # Errors
/// The message of the panic that ended it.
pub(crate) fn fenced<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let _entered = Entered::new();
    std::panic::catch_unwind(AssertUnwindSafe(work)).map_err(|payload| message(&*payload))
}

/// What `work` returns on a thread with a deep stack.
///
/// # Errors
/// The message of the panic that ended it; a thread that cannot be started.
pub(crate) fn fenced_deep<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    let joined = thread::scope(|scope| {
        let builder = thread::Builder::new().stack_size(DEEP_STACK);
        builder.spawn_scoped(scope, || fenced(work)).map(thread::ScopedJoinHandle::join)
    });
    match joined {
        Ok(Ok(result)) => result,
        Ok(Err(payload)) => Err(message(&*payload)),
        Err(error) => Err(format!("no thread to run it on: {error}")),
    }
}

/// The message of a panic, on one line.
fn message(payload: &(dyn Any + Send)) -> String {
    const LIMIT: usize = 200;
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic");
    let line = text.lines().next().unwrap_or_default();
    line.chars().take(LIMIT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_message_and_the_fence_ends_with_the_call() {
        assert!(!active());
        assert_eq!(fenced(active), Ok(true));
        assert_eq!(fenced(|| -> u8 { panic!("of {}\nlines", 2) }), Err("of 2".into()));
        assert_eq!(fenced_deep(|| -> u8 { panic!("deep") }), Err("deep".into()));
        assert_eq!(fenced_deep(active), Ok(true));
        assert!(!active());
    }

    #[test]
    fn deep_recursion_fits() {
        fn depth(n: u64) -> u64 {
            let block = std::hint::black_box([n; 16]);
            if n == 0 { block[0] } else { 1 + depth(std::hint::black_box(n - 1)) }
        }
        assert_eq!(fenced_deep(|| depth(200_000)), Ok(200_000));
    }
}
