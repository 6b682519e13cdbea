//! The rotary embeddings that a `config.json` describes, as transformers 4 and 5 spell them.

use adapruner_arch::{
    Family,
    config::{long_attention_factor, rotated},
};
use serde_json::Value;

use super::config::{FULL, Keys, SLIDING, short};
use crate::{
    config::{Rope, RopeScaling},
    error::{Error, Result},
};

impl Keys<'_> {
    /// How much of each head is rotated, `None` where it is all of it.
    pub(super) fn rotated_dim(&self, family: &Family, head_dim: usize) -> Result<Option<usize>> {
        const KEY: &str = "partial_rotary_factor";
        // transformers 5 has it beside the base.
        let nested = match self.optional_object("rope_parameters")? {
            Some(nested) => nested.optional_float(KEY)?,
            None => None,
        };
        let scaling = match self.optional_object("rope_scaling")? {
            Some(scaling) => scaling.optional_float(KEY)?,
            None => None,
        };
        let said = self.optional_float(KEY)?.or(nested).or(scaling);
        let own = match family.rotated_share {
            Some((key, _)) => self.optional_float(key)?,
            None => None,
        };
        let default = family.rotated_share.map_or(1.0, |(_, default)| default);
        let share = own.or(said).unwrap_or(default);
        if share == 1.0 {
            return Ok(None);
        }
        if family.rotated_share.is_none() {
            let message = format!(
                "a rotary embedding of a part ({share}) is not supported for {}",
                family.title
            );
            return Err(self.unsupported(KEY, message));
        }
        if !(share > 0.0 && share < 1.0) {
            return Err(self.error(KEY, &format!("above 0 and at most 1 expected, {share} found")));
        }
        Ok(rotated(head_dim, share))
    }

    /// The rotary embedding, and that of layers with a window where it is another.
    pub(super) fn ropes(&self, family: &Family) -> Result<(Rope, Option<Rope>)> {
        let nested = self.optional_object("rope_parameters")?;
        // transformers 5 has an object for each kind of layer.
        let nested = nested.filter(|nested| nested.object.contains_key(FULL));
        let Some(nested) = nested else {
            let rope = self.rope(family.hf.theta)?;
            let local = family.local_theta.map(|(key, default)| -> Result<Rope> {
                let theta = self.optional_float(key)?.unwrap_or(default);
                Ok(Rope { theta, scaling: RopeScaling::None })
            });
            return Ok((rope, local.transpose()?));
        };
        let of = |kind: &str, default| -> Result<Rope> {
            let Some(keys) = nested.optional_object(kind)? else {
                return Err(self.error(&format!("rope_parameters.{kind}"), "missing"));
            };
            let theta = keys.optional_float("rope_theta")?.unwrap_or(default);
            Ok(Rope { theta, scaling: keys.rope_scaling("rope_parameters", self)? })
        };
        let Some((_, local)) = family.local_theta else {
            let message =
                format!("an object for each kind of layer is not known of {}", family.title);
            return Err(self.unsupported("rope_parameters", message));
        };
        Ok((of(FULL, family.hf.theta.1)?, Some(of(SLIDING, local)?)))
    }

    fn rope(&self, (key, default_theta): (&str, f64)) -> Result<Rope> {
        // transformers 5 writes one object for what were two keys. Where both are
        // there it takes `rope_scaling`, unless that is empty, and of the other
        // nothing.
        let object = |key| {
            let object = self.optional_object(key)?.filter(|keys| !keys.object.is_empty());
            Ok::<_, Error>(object.map(|object| (key, object)))
        };
        let (scaling, parameters) = (object("rope_scaling")?, object("rope_parameters")?);
        if let (Some((_, scaling)), Some((_, parameters))) = (&scaling, &parameters)
            && scaling.object != parameters.object
        {
            tracing::warn!(
                "{}: rope_scaling counts, rope_parameters beside it does not",
                self.path.display()
            );
        }
        let chosen = scaling.or(parameters);
        let theta = match &chosen {
            Some((_, chosen)) => chosen.optional_float("rope_theta")?,
            None => None,
        };
        let theta = match theta {
            Some(theta) => theta,
            None => {
                let theta = self.optional_float(key)?;
                theta.or(self.optional_float("rope_theta")?).unwrap_or(default_theta)
            }
        };
        let scaling = match chosen {
            Some((key, chosen)) => chosen.rope_scaling(key, self)?,
            None => RopeScaling::None,
        };
        // Beside the object it wins in transformers.
        let original = "original_max_position_embeddings";
        if let (Some(beside), RopeScaling::Llama3 { original_max_position_embeddings, .. }) =
            (self.optional_size(original)?, &scaling)
            && beside != *original_max_position_embeddings
        {
            let message = format!(
                "{beside}, but {original_max_position_embeddings} in the rotary embedding's settings"
            );
            return Err(self.error(original, &message));
        }
        Ok(Rope { theta, scaling })
    }

    /// The scaling that this object, found under `key`, describes.
    fn rope_scaling(&self, key: &str, beside: &Keys<'_>) -> Result<RopeScaling> {
        let kind = match self.optional_text("rope_type")? {
            Some(kind) => kind,
            None => match self.optional_text("type")? {
                Some(kind) => kind,
                None if self.get("rope_theta").is_some() => "default",
                None => return Err(self.error(key, "rope_type missing")),
            },
        };
        match kind {
            "default" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: self.float("factor")? }),
            "llama3" => Ok(RopeScaling::Llama3 {
                factor: self.float("factor")?,
                low_freq_factor: self.float("low_freq_factor")?,
                high_freq_factor: self.float("high_freq_factor")?,
                original_max_position_embeddings: self.size("original_max_position_embeddings")?,
            }),
            "longrope" => self.longrope(beside),
            other => {
                let found = short(&other.into());
                let message = format!("type {found} is not supported, only linear and llama3");
                Err(self.unsupported(key, message))
            }
        }
    }

    /// Divisors of the frequencies: this program's own folders have the same for all lengths of
    /// text, and attention left as it is. `beside` are the keys of the whole file, whose context
    /// lengths count as transformers has it.
    fn longrope(&self, beside: &Keys<'_>) -> Result<RopeScaling> {
        let (short, long) = (self.divisors("short_factor")?, self.divisors("long_factor")?);
        let said = self.optional_float("attention_factor")?;
        if short == long && said == Some(1.0) {
            return Ok(RopeScaling::Factors { divisors: short });
        }
        const ORIGINAL: &str = "original_max_position_embeddings";
        let context = beside.size("max_position_embeddings")?;
        let original = match beside.optional_size(ORIGINAL)? {
            Some(original) => Some(original),
            None => self.optional_size(ORIGINAL)?,
        };
        let grown = match (original, self.optional_float("factor")?) {
            (None, Some(factor)) => context as f64 * factor,
            (Some(_) | None, _) => context as f64,
        };
        let original = original.unwrap_or(context);
        let by_default = long_attention_factor(grown, original as f64);
        Ok(RopeScaling::Long {
            short,
            long,
            attention_factor: said.unwrap_or(by_default),
            original_max_position_embeddings: original,
        })
    }

    fn divisors(&self, key: &str) -> Result<Vec<f32>> {
        let list = self.optional(key, "a list", Value::as_array)?;
        let list = list.ok_or_else(|| self.error(key, "missing"))?;
        let number = |value: &Value| value.as_f64().map(|v| v as f32);
        let numbers: Option<Vec<f32>> = list.iter().map(number).collect();
        numbers.ok_or_else(|| self.error(key, "numbers expected"))
    }
}
