//! The weights of a layer, read from a checkpoint.
//!
//! Axes: `H` hidden, `F` feed-forward width, `E` experts.

use adapruner_checkpoint::{
    Activation, Checkpoint,
    arch::{
        Family,
        family::NormWeight,
        names::{Norm as NormPlace, Part, Projection},
    },
};
use adapruner_kernels::{
    Gate, Scores,
    packed::Packed,
    sublayer::{Affine, Experts, FeedForward, Norm, Residual, SelfAttention},
};
use candle_core::{DType, Result as CandleResult, Tensor};

use crate::{block::Ffn, error::Result, placement::Placement};

/// Reads the weights of one layer.
pub(crate) struct Loader<'a> {
    /// The model.
    pub(crate) checkpoint: &'a Checkpoint,
    /// Which layer.
    pub(crate) layer: usize,
    /// Where weights go.
    pub(crate) placement: &'a Placement,
}

impl Loader<'_> {
    fn map(&self, projection: Projection) -> Result<Affine> {
        self.map_of(projection, Part::Weight(self.layer, projection))
    }

    /// A map whose weight is this part of the model.
    fn map_of(&self, projection: Projection, weight: Part) -> Result<Affine> {
        let Self { checkpoint, layer, placement } = *self;
        let family = checkpoint.config.family();
        let load = |name: &str, dtype| checkpoint.tensors.load(name, dtype, &placement.device);
        let weight = load(&checkpoint.config.name(weight), placement.dtype)?;
        let biased = checkpoint.config.has_bias(projection);
        let bias = biased.then(|| load(&projection.bias(family, layer), placement.activations()));
        let bias = bias.transpose()?;
        Ok(Affine { weight, bias, packed: Packed::default(), adapter: None, mask: None, tap: None })
    }

    /// A feed-forward whose weights are these parts of the model.
    fn feed_forward(
        &self,
        part: impl Fn(Projection) -> Part,
        (norm, residual): (Option<Norm>, Residual),
    ) -> Result<FeedForward> {
        let config = &self.checkpoint.config;
        let map = |projection| self.map_of(projection, part(projection));
        Ok(FeedForward {
            norm,
            activation: gate(config.activation),
            gate: match config.family().has(Projection::Gate) {
                true => Some(map(Projection::Gate)?),
                false => None,
            },
            up: map(Projection::Up)?,
            down: map(Projection::Down)?,
            residual,
        })
    }

    /// The attention sublayer, if the layer has one.
    pub(crate) fn attention(&self) -> Result<Option<SelfAttention>> {
        let config = &self.checkpoint.config;
        if !config.layers[self.layer].has_attention() {
            return Ok(None);
        }
        Ok(Some(SelfAttention {
            norm: self.norm(NormPlace::BeforeAttention)?,
            head_dim: config.head_dim,
            q_norm: self.norm(NormPlace::Query)?,
            k_norm: self.norm(NormPlace::Key)?,
            q: self.map(Projection::Q)?,
            k: self.map(Projection::K)?,
            v: self.map(Projection::V)?,
            o: self.map(Projection::O)?,
            lengths: None,
            rotation: None,
            scores: Scores {
                scale: config.score_scale,
                window: config.window(self.layer),
                cap: config.score_cap,
            },
            residual: self.residual(NormPlace::AfterAttention)?,
        }))
    }

    /// The feed-forward sublayer.
    pub(crate) fn ffn(&self) -> Result<Ffn> {
        let (config, layer) = (&self.checkpoint.config, self.layer);
        let (norm, residual) =
            (self.norm(NormPlace::BeforeFfn)?, self.residual(NormPlace::AfterFfn)?);
        let Some(experts) = config.experts else {
            let part = |projection| Part::Weight(layer, projection);
            return Ok(Ffn::Dense(Box::new(self.feed_forward(part, (norm, residual))?)));
        };
        let expert = |expert| {
            let part = |projection| Part::Expert(layer, expert, projection);
            self.feed_forward(part, (None, Residual::default()))
        };
        // Small, and what experts a token takes hangs on its last bits.
        let (dtype, device) = (self.placement.activations(), &self.placement.device);
        let router = config.name(Part::Router(layer));
        Ok(Ffn::Experts(Experts {
            norm,
            router: self.checkpoint.tensors.load(&router, dtype, device)?,
            each: (0..experts.count).map(expert).collect::<Result<_>>()?,
            chosen: experts.chosen,
            normalised: experts.normalised,
            residual,
        }))
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
