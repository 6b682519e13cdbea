//! One decoder layer: attention and feed-forward, each added to the stream, one after the other
//! or both of what enters the layer, as its architecture declares them.
//!
//! Axes: `B` sequences, `T` tokens, `H` hidden, `N` query heads, `K` key-value
//! heads, `D` head width, `F` feed-forward width.

use std::{ops::Range, sync::Arc};

use adapruner_checkpoint::{
    Checkpoint, ModelConfig,
    arch::{
        Family,
        family::NormKind,
        names::{Norm as NormPlace, Part, Projection, Sublayer},
    },
};
use adapruner_kernels::{
    GradTap,
    sublayer::{Affine, Expertise, Experts, FeedForward, Norm, SelfAttention},
};
use candle_core::{Result as CandleResult, Tensor, Var};

use crate::{
    error::Result,
    load::Loader,
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

/// A map that a tap is for.
#[derive(Debug, Clone)]
pub struct MapPlace {
    /// Which of a layer's projections.
    pub projection: Projection,
    /// Of an expert's, which one, and what it runs on.
    pub routed: Option<Routed>,
}

/// What is sent to an expert.
#[derive(Debug, Clone)]
pub struct Routed {
    /// The expert.
    pub expert: usize,
    /// Rows of all that entered the layer, in ascending order; rows that an expert runs on behind
    /// these have a gradient of 0.
    pub rows: Arc<[u32]>,
}

impl MapPlace {
    /// Which rows of the map are those of each of some samples of so many tokens.
    pub(crate) fn rows_of(&self, samples: usize, tokens: usize) -> Vec<Range<usize>> {
        let ends = |sample: usize| [sample * tokens, (sample + 1) * tokens];
        let range = |sample| {
            let [start, end] = match &self.routed {
                None => ends(sample),
                // The rows of an expert are in ascending order.
                Some(Routed { rows, .. }) => {
                    ends(sample).map(|end| rows.partition_point(|row| (*row as usize) < end))
                }
            };
            start..end
        };
        (0..samples).map(range).collect()
    }
}

/// Gives maps their taps.
pub type Taps<'a> = dyn Fn(MapPlace) -> Arc<dyn GradTap> + 'a;

/// What a forward pass needs beside weights and activations.
pub struct Pass<'a> {
    /// Cosines and sines of the positions.
    pub rotations: &'a Rotations,
    /// Lengths of the sequences whose rows follow each other in `[1, T, H]`, for
    /// packed ones; passes with a cache have none.
    pub lengths: Option<&'a Arc<[usize]>>,
    /// Gives each projection its tap, in passes whose gradients are observed.
    pub taps: Option<&'a Taps<'a>>,
}

impl<'a> Pass<'a> {
    /// A pass of whole sequences whose gradients nobody observes.
    pub fn of(rotations: &'a Rotations) -> Self {
        Self { rotations, lengths: None, taps: None }
    }

    /// A map with its tap.
    fn tapped(&self, map: &Affine, projection: Projection) -> Affine {
        self.tapped_at(map, MapPlace { projection, routed: None })
    }

    fn tapped_at(&self, map: &Affine, place: MapPlace) -> Affine {
        Affine { tap: self.taps.map(|taps| taps(place)), ..map.clone() }
    }

    /// A feed-forward with its taps.
    fn tapped_ffn(&self, ffn: &FeedForward, routed: Option<&Routed>) -> FeedForward {
        let tapped = |map: &Affine, projection| {
            self.tapped_at(map, MapPlace { projection, routed: routed.cloned() })
        };
        FeedForward {
            gate: ffn.gate.as_ref().map(|gate| tapped(gate, Projection::Gate)),
            up: tapped(&ffn.up, Projection::Up),
            down: tapped(&ffn.down, Projection::Down),
            ..ffn.clone()
        }
    }
}

