//! A plan as a table, for people.

use std::fmt;

use adapruner_checkpoint::{LayerWidths, ModelConfig};
use serde::{Deserialize, Serialize};

use super::{PrunePlan, experts};
use crate::{cost::Costs, error::Result};

/// One layer before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRow {
    /// Layer index.
    pub layer: usize,
    /// Widths of the model.
    pub before: LayerWidths,
    /// Widths of the pruned model.
    pub after: LayerWidths,
    /// Parameters of the layer.
    pub parameters_before: u64,
    /// Parameters of the pruned layer.
    pub parameters_after: u64,
}

/// A plan, layer by layer; its `Display` is the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanTable {
    /// First layer first.
    pub rows: Vec<PlanRow>,
    /// Parameters of the model, those outside of layers included.
    pub parameters_before: u64,
    /// Parameters of the pruned model.
    pub parameters_after: u64,
    /// The ratio that was asked for.
    pub requested_ratio: f64,
    /// The ratio that is removed.
    pub reached_ratio: f64,
    /// Share of what is removed that was to come from attention, where one was asked
    /// for.
    #[serde(default)]
    pub requested_attention_share: Option<f64>,
    /// Share of what is removed that comes from attention; results of early versions
    /// do not say.
    #[serde(default)]
    pub reached_attention_share: Option<f64>,
    /// Rows of the embedding before and after, where tokens go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<(usize, usize)>,
    /// Experts of each layer before and after, where some go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experts: Option<(usize, usize)>,
}

impl PrunePlan {
    /// Widths and parameters of every layer before and after.
    ///
    /// # Errors
    /// A plan that does not fit the configuration.
    pub fn table(&self, config: &ModelConfig) -> Result<PlanTable> {
        self.validate(config)?;
        let costs = Costs::new(config);
        let fewer = experts::counted(config, &self.layers);
        let cheaper = Costs::new(&fewer);
        let rows = config.layers.iter().zip(&self.layers).enumerate();
        let rows = rows.map(|(layer, (before, kept))| {
            let after = kept.widths();
            PlanRow {
                layer,
                before: *before,
                after,
                parameters_before: costs.layer(before),
                parameters_after: cheaper.layer(&after),
            }
        });
        Ok(PlanTable {
            rows: rows.collect(),
            parameters_before: self.parameters_before,
            parameters_after: self.parameters_after,
            requested_ratio: self.requested_ratio,
            reached_ratio: self.reached_ratio,
            requested_attention_share: self.requested_attention_share,
            reached_attention_share: Some(self.attention_share(config)),
            vocabulary: self.vocabulary.as_ref().map(|of| (config.vocab_size, of.rows)),
            experts: (fewer.experts != config.experts)
                .then(|| (config.expert_count(), fewer.expert_count())),
        })
    }
}

impl fmt::Display for PlanTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = ["layer", "query heads", "key-value heads", "feed-forward", "parameters", ""];
        let mut lines = vec![header.map(str::to_owned)];
        for row in &self.rows {
            let (before, after) = (row.before, row.after);
            lines.push([
                row.layer.to_string(),
                change(before.query_heads as u64, after.query_heads as u64),
                change(before.kv_heads as u64, after.kv_heads as u64),
                change(before.ffn as u64, after.ffn as u64),
                change(row.parameters_before, row.parameters_after),
                percent(row.parameters_before, row.parameters_after),
            ]);
        }
        if let Some((before, after)) = self.vocabulary {
            let [kv, ffn, parameters, share] = [const { String::new() }; 4];
            let rows = change(before as u64, after as u64);
            lines.push(["tokens".into(), rows, kv, ffn, parameters, share]);
        }
        if let Some((before, after)) = self.experts {
            let [heads, kv, parameters, share] = [const { String::new() }; 4];
            let experts = change(before as u64, after as u64);
            lines.push(["experts".into(), heads, kv, experts, parameters, share]);
        }
        let (before, after) = (self.parameters_before, self.parameters_after);
        let [none, kv, ffn] = [const { String::new() }; 3];
        let total = [change(before, after), percent(before, after)];
        let [total, share] = total;
        lines.push(["model".into(), none, kv, ffn, total, share]);
        let mut widths = [0; 6];
        for line in &lines {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for line in &lines {
            let cells: Vec<String> =
                line.iter().zip(widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
            writeln!(f, "{}", cells.join("  ").trim_end())?;
        }
        write!(
            f,
            "removed {:.2} % of all parameters (asked for {:.2} %)",
            100.0 * self.reached_ratio,
            100.0 * self.requested_ratio
        )?;
        if let Some(reached) = self.reached_attention_share {
            let of = if self.vocabulary.is_some() { "what layers lose" } else { "that" };
            write!(f, ", {:.1} % of {of} from attention", 100.0 * reached)?;
        }
        match self.requested_attention_share {
            Some(asked) => write!(f, " (asked for {:.1} %)", 100.0 * asked),
            None => Ok(()),
        }
    }
}

/// `9 → 6`, or `9` where nothing changes.
fn change(before: u64, after: u64) -> String {
    if before == after { before.to_string() } else { format!("{before} → {after}") }
}

/// `−12.3 %`, or nothing where nothing changes.
fn percent(before: u64, after: u64) -> String {
    if before == after {
        return String::new();
    }
    format!("−{:.1} %", 100.0 * (before.saturating_sub(after)) as f64 / before as f64)
}
