//! What a plan must be: checked when it is read, and against its model before it is applied.

use std::collections::BTreeMap;

use adapruner_checkpoint::ModelConfig;

use super::{LayerPlan, Layout, PLAN_VERSION, PrunePlan};
use crate::error::{Error, Result};

impl PrunePlan {
    /// Refuses a plan that does not fit a model of this configuration.
    ///
    /// # Errors
    /// The first thing that does not fit, with its layer.
    pub fn validate(&self, config: &ModelConfig) -> Result<()> {
        self.check()?;
        if self.layers.len() != config.layers.len() {
            return malformed(format!(
                "expected {} layers, found {}",
                config.layers.len(),
                self.layers.len()
            ));
        }
        for (layer, (kept, widths)) in self.layers.iter().zip(&config.layers).enumerate() {
            for (what, kept, width) in [
                ("query head", &kept.query_heads, widths.query_heads),
                ("key-value head", &kept.kv_heads, widths.kv_heads),
                ("feed-forward channel", &kept.ffn, widths.ffn),
            ] {
                // Ascending: the last is the largest.
                if let Some(&last) = kept.last()
                    && last >= width
                {
                    return malformed(format!(
                        "layer {layer}: {what} {last} is kept, but the model has {width}"
                    ));
                }
            }
            check_groups(layer, kept, widths.group_size())?;
        }
        check_experts(self, config)?;
        if let Some(vocabulary) = &self.vocabulary {
            vocabulary.check(Some(config.vocab_size))?;
        }
        let before = config.parameters();
        let after = self.pruned_config(config).parameters();
        for (what, expected, found) in
            [("before", before, self.parameters_before), ("after", after, self.parameters_after)]
        {
            if expected != found {
                return malformed(format!(
                    "parameters {what} pruning: the indices make {expected}, but the plan says \
                     {found}"
                ));
            }
        }
        // Beyond the rounding of a division.
        let ratio = (before - after) as f64 / before as f64;
        if (ratio - self.reached_ratio).abs() > 1e-9 {
            return malformed(format!(
                "reached ratio: the indices make {ratio}, but the plan says {}",
                self.reached_ratio
            ));
        }
        let share = self.attention_share(config);
        if let Some(found) = self.reached_attention_share
            && (share - found).abs() > 1e-9
        {
            return malformed(format!(
                "reached attention share: the indices make {share}, but the plan says {found}"
            ));
        }
        Ok(())
    }

    /// Checks what can be told without the model.
    pub(super) fn check(&self) -> Result<()> {
        if self.version != PLAN_VERSION {
            return malformed(format!(
                "expected version {PLAN_VERSION}, found version {}",
                self.version
            ));
        }
        if !(self.requested_ratio > 0.0 && self.requested_ratio < 1.0) {
            return malformed(format!(
                "requested ratio: expected a number above 0 and below 1, found {}",
                self.requested_ratio
            ));
        }
        if !(0.0..1.0).contains(&self.reached_ratio) {
            return malformed(format!(
                "reached ratio: expected a number from 0 to below 1, found {}",
                self.reached_ratio
            ));
        }
        for (what, share) in [
            ("requested", self.requested_attention_share),
            ("reached", self.reached_attention_share),
        ] {
            if let Some(share) = share.filter(|share| !(0.0..=1.0).contains(share)) {
                return malformed(format!(
                    "{what} attention share: expected a number from 0 to 1, found {share}"
                ));
            }
        }
        if self.multiple_of == 0 {
            return malformed("multiple_of: expected at least 1, found 0".into());
        }
        if let Some(vocabulary) = &self.vocabulary {
            vocabulary.check(None)?;
        }
        if self.layers.is_empty() {
            return malformed("expected at least 1 layer, found none".into());
        }
        for (layer, kept) in self.layers.iter().enumerate() {
            for (what, indices) in [
                ("query heads", &kept.query_heads),
                ("key-value heads", &kept.kv_heads),
                ("feed-forward channels", &kept.ffn),
            ] {
                if let Some(pair) = indices.windows(2).find(|pair| pair[0] >= pair[1]) {
                    return malformed(format!(
                        "layer {layer}: {what}: expected ascending indices, found {} before {}",
                        pair[0], pair[1]
                    ));
                }
            }
            if kept.ffn.is_empty() && *kept != LayerPlan::NOTHING {
                return malformed(format!(
                    "layer {layer}: expected at least 1 feed-forward channel, found none beside \
                     {} query heads",
                    kept.query_heads.len()
                ));
            }
            let (n, k) = (kept.query_heads.len(), kept.kv_heads.len());
            let even = if k == 0 { n == 0 } else { n > 0 && n.is_multiple_of(k) };
            if !even {
                return malformed(format!(
                    "layer {layer}: expected query heads to be a multiple of the key-value heads, \
                     found {n} and {k}"
                ));
            }
        }
        let kept = self.kept_layers();
        let Some(&first) = kept.first() else {
            return malformed("expected at least 1 layer to stay, found none".into());
        };
        match self.layout {
            Layout::PerLayer => Ok(()),
            Layout::Uniform => {
                let widths = self.layers[first].widths();
                match kept.iter().find(|&&layer| self.layers[layer].widths() != widths) {
                    None => Ok(()),
                    Some(layer) => malformed(format!(
                        "the layout is uniform, but layer {layer} has other widths than layer \
                         {first}"
                    )),
                }
            }
        }
    }
}

