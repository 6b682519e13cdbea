//! Speed as a budget: `--target-speedup`, and `latency` as an objective of a search.
//!
//! A cost model in seconds is calibrated once for a model on a machine ([`Calibration`]): the model
//! and a handful of slimmer shapes of it are timed in turns, and a pass is explained as a sum of
//! what it consists of ([`model::Work`]), each part with a cost that is not negative ([`fit`]).
//! From then on the speed of a plan is a number that follows from its widths alone, so plans can
//! be compared and searched without running them, and the same calibration always gives the same
//! plan. What the program writes is timed beside the dense model, too.

pub mod calibrate;
pub mod fit;
pub mod model;
mod shapes;
pub mod timing;

use std::fmt;

use adapruner_checkpoint::{Checkpoint, ModelConfig};
use adapruner_model::Placement;
use serde::{Deserialize, Serialize};

pub use self::calibrate::{Calibration, Machine, Sample};
use crate::{
    advice::advised, caution::Caution, error::Result, latency::Spread, progress::Progress,
};

/// Tokens of a prompt, and of the context of a generated token, where they are not named.
const TOKENS: usize = 512;

/// The pass whose speed counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Timed {
    /// A prompt, until its first new token.
    Prompt,
    /// A generated token after a context.
    #[default]
    Decode,
}

adapruner_choice::choice!(Timed, "pass to time", {
    Prompt => "prompt",
    Decode => "decode",
});

/// Which speed counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpeedOf {
    /// The pass.
    pub timed: Timed,
    /// Tokens of the prompt, or of the context of a generated token.
    pub tokens: usize,
}

impl SpeedOf {
    /// The speed of a pass of a model of `config`, at 512 tokens, or as many as fit, unless a
    /// number is named.
    ///
    /// # Errors
    /// No tokens, or more than the model runs with those that are generated while it is timed.
    pub fn of(config: &ModelConfig, timed: Timed, tokens: Option<usize>) -> Result<Self> {
        let generated = match timed {
            Timed::Prompt => 0,
            Timed::Decode => timing::TURN,
        };
        let most = config.longest().saturating_sub(generated);
        let tokens = tokens.unwrap_or_else(|| most.clamp(1, TOKENS));
        if (1..=most).contains(&tokens) {
            return Ok(Self { timed, tokens });
        }
        Err(advised(
            format!(
                "budget-context: expected from 1 to {most} tokens (the model runs {}, of which \
                 {generated} are generated), found {tokens}",
                config.longest()
            ),
            "inspect shows a model's context",
        ))
    }
}

impl fmt::Display for SpeedOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.timed {
            Timed::Prompt => write!(f, "a prompt of {} tokens", self.tokens),
            Timed::Decode => write!(f, "generation after {} tokens", self.tokens),
        }
    }
}

/// A speedup over the dense model that is asked for, with what predicts it.
#[derive(Debug, Clone, PartialEq)]
pub struct SpeedTarget {
    /// Seconds of the dense model divided by those of the pruned one, above 1.
    pub speedup: f64,
    /// What predicts it.
    pub calibration: Calibration,
}

impl SpeedTarget {
    /// The speed of a model that was pruned for it, beside the dense one: as predicted, and as
    /// timed unless nothing is written.
    ///
    /// # Errors
    /// Damaged weights, or no memory for both.
    pub fn record(
        &self,
        (dense, pruned): (&Checkpoint, &Checkpoint),
        (placement, progress, dry): (&Placement, &dyn Progress, bool),
    ) -> Result<SpeedRecord> {
        let speed = self.calibration.speed;
        let timed = || calibrate::measured((dense, pruned), speed, placement, progress);
        Ok(SpeedRecord {
            asked: self.speedup,
            predicted: self.calibration.speedup(&pruned.config),
            measured: if dry { None } else { Some(timed()?) },
            calibration: self.calibration.clone(),
        })
    }
}

/// Refuses what is no speedup.
///
/// # Errors
/// A factor that is not above 1 and finite.
pub fn check_speedup(speedup: f64) -> Result<()> {
    if speedup > 1.0 && speedup.is_finite() {
        return Ok(());
    }
    Err(advised(
        format!("target-speedup: expected a factor above 1, found {speedup}"),
        "it is how many times as fast as the dense model: 1.3",
    ))
}

/// The speed of a pruned model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpeedRecord {
    /// The speedup that was asked for.
    pub asked: f64,
    /// The speedup that the calibration predicts.
    pub predicted: f64,
    /// The speedup in the rounds in which both models ran in turns; none in a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Spread>,
    /// What predicted it.
    pub calibration: Calibration,
}

/// Share of a speedup that may be missing without a warning.
const TOLERATED: f64 = 0.05;

impl SpeedRecord {
    /// Says where the model is slower than asked for, or where the calibration is of another
    /// machine than this one.
    pub fn cautions(&self, here: &Machine) -> Vec<Caution> {
        let Self { asked, predicted, measured, calibration } = self;
        let short = measured.filter(|found| found.median < asked * (1.0 - TOLERATED));
        let short = short.map(|Spread { median, least, largest }| Caution {
            message: format!(
                "target-speedup: {asked} asked, {predicted:.2} predicted, {median:.2} measured \
                 ({least:.2} to {largest:.2})"
            ),
            hint: format!(
                "ask for more, --target-speedup {:.2}; or calibrate anew while the machine is idle",
                asked * asked / median
            ),
        });
        let other = (calibration.machine != *here).then(|| Caution {
            message: format!(
                "speed-calibration: it was made on {}, this is {here}",
                calibration.machine
            ),
            hint: "its predictions are for that machine; calibrate anew for this one".to_owned(),
        });
        short.into_iter().chain(other).collect()
    }
}

impl fmt::Display for SpeedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, predicted, measured, calibration } = self;
        write!(f, "{}: asked {asked:.2}, predicted {predicted:.2}", calibration.speed)?;
        match measured {
            Some(Spread { median, least, largest }) => {
                write!(f, ", measured {median:.2} ({least:.2} to {largest:.2})")
            }
            None => Ok(()),
        }
    }
}
