//! One decoder layer: attention and feed-forward, each added to the stream, one after the other
//! or both of what enters the layer, as its architecture declares them.
//!
//! Axes: `B` sequences, `T` tokens, `H` hidden, `N` query heads, `K` key-value
//! heads, `D` head width, `F` feed-forward width.

use std::sync::Arc;

use adapruner_checkpoint::{
    Activation, Checkpoint, ModelConfig,
    arch::{
        Family,
        family::{NormKind, NormWeight},
        names::{Norm as NormPlace, Part, Projection, Sublayer},
    },
};
use adapruner_kernels::{
    Gate, GradTap, Scores,
    packed::Packed,
    sublayer::{Affine, FeedForward, Norm, Residual, SelfAttention},
};
use candle_core::{DType, Result as CandleResult, Tensor, Var};

use crate::{
    error::Result,
    placement::Placement,
    rotary::{Rotations, Turn},
};

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
    /// Cosines and sines of the positions.
    pub rotations: &'a Rotations,
    /// Lengths of the sequences whose rows follow each other in `[1, T, H]`, for
    /// packed ones; passes with a cache have none.
    pub lengths: Option<&'a Arc<[usize]>>,
    /// Gives each projection its tap, in passes whose gradients are observed.
    pub taps: Option<&'a dyn Fn(Projection) -> Arc<dyn GradTap>>,
}

impl<'a> Pass<'a> {
    /// A pass of whole sequences whose gradients nobody observes.
    pub fn of(rotations: &'a Rotations) -> Self {
        Self { rotations, lengths: None, taps: None }
    }

    /// A map with its tap.
    fn tapped(&self, map: &Affine, projection: Projection) -> Affine {
        Affine { tap: self.taps.map(|taps| taps(projection)), ..map.clone() }
    }
}

/// One decoder layer; without attention where that was pruned away.
#[derive(Clone)]
pub struct Block {
    /// The attention sublayer, if the layer has one; positions, lengths and taps are those of
    /// a pass.
    pub attention: Option<SelfAttention>,
    /// The feed-forward sublayer; its taps are those of a pass.
    pub ffn: FeedForward,
    turn: Turn,
    /// Whether both sublayers read what enters the layer.
    parallel: bool,
    family: &'static Family,
}

/// Reads the weights of one layer.
struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    layer: usize,
    placement: &'a Placement,
}

impl Loader<'_> {
    fn map(&self, projection: Projection) -> Result<Affine> {
        let Self { checkpoint, layer, placement } = *self;
        let family = checkpoint.config.family();
        let load = |name: &str, dtype| checkpoint.tensors.load(name, dtype, &placement.device);
        let weight = load(&projection.weight(family, layer), placement.dtype)?;
        let biased = checkpoint.config.has_bias(projection);
        let bias = biased.then(|| load(&projection.bias(family, layer), placement.activations()));
        let bias = bias.transpose()?;
        Ok(Affine { weight, bias, packed: Packed::default(), adapter: None, mask: None, tap: None })
    }

    fn norm(&self, place: NormPlace) -> Result<Option<Norm>> {
        let parts = [Part::Norm(self.layer, place), Part::NormBias(self.layer, place)];
        let there = parts[0].name(self.checkpoint.config.family()).is_some();
        there.then(|| load_norm(self.checkpoint, parts, self.placement)).transpose()
    }

    fn residual(&self, norm: NormPlace) -> Result<Residual> {
        Ok(Residual { norm: self.norm(norm)?, scale: self.checkpoint.config.residual_scale })
    }
}

/// A norm as it multiplies, from its weight and its bias where its family has one.
pub(crate) fn load_norm(
    checkpoint: &Checkpoint,
    [weight, bias]: [Part; 2],
    placement: &Placement,
) -> Result<Norm> {
    let (config, device) = (&checkpoint.config, &placement.device);
    let read = match config.family().norm_weight {
        NormWeight::Plain => placement.activations(),
        NormWeight::OnePlus => DType::F32,
    };
    let weight = checkpoint.tensors.load(&config.name(weight), read, device)?;
    let weight = as_factor(&weight, config.family())?.to_dtype(placement.activations())?;
    let bias = bias.name(config.family());
    let load = |name: String| checkpoint.tensors.load(&name, placement.activations(), device);
    Ok(Norm { weight, bias: bias.map(load).transpose()?, eps: config.norm_eps })
}

