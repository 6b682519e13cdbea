//! Ctrl-C: half-written outputs are removed before the program ends; a search
//! finishes cleanly first.

use crate::terminal::say;
use std::{
    io::Read,
    process,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

/// Exit code of an interrupted program, as shells have it.
const INTERRUPTED: i32 = 130;

/// Whether the first interrupt is left to the command.
static GRACEFUL: AtomicBool = AtomicBool::new(false);
/// Whether the command shall come to an end.
static STOP: AtomicBool = AtomicBool::new(false);

/// From now on an interrupt or termination leaves the disk as it was.
pub fn install() {
    let handler = || {
        if GRACEFUL.load(Ordering::Relaxed) && !STOP.swap(true, Ordering::Relaxed) {
            say("\ninterrupted: coming to an end; once more ends it now");
            return;
        }
        let _held = adapruner_checkpoint::atomic::discard_all();
        if !GRACEFUL.load(Ordering::Relaxed) {
            // A stage of a run speaks for itself alone.
            let of_run = std::env::var_os(PARENT).is_some();
            say(if of_run { "\ninterrupted" } else { "\ninterrupted, nothing was written" });
        }
        process::exit(INTERRUPTED);
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        tracing::warn!("interrupts cannot be caught: {error}");
    }
}

/// Leaves the first interrupt to the command, which looks at the flag.
pub fn graceful() -> &'static AtomicBool {
    GRACEFUL.store(true, Ordering::Relaxed);
    &STOP
}

/// From now on the first interrupt ends the program again.
pub fn at_once() {
    GRACEFUL.store(false, Ordering::Relaxed);
}

/// Sets the flag once the process at the other end of stdin is gone.
pub fn stop_with_parent() {
    thread::spawn(|| {
        wait_for_end_of_stdin();
        STOP.store(true, Ordering::Relaxed);
    });
}

/// Set for processes that end with the one that started them.
pub const PARENT: &str = "ADAPRUNER_PARENT";

/// Where another process of this program started this one: once that is gone or
/// wants no more, ends as at an interrupt.
pub fn end_with_parent() {
    if std::env::var_os(PARENT).is_none() {
        return;
    }
    thread::spawn(|| {
        wait_for_end_of_stdin();
        STOP.store(true, Ordering::Relaxed);
        if !GRACEFUL.load(Ordering::Relaxed) {
            let _held = adapruner_checkpoint::atomic::discard_all();
            exit();
        }
    });
}

fn wait_for_end_of_stdin() {
    let mut byte = [0];
    while matches!(std::io::stdin().read(&mut byte), Ok(1..)) {}
}

/// Ends the program as one that was interrupted.
pub fn exit() -> ! {
    process::exit(INTERRUPTED)
}
