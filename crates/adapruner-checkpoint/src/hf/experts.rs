//! What `config.json` says of experts.

use adapruner_arch::{
    Experts,
    family::{ExpertsRule, NormalisedRule},
};
use serde_json::Value;

use super::config::Keys;
use crate::error::Result;

impl Keys<'_> {
    /// What feed-forwards are mixtures of.
    pub(super) fn experts(&self, rule: &ExpertsRule) -> Result<Experts> {
        if let Some((step, list)) = rule.dense_layers {
            let dense = self.optional(list, "a list", Value::as_array)?;
            if dense.is_some_and(|dense| !dense.is_empty()) {
                let message = "layers without experts beside those with experts are not supported";
                return Err(self.unsupported(list, message));
            }
            if let Some(every) = self.optional_size(step)?.filter(|every| *every != 1) {
                let message = format!(
                    "1 expected, {every} found: layers without experts beside those with experts are not supported"
                );
                return Err(self.unsupported(step, message));
            }
        }
        let experts = Experts {
            count: self.size(rule.count)?,
            chosen: self.size(rule.chosen)?,
            normalised: match rule.normalised {
                NormalisedRule::Always => true,
                NormalisedRule::Key { hf, .. } => self.optional_bool(hf)?.unwrap_or(false),
            },
        };
        if !(1..=experts.count).contains(&experts.chosen) {
            let Experts { count, chosen, .. } = experts;
            let message =
                format!("1 to the {count} experts of {} expected, {chosen} found", rule.count);
            return Err(self.error(rule.chosen, &message));
        }
        Ok(experts)
    }
}
