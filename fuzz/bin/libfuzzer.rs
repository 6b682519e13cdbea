//! All targets under libFuzzer; `ADAPRUNER_FUZZ_TARGET` names the one to run.
//! Built and run by `tools/fuzz`.

#![no_main]

use std::{panic, sync::OnceLock};

use adapruner_checkpoint::fence;
use adapruner_fuzz::{Target, target};
use libfuzzer_sys::fuzz_target;

/// The target of this process.
static TARGET: OnceLock<&Target> = OnceLock::new();

fn chosen() -> &'static Target {
    let name = std::env::var("ADAPRUNER_FUZZ_TARGET").unwrap_or_default();
    let Some(target) = target(&name) else {
        panic!("ADAPRUNER_FUZZ_TARGET={name}: no such target")
    };
    // That of libfuzzer-sys ends the process at panics that a reader catches, too;
    // those are not printed either, as the program does not print them.
    drop(panic::take_hook());
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !fence::active() {
            print(info);
        }
    }));
    target
}

fuzz_target!(|bytes: &[u8]| {
    (TARGET.get_or_init(chosen).run)(bytes);
});
