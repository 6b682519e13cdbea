//! Applying a plan: a pruned model as a view of its original.
//!
//! Nothing is copied here. The pruned checkpoint reads through the original's
//! tensors and takes the kept rows or columns when one is loaded, so a tensor is in
//! memory twice only while it is sliced. Tensors that stay whole are the original's.
//!
//! Axes: `N` query heads, `K` key-value heads, `D` head width, `F` feed-forward
//! width, `H` hidden.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use adapruner_checkpoint::{
    Checkpoint, Digest, ModelConfig, Result as SourceResult, TensorMeta, TensorSource,
    arch::{
        family::HeadNorm,
        names::{Norm, Part, Projection, Sublayer, UnitAxis},
    },
};
use candle_core::{
    CpuStorage, DType, Device, Layout, Result as CandleResult, Storage, Tensor, WithDType, bail,
};
use half::{bf16, f16};

use crate::{
    error::{Error, Result},
    plan::{LayerPlan, PrunePlan},
    vocabulary::VocabularyPlan,
};

/// The pruned model: widths and tokens of the plan, tensors sliced when they are loaded,
/// heads, channels and tokens in their original order.
///
/// # Errors
/// A plan for another model, or one that does not fit it; a tokenizer that cannot lose
/// the plan's tokens.
pub fn apply(checkpoint: &Checkpoint, plan: &PrunePlan) -> Result<Checkpoint> {
    if let Some((trimmed, rest)) = without_tokens(checkpoint, plan)? {
        return rest.map_or_else(|| Ok(trimmed.clone()), |rest| apply(&trimmed, &rest));
    }
    if let Some((shallow, rest)) = without_layers(checkpoint, plan)? {
        return rest.map_or_else(|| Ok(shallow.clone()), |rest| apply(&shallow, &rest));
    }
    if let Some((fewer, rest)) = without_experts(checkpoint, plan)? {
        return rest.map_or_else(|| Ok(fewer.clone()), |rest| apply(&fewer, &rest));
    }
    let digest = checked_digest(checkpoint, plan)?;
    let cuts = Cuts::new(&checkpoint.config, plan);
    let source = SlicedSource {
        base: checkpoint.tensors.clone(),
        digest: Digest::of_parts([
            ("pruned", digest.as_bytes().as_slice()),
            ("plan", plan.digest()?.as_bytes().as_slice()),
        ]),
        cuts,
    };
    Ok(Checkpoint {
        config: plan.pruned_config(&checkpoint.config),
        tensors: Arc::new(source),
        ..checkpoint.clone()
    })
}

/// The original model with the units that the plan removes set to zero, biases
/// included: what the pruned model computes, at the original's widths and with the pruned model's
/// tokens and experts. Where all heads of queries
/// or keys are normed together, the mean is over those that stay, as in the pruned model.
///
/// Dropped attention sublayers and layers that are removed whole keep their tensors here, the
/// outputs of their sublayers and the biases of these being zero.
///
/// # Errors
/// As [`apply`].
pub fn mask(checkpoint: &Checkpoint, plan: &PrunePlan) -> Result<Checkpoint> {
    if let Some((trimmed, rest)) = without_tokens(checkpoint, plan)? {
        return rest.map_or_else(|| Ok(trimmed.clone()), |rest| mask(&trimmed, &rest));
    }
    if let Some((fewer, rest)) = without_experts(checkpoint, plan)? {
        return rest.map_or_else(|| Ok(fewer.clone()), |rest| mask(&fewer, &rest));
    }
    let digest = checked_digest(checkpoint, plan)?;
    let cuts = Cuts::new(&checkpoint.config, plan);
    let source = MaskedSource {
        base: checkpoint.tensors.clone(),
        digest: Digest::of_parts([
            ("masked", digest.as_bytes().as_slice()),
            ("plan", plan.digest()?.as_bytes().as_slice()),
        ]),
        cuts,
    };
    Ok(Checkpoint { tensors: Arc::new(source), ..checkpoint.clone() })
}

/// The model without the tokens that the plan removes, and what else the plan removes, if
/// anything; `None` where no token goes.
///
/// # Errors
/// A plan for another model, or one that does not fit it or leaves out an id that its
/// configuration names; a tokenizer that cannot lose tokens.
pub fn without_tokens(
    checkpoint: &Checkpoint,
    plan: &PrunePlan,
) -> Result<Option<(Checkpoint, Option<PrunePlan>)>> {
    let Some(VocabularyPlan { kept, rows }) = &plan.vocabulary else { return Ok(None) };
    checked_digest(checkpoint, plan)?;
    let trimmed = checkpoint.with_vocabulary(kept, *rows)?;
    let rest = rest_of(plan, &trimmed, plan.layers.clone())?;
    Ok(Some((trimmed, rest)))
}

