//! One decoder layer: RMSNorm → attention → residual, RMSNorm → gated
//! feed-forward → residual.
//!
//! Axes: `B` sequences, `T` tokens, `H` hidden, `N` query heads, `K` key-value
//! heads, `D` head width, `F` feed-forward width.

use std::sync::Arc;

use adapruner_checkpoint::{Activation, Checkpoint, names, names::Projection};
use adapruner_kernels::{
    GradTap, LowRank,
    packed::Packed,
    sublayer::{self, Affine},
};
use candle_core::{Result as CandleResult, Tensor, Var};

use crate::{error::Result, placement::Placement};

/// A projection with its optional bias.
#[derive(Debug, Clone)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Tensor,
    /// `[out]`.
    pub bias: Option<Tensor>,
    /// A bf16 weight as products on the CPU read it, where that pays.
    pub packed: Packed,
    /// What is added to the map, of low rank.
    pub adapter: Option<LowRank>,
    /// Factors of what the map reads, `[in]`.
    pub mask: Option<Tensor>,
}

impl Linear {
    fn load(
        checkpoint: &Checkpoint,
        layer: usize,
        projection: Projection,
        placement: &Placement,
    ) -> Result<Self> {
        let config = &checkpoint.config;
        let biased =
            if projection.is_attention() { config.attention_bias } else { config.mlp_bias };
        let Placement { device, dtype } = placement;
        let weight = checkpoint.tensors.load(&projection.weight(layer), *dtype, device)?;
        let bias = biased
            .then(|| {
                checkpoint.tensors.load(&projection.bias(layer), placement.activations(), device)
            })
            .transpose()?;
        Ok(Self { weight, bias, packed: Packed::default(), adapter: None, mask: None })
    }

    /// `x · Wᵀ + b`.
    ///
    /// # Shapes
    /// `[.., in]` → `[.., out]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, x: &Tensor) -> CandleResult<Tensor> {
        self.with_tap(None).apply(x)
    }

    /// The map with a tap on its gradients.
    pub(crate) fn with_tap(&self, tap: Option<Arc<dyn GradTap>>) -> Affine {
        let Self { weight, bias, packed, adapter, mask } = self.clone();
        Affine { weight, bias, packed, adapter, mask, tap }
    }
}

/// The attention sublayer.
#[derive(Debug, Clone)]
pub struct Attention {
    /// Norm before it, `[H]`.
    pub norm: Tensor,
    /// Query, `[N·D, H]`.
    pub q: Linear,
    /// Key, `[K·D, H]`.
    pub k: Linear,
    /// Value, `[K·D, H]`.
    pub v: Linear,
    /// Output, `[H, N·D]`.
    pub o: Linear,
}

/// The gated feed-forward sublayer.
#[derive(Debug, Clone)]
pub struct FeedForward {
    /// Norm before it, `[H]`.
    pub norm: Tensor,
    /// Gate, `[F, H]`.
    pub gate: Linear,
    /// Up, `[F, H]`.
    pub up: Linear,
    /// Down, `[H, F]`.
    pub down: Linear,
}

/// Keys and values of earlier positions, `[B, t, K, D]` each.
#[derive(Debug, Clone)]
pub struct LayerCache {
    /// Rotated keys.
    pub keys: Tensor,
    /// Values.
    pub values: Tensor,
}

/// What a forward pass needs beside weights and activations.
pub struct Pass<'a> {
    /// Cosines of the positions, `[T, D/2]`.
    pub cos: &'a Tensor,
    /// Sines of the positions, `[T, D/2]`.
    pub sin: &'a Tensor,
    /// Lengths of the sequences whose rows follow each other in `[1, T, H]`, for
    /// packed ones; passes with a cache have none.
    pub lengths: Option<&'a Arc<[usize]>>,
    /// Gives each projection its tap, in passes whose gradients are observed.
    pub taps: Option<&'a dyn Fn(Projection) -> Arc<dyn GradTap>>,
}

impl Pass<'_> {
    fn tap(&self, projection: Projection) -> Option<Arc<dyn GradTap>> {
        self.taps.map(|taps| taps(projection))
    }
}

/// One decoder layer; without attention where that was pruned away.
#[derive(Debug, Clone)]
pub struct Block {
    /// The attention sublayer, if the layer has one.
    pub attention: Option<Attention>,
    /// The feed-forward sublayer.
    pub ffn: FeedForward,
    head_dim: usize,
    eps: f64,
}