/// What a norm multiplies by, from its weight.
pub(crate) fn as_factor(weight: &Tensor, family: &Family) -> CandleResult<Tensor> {
    match family.norm_weight {
        NormWeight::Plain => Ok(weight.clone()),
        NormWeight::OnePlus => weight + 1.0,
    }
}

/// An activation as the kernels have it.
fn gate(activation: Activation) -> Gate {
    match activation {
        Activation::Silu => Gate::Silu,
        Activation::GeluTanh => Gate::GeluTanh,
        Activation::Gelu => Gate::Gelu,
        Activation::Relu => Gate::Relu,
    }
}

impl Block {
    /// Reads the weights of layer `layer`.
    ///
    /// # Errors
    /// Tensors that are missing, damaged or not finite.
    pub fn load(checkpoint: &Checkpoint, layer: usize, placement: &Placement) -> Result<Self> {
        let config = &checkpoint.config;
        let from = Loader { checkpoint, layer, placement };
        let attention = if config.layers[layer].has_attention() {
            Some(SelfAttention {
                norm: from.norm(NormPlace::BeforeAttention)?,
                head_dim: config.head_dim,
                q_norm: from.norm(NormPlace::Query)?,
                k_norm: from.norm(NormPlace::Key)?,
                q: from.map(Projection::Q)?,
                k: from.map(Projection::K)?,
                v: from.map(Projection::V)?,
                o: from.map(Projection::O)?,
                lengths: None,
                rotation: None,
                scores: Scores {
                    scale: config.score_scale,
                    window: config.window(layer),
                    cap: config.score_cap,
                },
                residual: from.residual(NormPlace::AfterAttention)?,
            })
        } else {
            None
        };
        let ffn = FeedForward {
            norm: from.norm(NormPlace::BeforeFfn)?,
            activation: gate(config.activation),
            gate: match config.family().has(Projection::Gate) {
                true => Some(from.map(Projection::Gate)?),
                false => None,
            },
            up: from.map(Projection::Up)?,
            down: from.map(Projection::Down)?,
            residual: from.residual(NormPlace::AfterFfn)?,
        };
        let (turn, family) = (Turn::of(config, layer), config.family());
        let mut block = Self { attention, ffn, turn, parallel: config.parallel, family };
        block.share_norm();
        Ok(block)
    }

    /// Gives attention the feed-forward's norm, where they have one together.
    pub(crate) fn share_norm(&mut self) {
        if let Some(attention) = self.attention.as_mut().filter(|_| self.family.norms.shared) {
            attention.norm.clone_from(&self.ffn.norm);
        }
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
        let y = match (self.attention_in(pass), cache) {
            (None, _) => x.clone(),
            (Some(attention), None) => attention.forward(x)?,
            (Some(attention), Some(slot)) => {
                let [q, k, v] = attention.heads(x)?;
                let (keys, values) = match slot.take() {
                    None => (k, v),
                    Some(old) => {
                        (Tensor::cat(&[old.keys, k], 1)?, Tensor::cat(&[old.values, v], 1)?)
                    }
                };
                *slot = Some(LayerCache { keys: keys.clone(), values: values.clone() });
                attention.finish(x, &attention.attend(&[q, keys, values])?)?
            }
        };
        self.feed_forward(x, &y, pass)
    }

    /// The feed-forward sublayer added to `y`, the stream behind attention; `x` is what entered
    /// the layer.
    ///
    /// # Shapes
    /// `[B, T, H]`, `[B, T, H]` → `[B, T, H]`.
    ///
    /// # Errors
    /// Shapes that do not fit, or no memory.
    pub fn feed_forward(&self, x: &Tensor, y: &Tensor, pass: &Pass<'_>) -> CandleResult<Tensor> {
        let ffn = self.ffn_in(pass);
        if self.parallel { ffn.onto(y, x) } else { ffn.forward(y) }
    }

    /// What the feed-forward reads, of what entered the layer and of the stream behind attention.
    pub fn read_by_ffn<'x>(&self, x: &'x Tensor, y: &'x Tensor) -> &'x Tensor {
        if self.parallel { x } else { y }
    }

