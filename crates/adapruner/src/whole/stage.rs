//! The stages and their commands.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use super::record::COMPARISON;
use crate::{
    advice::advised,
    error::{Result, ensure},
};

/// A stage of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StageName {
    /// Finds samples, metric and cut.
    Search,
    /// Prunes once: by the best trial, or without a search by the settings.
    Prune,
    /// Fine-tunes the pruned model.
    Recover,
    /// Measures the dense, the pruned and the recovered model side by side.
    Evaluate,
    /// Makes the page.
    Report,
}

impl StageName {
    /// All of them, in their order.
    pub const ALL: [Self; 5] =
        [Self::Search, Self::Prune, Self::Recover, Self::Evaluate, Self::Report];
}

/// A table of the configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Where models run.
    Run,
    /// Text to measure on.
    Eval,
    /// Tasks to ask.
    Tasks,
    /// The recipe of `prune`.
    Recipe,
    /// Calibration set and statistics.
    Calibration,
    /// How units are scored.
    Importance,
    /// What is removed.
    Plan,
    /// Targets of cache and speed.
    Budget,
    /// How speed is calibrated.
    Speed,
    /// Which layers are removed whole.
    Depth,
    /// Which experts are removed whole.
    Experts,
    /// Which tokens stay.
    Vocabulary,
    /// Learned masks.
    Masks,
    /// Compensation.
    Compensation,
    /// What is written.
    Output,
    /// How a model is trained.
    Recover,
    /// How to search.
    Search,
    /// The search space.
    Space,
    /// What `run` runs: it becomes the stages' commands.
    Pipeline,
}

adapruner_choice::choice!(Table, "table", {
    Run => "run",
    Eval => "eval",
    Tasks => "tasks",
    Recipe => "recipe",
    Calibration => "calibration",
    Importance => "importance",
    Plan => "plan",
    Budget => "budget",
    Speed => "speed",
    Depth => "depth",
    Experts => "experts",
    Vocabulary => "vocabulary",
    Masks => "masks",
    Compensation => "compensation",
    Output => "output",
    Recover => "recover",
    Search => "search",
    Space => "space",
    Pipeline => "pipeline",
});

impl Table {
    /// Whether the result of a stage depends on it, beside its command.
    pub fn decides(self, stage: StageName) -> bool {
        use StageName::{Prune, Recover, Search};
        let stages: &[StageName] = match self {
            Self::Run => &[Search, Prune, Recover],
            // A search of `run` has one objective, so no file's bytes.
            Self::Output => &[Prune, Recover],
            Self::Eval | Self::Calibration | Self::Plan | Self::Speed => &[Search, Prune],
            Self::Recipe
            | Self::Importance
            | Self::Budget
            | Self::Depth
            | Self::Experts
            | Self::Vocabulary
            | Self::Masks
            | Self::Compensation => &[Prune],
            Self::Recover => &[Recover],
            Self::Search | Self::Space => &[Search],
            Self::Tasks | Self::Pipeline => &[],
        };
        stages.contains(&stage)
    }
}

adapruner_choice::choice!(StageName, "stage", {
    Search => "search",
    Prune => "prune",
    Recover => "recover",
    Evaluate => "evaluate",
    Report => "report",
});

/// What is run on which model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pipeline {
    /// The configuration file, which every stage reads.
    pub config: PathBuf,
    /// The dense model.
    pub model: PathBuf,
    /// Folder of all outputs.
    pub out: PathBuf,
    /// Stages, in their order, each once.
    pub stages: Vec<StageName>,
    /// Test texts, which no earlier stage may see.
    pub tests: Vec<String>,
    /// Whether earlier stages may see them in part.
    pub allow_overlap: bool,
    /// Tasks to ask.
    pub tasks: Vec<String>,
    /// Windows of each text and questions of each task; `None` for all.
    pub limit: Option<usize>,
    /// Tokens of a window; `None` for the usual one.
    pub window: Option<usize>,
    /// Folder of named texts and of the tasks' data.
    pub data_dir: Option<PathBuf>,
    /// Where and how exactly models run, as arguments.
    pub run: Vec<OsString>,
    /// Formats that models are written in, as `--format` takes them.
    pub formats: String,
}

/// One command of this program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Which stage it is.
    pub name: StageName,
    /// Its arguments, the subcommand first.
    pub arguments: Vec<OsString>,
    /// Texts that it reads beside those that its tables name.
    pub inputs: Vec<String>,
    /// What it leaves behind, where that is a file or folder of its own.
    pub output: Option<PathBuf>,
}

/// Arguments put together.
struct Arguments(Vec<OsString>);

impl Arguments {
    fn new(subcommand: &str) -> Self {
        Self(vec![subcommand.into()])
    }

    fn and(mut self, argument: impl Into<OsString>) -> Self {
        self.0.push(argument.into());
        self
    }

    fn with(self, option: &str, value: impl Into<OsString>) -> Self {
        self.and(option).and(value)
    }

    fn with_number(self, option: &str, value: Option<usize>) -> Self {
        match value {
            Some(value) => self.with(option, value.to_string()),
            None => self,
        }
    }

    fn each(self, option: &str, values: &[String]) -> Self {
        values.iter().fold(self, |arguments, value| arguments.with(option, value))
    }
}

