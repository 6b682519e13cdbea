//! Messages on stderr.

use std::io::{IsTerminal, Write, stderr};

use adapruner::caution::Caution;
use tracing_subscriber::EnvFilter;

/// Messages go to stderr: warnings, with `--verbose` more, with `--quiet` none;
/// `ADAPRUNER_LOG` overrides all of it.
pub fn init_messages(verbose: u8, quiet: bool) {
    let level = match verbose {
        _ if quiet => "error",
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("ADAPRUNER_LOG")
        .unwrap_or_else(|_| EnvFilter::new(format!("{level},tokenizers=error")));
    let no_color = std::env::var_os("NO_COLOR");
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal() && no_color.is_none_or(|value| value.is_empty()))
        .with_target(false)
        // These would panic where stderr is full.
        .log_internal_errors(false)
        .without_time()
        .init();
}

/// Warns of something, with advice on a line of its own.
pub fn warn(caution: &Caution) {
    tracing::warn!("{}\nhint: {}", caution.message, caution.hint);
}

/// Says something on stderr; one that is full or closed ends nothing.
pub fn say(message: &str) {
    let _ = writeln!(stderr(), "{}", message.trim_end());
}
