//! Importance from the inputs of a unit's columns, without gradients.

use serde::{Deserialize, Serialize};

use crate::{bank::StatsBank, error::Result};

/// How a column `W_j` of `o` or `down` is measured by what it reads, `x_j`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivationMetric {
    /// Structured Wanda: `Σ_i |W_ij| · ‖x_j‖₂` (Sun et al., arXiv 2306.11695, summed over
    /// the column as FLAP's code has it).
    #[default]
    Wanda,
    /// FLAP's weighted fluctuation: `Σ_i W_ij² · Var(x_j)` (An et al., arXiv 2312.11983).
    Flap,
}

impl ActivationMetric {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Wanda, Self::Flap];

    /// The value of every column for a set of samples.
    ///
    /// # Shapes
    /// `[C]`.
    ///
    /// # Errors
    /// Those of [`StatsBank::inputs`].
    pub(super) fn of_columns(self, bank: &StatsBank, samples: &[usize]) -> Result<Vec<f64>> {
        let inputs = bank.inputs(samples)?;
        let [abs, square] = bank.column_sizes()?;
        let (mut values, sizes) = match self {
            Self::Wanda => (inputs.norms(), abs),
            Self::Flap => (inputs.variances(), square),
        };
        values.iter_mut().zip(sizes).for_each(|(value, &size)| *value *= f64::from(size));
        Ok(values)
    }
}

adapruner_choice::choice!(ActivationMetric, "activation metric", {
    Wanda => "wanda",
    Flap => "flap",
});
