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
pub const INTERRUPTED: i32 = 130;

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
            let half = "\ninterrupted: what was half written is removed";
            say(if of_run { "\ninterrupted" } else { half });
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

/// Set for processes that another process of this program started, with a pipe as
/// stdin: a byte on it asks to come to an end as an interrupt does, and its end
/// says that the other process is gone, however it ended.
pub const PARENT: &str = "ADAPRUNER_PARENT";

/// Where another process of this program started this one: follows its word, and
/// ends at once when it is gone. What a command keeps for a resumption it writes
/// as it goes; half-written outputs are removed.
pub fn follow_parent() {
    if std::env::var_os(PARENT).is_none() {
        return;
    }
    thread::spawn(|| {
        let mut byte = [0];
        loop {
            match std::io::stdin().read(&mut byte) {
                Ok(1..) if GRACEFUL.load(Ordering::Relaxed) => STOP.store(true, Ordering::Relaxed),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => exit(),
            }
        }
    });
}

/// Ends the program as one that was interrupted; half-written outputs are removed.
pub fn exit() -> ! {
    let _held = adapruner_checkpoint::atomic::discard_all();
    process::exit(INTERRUPTED)
}
