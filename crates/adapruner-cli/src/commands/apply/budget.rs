//! Budgets of a study's trial: the key-value cache, speed, and the size of a point of a front.

use std::fmt;

use adapruner::{
    caution::Caution,
    footprint::Footprint,
    kv_cache::CacheTarget,
    manifest::Manifest,
    outputs::Stored,
    progress::Progress,
    search::{SearchRecord, objective::Aim},
    speed::{Calibration, Machine, SpeedRecord, SpeedTarget},
    target::{SizeTarget, Target},
};
use adapruner_checkpoint::{Checkpoint, ModelConfig};
use adapruner_model::Placement;
use adapruner_prune::{PrunePlan, apply};
use anyhow::Result;

use super::{super::Session, ApplyCommand};
use crate::{
    bars::Bars,
    budget_args::{BudgetArgs, SpeedArgs},
    combine::Combine,
    config_file::ConfigFile,
    failure::advised,
    typed::{Real, Size},
};

/// What is asked of the result; the targets are known once there is a study.
pub(super) struct Budgets {
    budget: BudgetArgs,
    speed: SpeedArgs,
    pub(super) kv_cache: Option<CacheTarget>,
    pub(super) target: Option<Target>,
}

impl Budgets {
    /// What was typed, over the file.
    pub(super) fn typed(args: &ApplyCommand, file: &ConfigFile) -> Result<Self> {
        let (budget, speed) = (args.budget.over(&file.budget), args.speed.over(&file.speed));
        budget.check(&args.budget, &args.speed)?;
        let others = [
            ("ratio", args.ratio.is_some()),
            ("target-params", args.target_params.is_some()),
            ("target-size", args.target_size.is_some()),
        ];
        let other = others.into_iter().find(|(_, given)| *given);
        if let (Some(_), Some((other, _))) = (budget.target_speedup, other) {
            return Err(advised(
                format!("target-speedup: given together with {other}"),
                "leave one of the two out",
            ));
        }
        Ok(Self { budget, speed, kv_cache: None, target: None })
    }

    /// Refuses them, where they were typed, of a plan, which decides all of it.
    pub(super) fn refuse_of_a_plan(args: &ApplyCommand) -> Result<()> {
        let given = [
            ("target-kv-cache", args.budget.target_kv_cache.is_some()),
            ("target-speedup", args.budget.target_speedup.is_some()),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            None => Ok(()),
            Some((name, _)) => Err(advised(
                format!("{name}: a plan says already what goes"),
                "give it to prune, or apply a study: --study DIR",
            )),
        }
    }

    /// Settles them for a model and a study: a speed is predicted by the study's own calibration
    /// where it has one of this model's shape and of the speed that is asked for.
    pub(super) fn settle(
        &mut self,
        args: &ApplyCommand,
        (checkpoint, stored): (&Checkpoint, &Stored),
        record: &SearchRecord,
        (placement, session, bars): (&Placement, &Session, &Bars),
    ) -> Result<()> {
        let config = &checkpoint.config;
        self.kv_cache = self.budget.cache(config, &self.speed, Some(record.layout))?;
        self.target = match (args.target_size, self.budget.target_speedup) {
            (Some(Size(bytes)), _) => {
                Some(Target::Size(SizeTarget { bytes, stored: stored.clone() }))
            }
            (None, Some(Real(speedup))) => {
                let calibration = match self.of_study(record, config)? {
                    Some(found) => found,
                    None => {
                        let told: (&_, &dyn Progress) = (&session.writer, bars);
                        self.speed.calibration(checkpoint, placement, told)?
                    }
                };
                Some(Target::Speed(Box::new(SpeedTarget { speedup, calibration })))
            }
            (None, None) => None,
        };
        Ok(())
    }

    /// The study's calibration, unless a file is named or another speed asked for.
    fn of_study(&self, record: &SearchRecord, config: &ModelConfig) -> Result<Option<Calibration>> {
        let Some(found) = &record.calibration else { return Ok(None) };
        let SpeedArgs { speedup_of, budget_context, speed_calibration } = &self.speed;
        if speed_calibration.is_some() {
            return Ok(None);
        }
        let any = speedup_of.is_none() && budget_context.is_none();
        let speed = if any { found.speed } else { self.speed.of(config)? };
        Ok(found.check(config, speed).is_ok().then(|| found.clone()))
    }

