//! Plans of a study: of its best trials, or of a point of its front.

use std::path::Path;

use adapruner::{
    manifest::{PointRecord, StudyRecord},
    outputs::Stored,
    search::{
        FrontPoint, SearchRecord, StoredStudy, StudyFolder,
        front::{nearest, reach},
        outcome::BestTrial,
        transfer,
    },
};
use adapruner_checkpoint::{Checkpoint, ModelConfig};
use adapruner_model::Placement;
use adapruner_prune::{PlanOptions, apply};
use anyhow::{Context, Result};

use super::{ApplyCommand, Made};
use crate::{
    bars::Bars,
    failure::advised,
    plan_args::ratio_leaving,
    typed::{Count, Proportion, Size},
};

/// A study whose trials are applied.
struct Source<'a> {
    folder: &'a StudyFolder,
    record: &'a SearchRecord,
    study: &'a StoredStudy,
    /// The model that they are applied to, and how the result is written.
    checkpoint: &'a Checkpoint,
    stored: &'a Stored,
    placement: &'a Placement,
    bars: &'a Bars,
}

/// The plans of a study's best trials on this model, as many as masks are learned for; of a
/// study of several objectives the plan of a point of its front.
pub(super) fn of_study(
    args: &ApplyCommand,
    (path, top): (&Path, usize),
    (checkpoint, stored): (&Checkpoint, &Stored),
    placement: &Placement,
    bars: &Bars,
) -> Result<Vec<Made>> {
    let folder = StudyFolder::open(path)?;
    let record = SearchRecord::read(&folder.record())?;
    let study = StoredStudy::pick(
        StoredStudy::all(&folder, args.storage.as_deref())?,
        args.study_name.as_deref(),
    )?;
    let source = Source {
        folder: &folder,
        record: &record,
        study: &study,
        checkpoint,
        stored,
        placement,
        bars,
    };
    let ratio = args.removed(&checkpoint.config)?;
    if study.is_front() {
        return Ok(vec![source.point(args, top, ratio)?]);
    }
    if args.target_size.is_some() {
        return Err(advised(
            "target-size: the study has one objective at one ratio",
            "give --ratio or --target-params; or search sizes with --objectives loss,bytes; or prune \
             --target-size",
        ));
    }
    let chosen = match args.trial {
        Some(number) => vec![study.trial(number)?],
        None if top == 1 => vec![study.best()?],
        None => study.best_of(top)?,
    };
    let options = record.plan_options();
    let options = PlanOptions { ratio: ratio.unwrap_or(options.ratio), ..options };
    chosen.into_iter().map(|trial| source.made(trial, &options)).collect()
}

impl ApplyCommand {
    /// The share of the parameters of a model of `config` that is to be removed, if that was
    /// typed.
    fn removed(&self, config: &ModelConfig) -> Result<Option<f64>> {
        match self.target_params {
            Some(Count(target)) => ratio_leaving(target, config).map(Some),
            None => Ok(self.ratio.map(|Proportion(ratio)| ratio)),
        }
    }
}

impl Source<'_> {
    /// The plan of a trial.
    fn made(&self, trial: BestTrial, options: &PlanOptions) -> Result<Made> {
        let Self { folder, record, study, checkpoint, placement, bars, .. } = *self;
        let found = &trial.configuration;
        let applied =
            transfer::plan_for(checkpoint, folder, record, found, options, placement, bars)
                .with_context(|| format!("{}: trial {}", study.name, trial.number))?;
        let mut notes = applied.notes;
        if !study.is_front() && options.ratio != record.ratio {
            notes.push(format!(
                "the ratio is {}; the study searched at {}, where its configuration was the best",
                options.ratio, record.ratio
            ));
        }
        Ok(Made {
            plan: Some(applied.plan),
            scores: Some(applied.scores),
            study: Some(StudyRecord {
                study: study.name.clone(),
                trial: trial.number,
                loss: trial.loss,
                model_digest: record.model.digest,
                pool: record.pool.clone(),
                evaluation: record.evaluation.clone(),
                configuration: trial.configuration,
                point: None,
                notes,
            }),
        })
    }

    /// The plan of a point of the front: the trial that is named, else the nearest point that
    /// fits what was asked for.
    fn point(&self, args: &ApplyCommand, top: usize, removed: Option<f64>) -> Result<Made> {
        let study = self.study;
        if top > 1 {
            return Err(advised(
                "learn-top: of several objectives one point fits a size best",
                "leave --learn-top out; --learn-masks learns for that point",
            ));
        }
        let front = study.front()?;
        let (point, asked) = match (args.trial, args.target_size, removed) {
            (Some(_), _, Some(_)) => {
                return Err(advised(
                    "trial: a trial of several objectives has its own ratio",
                    "give either --trial or --ratio or --target-params",
                ));
            }
            (Some(number), None | Some(_), None) => {
                (study.point(number)?, format!("trial {number}"))
            }
            (None, Some(Size(bytes)), _) => return self.fitting(&front, bytes),
            (None, None, Some(removed)) => {
                let asked = match args.target_params {
                    Some(Count(count)) => format!("{count} parameters"),
                    None => format!("a ratio of {removed}"),
                };
                (nearest(&study.name, &front, removed, &asked)?.clone(), asked)
            }
            (None, None, None) => {
                study.has_a_best()?;
                anyhow::bail!("study {}: a front without a target", study.name)
            }
        };
        self.made_point(&point, asked)
    }

    /// The point of the front with the least loss whose file takes at most `bytes`.
    fn fitting(&self, front: &[FrontPoint], bytes: u64) -> Result<Made> {
        let mut by_loss: Vec<&FrontPoint> = front.iter().collect();
        by_loss.sort_by(|a, b| a.loss.total_cmp(&b.loss));
        let mut least = u64::MAX;
        for point in by_loss {
            let made = self.made_point(point, format!("{bytes} bytes"))?;
            let Some(plan) = &made.plan else { continue };
            let found = self.stored.bytes(&apply(self.checkpoint, plan)?)?;
            if found <= bytes {
                return Ok(made);
            }
            least = least.min(found);
        }
        Err(advised(
            format!(
                "study {}: no point of the front fits {bytes} bytes, the smallest takes {least}; {}",
                self.study.name,
                reach(front)
            ),
            "a smaller type (--format gguf --gguf-type q4_k_m), or a search that removes more",
        ))
    }

    fn made_point(&self, point: &FrontPoint, asked: String) -> Result<Made> {
        let (number, loss) = (point.trial, point.loss);
        let trial = BestTrial { number, loss, configuration: point.configuration.clone() };
        let mut made = self.made(trial, &self.record.plan_options())?;
        if let Some(study) = &mut made.study {
            study.point = Some(PointRecord {
                asked,
                parameters: point.parameters,
                removed: point.removed,
                bytes: point.bytes,
            });
        }
        Ok(made)
    }
}
