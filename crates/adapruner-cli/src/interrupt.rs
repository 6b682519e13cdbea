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

/// Whether the command handles the first interrupt itself.
static GRACEFUL: AtomicBool = AtomicBool::new(false);
/// Whether the command should stop.
static STOP: AtomicBool = AtomicBool::new(false);

/// From now on an interrupt or termination removes incomplete outputs.
pub fn install() {
    let handler = || {
        if GRACEFUL.load(Ordering::Relaxed) && !STOP.swap(true, Ordering::Relaxed) {
            say("\ninterrupted: finishing the current step; interrupt again to stop now");
            return;
        }
        let _held = adapruner_checkpoint::atomic::discard_all();
        if !GRACEFUL.load(Ordering::Relaxed) {
            // A stage of `run` prints only this.
            let of_run = std::env::var_os(PARENT).is_some();
            let half = "\ninterrupted: removing incomplete outputs";
            say(if of_run { "\ninterrupted" } else { half });
        }
        process::exit(INTERRUPTED);
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        tracing::warn!("interrupts cannot be caught: {error}");
    }
}

/// Lets the command handle the first interrupt; it polls the flag.
pub fn graceful() -> &'static AtomicBool {
    GRACEFUL.store(true, Ordering::Relaxed);
    &STOP
}

/// Restores the default: the first interrupt ends the program.
pub fn at_once() {
    GRACEFUL.store(false, Ordering::Relaxed);
}

/// Set for child processes of this program, whose stdin is a pipe from the parent: a byte asks
/// the child to stop as an interrupt does, and end of file means that the parent is gone,
/// however it ended.
pub const PARENT: &str = "ADAPRUNER_PARENT";

/// In a child process of this program: stops when the parent asks, and exits at once when the
/// parent is gone. Commands save resumable state as they go; incomplete outputs are removed.
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