/// Every kept query head belongs to a kept group, and all groups keep the same
/// number.
fn check_groups(layer: usize, kept: &LayerPlan, group: usize) -> Result<()> {
    let mut counts: BTreeMap<usize, usize> = kept.kv_heads.iter().map(|&k| (k, 0)).collect();
    for &head in &kept.query_heads {
        let of = head / group.max(1);
        match counts.get_mut(&of) {
            Some(count) => *count += 1,
            None => {
                return malformed(format!(
                    "layer {layer}: query head {head} is kept, but not its key-value head {of}"
                ));
            }
        }
    }
    let share = kept.query_heads.len().checked_div(kept.kv_heads.len()).unwrap_or(0);
    match counts.iter().find(|&(_, &count)| count != share) {
        None => Ok(()),
        Some((k, count)) => malformed(format!(
            "layer {layer}: expected {share} query heads for each key-value head, found {count} for \
             key-value head {k}"
        )),
    }
}

/// In every layer as many experts stay, at least as many as a token takes, and all of a layer keep
/// as many channels.
fn check_experts(plan: &PrunePlan, config: &ModelConfig) -> Result<()> {
    let Some(experts) = config.experts else { return Ok(()) };
    let mut first: Option<(usize, usize)> = None;
    for (layer, (kept, widths)) in plan.layers.iter().zip(&config.layers).enumerate() {
        if *kept == LayerPlan::NOTHING {
            continue;
        }
        let width = config.expert_width(widths);
        let stay = kept.experts(width);
        let (of, expected) = *first.get_or_insert((layer, stay.len()));
        if stay.len() != expected {
            return malformed(format!(
                "layer {layer}: expected {expected} experts to stay, as in layer {of}, found {}",
                stay.len()
            ));
        }
        if stay.len() < experts.chosen {
            return malformed(format!(
                "layer {layer}: expected at least {} experts to stay, as many as each token takes, \
                 found {}",
                experts.chosen,
                stay.len()
            ));
        }
        let before = |expert: usize| kept.ffn.partition_point(|&channel| channel < expert * width);
        let count = |expert: usize| before(expert + 1) - before(expert);
        let share = kept.ffn.len().div_ceil(stay.len());
        if let Some(&expert) = stay.iter().find(|&&expert| count(expert) != share) {
            return malformed(format!(
                "layer {layer}: expected as many channels of each of {} experts, found {} of \
                 expert {expert} among {}",
                stay.len(),
                count(expert),
                kept.ffn.len()
            ));
        }
    }
    Ok(())
}

pub(super) fn malformed<T>(message: String) -> Result<T> {
    Err(Error::Plan(message))
}