impl Pipeline {
    /// Checks that the stages fit each other.
    ///
    /// # Errors
    /// No stages, one twice or out of order, a page without a search, a recovery
    /// without a model that was pruned.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.stages.is_empty(), "stages: at least 1 expected, 0 found");
        if let Some(pair) = self.stages.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err(advised(
                format!("stages: {} comes before {}", pair[0], pair[1]),
                "their order is search, prune, recover, evaluate, report, each at most once",
            ));
        }
        for (stage, needs) in [
            (StageName::Recover, StageName::Prune),
            (StageName::Evaluate, StageName::Prune),
            (StageName::Report, StageName::Search),
        ] {
            if self.has(stage) && !self.has(needs) {
                return Err(advised(
                    format!("stages: {stage} needs {needs}, which is missing"),
                    "stages = [\"search\", \"prune\", \"recover\", \"evaluate\", \"report\"] is the whole",
                ));
            }
        }
        ensure!(
            !self.has(StageName::Evaluate) || !self.tests.is_empty(),
            "tests: at least 1 text expected for the stage evaluate, 0 found"
        );
        Ok(())
    }

    fn has(&self, stage: StageName) -> bool {
        self.stages.contains(&stage)
    }

    fn study(&self) -> PathBuf {
        self.out.join("study")
    }

    fn pruned(&self) -> PathBuf {
        self.out.join("pruned")
    }

    fn recovered(&self) -> PathBuf {
        self.out.join("recovered")
    }

    /// The commands, in order.
    pub fn commands(&self) -> Vec<Stage> {
        self.stages.iter().map(|&name| self.command(name)).collect()
    }

    /// A command with the test texts that it must not use.
    fn tested(&self, command: Arguments) -> Arguments {
        let command = command.each("--test", &self.tests);
        if self.allow_overlap { command.and("--allow-overlap") } else { command }
    }

    fn command(&self, name: StageName) -> Stage {
        let of = |subcommand, model: &Path| {
            Arguments::new(subcommand).and(model).with("--config", &self.config)
        };
        let writes = |command: Arguments, out: PathBuf| {
            let command = command.with("--out", &out).with("--format", &self.formats);
            (command.and("--force"), Some(out))
        };
        let (arguments, output) = match name {
            StageName::Search => {
                let search = of("search", &self.model).with("--study", self.study()).and("--anew");
                (self.tested(search), None)
            }
            StageName::Prune if self.has(StageName::Search) => {
                let apply = of("apply", &self.model).with("--study", self.study());
                writes(self.tested(apply), self.pruned())
            }
            StageName::Prune => writes(of("prune", &self.model), self.pruned()),
            StageName::Recover => {
                writes(self.tested(of("recover", &self.pruned())), self.recovered())
            }
            StageName::Evaluate => {
                let mut compare =
                    Arguments::new("compare-models").and(&self.model).and(self.pruned());
                if self.has(StageName::Recover) {
                    compare = compare.and(self.recovered());
                }
                let mut compare = compare
                    .each("--text", &self.tests)
                    .with_number("--window", self.window)
                    .with_number("--limit", self.limit);
                compare.0.extend(self.run.iter().cloned());
                if !self.tasks.is_empty() {
                    compare = compare.with("--tasks", self.tasks.join(","));
                }
                if let Some(folder) = &self.data_dir {
                    compare = compare.with("--data-dir", folder);
                }
                let out = self.out.join(COMPARISON);
                (compare.with("--out", &out).and("--force"), Some(out))
            }
            StageName::Report => {
                let out = self.out.join("report.html");
                let mut report = Arguments::new("report").and(self.study());
                if self.has(StageName::Recover) {
                    report = report.with("--recovery", self.recovered());
                }
                if self.has(StageName::Evaluate) {
                    report = report.with("--models", self.out.join(COMPARISON));
                }
                (report.with("--out", &out).and("--force"), Some(out))
            }
        };
        let inputs = match name {
            StageName::Search | StageName::Recover | StageName::Evaluate => self.tests.clone(),
            StageName::Prune if self.has(StageName::Search) => self.tests.clone(),
            StageName::Prune | StageName::Report => Vec::new(),
        };
        Stage { name, arguments: arguments.and("--json").0, inputs, output }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipeline(stages: &[StageName]) -> Pipeline {
        Pipeline {
            config: "run.toml".into(),
            model: "dense".into(),
            out: "out".into(),
            stages: stages.to_vec(),
            tests: vec!["wikitext2:test".into()],
            allow_overlap: false,
            tasks: Vec::new(),
            limit: None,
            window: None,
            data_dir: None,
            run: Vec::new(),
            formats: "hf".into(),
        }
    }

    #[test]
    fn stages_that_lack_what_they_need_are_refused() {
        assert!(pipeline(&StageName::ALL).check().is_ok());
        assert!(pipeline(&[]).check().is_err());
        for stages in [
            &[StageName::Recover][..],
            &[StageName::Prune, StageName::Report],
            &[StageName::Prune, StageName::Search],
            &[StageName::Prune, StageName::Prune],
        ] {
            assert!(pipeline(stages).check().is_err(), "{stages:?}");
        }
        let untested = Pipeline { tests: Vec::new(), ..pipeline(&StageName::ALL) };
        assert!(untested.check().unwrap_err().to_string().contains("tests"));
    }

    #[test]
    fn without_a_search_the_settings_prune() {
        let subcommand = |stages: &[StageName]| {
            let commands = pipeline(stages).commands();
            let prune = commands.into_iter().find(|s| s.name == StageName::Prune).unwrap();
            prune.arguments[0].clone()
        };
        assert_eq!(subcommand(&[StageName::Search, StageName::Prune]), "apply");
        assert_eq!(subcommand(&[StageName::Prune]), "prune");
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for stage in StageName::ALL {
            assert_eq!(stage.to_string().parse(), Ok(stage));
        }
        assert!("bake".parse::<StageName>().is_err());
    }
}