    /// [`Block::forward`] without a cache; `see` is shown what the output projections of both
    /// sublayers read, to the bit what they read in `forward`, and their weights.
    ///
    /// # Shapes
    /// `[B, T, H]` → `[B, T, H]`; `see`: `[B, T, N·D]`, `[H, N·D]` and `[B, T, F]`, `[H, F]`.
    ///
    /// # Errors
    /// Shapes that do not fit, no memory, or those of `see`.
    pub(crate) fn forward_seen(
        &self,
        x: &Tensor,
        pass: &Pass<'_>,
        see: &mut dyn FnMut(Projection, &Tensor, &Tensor) -> CandleResult<()>,
    ) -> CandleResult<Tensor> {
        let y = match self.attention_in(pass) {
            Some(attention) => {
                let read = head_outputs(&attention, x)?;
                see(Sublayer::Attention.output(), &read, &attention.o.weight)?;
                attention.forward(x)?
            }
            None => x.clone(),
        };
        let read = self.channels(self.read_by_ffn(x, &y))?;
        see(Sublayer::FeedForward.output(), &read, &self.ffn.down.weight)?;
        self.feed_forward(x, &y, pass)
    }

    /// The attention sublayer as it runs in a pass, if the layer has one.
    pub fn attention_in(&self, pass: &Pass<'_>) -> Option<SelfAttention> {
        let attention = self.attention.as_ref()?;
        let SelfAttention { q, k, v, o, .. } = attention;
        Some(SelfAttention {
            q: pass.tapped(q, Projection::Q),
            k: pass.tapped(k, Projection::K),
            v: pass.tapped(v, Projection::V),
            o: pass.tapped(o, Projection::O),
            lengths: pass.lengths.cloned(),
            rotation: pass.rotations.of(self.turn),
            ..attention.clone()
        })
    }

    /// The feed-forward sublayer as it runs in a pass.
    pub fn ffn_in(&self, pass: &Pass<'_>) -> FeedForward {
        let FeedForward { gate, up, down, .. } = &self.ffn;
        FeedForward {
            gate: gate.as_ref().map(|gate| pass.tapped(gate, Projection::Gate)),
            up: pass.tapped(up, Projection::Up),
            down: pass.tapped(down, Projection::Down),
            ..self.ffn.clone()
        }
    }

    /// What the attention's output projection reads: the heads' outputs side by
    /// side. `None` where the layer has no attention.
    ///
    /// # Shapes
    /// `[B, T, H]` → `[B, T, N·D]`.
    ///
    /// # Errors
    /// Shapes that do not fit, or no memory.
    pub fn head_outputs(&self, x: &Tensor, pass: &Pass<'_>) -> CandleResult<Option<Tensor>> {
        self.attention_in(pass).map(|attention| head_outputs(&attention, x)).transpose()
    }

    /// What the feed-forward's output projection reads: its channels.
    ///
    /// # Shapes
    /// `[B, T, H]` → `[B, T, F]`.
    ///
    /// # Errors
    /// Shapes that do not fit, or no memory.
    pub fn channels(&self, x: &Tensor) -> CandleResult<Tensor> {
        self.ffn.channels(x)
    }

    /// The same block with every weight made a variable, and those variables
    /// under the names of layer `layer`.
    ///
    /// The variable of a norm is what it multiplies by, which has the gradient of its weight.
    ///
    /// # Errors
    /// No memory.
    pub fn with_variables(&self, layer: usize) -> CandleResult<(Self, Vec<(String, Var)>)> {
        let mut block = self.clone();
        let (mut variables, family) = (Vec::new(), self.family);
        for (part, tensor) in block.parameters_mut(layer) {
            let variable = Var::from_tensor(tensor)?;
            *tensor = variable.as_tensor().clone();
            variables.extend(part.name(family).map(|name| (name, variable)));
        }
        block.share_norm();
        Ok((block, variables))
    }

    /// Takes the packed forms of those weights that are `other`'s as well, and lays the
    /// others out.
    pub(crate) fn lay_out_beside(&mut self, other: &Self) -> CandleResult<()> {
        let of_other = other.projections();
        for (projection, own) in self.projections_mut() {
            let same = of_other.iter().find(|(of, _)| *of == projection);
            match same.filter(|(_, other)| own.weight.id() == other.weight.id()) {
                Some((_, other)) => own.packed = other.packed.clone(),
                None => own.packed.lay_out(&own.weight)?,
            }
        }
        Ok(())
    }

