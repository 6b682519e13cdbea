//! Progress and messages on stderr.

use std::{
    io::{IsTerminal, Write, stderr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use adapruner::{caution::Caution, progress::Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::EnvFilter;

/// Messages go to stderr: warnings, with `--verbose` more; `ADAPRUNER_LOG`
/// overrides both.
pub fn init_messages(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("ADAPRUNER_LOG")
        .unwrap_or_else(|_| EnvFilter::new(format!("{level},tokenizers=error")));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
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

/// A bar for the stage at work, shown once it has taken two seconds; none where
/// stderr is no terminal.
#[derive(Default)]
pub struct Bars {
    current: Mutex<Option<(&'static str, ProgressBar)>>,
    note: Mutex<String>,
}

/// How long a stage runs before its bar is shown.
const PATIENCE: Duration = Duration::from_secs(2);

impl Progress for Bars {
    fn at(&self, stage: &'static str, done: u64, all: u64) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_none_or(|(name, _)| *name != stage) {
            if let Some((_, bar)) = current.take() {
                bar.finish_and_clear();
            }
            *current = Some((
                stage,
                ProgressBar::with_draw_target(Some(all), ProgressDrawTarget::hidden()),
            ));
        }
        let Some((_, bar)) = current.as_ref() else { return };
        if bar.is_hidden() && bar.elapsed() > PATIENCE && stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::stderr());
            bar.set_prefix(stage);
            bar.set_style(style());
        }
        bar.set_message(self.note.lock().unwrap_or_else(PoisonError::into_inner).clone());
        bar.set_length(all);
        bar.set_position(done);
        if done >= all {
            bar.finish_and_clear();
            *current = None;
            self.note.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    fn note(&self, message: &str) {
        message.clone_into(&mut self.note.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len}  {eta} left  {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}