/// The model without the layers that the plan removes whole, and what else the plan removes,
/// if anything; `None` where no layer goes. A plan that removes tokens comes without them
/// ([`without_tokens`]).
///
/// # Errors
/// A plan for another model, or one that does not fit it.
pub fn without_layers(
    checkpoint: &Checkpoint,
    plan: &PrunePlan,
) -> Result<Option<(Checkpoint, Option<PrunePlan>)>> {
    let kept = plan.kept_layers();
    if kept.len() == plan.layers.len() {
        return Ok(None);
    }
    checked_digest(checkpoint, plan)?;
    let shallow = checkpoint.with_layers(&kept)?;
    let layers = kept.iter().map(|&layer| plan.layers[layer].clone()).collect();
    let rest = rest_of(plan, &shallow, layers)?;
    Ok(Some((shallow, rest)))
}

/// The model without the experts that the plan removes, and what else the plan removes, if
/// anything; `None` where no expert goes. Tokens are routed among the experts that stay, as if the
/// logits of the others were minus infinity. A plan that removes tokens comes without them
/// ([`without_tokens`]).
///
/// # Errors
/// A plan for another model, or one that does not fit it.
pub fn without_experts(
    checkpoint: &Checkpoint,
    plan: &PrunePlan,
) -> Result<Option<(Checkpoint, Option<PrunePlan>)>> {
    let Some(kept) = plan.kept_experts(&checkpoint.config) else { return Ok(None) };
    checked_digest(checkpoint, plan)?;
    let fewer = checkpoint.with_experts(&kept)?;
    let rest = rest_of(plan, &fewer, plan.within_experts(&checkpoint.config, &kept))?;
    Ok(Some((fewer, rest)))
}

/// What a plan removes of the layers of a model that it was applied to in part.
fn rest_of(
    plan: &PrunePlan,
    model: &Checkpoint,
    layers: Vec<LayerPlan>,
) -> Result<Option<PrunePlan>> {
    let rest = PrunePlan {
        requested_attention_share: plan.requested_attention_share,
        layout: plan.layout,
        multiple_of: plan.multiple_of,
        ..PrunePlan::keeping(&model.config, model.digest()?, layers)
    };
    let whole = rest.parameters_after == rest.parameters_before;
    Ok((!whole).then_some(rest))
}

/// The model's digest, if the plan was made for it and fits.
fn checked_digest(checkpoint: &Checkpoint, plan: &PrunePlan) -> Result<Digest> {
    plan.validate(&checkpoint.config)?;
    let found = checkpoint.digest()?;
    if found != plan.model_digest {
        return Err(Error::OtherModel { planned: plan.model_digest, found });
    }
    Ok(found)
}

/// The kept rows or columns of a tensor.
#[derive(Debug, Clone)]
struct Cut {
    axis: usize,
    kept: Arc<[u32]>,
    /// Whether it is a norm of all heads together, whose mean is over those that stay.
    mean: bool,
}

impl Cut {
    /// The kept part of a tensor.
    fn of(&self, whole: &Tensor) -> CandleResult<Tensor> {
        if !whole.device().is_cpu() {
            let kept = Tensor::new(&*self.kept, whole.device())?;
            return whole.index_select(&kept, self.axis)?.contiguous();
        }
        // Candle's selection clears what it writes and goes number by number: of a trial
        // that is soon given up, that would be a twentieth.
        let whole = whole.contiguous()?;
        let (storage, layout) = whole.storage_and_layout();
        match (&*storage, whole.dtype()) {
            (Storage::Cpu(values), DType::F32) => self.select::<f32>(values, layout),
            (Storage::Cpu(values), DType::BF16) => self.select::<bf16>(values, layout),
            (Storage::Cpu(values), DType::F16) => self.select::<f16>(values, layout),
            _ => whole.index_select(&Tensor::new(&*self.kept, &Device::Cpu)?, self.axis),
        }
    }

