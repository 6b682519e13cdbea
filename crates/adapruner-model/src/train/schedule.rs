//! The learning rate of a step, by transformers' formulas.

/// How the learning rate goes on after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Down to 0 in a line.
    #[default]
    Linear,
    /// Down to 0 along half a cosine.
    Cosine,
    /// As it is.
    Constant,
}

adapruner_choice::choice!(Decay, "schedule", {
    Linear => "linear",
    Cosine => "cosine",
    Constant => "constant",
});

/// Learning rates of a whole training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Highest learning rate.
    pub rate: f64,
    /// How it goes on after the warm-up.
    pub decay: Decay,
    /// Steps over which it rises from 0; half of all steps at most.
    pub warmup: u64,
    /// All steps.
    pub total: u64,
}

/// How much of the time of a training is gone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spent {
    /// Seconds until the gradient of the step at hand was there, of all steps.
    pub seconds: f64,
    /// Seconds that all steps may take.
    pub budget: f64,
}

impl Schedule {
    /// The learning rate of step `step`, counted from 0: the first of a
    /// warm-up has rate 0.
    pub fn at(&self, step: u64) -> f64 {
        let Self { rate, decay, total, .. } = *self;
        // A training of warm-up alone would learn next to nothing.
        let warmup = self.warmup.min(total / 2);
        if step < warmup {
            return rate * (step as f64 / warmup.max(1) as f64);
        }
        let after = total.saturating_sub(warmup).max(1) as f64;
        let factor = match decay {
            Decay::Constant => 1.0,
            Decay::Linear => (total.saturating_sub(step) as f64 / after).max(0.0),
            Decay::Cosine => {
                let progress = (step - warmup) as f64 / after;
                (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
            }
        };
        rate * factor
    }

    /// The same under a budget of time. Where the warm-up would take more than
    /// half of it at the pace so far, it is over when half of the time is: a
    /// training that makes a single step makes it at the full rate.
    pub fn within(&self, step: u64, spent: Spent) -> f64 {
        let half = spent.budget / 2.0;
        let warmup = self.warmup.min(self.total / 2);
        let pace = spent.seconds / (step + 1) as f64;
        if step >= warmup || pace * warmup as f64 <= half {
            return self.at(step);
        }
        self.at(step).max(self.rate * (spent.seconds / half).min(1.0))
    }
}