    /// What a plan of a trial is to meet.
    pub(super) fn aim(&self) -> Aim<'_> {
        Aim { target: self.target.as_ref(), kv_cache: self.kv_cache.as_ref() }
    }

    /// Whether anything is asked for.
    pub(super) fn is_something(&self) -> bool {
        self.target.is_some() || self.kv_cache.is_some()
    }

    /// What a plan misses, the first of it.
    pub(super) fn missed_by(
        &self,
        checkpoint: &Checkpoint,
        plan: &PrunePlan,
    ) -> Result<Option<Missed>> {
        let config = plan.pruned_config(&checkpoint.config);
        let missed = match &self.target {
            Some(Target::Size(of)) => {
                let found = of.stored.bytes(&apply(checkpoint, plan)?)?;
                (found > of.bytes).then_some(Missed::Bytes(found))
            }
            Some(Target::Speed(of)) => {
                let found = of.calibration.speedup(&config);
                (found < of.speedup).then_some(Missed::Speedup(found))
            }
            None => None,
        };
        let cache = self.kv_cache.filter(|of| !of.holds(&config));
        Ok(missed.or(cache.map(|of| Missed::Cache(of.share_of(&config)))))
    }

    /// Tokens that the cache is counted at, where that is asked for.
    pub(super) fn context(&self) -> Option<usize> {
        self.kv_cache.map(|of| of.context)
    }

    /// The speed of a model that was pruned for one; timed unless it is a dry run.
    pub(super) fn speed(
        &self,
        models: (&Checkpoint, &Checkpoint),
        (placement, bars, dry): (&Placement, &Bars, bool),
    ) -> Result<Option<SpeedRecord>> {
        match &self.target {
            Some(Target::Speed(of)) => Ok(Some(of.record(models, (placement, bars, dry))?)),
            Some(Target::Size(_)) | None => Ok(None),
        }
    }

    /// What was asked for and not reached.
    pub(super) fn cautions(
        &self,
        pruned: &ModelConfig,
        footprint: &Footprint,
        speed: Option<&SpeedRecord>,
        placement: &Placement,
    ) -> Vec<Caution> {
        let size = match &self.target {
            Some(Target::Size(of)) => footprint.missed(of),
            Some(Target::Speed(_)) | None => None,
        };
        let here = Machine::here(placement);
        let speed = speed.into_iter().flat_map(|of| of.cautions(&here));
        size.into_iter()
            .chain(self.kv_cache.and_then(|of| of.missed(pruned)))
            .chain(speed)
            .collect()
    }
}

impl fmt::Display for Budgets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = self.target.as_ref().map(|target| match target {
            Target::Size(of) => format!("{} bytes", of.bytes),
            Target::Speed(of) => format!("a speedup of {}", of.speedup),
        });
        let cache = self.kv_cache.map(|of| format!("{} of the key-value cache", of.share));
        let all: Vec<String> = target.into_iter().chain(cache).collect();
        f.write_str(&all.join(" and "))
    }
}

/// How far from what is asked for a point is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Missed {
    /// Bytes of its file.
    Bytes(u64),
    /// Its predicted speedup.
    Speedup(f64),
    /// The share of the key-value cache that it keeps.
    Cache(f64),
}

impl Missed {
    /// The nearer of two.
    pub(super) fn nearer(self, other: Self) -> Self {
        match (self, other) {
            (Self::Bytes(a), Self::Bytes(b)) => Self::Bytes(a.min(b)),
            (Self::Speedup(a), Self::Speedup(b)) => Self::Speedup(a.max(b)),
            (Self::Cache(a), Self::Cache(b)) => Self::Cache(a.min(b)),
            // Of points that miss different budgets, those that meet the first one.
            (Self::Cache(_), Self::Bytes(_) | Self::Speedup(_)) => self,
            (Self::Bytes(_) | Self::Speedup(_), _) => other,
        }
    }
}

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(least) => write!(f, "the smallest takes {least}"),
            Self::Speedup(most) => write!(f, "the fastest is predicted to reach {most:.2}"),
            Self::Cache(least) => write!(f, "the least that one keeps is {least:.4}"),
        }
    }
}

/// What a manifest says of budgets, for people.
pub(super) fn rows(manifest: &Manifest) -> Vec<(&'static str, String)> {
    let size = manifest.footprint.as_ref().map(|of| ("size", of.to_string()));
    let cache = manifest.kv_cache.as_ref().map(|of| ("key-value cache", of.to_string()));
    let speed = manifest.speed.as_ref().map(|of| ("speedup", of.to_string()));
    [size, cache, speed].into_iter().flatten().collect()
}
