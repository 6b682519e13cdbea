//! Progress on stderr: a bar on a terminal, otherwise an occasional line, or events for another
//! program.

use std::{
    io::{IsTerminal, stderr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use adapruner::progress::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::terminal::say;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProgressForm {
    /// A bar if stderr is a terminal, otherwise lines.
    #[default]
    Auto,
    /// A bar.
    Bar,
    /// An occasional line.
    Lines,
    /// Every step as a JSON object on a line of its own.
    Json,
    /// Nothing.
    Off,
}
adapruner_choice::choice!(ProgressForm, "form of progress", {
    Auto => "auto",
    Bar => "bar",
    Lines => "lines",
    Json => "json",
    Off => "off" | "none",
});

impl ProgressForm {
    /// The form for a stderr that is, or is not, a terminal.
    fn resolve(self, terminal: bool) -> Self {
        match self {
            Self::Auto if terminal => Self::Bar,
            Self::Auto => Self::Lines,
            Self::Bar | Self::Lines | Self::Json | Self::Off => self,
        }
    }
}

/// How long a stage runs before its bar is shown.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time before a stage's first line, and between lines.
const LINES: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(30));
/// Minimum time between two events of a stage, except the last.
const EVENTS: Duration = Duration::from_millis(100);

/// Shows the running stage.
pub struct Bars {
    form: ProgressForm,
    stage: Mutex<Option<Stage>>,
    note: Mutex<String>,
}

/// The running stage.
struct Stage {
    name: &'static str,
    begun: Instant,
    /// When it was last shown as a line or an event.
    shown: Option<Instant>,
    bar: Option<ProgressBar>,
}

/// A step, for a program that reads the events.
#[derive(Serialize)]
struct Event<'a> {
    stage: &'a str,
    done: u64,
    all: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    note: &'a str,
}

impl Bars {
    /// Shows progress in this form.
    pub fn new(form: ProgressForm) -> Self {
        Self {
            form: form.resolve(stderr().is_terminal()),
            stage: Mutex::default(),
            note: Mutex::default(),
        }
    }

    /// Whether the stage is shown now, and that it was.
    fn due(stage: &mut Stage, (first, next): (Duration, Duration), last: bool) -> bool {
        let due = match stage.shown {
            None => stage.begun.elapsed() >= first,
            Some(shown) => last || shown.elapsed() >= next,
        };
        if due {
            stage.shown = Some(Instant::now());
        }
        due
    }
}

impl Progress for Bars {
    fn at(&self, name: &'static str, done: u64, all: u64) {
        if self.form == ProgressForm::Off {
            return;
        }
        let mut current = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_none_or(|stage| stage.name != name) {
            finish(current.take());
            *current = Some(Stage { name, begun: Instant::now(), shown: None, bar: None });
        }
        let Some(stage) = current.as_mut() else { return };
        let mut note = self.note.lock().unwrap_or_else(PoisonError::into_inner);
        let last = done >= all;
        match self.form {
            ProgressForm::Auto | ProgressForm::Off => {}
            ProgressForm::Bar => show_bar(stage, done, all, &note),
            ProgressForm::Lines => {
                if Self::due(stage, LINES, last) {
                    say(&line(stage, done, all, &note));
                }
            }
            ProgressForm::Json => {
                if Self::due(stage, (Duration::ZERO, EVENTS), last) {
                    let event = Event { stage: name, done, all, note: &note };
                    say(&serde_json::to_string(&event).unwrap_or_default());
                }
            }
        }
        if last {
            finish(current.take());
            note.clear();
        }
    }

    fn note(&self, message: &str) {
        message.clone_into(&mut self.note.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn finish(stage: Option<Stage>) {
    if let Some(bar) = stage.and_then(|stage| stage.bar) {
        bar.finish_and_clear();
    }
}

fn show_bar(stage: &mut Stage, done: u64, all: u64, note: &str) {
    if stage.bar.is_none() && stage.begun.elapsed() < PATIENCE {
        return;
    }
    let bar = stage.bar.get_or_insert_with(|| {
        let bar = ProgressBar::with_draw_target(Some(all), ProgressDrawTarget::stderr());
        bar.set_prefix(stage.name);
        bar.set_style(style());
        bar.with_elapsed(stage.begun.elapsed())
    });
    bar.set_message(note.to_owned());
    bar.set_length(all);
    bar.set_position(done);
}

/// A stage as a line: its progress, and the estimated remaining time.
fn line(stage: &Stage, done: u64, all: u64, note: &str) -> String {
    let elapsed = stage.begun.elapsed().as_secs_f64();
    let percent = 100.0 * done as f64 / all.max(1) as f64;
    let left = elapsed * all.saturating_sub(done) as f64 / done.max(1) as f64;
    let note = if note.is_empty() { String::new() } else { format!("; {note}") };
    format!("{}: {done} of {all} ({percent:.0} %), {left:.0} s left{note}", stage.name)
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len}  {eta} left  {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(begun: u64) -> Stage {
        let begun = Instant::now().checked_sub(Duration::from_secs(begun)).unwrap();
        Stage { name: "bank", begun, shown: None, bar: None }
    }

    #[test]
    fn bars_are_for_terminals_and_lines_for_files() {
        assert_eq!(ProgressForm::Auto.resolve(true), ProgressForm::Bar);
        assert_eq!(ProgressForm::Auto.resolve(false), ProgressForm::Lines);
        assert_eq!(ProgressForm::Json.resolve(true), ProgressForm::Json);
    }

    #[test]
    fn short_stages_say_nothing_and_long_ones_now_and_then() {
        let mut short = stage(1);
        assert!(!Bars::due(&mut short, LINES, false));
        assert!(!Bars::due(&mut short, LINES, true));
        let mut long = stage(20);
        assert!(Bars::due(&mut long, LINES, false));
        assert!(!Bars::due(&mut long, LINES, false));
        assert!(Bars::due(&mut long, LINES, true));
    }

    #[test]
    fn a_line_says_how_far_and_how_long() {
        let said = line(&stage(10), 25, 100, "loss 4.2");
        assert_eq!(said, "bank: 25 of 100 (25 %), 30 s left; loss 4.2");
    }
}
