//! Arguments of budgets other than parameters and bytes: the key-value cache and speed. Also
//! tables of the configuration file.

use std::path::PathBuf;

use adapruner::{
    kv_cache::{CacheBy, CacheTarget, check_share},
    progress::Progress,
    speed::{Calibration, SpeedOf, SpeedTarget, Timed, check_speedup},
};
use adapruner_checkpoint::{
    Checkpoint, ModelConfig,
    atomic::{Files, Writer},
};
use adapruner_model::Placement;
use adapruner_prune::Layout;
use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{
    args::kept,
    combine::combine,
    failure::advised,
    typed::{Named, Proportion, Real},
};

/// What the result may take.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Budget")]
pub struct BudgetArgs {
    /// Share of the dense model's key-value cache that may stay: 0.5, or 50%, halves it. What
    /// goes for it counts towards --ratio; without one nothing else goes
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub target_kv_cache: Option<Proportion>,
    /// What leaves the cache: loss (whole attention sublayers, each time the one whose removal
    /// costs least loss on calibration samples; of the last one only the key-value groups that
    /// must go) or score (key-value groups by their scores, at least one of each layer stays)
    /// [default: loss; score where all layers stay alike]
    #[arg(long, value_name = "HOW")]
    pub kv_cache_by: Option<Named<CacheBy>>,
    /// How many times as fast as the dense model on this machine, instead of --ratio: 1.3. A
    /// cost model is calibrated by timing slimmer shapes of the model; the smallest cut that it
    /// predicts to be fast enough is taken, and timed beside the dense model
    #[arg(
        long,
        value_name = "FACTOR",
        allow_negative_numbers = true,
        conflicts_with_all = ["ratio", "target_params", "target_size"]
    )]
    pub target_speedup: Option<Real>,
}

combine!(BudgetArgs { target_kv_cache, kv_cache_by, target_speedup });

/// How speed is predicted.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Budget")]
pub struct SpeedArgs {
    /// The pass whose speed counts: decode (a generated token) or prompt (until the first new
    /// token) [default: decode]
    #[arg(long, value_name = "PASS")]
    pub speedup_of: Option<Named<Timed>>,
    /// Tokens of context that a budget is counted at: of the prompt, or before the generated
    /// token [default: 512, or what fits]; of the key-value cache, whose layers with a window hold
    /// no more than that [default: the model's context]
    #[arg(long, value_name = "TOKENS")]
    pub budget_context: Option<usize>,
    /// File of the cost model's calibration: read if it exists, otherwise written
    #[arg(long, value_name = "FILE")]
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub speed_calibration: Option<PathBuf>,
}

combine!(SpeedArgs { speedup_of, budget_context, speed_calibration });

impl BudgetArgs {
    /// The share of the cache of `original` that may stay, if one is asked for.
    ///
    /// # Errors
    /// A share that is none, a context that the model does not have.
    pub fn cache(
        &self,
        original: &ModelConfig,
        speed: &SpeedArgs,
        layout: Option<Layout>,
    ) -> Result<Option<CacheTarget>> {
        let Some(Proportion(share)) = self.target_kv_cache else { return Ok(None) };
        let by = self.by(layout);
        Ok(Some(CacheTarget::of(original, share, by, speed.budget_context)?))
    }

    /// How what leaves the cache is chosen.
    pub fn by(&self, layout: Option<Layout>) -> CacheBy {
        match (self.kv_cache_by, layout.unwrap_or_default()) {
            (Some(Named(by)), _) => by,
            (None, Layout::PerLayer) => CacheBy::Loss,
            (None, Layout::Uniform) => CacheBy::Score,
        }
    }

    /// Refuses what makes no sense whatever the model; `typed` and `speed` are what the command
    /// line says alone, since a file serves several commands.
    ///
    /// # Errors
    /// A share or a factor that is none; options of a budget that is not asked for.
    pub fn check(&self, typed: &Self, speed: &SpeedArgs) -> Result<()> {
        if typed.kv_cache_by.is_some() && self.target_kv_cache.is_none() {
            return Err(advised(
                "kv-cache-by: given without target-kv-cache",
                "say what may stay: --target-kv-cache 0.5",
            ));
        }
        if let Some(Proportion(share)) = self.target_kv_cache {
            check_share(share)?;
        }
        if let Some(Real(speedup)) = self.target_speedup {
            return Ok(check_speedup(speedup)?);
        }
        speed.refuse("target-speedup", "give --target-speedup 1.3")?;
        match (speed.budget_context, self.target_kv_cache) {
            (Some(_), None) => Err(advised(
                "budget-context: given, but nothing is counted at it",
                "give --target-kv-cache 0.5 or --target-speedup 1.3",
            )),
            (Some(_) | None, _) => Ok(()),
        }
    }

    /// The speedup that is asked for, with what predicts it.
    ///
    /// # Errors
    /// Those of [`SpeedArgs::calibration`].
    pub fn speed(
        &self,
        speed: &SpeedArgs,
        original: &Checkpoint,
        placement: &Placement,
        told: (&Writer, &dyn Progress),
    ) -> Result<Option<SpeedTarget>> {
        let Some(Real(speedup)) = self.target_speedup else { return Ok(None) };
        check_speedup(speedup)?;
        let calibration = speed.calibration(original, placement, told)?;
        Ok(Some(SpeedTarget { speedup, calibration }))
    }
}

impl SpeedArgs {
    /// Refuses options that only mean something where `what` is given.
    ///
    /// # Errors
    /// The first of them that is given.
    pub fn refuse(&self, what: &str, hint: &'static str) -> Result<()> {
        let given = [
            ("speedup-of", self.speedup_of.is_some()),
            ("speed-calibration", self.speed_calibration.is_some()),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            None => Ok(()),
            Some((name, _)) => Err(advised(format!("{name}: given without {what}"), hint)),
        }
    }

    /// Which speed of a model counts.
    ///
    /// # Errors
    /// A context that the model does not run.
    pub fn of(&self, config: &ModelConfig) -> Result<SpeedOf> {
        let timed = self.speedup_of.map_or_else(Timed::default, |Named(timed)| timed);
        Ok(SpeedOf::of(config, timed, self.budget_context)?)
    }

    /// The calibration of a model: that of the file, or a new one.
    ///
    /// # Errors
    /// A context that the model does not run; those of [`Calibration::stored`].
    pub fn calibration(
        &self,
        original: &Checkpoint,
        placement: &Placement,
        told: (&Writer, &dyn Progress),
    ) -> Result<Calibration> {
        let (path, speed) = (self.speed_calibration.as_deref(), self.of(&original.config)?);
        Ok(Calibration::stored(path, original, speed, placement, told)?)
    }

    /// The calibration's file.
    pub fn files(&self, files: Files) -> Files {
        kept(files, "--speed-calibration", self.speed_calibration.as_deref())
    }
}