    /// The projections, those of attention only where there is one.
    fn projections(&self) -> Vec<(Projection, &Affine)> {
        let FeedForward { gate, up, down, .. } = &self.ffn;
        let of_attention =
            self.attention.iter().flat_map(|SelfAttention { q, k, v, o, .. }| {
                [(Projection::Q, q), (Projection::K, k), (Projection::V, v), (Projection::O, o)]
            });
        let of_ffn = [(Projection::Up, up), (Projection::Down, down)];
        let of_gate = gate.iter().map(|gate| (Projection::Gate, gate));
        of_attention.chain(of_gate).chain(of_ffn).collect()
    }

    /// [`Block::projections`], to be changed.
    pub(crate) fn projections_mut(&mut self) -> Vec<(Projection, &mut Affine)> {
        let FeedForward { gate, up, down, .. } = &mut self.ffn;
        let of_attention =
            self.attention.iter_mut().flat_map(|SelfAttention { q, k, v, o, .. }| {
                [(Projection::Q, q), (Projection::K, k), (Projection::V, v), (Projection::O, o)]
            });
        let of_ffn = [(Projection::Up, up), (Projection::Down, down)];
        let of_gate = gate.iter_mut().map(|gate| (Projection::Gate, gate));
        of_attention.chain(of_gate).chain(of_ffn).collect()
    }

    /// The parameters of layer `layer`; those of norms are what they multiply by. After a change
    /// [`Block::share_norm`] hands a norm on that both sublayers have.
    pub(crate) fn parameters_mut(&mut self, layer: usize) -> Vec<(Part, &mut Tensor)> {
        let mut out = Vec::new();
        let Self { attention, ffn, family, .. } = self;
        let mut norms: Vec<(NormPlace, &mut Option<Norm>)> = vec![
            (NormPlace::BeforeFfn, &mut ffn.norm),
            (NormPlace::AfterFfn, &mut ffn.residual.norm),
        ];
        let mut maps = vec![(Projection::Up, &mut ffn.up), (Projection::Down, &mut ffn.down)];
        maps.extend(ffn.gate.as_mut().map(|gate| (Projection::Gate, gate)));
        if let Some(SelfAttention { norm, q_norm, k_norm, q, k, v, o, residual, .. }) = attention {
            if !family.norms.shared {
                norms.push((NormPlace::BeforeAttention, norm));
            }
            norms.extend([
                (NormPlace::Query, q_norm),
                (NormPlace::Key, k_norm),
                (NormPlace::AfterAttention, &mut residual.norm),
            ]);
            maps.extend([
                (Projection::Q, q),
                (Projection::K, k),
                (Projection::V, v),
                (Projection::O, o),
            ]);
        }
        for (place, norm) in norms {
            let Some(Norm { weight, bias, .. }) = norm.as_mut() else { continue };
            out.push((Part::Norm(layer, place), weight));
            out.extend(bias.as_mut().map(|bias| (Part::NormBias(layer, place), bias)));
        }
        for (projection, Affine { weight, bias, .. }) in maps {
            out.push((Part::Weight(layer, projection), weight));
            out.extend(bias.as_mut().map(|bias| (Part::Bias(layer, projection), bias)));
        }
        out
    }
}

/// The heads' outputs side by side.
fn head_outputs(attention: &SelfAttention, x: &Tensor) -> CandleResult<Tensor> {
    let (b, t, _) = x.dims3()?;
    attention.attend(&attention.heads(x)?)?.reshape((b, t, ()))
}

/// Numbers of f32 for each token that a block's forward pass keeps for its backward pass,
/// beside what Llama's blocks keep: unnormed queries and keys, and what is normed before it is
/// added, with its gradient.
pub(crate) fn extra_token_values(config: &ModelConfig, query_heads: u64, kv_heads: u64) -> u64 {
    let family = config.family();
    let heads = match family.head_norm {
        Some(_) => 2 * (query_heads + kv_heads) * config.head_dim as u64,
        None => 0,
    };
    let plain = family.norms.after_attention.is_none()
        && family.norms.after_ffn.is_none()
        && config.residual_scale == 1.0;
    let stream = if plain { 0 } else { 4 * config.hidden_size as u64 };
    // Feed-forwards that run operation by operation keep what each of these gives: the norm, the
    // product, its sum with the bias, the output and its sum.
    let composed = match (family.norm_kind, family.has(Projection::Gate)) {
        (NormKind::RootMeanSquare, true) => 0,
        (NormKind::RootMeanSquare | NormKind::Layer, _) => {
            let widest = config.layers.iter().map(|w| w.ffn as u64).max().unwrap_or(0);
            4 * config.hidden_size as u64 + 2 * widest
        }
    };
    heads + stream + composed
}