/// What is shown of a block's forward pass.
pub(crate) enum Seen<'a> {
    /// What a map reads, and its weight.
    Read(MapPlace, &'a Tensor, &'a Tensor),
    /// A mixture, and what it reads.
    Mixture(&'a Experts, &'a Tensor),
    /// What an expert makes of its rows, behind what its last map reads.
    Expert(&'a Expertise<'a>),
}

/// The feed-forward of a layer.
#[derive(Clone)]
pub enum Ffn {
    /// One for all tokens.
    Dense(Box<FeedForward>),
    /// Of experts, of which each token takes some.
    Experts(Experts),
}

impl Ffn {
    /// The one for all tokens, if it is.
    pub fn dense(&self) -> Option<&FeedForward> {
        match self {
            Self::Dense(ffn) => Some(ffn),
            Self::Experts(_) => None,
        }
    }

    /// The norm before it, where there is one.
    fn norm(&self) -> &Option<Norm> {
        match self {
            Self::Dense(ffn) => &ffn.norm,
            Self::Experts(experts) => &experts.norm,
        }
    }

    /// Its feed-forwards: one, or of each expert one.
    fn each(&self) -> &[FeedForward] {
        match self {
            Self::Dense(ffn) => std::slice::from_ref(ffn),
            Self::Experts(experts) => &experts.each,
        }
    }

    /// [`Ffn::each`], to be changed.
    fn each_mut(&mut self) -> &mut [FeedForward] {
        match self {
            Self::Dense(ffn) => std::slice::from_mut(ffn),
            Self::Experts(experts) => &mut experts.each,
        }
    }
}

/// One decoder layer; without attention where that was pruned away.
#[derive(Clone)]
pub struct Block {
    /// The attention sublayer, if the layer has one; positions, lengths and taps are those of
    /// a pass.
    pub attention: Option<SelfAttention>,
    /// The feed-forward sublayer; its taps are those of a pass.
    pub ffn: Ffn,
    turn: Turn,
    /// Whether both sublayers read what enters the layer.
    parallel: bool,
    family: &'static Family,
}

impl Block {
    /// Reads the weights of layer `layer`.
    ///
    /// # Errors
    /// Tensors that are missing, damaged or not finite.
    pub fn load(checkpoint: &Checkpoint, layer: usize, placement: &Placement) -> Result<Self> {
        let config = &checkpoint.config;
        let from = Loader { checkpoint, layer, placement };
        let attention = from.attention()?;
        let ffn = from.ffn()?;
        let (turn, family) = (Turn::of(config, layer), config.family());
        let mut block = Self { attention, ffn, turn, parallel: config.parallel, family };
        block.share_norm();
        Ok(block)
    }

