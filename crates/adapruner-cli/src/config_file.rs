//! Settings from a TOML file (`--config`). The command line overrides the file; unknown keys
//! are errors.

use std::path::Path;

use adapruner::{search::GivenSpace, whole::Table};
use adapruner_checkpoint::input;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, to_value};

use crate::{
    args::{CalibrationArgs, CompensationArgs, EvalArgs, ImportanceArgs, RunArgs},
    budget_args::{BudgetArgs, SpeedArgs},
    depth_args::DepthArgs,
    expert_args::ExpertArgs,
    mask_args::MaskArgs,
    output_args::OutputArgs,
    pipeline_args::PipelineArgs,
    plan_args::PlanArgs,
    recipe::RecipeArgs,
    recover_args::RecoverArgs,
    search_args::SearchArgs,
    task_args::TaskArgs,
    vocabulary_args::VocabularyArgs,
};

/// The tables of the file. Every command reads the ones it needs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConfigFile {
    /// Where models run.
    pub run: RunArgs,
    /// Text to measure on.
    pub eval: EvalArgs,
    /// Tasks to ask.
    pub tasks: TaskArgs,
    /// The recipe for options of `prune` that are not given.
    pub recipe: RecipeArgs,
    /// Calibration set and statistics.
    pub calibration: CalibrationArgs,
    /// How units are scored.
    pub importance: ImportanceArgs,
    /// What is removed.
    pub plan: PlanArgs,
    /// What the result may take.
    pub budget: BudgetArgs,
    /// How speed is predicted.
    pub speed: SpeedArgs,
    /// Which layers are removed whole.
    pub depth: DepthArgs,
    /// Which experts are removed whole.
    pub experts: ExpertArgs,
    /// Which tokens stay.
    pub vocabulary: VocabularyArgs,
    /// Learned masks.
    pub masks: MaskArgs,
    /// Compensation.
    pub compensation: CompensationArgs,
    /// What is written.
    pub output: OutputArgs,
    /// How a model is trained.
    pub recover: RecoverArgs,
    /// How to search.
    pub search: SearchArgs,
    /// The search space.
    pub space: GivenSpace,
    /// What `run` runs.
    pub pipeline: PipelineArgs,
}

impl ConfigFile {
    /// Every table with its settings.
    ///
    /// # Errors
    /// A path that is no text.
    pub fn tables(&self) -> Result<Vec<(Table, Value)>> {
        let Self {
            run,
            eval,
            tasks,
            recipe,
            calibration,
            importance,
            plan,
            budget,
            speed,
            depth,
            experts,
            vocabulary,
            masks,
            compensation,
            output,
            recover,
            search,
            space,
            pipeline,
        } = self;
        Ok(vec![
            (Table::Run, to_value(run)?),
            (Table::Eval, to_value(eval)?),
            (Table::Tasks, to_value(tasks)?),
            (Table::Recipe, to_value(recipe)?),
            (Table::Calibration, to_value(calibration)?),
            (Table::Importance, to_value(importance)?),
            (Table::Plan, to_value(plan)?),
            (Table::Budget, to_value(budget)?),
            (Table::Speed, to_value(speed)?),
            (Table::Depth, to_value(depth)?),
            (Table::Experts, to_value(experts)?),
            (Table::Vocabulary, to_value(vocabulary)?),
            (Table::Masks, to_value(masks)?),
            (Table::Compensation, to_value(compensation)?),
            (Table::Output, to_value(output)?),
            (Table::Recover, to_value(recover)?),
            (Table::Search, to_value(search)?),
            (Table::Space, to_value(space)?),
            (Table::Pipeline, to_value(pipeline)?),
        ])
    }

    /// Reads the file, if one is named.
    ///
    /// # Errors
    /// A file that is missing, no TOML, or has keys or values that no setting
    /// takes.
    pub fn read(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self::default()) };
        let name = || path.display().to_string();
        let text = input::read_text(path, input::SETTINGS)?;
        toml::from_str(&text).with_context(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::combine::Combine;

    fn parse(text: &str) -> Result<ConfigFile, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let file = parse("[run]\ndtype = \"bf16\"\nthreads = 3\n").unwrap();
        let typed = RunArgs { threads: Some(1), ..RunArgs::default() };
        let merged = typed.over(&file.run);
        assert_eq!(merged.threads, Some(1));
        assert_eq!(merged.dtype.map(|d| d.0.to_string()).as_deref(), Some("bf16"));
    }

    #[test]
    fn switches_of_the_file_stay_on_unless_typed_off() {
        let file = parse("[output]\nforce = true\n").unwrap();
        let merged = OutputArgs::default().over(&file.output);
        assert_eq!(merged.force, Some(true));
        let typed = OutputArgs { force: Some(false), ..OutputArgs::default() };
        assert_eq!(typed.over(&file.output).force, Some(false));
    }

    #[test]
    fn mutated_files_are_read_or_refused() {
        let file = r#"
[pipeline]
model = "model"
out = "smaller"
stages = ["search", "prune"]
tests = ["ptb:test"]
[run]
dtype = "bf16"
threads = 2
matmul-precision = "high"
[plan]
ratio = 0.2
layout = "uniform"
multiple-of = 32
[calibration]
calibration = "c4"
samples = 128
[eval]
limit = 32
[search]
trials = 150
workers = 2
[space]
samples = [8, 64]
normalisation = ["mean", "rank"]
beta-coarse = false
[depth]
drop-layers = "20-23"
[experts]
drop-experts = "50%"
drop-experts-by = "reap"
[recipe]
fast = true
[masks]
learn-masks = 60
learn-units = ["ffn", "sublayers"]
mask-budget = "free"
[compensation]
compensate = "fit"
[recover]
cutoff = 256
max-minutes = 45
match-hidden = 1
method = "full"
[output]
format = ["hf", "gguf"]
"#;
        parse(file).unwrap();
        for bytes in adapruner_testing::mutations(&[file.as_bytes().to_vec()], 1).take(4000) {
            // Never a panic.
            let _ = std::str::from_utf8(&bytes).map(parse);
        }
    }

    #[test]
    fn unknown_keys_and_bad_values_are_errors() {
        for text in [
            "[run]\ncolour = 1\n",
            "[walk]\n",
            "[run]\ndtype = \"f7\"\n",
            "[plan]\nratio = \"much\"\n",
            "[plan]\nlayout = \"round\"\n",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