    fn select<T: WithDType>(&self, values: &CpuStorage, layout: &Layout) -> CandleResult<Tensor> {
        let dims = layout.dims();
        if let Some(odd) = self.kept.iter().find(|&&at| at as usize >= dims[self.axis]) {
            bail!("a tensor of {dims:?} has no {odd} along axis {}", self.axis);
        }
        let inner: usize = dims[self.axis + 1..].iter().product();
        let size = dims[self.axis] * inner;
        let values = &values.as_slice::<T>()?[layout.start_offset()..];
        let outer: usize = dims[..self.axis].iter().product();
        let mut selected = Vec::with_capacity(outer * self.kept.len() * inner);
        for part in values[..outer * size].chunks_exact(size.max(1)) {
            if inner == 1 {
                selected.extend(self.kept.iter().map(|&at| part[at as usize]));
            } else {
                for at in self.kept.iter().map(|&at| at as usize * inner) {
                    selected.extend_from_slice(&part[at..at + inner]);
                }
            }
        }
        let mut dims = dims.to_vec();
        dims[self.axis] = self.kept.len();
        Tensor::from_vec(selected, dims, &Device::Cpu)
    }
}

/// What a plan does to each tensor; those that are not named stay whole.
#[derive(Debug, Default)]
struct Cuts {
    cuts: BTreeMap<String, Cut>,
    dropped: BTreeSet<String>,
    /// Biases of the outputs of sublayers that are dropped.
    cleared: BTreeSet<String>,
}

impl Cuts {
    fn new(config: &ModelConfig, plan: &PrunePlan) -> Self {
        let mut out = Self::default();
        for (layer, (kept, widths)) in plan.layers.iter().zip(&config.layers).enumerate() {
            if widths.has_attention() && kept.query_heads.is_empty() {
                out.drop_attention(config, layer);
            }
            if kept.widths() != *widths {
                out.cut_layer(config, layer, kept);
            }
            if kept.ffn.is_empty() {
                let output = Sublayer::FeedForward.output();
                out.cleared.insert(config.name(Part::Bias(layer, output)));
            }
        }
        out
    }

    fn drop_attention(&mut self, config: &ModelConfig, layer: usize) {
        let family = config.family();
        for norm in Norm::ALL.into_iter().filter(|norm| norm.is_attention()) {
            self.dropped.extend(norm.weight(family, layer));
            self.dropped.extend(norm.bias(family, layer));
        }
        for projection in Projection::ALL.into_iter().filter(|p| p.is_attention()) {
            self.dropped.insert(projection.weight(family, layer));
            if config.has_bias(projection) {
                self.dropped.insert(projection.bias(family, layer));
            }
        }
        // What the masked model clears.
        self.cleared.insert(config.name(Part::Bias(layer, Sublayer::Attention.output())));
    }

    fn cut_layer(&mut self, config: &ModelConfig, layer: usize, kept: &LayerPlan) {
        let (head_dim, widths) = (config.head_dim, config.layers[layer]);
        let heads = |heads: &[usize]| -> Arc<[u32]> {
            let rows = heads.iter().flat_map(|h| h * head_dim..(h + 1) * head_dim);
            rows.map(|row| row as u32).collect()
        };
        let query = heads(&kept.query_heads);
        let key_value = heads(&kept.kv_heads);
        let ffn: Arc<[u32]> = kept.ffn.iter().map(|&j| j as u32).collect();
        let family = config.family();
        for projection in config.projections(layer) {
            let (kept, whole) = match projection.axis() {
                UnitAxis::QueryHeads => (&query, widths.query_heads * head_dim),
                UnitAxis::KvHeads => (&key_value, widths.kv_heads * head_dim),
                UnitAxis::Channels => (&ffn, widths.ffn),
            };
            if kept.len() == whole {
                continue;
            }
            let axis = usize::from(projection.prunes_columns());
            let cut = Cut { axis, kept: kept.clone(), mean: false };
            // The bias of a projection that loses inputs stays whole.
            if config.has_bias(projection) && axis == 0 {
                self.cuts.insert(projection.bias(family, layer), cut.clone());
            }
            let normed = |norm: &Norm| norm.normed(family) == Some((projection, HeadNorm::All));
            let norm = Norm::ALL.into_iter().find(normed);
            if let Some(name) = norm.and_then(|norm| norm.weight(family, layer)) {
                self.cuts.insert(name, Cut { mean: true, ..cut.clone() });
            }
            let weights = config.weights(layer, projection);
            let width = whole / weights.len().max(1);
            for (at, weight) in weights.iter().enumerate() {
                let first = at * width;
                let own = match weights.len() {
                    1 => kept.clone(),
                    // Of an expert its own, counted from its first.
                    _ => {
                        let [start, end] = [first, first + width]
                            .map(|end| kept.partition_point(|&unit| (unit as usize) < end));
                        kept[start..end].iter().map(|unit| unit - first as u32).collect()
                    }
                };
                self.cuts.insert(config.name(*weight), Cut { kept: own, ..cut.clone() });
            }
        }
    }
}

