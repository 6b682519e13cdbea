//! The result of `recover`, read for the report.

use std::path::Path;

use adapruner_checkpoint::{input, mapped::MappedFile};
use adapruner_recover::train::{
    Ended,
    log::{self, Entry},
};
use adapruner_report::{BestValidation, Recovery, TrainingStep};
use serde::Deserialize;

use crate::{
    advice::advised,
    error::{Context, Result},
    manifest::{FILE_NAME, RecoveryRecord},
    recover::OUTPUT_LOG,
};

/// What of a manifest is read.
#[derive(Deserialize)]
struct Manifest {
    settings: serde_json::Value,
    recovery: Option<RecoveryRecord>,
}

#[derive(Deserialize)]
struct Settings {
    method: Method,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Method {
    Lora { rank: usize },
    Full,
}

/// The training that wrote the output `folder`.
///
/// # Errors
/// A folder without a training's output, or damaged files.
pub fn shown(folder: &Path) -> Result<Recovery> {
    let path = folder.join(FILE_NAME);
    let bytes = MappedFile::open_capped(&path, input::RECORD)?;
    let Manifest { settings, recovery } =
        serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?;
    let Some(RecoveryRecord { data, teacher, learned_parameters, outcome }) = recovery else {
        return Err(advised(
            format!("{}: recovery: missing", path.display()),
            "--recovery takes the folder that recover wrote (its --out)",
        ));
    };
    let Settings { method } =
        serde_json::from_value(settings).with_context(|| path.display().to_string())?;
    let steps = log::read(&folder.join(OUTPUT_LOG))?;
    let position = outcome.position;
    Ok(Recovery {
        path: folder.display().to_string(),
        method: match method {
            Method::Lora { rank } => format!("LoRA of rank {rank}"),
            Method::Full => "all parameters".to_owned(),
        },
        learned_parameters,
        data: data.name,
        data_digest: data.digest.to_string(),
        sequences: data.counts.sequences,
        learned_tokens: data.counts.learned as u64,
        validation_sequences: data.counts.validation_sequences,
        validation_tokens: data.counts.validation_learned as u64,
        teacher: teacher.map(|teacher| teacher.path.display().to_string()),
        ended: match outcome.ended {
            Ended::Finished => "finished",
            Ended::EarlyStopped => "stopped early",
            Ended::TimeUp => "time was up",
            Ended::Interrupted => "interrupted",
        }
        .to_owned(),
        tokens: position.tokens,
        seconds: position.seconds,
        kept_step: outcome.kept_step,
        validation_before: outcome.validation_before,
        best: position.best.map(|best| BestValidation { step: best.step, loss: best.loss }),
        steps: steps.into_iter().map(step).collect(),
    })
}

fn step(entry: Entry) -> TrainingStep {
    TrainingStep {
        step: entry.step,
        loss: entry.loss,
        teacher_loss: entry.teacher_loss,
        hidden_loss: entry.hidden_loss,
        validation_loss: entry.validation_loss,
        learning_rate: entry.learning_rate,
    }
}
