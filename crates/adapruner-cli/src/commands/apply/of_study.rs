//! Plans of a study: of its best trials, or of a point of its front.

use std::path::Path;

use adapruner::{
    manifest::{PointRecord, StudyRecord},
    outputs::Stored,
    search::{
        FrontPoint, SearchRecord, StoredStudy, StudyFolder,
        front::{nearest, reach},
        objective::Aim,
        outcome::BestTrial,
        transfer,
    },
    target::Target,
};
use adapruner_checkpoint::{Checkpoint, ModelConfig};
use adapruner_model::Placement;
use adapruner_prune::PlanOptions;
use anyhow::{Context, Result};

use super::{
    super::Session,
    ApplyCommand, Made,
    budget::{Budgets, Missed},
};
use crate::{
    bars::Bars,
    failure::advised,
    plan_args::ratio_leaving,
    typed::{Count, Proportion},
};

/// A study whose trials are applied.
struct Source<'a> {
    folder: &'a StudyFolder,
    record: &'a SearchRecord,
    study: &'a StoredStudy,
    /// The model that they are applied to.
    checkpoint: &'a Checkpoint,
    asked: &'a Budgets,
    placement: &'a Placement,
    bars: &'a Bars,
}

/// The plans of a study's best trials on this model, as many as masks are learned for; of a
/// study of several objectives the plan of a point of its front.
pub(super) fn of_study(
    args: &ApplyCommand,
    (path, top): (&Path, usize),
    (checkpoint, stored): (&Checkpoint, &Stored),
    asked: &mut Budgets,
    (placement, session, bars): (&Placement, &Session, &Bars),
) -> Result<Vec<Made>> {
    let folder = StudyFolder::open(path)?;
    let record = SearchRecord::read(&folder.record())?;
    let study = StoredStudy::pick(
        StoredStudy::all(&folder, args.storage.as_deref())?,
        args.study_name.as_deref(),
    )?;
    asked.settle(args, (checkpoint, stored), &record, (placement, session, bars))?;
    let source = Source {
        folder: &folder,
        record: &record,
        study: &study,
        checkpoint,
        asked,
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
    let aim = asked.aim();
    chosen.into_iter().map(|trial| source.made(trial, &options, &aim)).collect()
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
    fn made(&self, trial: BestTrial, options: &PlanOptions, aim: &Aim<'_>) -> Result<Made> {
        let Self { folder, record, study, checkpoint, placement, bars, .. } = *self;
        let found = &trial.configuration;
        let applied =
            transfer::plan_for(checkpoint, folder, record, found, (options, aim), placement, bars)
                .with_context(|| format!("{}: trial {}", study.name, trial.number))?;
        let mut notes = applied.notes;
        let ratio = aim.target.map_or(options.ratio, |_| applied.plan.reached_ratio);
        if !study.is_front() && ratio != record.ratio {
            let ratio = (ratio * 1e4).round() / 1e4;
            notes.push(format!(
                "the ratio is {ratio}; the study searched at {}, where its configuration was \
                 the best",
                record.ratio
            ));
        }
        Ok(Made {
            plan: Some(applied.plan),
            scores: Some(applied.scores),
            kv_cache: applied.kv_cache,
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
        let (point, asked) = match (args.trial, self.asked.is_something(), removed) {
            (Some(_), _, Some(_)) => {
                return Err(advised(
                    "trial: a trial of several objectives has its own ratio",
                    "give either --trial or --ratio or --target-params",
                ));
            }
            (Some(_), true, None) => {
                return Err(advised(
                    "trial: a trial of several objectives is applied as it was measured",
                    "give either --trial or a target",
                ));
            }
            (Some(number), false, None) => (study.point(number)?, format!("trial {number}")),
            (None, true, removed) => return self.fitting(&front, removed),
            (None, false, Some(removed)) => {
                let asked = match args.target_params {
                    Some(Count(count)) => format!("{count} parameters"),
                    None => format!("a ratio of {removed}"),
                };
                (nearest(&study.name, &front, removed, &asked)?.clone(), asked)
            }
            (None, false, None) => {
                study.has_a_best()?;
                anyhow::bail!("study {}: a front without a target", study.name)
            }
        };
        self.made_point(&point, asked)
    }

    /// The point of the front with the least loss that meets what is asked for, of those that
    /// remove at least the share `removed`, if one is named.
    fn fitting(&self, front: &[FrontPoint], removed: Option<f64>) -> Result<Made> {
        let least = removed.unwrap_or(0.0);
        // A plan meets its ratio to within a unit.
        let enough = |point: &&FrontPoint| point.removed >= least - 1e-9;
        let mut by_loss: Vec<&FrontPoint> = front.iter().filter(enough).collect();
        by_loss.sort_by(|a, b| a.loss.total_cmp(&b.loss));
        let asked = self.asked.to_string();
        let mut nearest: Option<Missed> = None;
        for point in by_loss {
            let made = self.made_point(point, asked.clone())?;
            let Some(plan) = &made.plan else { continue };
            match self.asked.missed_by(self.checkpoint, plan)? {
                None => return Ok(made),
                Some(missed) => {
                    nearest = Some(nearest.map_or(missed, |other| other.nearer(missed)));
                }
            }
        }
        let came = nearest.map_or_else(String::new, |missed| format!(", {missed}"));
        Err(advised(
            format!(
                "study {}: no point of the front fits {asked}{came}; {}",
                self.study.name,
                reach(front)
            ),
            match self.asked.target {
                Some(Target::Size(_)) => {
                    "a smaller type (--format gguf --gguf-type q4_k_m), or a search that removes more"
                }
                Some(Target::Speed(_)) => {
                    "a search that removes more (--ratio 0.1..0.6), or prune --target-speedup"
                }
                None => "prune --target-kv-cache cuts the attention itself",
            },
        ))
    }

    fn made_point(&self, point: &FrontPoint, asked: String) -> Result<Made> {
        let (number, loss) = (point.trial, point.loss);
        let trial = BestTrial { number, loss, configuration: point.configuration.clone() };
        let mut made = self.made(trial, &self.record.plan_options(), &Aim::default())?;
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