/// Tensors of a pruned model.
struct SlicedSource {
    base: Arc<dyn TensorSource>,
    cuts: Cuts,
    digest: Digest,
}

impl TensorSource for SlicedSource {
    fn names(&self) -> Vec<String> {
        let mut names = self.base.names();
        names.retain(|name| !self.cuts.dropped.contains(name));
        names
    }

    fn meta(&self, name: &str) -> Option<TensorMeta> {
        if self.cuts.dropped.contains(name) {
            return None;
        }
        let mut meta = self.base.meta(name)?;
        if let Some(Cut { axis, kept, .. }) = self.cuts.cuts.get(name) {
            let size = meta.shape.get_mut(*axis)?;
            // Exact where elements have bytes of their own, a proportion where
            // they are quantised in blocks.
            let bytes = u128::from(meta.bytes) * kept.len() as u128 / (*size).max(1) as u128;
            meta.bytes = bytes as u64;
            *size = kept.len();
        }
        Some(meta)
    }

    fn load(&self, name: &str, dtype: DType, device: &Device) -> SourceResult<Tensor> {
        if self.cuts.dropped.contains(name) {
            return Err(adapruner_checkpoint::Error::NotFound {
                name: name.to_owned(),
                message: "the tensor's sublayer was pruned away".into(),
            });
        }
        let whole = self.base.load(name, dtype, device)?;
        let Some(cut) = self.cuts.cuts.get(name) else { return Ok(whole) };
        Ok(cut.of(&whole)?)
    }

    fn digest(&self) -> SourceResult<Digest> {
        Ok(self.digest)
    }
}

/// Tensors of the original, removed units set to zero.
struct MaskedSource {
    base: Arc<dyn TensorSource>,
    cuts: Cuts,
    digest: Digest,
}

impl TensorSource for MaskedSource {
    fn names(&self) -> Vec<String> {
        self.base.names()
    }

    fn meta(&self, name: &str) -> Option<TensorMeta> {
        self.base.meta(name)
    }

    fn load(&self, name: &str, dtype: DType, device: &Device) -> SourceResult<Tensor> {
        let whole = self.base.load(name, dtype, device)?;
        let Some(Cut { axis, kept, mean }) = self.cuts.cuts.get(name) else {
            // Of a dropped sublayer, only the output's bias is left to clear.
            let clear = self.cuts.cleared.contains(name);
            return Ok(if clear { whole.zeros_like()? } else { whole });
        };
        let size = whole.dim(*axis)?;
        let mut mask = vec![0_f32; size];
        // The mean over all that are there is so many times smaller than over those that stay.
        let factor = if *mean { (kept.len() as f64 / size as f64).sqrt() } else { 1.0 };
        for &at in kept.iter() {
            mask[at as usize] = factor as f32;
        }
        let mut shape = vec![1; whole.rank()];
        shape[*axis] = mask.len();
        let mask = Tensor::from_vec(mask, shape, device)?.to_dtype(dtype)?;
        Ok(whole.broadcast_mul(&mask)?)
    }

    fn digest(&self) -> SourceResult<Digest> {
        Ok(self.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_are_those_of_candle() {
        let whole = Tensor::arange(0_f32, 60.0, &Device::Cpu).unwrap();
        for dtype in [DType::F32, DType::BF16, DType::F16, DType::F64] {
            for (shape, axis, kept) in [
                (vec![60], 0, vec![0, 7, 59]),
                (vec![10, 6], 0, vec![1, 2, 9]),
                (vec![10, 6], 1, vec![0, 4, 5]),
                (vec![10, 6], 1, vec![]),
                (vec![5, 4, 3], 1, vec![3, 0]),
            ] {
                let whole = whole.to_dtype(dtype).unwrap().reshape(shape).unwrap();
                let found =
                    Cut { axis, kept: kept.clone().into(), mean: false }.of(&whole).unwrap();
                let kept = Tensor::from_vec(kept.clone(), kept.len(), &Device::Cpu).unwrap();
                let right = whole.index_select(&kept, axis).unwrap();
                assert_eq!((found.dims(), found.dtype()), (right.dims(), dtype));
                let values = |t: &Tensor| -> Vec<f64> {
                    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
                };
                assert_eq!(values(&found), values(&right), "{dtype:?}, axis {axis}");
            }
            let whole = whole.to_dtype(dtype).unwrap();
            assert!(Cut { axis: 0, kept: [60].into(), mean: false }.of(&whole).is_err());
        }
    }
}
