//! What the metadata of a GGUF file says of experts.

use adapruner_arch::{
    Experts,
    family::{ExpertsRule, NormalisedRule},
};

use super::config::Keys;
use crate::error::Result;

impl Keys<'_> {
    /// How many experts there are, where there are any.
    pub(super) fn expert_count(&self) -> Result<Option<usize>> {
        Ok(self.optional_size("expert_count")?.filter(|count| *count > 0))
    }

    /// What feed-forwards are mixtures of.
    pub(super) fn experts(&self, rule: &ExpertsRule) -> Result<Experts> {
        const CHOSEN: &str = "expert_used_count";
        for key in [
            "expert_shared_count",
            "expert_shared_feed_forward_length",
            "leading_dense_block_count",
        ] {
            if let Some(found) = self.optional_size(key)?.filter(|found| *found > 0) {
                let message = format!("0 expected, {found} found: not supported");
                return Err(self.unsupported(key, message));
            }
        }
        // 0 and 1 stand for the softmax over all experts.
        if let Some(found) = self.optional_size("expert_gating_func")?.filter(|found| *found > 1) {
            let message = format!("weights of experts by function {found} are not supported");
            return Err(self.unsupported("expert_gating_func", message));
        }
        const SCALE: &str = "expert_weights_scale";
        if let Some(scale) = self.optional_float(SCALE)?.filter(|s| *s != 0.0 && *s != 1.0) {
            return Err(self.unsupported(SCALE, format!("a scale of {scale} is not supported")));
        }
        let count = self.expert_count()?;
        let count = count.ok_or_else(|| self.error("expert_count", "missing"))?;
        let chosen = self.size(CHOSEN)?;
        if !(1..=count).contains(&chosen) {
            let message = format!("1 to the {count} experts expected, {chosen} found");
            return Err(self.error(CHOSEN, &message));
        }
        let normalised = match rule.normalised {
            NormalisedRule::Always => true,
            NormalisedRule::Key { gguf, .. } => gguf,
        };
        Ok(Experts { count, chosen, normalised })
    }
}