impl Block {
    /// Reads the weights of layer `layer`.
    ///
    /// # Errors
    /// Tensors that are missing, damaged or not finite.
    pub fn load(checkpoint: &Checkpoint, layer: usize, placement: &Placement) -> Result<Self> {
        let config = &checkpoint.config;
        let linear = |projection| Linear::load(checkpoint, layer, projection, placement);
        let norm = |name: String| {
            checkpoint.tensors.load(&name, placement.activations(), &placement.device)
        };
        // The feed-forward sublayer is made for this activation; another one does not
        // compile before it has its own.
        match config.activation {
            Activation::Silu => {}
        }
        let attention = if config.layers[layer].has_attention() {
            Some(Attention {
                norm: norm(names::input_norm(layer))?,
                q: linear(Projection::Q)?,
                k: linear(Projection::K)?,
                v: linear(Projection::V)?,
                o: linear(Projection::O)?,
            })
        } else {
            None
        };
        let ffn = FeedForward {
            norm: norm(names::ffn_norm(layer))?,
            gate: linear(Projection::Gate)?,
            up: linear(Projection::Up)?,
            down: linear(Projection::Down)?,
        };
        Ok(Self { attention, ffn, head_dim: config.head_dim, eps: config.rms_norm_eps })
    }

    /// Runs the layer; with `cache`, the keys and values of earlier positions
    /// are prepended and the new ones kept.
    ///
    /// # Shapes
    /// `[B, T, H]` → `[B, T, H]`.
    ///
    /// # Errors
    /// Shapes that do not fit, or no memory.
    pub fn forward(
        &self,
        x: &Tensor,
        pass: &Pass<'_>,
        cache: Option<&mut Option<LayerCache>>,
    ) -> CandleResult<Tensor> {
        let x = match &self.attention {
            Some(attention) => self.attend(attention, x, pass, cache)?,
            None => x.clone(),
        };
        let FeedForward { norm, gate, up, down } = &self.ffn;
        let sublayer = sublayer::FeedForward {
            norm: norm.clone(),
            eps: self.eps,
            gate: gate.with_tap(pass.tap(Projection::Gate)),
            up: up.with_tap(pass.tap(Projection::Up)),
            down: down.with_tap(pass.tap(Projection::Down)),
        };
        sublayer.forward(&x)
    }

    /// `x` with the attention sublayer added.
    fn attend(
        &self,
        attention: &Attention,
        x: &Tensor,
        pass: &Pass<'_>,
        cache: Option<&mut Option<LayerCache>>,
    ) -> CandleResult<Tensor> {
        let Attention { norm, q, k, v, o } = attention;
        let q = q.with_tap(pass.tap(Projection::Q));
        let k = k.with_tap(pass.tap(Projection::K));
        let v = v.with_tap(pass.tap(Projection::V));
        let o = o.with_tap(pass.tap(Projection::O));
        let Some(slot) = cache else {
            let sublayer = sublayer::SelfAttention {
                norm: norm.clone(),
                eps: self.eps,
                head_dim: self.head_dim,
                q,
                k,
                v,
                o,
                lengths: pass.lengths.cloned(),
                cos: pass.cos.clone(),
                sin: pass.sin.clone(),
            };
            return sublayer.forward(x);
        };
        let (b, t, _) = x.dims3()?;
        let h = adapruner_kernels::rms_norm(x, norm, self.eps)?;
        let heads = |map: &Affine| map.apply(&h)?.reshape((b, t, (), self.head_dim));
        let q = adapruner_kernels::rope(&heads(&q)?, pass.cos, pass.sin)?;
        let k = adapruner_kernels::rope(&heads(&k)?, pass.cos, pass.sin)?;
        let v = heads(&v)?;
        let (keys, values) = match slot.take() {
            None => (k, v),
            Some(old) => (Tensor::cat(&[old.keys, k], 1)?, Tensor::cat(&[old.values, v], 1)?),
        };
        *slot = Some(LayerCache { keys: keys.clone(), values: values.clone() });
        let y = adapruner_kernels::attention(&q, &keys, &values)?.reshape((b, t, ()))?;
        x + o.apply(&y)?
    }