    /// Gives attention the feed-forward's norm, where they have one together.
    pub(crate) fn share_norm(&mut self) {
        if let Some(attention) = self.attention.as_mut().filter(|_| self.family.norms.shared) {
            attention.norm.clone_from(self.ffn.norm());
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
        match &self.ffn {
            Ffn::Dense(ffn) => {
                let ffn = pass.tapped_ffn(ffn, None);
                if self.parallel { ffn.onto(y, x) } else { ffn.forward(y) }
            }
            Ffn::Experts(experts) => {
                let expert = |expert: usize, rows: &Arc<[u32]>| {
                    let routed = Routed { expert, rows: rows.clone() };
                    pass.tapped_ffn(&experts.each[expert], Some(&routed))
                };
                experts.onto(y, self.read_by_ffn(x, y), &expert, None)
            }
        }
    }

    /// What the feed-forward reads, of what entered the layer and of the stream behind attention.
    pub fn read_by_ffn<'x>(&self, x: &'x Tensor, y: &'x Tensor) -> &'x Tensor {
        if self.parallel { x } else { y }
    }

    /// [`Block::forward`] without a cache; `see` is shown what the output projections of both
    /// sublayers read, to the bit what they read in `forward`, and their weights; of a mixture the
    /// rows that are sent to each expert, and what it makes of them.
    ///
    /// # Shapes
    /// `[B, T, H]` → `[B, T, H]`; `see`: `[B, T, N·D]`, `[H, N·D]` and `[B, T, F]`, `[H, F]`; of
    /// an expert `[rows, F]`, `[H, F]`.
    ///
    /// # Errors
    /// Shapes that do not fit, no memory, or those of `see`.
    pub(crate) fn forward_seen(
        &self,
        x: &Tensor,
        pass: &Pass<'_>,
        see: &mut dyn FnMut(Seen<'_>) -> CandleResult<()>,
    ) -> CandleResult<Tensor> {
        let y = match self.attention_in(pass) {
            Some(attention) => {
                let read = head_outputs(&attention, x)?;
                let place = MapPlace { projection: Sublayer::Attention.output(), routed: None };
                see(Seen::Read(place, &read, &attention.o.weight))?;
                attention.forward(x)?
            }
            None => x.clone(),
        };
        let projection = Sublayer::FeedForward.output();
        match &self.ffn {
            Ffn::Dense(ffn) => {
                let read = ffn.channels(self.read_by_ffn(x, &y))?;
                let place = MapPlace { projection, routed: None };
                see(Seen::Read(place, &read, &ffn.down.weight))?;
                self.feed_forward(x, &y, pass)
            }
            Ffn::Experts(experts) => {
                see(Seen::Mixture(experts, self.read_by_ffn(x, &y)))?;
                let run = |expert: usize, _: &Arc<[u32]>| experts.each[expert].clone();
                let mut show = |made: &Expertise<'_>| {
                    let Expertise { expert, rows, channels, .. } = *made;
                    let routed = Some(Routed { expert, rows: Arc::from(rows) });
                    let weight = &experts.each[expert].down.weight;
                    see(Seen::Read(MapPlace { projection, routed }, channels, weight))?;
                    see(Seen::Expert(made))
                };
                let read = self.read_by_ffn(x, &y);
                experts.onto(&y, read, &run, Some(&mut show))
            }
        }
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
        let of_other = other.maps();
        for (at, own) in self.maps_mut() {
            let same = of_other.iter().find(|(of, _)| *of == at);
            match same.filter(|(_, other)| own.weight.id() == other.weight.id()) {
                Some((_, other)) => own.packed = other.packed.clone(),
                None => own.packed.lay_out(&own.weight)?,
            }
        }
        Ok(())
    }

    /// The maps, those of attention only where there is one, each with the number of its expert,
    /// 0 where there are none.
    fn maps(&self) -> Vec<((Projection, usize), &Affine)> {
        let of_attention =
            self.attention.iter().flat_map(|SelfAttention { q, k, v, o, .. }| {
                [(Projection::Q, q), (Projection::K, k), (Projection::V, v), (Projection::O, o)]
            });
        let of_attention = of_attention.map(|(projection, map)| ((projection, 0), map));
        let each = self.ffn.each().iter().enumerate();
        let of_ffn = each.flat_map(|(expert, FeedForward { gate, up, down, .. })| {
            let gate = gate.iter().map(|gate| (Projection::Gate, gate));
            let maps = gate.chain([(Projection::Up, up), (Projection::Down, down)]);
            maps.map(move |(projection, map)| ((projection, expert), map))
        });
        of_attention.chain(of_ffn).collect()
    }

    /// [`Block::maps`], to be changed.
    fn maps_mut(&mut self) -> Vec<((Projection, usize), &mut Affine)> {
        let of_attention =
            self.attention.iter_mut().flat_map(|SelfAttention { q, k, v, o, .. }| {
                [(Projection::Q, q), (Projection::K, k), (Projection::V, v), (Projection::O, o)]
            });
        let of_attention = of_attention.map(|(projection, map)| ((projection, 0), map));
        let each = self.ffn.each_mut().iter_mut().enumerate();
        let of_ffn = each.flat_map(|(expert, FeedForward { gate, up, down, .. })| {
            let gate = gate.iter_mut().map(|gate| (Projection::Gate, gate));
            let maps = gate.chain([(Projection::Up, up), (Projection::Down, down)]);
            maps.map(move |(projection, map)| ((projection, expert), map))
        });
        of_attention.chain(of_ffn).collect()
    }

    /// The maps with their weights' places in the model of layer `layer`, to be changed.
    pub(crate) fn projections_mut(&mut self, layer: usize) -> Vec<(Part, Projection, &mut Affine)> {
        let experts = match &self.ffn {
            Ffn::Dense(_) => false,
            Ffn::Experts(_) => true,
        };
        let part = |projection: Projection, expert| match experts && !projection.is_attention() {
            true => Part::Expert(layer, expert, projection),
            false => Part::Weight(layer, projection),
        };
        let maps = self.maps_mut().into_iter();
        maps.map(|((projection, expert), map)| (part(projection, expert), projection, map))
            .collect()
    }

    /// The parameters of layer `layer`; those of norms are what they multiply by. After a change
    /// [`Block::share_norm`] hands a norm on that both sublayers have.
    pub(crate) fn parameters_mut(&mut self, layer: usize) -> Vec<(Part, &mut Tensor)> {
        let mut out = Vec::new();
        let Self { attention, ffn, family, .. } = self;
        let mut norms: Vec<(NormPlace, &mut Option<Norm>)> = Vec::new();
        let mut maps: Vec<(Part, Projection, &mut Affine)> = Vec::new();
        match ffn {
            Ffn::Dense(ffn) => {
                let FeedForward { norm, gate, up, down, residual, .. } = &mut **ffn;
                norms.extend([
                    (NormPlace::BeforeFfn, norm),
                    (NormPlace::AfterFfn, &mut residual.norm),
                ]);
                let of_gate = gate.as_mut().map(|gate| (Projection::Gate, gate));
                let all = [(Projection::Up, up), (Projection::Down, down)].into_iter();
                maps.extend(all.chain(of_gate).map(|(p, map)| (Part::Weight(layer, p), p, map)));
            }
            Ffn::Experts(Experts { norm, router, each, residual, .. }) => {
                norms.extend([
                    (NormPlace::BeforeFfn, norm),
                    (NormPlace::AfterFfn, &mut residual.norm),
                ]);
                out.push((Part::Router(layer), router));
                for (expert, FeedForward { gate, up, down, .. }) in each.iter_mut().enumerate() {
                    let of_gate = gate.as_mut().map(|gate| (Projection::Gate, gate));
                    let all = [(Projection::Up, up), (Projection::Down, down)].into_iter();
                    let part = |p| Part::Expert(layer, expert, p);
                    maps.extend(all.chain(of_gate).map(|(p, map)| (part(p), p, map)));
                }
            }
        }
        if let Some(SelfAttention { norm, q_norm, k_norm, q, k, v, o, residual, .. }) = attention {
            if !family.norms.shared {
                norms.push((NormPlace::BeforeAttention, norm));
            }
            norms.extend([
                (NormPlace::Query, q_norm),
                (NormPlace::Key, k_norm),
                (NormPlace::AfterAttention, &mut residual.norm),
            ]);
            let all =
                [(Projection::Q, q), (Projection::K, k), (Projection::V, v), (Projection::O, o)];
            maps.extend(all.map(|(p, map)| (Part::Weight(layer, p), p, map)));
        }
        for (place, norm) in norms {
            let Some(Norm { weight, bias, .. }) = norm.as_mut() else { continue };
            out.push((Part::Norm(layer, place), weight));
            out.extend(bias.as_mut().map(|bias| (Part::NormBias(layer, place), bias)));
        }
        for (part, projection, Affine { weight, bias, .. }) in maps {
            out.push((part, weight));
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
    // What each expert that a token takes reads and gives, weighted too, and their gradients; the
    // probabilities of all experts.
    let routed = config.experts.map_or(0, |experts| {
        6 * (experts.chosen * config.hidden_size) as u64 + 8 * experts.count as u64
    });
    heads + stream + composed + routed
}