    /// What the attention's output projection reads: the heads' outputs side by
    /// side. `None` where the layer has no attention.
    ///
    /// # Shapes
    /// `[B, T, H]`, cosines and sines `[T, D/2]` → `[B, T, N·D]`.
    ///
    /// # Errors
    /// Shapes that do not fit, or no memory.
    pub fn head_outputs(
        &self,
        x: &Tensor,
        (cos, sin): &(Tensor, Tensor),
    ) -> CandleResult<Option<Tensor>> {
        let Some(Attention { norm, q, k, v, .. }) = &self.attention else { return Ok(None) };
        let (b, t, _) = x.dims3()?;
        let h = adapruner_kernels::rms_norm(x, norm, self.eps)?;
        let heads = |map: &Linear| map.forward(&h)?.reshape((b, t, (), self.head_dim));
        let q = adapruner_kernels::rope(&heads(q)?, cos, sin)?;
        let k = adapruner_kernels::rope(&heads(k)?, cos, sin)?;
        Ok(Some(adapruner_kernels::attention(&q, &k, &heads(v)?)?.reshape((b, t, ()))?))
    }

    /// What the down projection reads: the gated channels.
    ///
    /// # Shapes
    /// `[B, T, H]` → `[B, T, F]`.
    ///
    /// # Errors
    /// Shapes that do not fit, or no memory.
    pub fn channels(&self, x: &Tensor) -> CandleResult<Tensor> {
        let FeedForward { norm, gate, up, .. } = &self.ffn;
        let h = adapruner_kernels::rms_norm(x, norm, self.eps)?;
        adapruner_kernels::swiglu(&gate.forward(&h)?, &up.forward(&h)?)
    }

    /// The same block with every weight made a variable, and those variables
    /// under the canonical names of layer `layer`.
    ///
    /// # Errors
    /// No memory.
    pub fn with_variables(&self, layer: usize) -> CandleResult<(Self, Vec<(String, Var)>)> {
        let mut block = self.clone();
        let mut variables = Vec::new();
        for (name, tensor) in block.parameters_mut(layer) {
            let variable = Var::from_tensor(tensor)?;
            *tensor = variable.as_tensor().clone();
            variables.push((name, variable));
        }
        Ok((block, variables))
    }

    /// Takes the packed forms of those weights that are `other`'s as well, and lays the
    /// others out.
    pub(crate) fn lay_out_beside(&mut self, other: &Self) -> CandleResult<()> {
        let attention = self.attention.iter_mut().zip(&other.attention).flat_map(|(own, other)| {
            let Attention { q, k, v, o, .. } = own;
            [(q, &other.q), (k, &other.k), (v, &other.v), (o, &other.o)]
        });
        let FeedForward { gate, up, down, .. } = &mut self.ffn;
        let ffn = [(gate, &other.ffn.gate), (up, &other.ffn.up), (down, &other.ffn.down)];
        for (own, other) in attention.chain(ffn) {
            if own.weight.id() == other.weight.id() {
                own.packed = other.packed.clone();
            } else {
                own.packed.lay_out(&own.weight)?;
            }
        }
        Ok(())
    }

    /// The projections, those of attention only where there is one.
    pub(crate) fn projections_mut(&mut self) -> Vec<(Projection, &mut Linear)> {
        let FeedForward { gate, up, down, .. } = &mut self.ffn;
        let of_attention =
            self.attention.iter_mut().flat_map(|Attention { q, k, v, o, .. }| {
                [(Projection::Q, q), (Projection::K, k), (Projection::V, v), (Projection::O, o)]
            });
        of_attention
            .chain([(Projection::Gate, gate), (Projection::Up, up), (Projection::Down, down)])
            .collect()
    }

    /// The parameters under the canonical names of layer `layer`.
    pub(crate) fn parameters_mut(&mut self, layer: usize) -> Vec<(String, &mut Tensor)> {
        let mut out = Vec::new();
        fn linear<'a>(
            (projection, linear): (Projection, &'a mut Linear),
            layer: usize,
            out: &mut Vec<(String, &'a mut Tensor)>,
        ) {
            out.push((projection.weight(layer), &mut linear.weight));
            out.extend(linear.bias.as_mut().map(|bias| (projection.bias(layer), bias)));
        }
        if let Some(Attention { norm, q, k, v, o }) = &mut self.attention {
            out.push((names::input_norm(layer), norm));
            let maps =
                [(Projection::Q, q), (Projection::K, k), (Projection::V, v), (Projection::O, o)];
            maps.into_iter().for_each(|map| linear(map, layer, &mut out));
        }
        let FeedForward { norm, gate, up, down } = &mut self.ffn;
        out.push((names::ffn_norm(layer), norm));
        let maps = [(Projection::Gate, gate), (Projection::Up, up), (Projection::Down, down)];
        maps.into_iter().for_each(|map| linear(map, layer, &mut out));
        out
    }
}
