//! Tensor names (those of Hugging Face's folders) and the shapes that a configuration demands
//! of them.

use std::fmt;

use crate::{
    config::ModelConfig,
    family::{Family, FusedRows, HeadNorm, NormKind, Positions, TensorName},
};

/// The parts of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Sublayer {
    /// Attention.
    Attention,
    /// Feed-forward.
    FeedForward,
}

impl Sublayer {
    /// The projection that reads what its units give: its columns are what is cut.
    pub fn output(self) -> Projection {
        match self {
            Self::Attention => Projection::O,
            Self::FeedForward => Projection::Down,
        }
    }
}

/// What the axis of a projection is made of that is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum UnitAxis {
    /// Query heads, `D` vectors each.
    QueryHeads,
    /// Key-value heads, `D` vectors each.
    KvHeads,
    /// Feed-forward channels, a vector each.
    Channels,
}

/// The linear projections of a block, by what they do; a family has them or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Projection {
    /// Query, `[N·D, H]`.
    Q,
    /// Key, `[K·D, H]`.
    K,
    /// Value, `[K·D, H]`.
    V,
    /// Attention output, `[H, N·D]`.
    O,
    /// Feed-forward gate, `[F, H]`.
    Gate,
    /// Feed-forward up, `[F, H]`.
    Up,
    /// Feed-forward down, `[H, F]`.
    Down,
}

impl Projection {
    /// All seven, in the order of the forward pass.
    pub const ALL: [Self; 7] =
        [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// Llama's name of the module inside its block (`self_attn.q_proj`).
    pub fn module(self) -> &'static str {
        match self {
            Self::Q => "self_attn.q_proj",
            Self::K => "self_attn.k_proj",
            Self::V => "self_attn.v_proj",
            Self::O => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }

    /// The family's name of the module inside its block; Llama's where the family has none.
    pub fn module_of(self, family: &Family) -> &'static str {
        family.maps.of(self).map_or(self.module(), |name| name.hf)
    }

    /// The name of the module in layer `layer` of the family's models.
    pub fn path(self, family: &Family, layer: usize) -> String {
        format!("{}.{layer}.{}", family.hf.outer.layers, self.module_of(family))
    }

    /// The sublayer that it belongs to.
    pub fn sublayer(self) -> Sublayer {
        match self {
            Self::Q | Self::K | Self::V | Self::O => Sublayer::Attention,
            Self::Gate | Self::Up | Self::Down => Sublayer::FeedForward,
        }
    }

    /// Whether the projection belongs to the attention sublayer.
    pub fn is_attention(self) -> bool {
        self.sublayer() == Sublayer::Attention
    }

    /// What its rows (or columns) that are cut are made of.
    pub fn axis(self) -> UnitAxis {
        match self {
            Self::Q | Self::O => UnitAxis::QueryHeads,
            Self::K | Self::V => UnitAxis::KvHeads,
            Self::Gate | Self::Up | Self::Down => UnitAxis::Channels,
        }
    }

    /// Whether pruned units are its columns (inputs) rather than its rows
    /// (outputs).
    pub fn prunes_columns(self) -> bool {
        match self {
            Self::O | Self::Down => true,
            Self::Q | Self::K | Self::V | Self::Gate | Self::Up => false,
        }
    }

    /// Weight name in layer `layer`.
    pub fn weight(self, family: &Family, layer: usize) -> String {
        format!("{}.weight", self.path(family, layer))
    }

    /// Bias name in layer `layer`.
    pub fn bias(self, family: &Family, layer: usize) -> String {
        format!("{}.bias", self.path(family, layer))
    }
}

impl fmt::Display for Projection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.module())
    }
}

/// The norms of a layer, in the order of the forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Norm {
    /// Of what attention reads, `[H]`.
    BeforeAttention,
    /// Of queries, `[D]` or `[N·D]`.
    Query,
    /// Of keys, `[D]` or `[K·D]`.
    Key,
    /// Of what attention adds, `[H]`.
    AfterAttention,
    /// Of what the feed-forward reads, `[H]`.
    BeforeFfn,
    /// Of what the feed-forward adds, `[H]`.
    AfterFfn,
}

impl Norm {
    /// All six.
    pub const ALL: [Self; 6] = [
        Self::BeforeAttention,
        Self::Query,
        Self::Key,
        Self::AfterAttention,
        Self::BeforeFfn,
        Self::AfterFfn,
    ];

    /// Whether the norm belongs to the attention sublayer.
    pub fn is_attention(self) -> bool {
        match self {
            Self::BeforeAttention | Self::Query | Self::Key | Self::AfterAttention => true,
            Self::BeforeFfn | Self::AfterFfn => false,
        }
    }

    /// Its names, if the family has it.
    pub fn of(self, family: &Family) -> Option<TensorName> {
        let head = |hf, gguf| family.head_norm.map(|_| TensorName { hf, gguf });
        match self {
            Self::BeforeAttention => family.norms.before_attention,
            Self::Query => head("self_attn.q_norm", "attn_q_norm"),
            Self::Key => head("self_attn.k_norm", "attn_k_norm"),
            Self::AfterAttention => family.norms.after_attention,
            Self::BeforeFfn => family.norms.before_ffn,
            Self::AfterFfn => family.norms.after_ffn,
        }
    }

    /// The projection whose rows it norms, and how.
    pub fn normed(self, family: &Family) -> Option<(Projection, HeadNorm)> {
        let projection = match self {
            Self::Query => Projection::Q,
            Self::Key => Projection::K,
            Self::BeforeAttention | Self::AfterAttention | Self::BeforeFfn | Self::AfterFfn => {
                return None;
            }
        };
        family.head_norm.map(|norm| (projection, norm))
    }

    /// Its tensor's name in layer `layer`, if the family has it.
    pub fn weight(self, family: &Family, layer: usize) -> Option<String> {
        Part::Norm(layer, self).name(family)
    }

    /// Its bias's name in layer `layer`, if the family has it.
    pub fn bias(self, family: &Family, layer: usize) -> Option<String> {
        Part::NormBias(layer, self).name(family)
    }

    /// Whether it has a bias.
    fn has_bias(self, family: &Family) -> bool {
        match family.norm_kind {
            NormKind::RootMeanSquare => false,
            NormKind::Layer => self.of(family).is_some() && self.normed(family).is_none(),
        }
    }

    /// Its shape in a layer of `config`.
    fn shape(self, config: &ModelConfig, layer: usize) -> usize {
        match self.normed(config.family()) {
            None => config.hidden_size,
            Some((_, HeadNorm::Each)) => config.head_dim,
            Some((projection, HeadNorm::All)) => projection_shape(config, layer, projection)[0],
        }
    }
}

/// What a tensor is in its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The token embedding, `[V, H]`.
    Embedding,
    /// The learned positions, `[P + offset, H]` for `P` positions.
    Positions,
    /// A norm of a layer.
    Norm(usize, Norm),
    /// Its bias.
    NormBias(usize, Norm),
    /// The weight of a projection in a layer.
    Weight(usize, Projection),
    /// Its bias.
    Bias(usize, Projection),
    /// The final norm, `[H]`.
    FinalNorm,
    /// Its bias.
    FinalNormBias,
    /// The output projection of an untied model, `[V, H]`.
    Head,
}

impl Part {
    /// The same part in another layer; parts outside of layers are themselves.
    #[must_use]
    pub fn in_layer(self, to: impl Fn(usize) -> usize) -> Self {
        match self {
            Self::Norm(layer, norm) => Self::Norm(to(layer), norm),
            Self::NormBias(layer, norm) => Self::NormBias(to(layer), norm),
            Self::Weight(layer, projection) => Self::Weight(to(layer), projection),
            Self::Bias(layer, projection) => Self::Bias(to(layer), projection),
            Self::Embedding
            | Self::Positions
            | Self::FinalNorm
            | Self::FinalNormBias
            | Self::Head => self,
        }
    }

    /// Its name in a Hugging Face folder; `None` for what the family does not have.
    pub fn name(self, family: &Family) -> Option<String> {
        let (outer, layers) = (&family.hf.outer, family.hf.outer.layers);
        Some(match self {
            Self::Embedding => format!("{}.weight", outer.embedding),
            Self::Positions => match family.positions {
                Positions::Rotary => return None,
                Positions::Learned { module, .. } => format!("{module}.weight"),
            },
            Self::Norm(layer, norm) => format!("{layers}.{layer}.{}.weight", norm.of(family)?.hf),
            Self::NormBias(layer, norm) if norm.has_bias(family) => {
                format!("{layers}.{layer}.{}.bias", norm.of(family)?.hf)
            }
            Self::Weight(layer, projection) if family.has(projection) => {
                projection.weight(family, layer)
            }
            Self::Bias(layer, projection) if family.has(projection) => {
                projection.bias(family, layer)
            }
            Self::NormBias(..) | Self::Weight(..) | Self::Bias(..) => return None,
            Self::FinalNorm => format!("{}.weight", outer.final_norm),
            Self::FinalNormBias => match family.norm_kind {
                NormKind::RootMeanSquare => return None,
                NormKind::Layer => format!("{}.bias", outer.final_norm),
            },
            Self::Head => format!("{}.weight", outer.head),
        })
    }

    /// Its name in a GGUF file; `None` for what the family does not have.
    pub fn gguf_name(self, family: &Family) -> Option<String> {
        let map = |projection| family.maps.of(projection).map(|name| name.gguf);
        Some(match self {
            Self::Embedding => "token_embd.weight".to_owned(),
            Self::Positions => match family.positions {
                Positions::Rotary => return None,
                Positions::Learned { .. } => "position_embd.weight".to_owned(),
            },
            Self::Norm(layer, norm) => format!("blk.{layer}.{}.weight", norm.of(family)?.gguf),
            Self::NormBias(layer, norm) if norm.has_bias(family) => {
                format!("blk.{layer}.{}.bias", norm.of(family)?.gguf)
            }
            Self::NormBias(..) => return None,
            Self::Weight(layer, projection) => format!("blk.{layer}.{}.weight", map(projection)?),
            Self::Bias(layer, projection) => format!("blk.{layer}.{}.bias", map(projection)?),
            Self::FinalNorm => "output_norm.weight".to_owned(),
            Self::FinalNormBias => match family.norm_kind {
                NormKind::RootMeanSquare => return None,
                NormKind::Layer => "output_norm.bias".to_owned(),
            },
            Self::Head => "output.weight".to_owned(),
        })
    }

    /// Whether it is the weight of a norm.
    pub fn is_norm(self) -> bool {
        match self {
            Self::Norm(..) | Self::FinalNorm => true,
            Self::Embedding
            | Self::Positions
            | Self::NormBias(..)
            | Self::Weight(..)
            | Self::Bias(..)
            | Self::FinalNormBias
            | Self::Head => false,
        }
    }

    /// Whether its rows are those that a rotation pairs.
    pub fn is_rotated(self) -> bool {
        match self {
            Self::Weight(_, projection) | Self::Bias(_, projection) => match projection {
                Projection::Q | Projection::K => true,
                Projection::V
                | Projection::O
                | Projection::Gate
                | Projection::Up
                | Projection::Down => false,
            },
            // Those of single heads are in the order of the rotation as well, but no family
            // that has them has its rows interleaved.
            Self::Norm(..)
            | Self::NormBias(..)
            | Self::Embedding
            | Self::Positions
            | Self::FinalNorm
            | Self::FinalNormBias
            | Self::Head => false,
        }
    }
}

/// A tensor that a configuration demands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedTensor {
    /// What it is.
    pub part: Part,
    /// Its name, as Hugging Face has it.
    pub name: String,
    /// Row-major shape.
    pub shape: Vec<usize>,
}

/// `[out, in]` of a projection in a layer of `config`.
pub fn projection_shape(config: &ModelConfig, layer: usize, projection: Projection) -> [usize; 2] {
    let (h, d, w) = (config.hidden_size, config.head_dim, config.layers[layer]);
    let cut = match projection.axis() {
        UnitAxis::QueryHeads => w.query_heads * d,
        UnitAxis::KvHeads => w.kv_heads * d,
        UnitAxis::Channels => w.ffn,
    };
    if projection.prunes_columns() { [h, cut] } else { [cut, h] }
}

/// Every tensor of a model with `config`, in the order of the forward pass: a
/// layer without attention has no attention tensors and none of that sublayer's norms.
pub fn expected_tensors(config: &ModelConfig) -> Vec<ExpectedTensor> {
    let (h, family) = (config.hidden_size, config.family());
    let mut out = Vec::new();
    // What the family does not have has no name.
    let mut push = |part: Part, shape: &[usize]| {
        let name = part.name(family);
        out.extend(name.map(|name| ExpectedTensor { part, name, shape: shape.to_vec() }));
    };
    push(Part::Embedding, &[config.vocab_size, h]);
    if let Some(rows) = config.learned_positions() {
        push(Part::Positions, &[rows, h]);
    }
    for layer in 0..config.layers.len() {
        let norm = |norm: Norm| {
            let shape = vec![norm.shape(config, layer)];
            [(Part::Norm(layer, norm), shape.clone()), (Part::NormBias(layer, norm), shape)]
        };
        let map = |projection: Projection| {
            let there = config.has(layer, projection);
            let shape = projection_shape(config, layer, projection);
            let bias = config.has_bias(projection);
            let bias = bias.then(|| (Part::Bias(layer, projection), vec![shape[0]]));
            let both = std::iter::once((Part::Weight(layer, projection), shape.to_vec()));
            both.chain(bias).filter(move |_| there)
        };
        let mut parts = Vec::new();
        if config.layers[layer].has_attention() {
            parts.extend(norm(Norm::BeforeAttention));
            parts.extend([Projection::Q, Projection::K, Projection::V].into_iter().flat_map(map));
            parts.extend([Norm::Query, Norm::Key].into_iter().flat_map(norm));
            parts.extend(map(Projection::O));
            parts.extend(norm(Norm::AfterAttention));
        }
        parts.extend(norm(Norm::BeforeFfn));
        parts
            .extend([Projection::Gate, Projection::Up, Projection::Down].into_iter().flat_map(map));
        parts.extend(norm(Norm::AfterFfn));
        parts.into_iter().for_each(|(part, shape)| push(part, &shape));
    }
    push(Part::FinalNorm, &[h]);
    push(Part::FinalNormBias, &[h]);
    if !config.tie_word_embeddings {
        push(Part::Head, &[config.vocab_size, h]);
    }
    out
}

/// A tensor as a file holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTensor {
    /// Its name in a Hugging Face folder.
    pub name: String,
    /// Its name in a GGUF file.
    pub gguf_name: String,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// What it is made of: one tensor, or several.
    pub parts: Vec<ExpectedTensor>,
    /// The order of the rows of several in a Hugging Face folder.
    pub rows: FusedRows,
}

impl StoredTensor {
    /// In how many rounds a Hugging Face folder goes through the parts, some rows of each in each
    /// round: the number of key-value heads where groups are held together, else 1.
    pub fn rounds(&self, config: &ModelConfig) -> usize {
        let keys = self.parts.iter().find(|tensor| match tensor.part {
            Part::Weight(_, projection) | Part::Bias(_, projection) => {
                projection.axis() == UnitAxis::KvHeads
            }
            Part::Embedding
            | Part::Positions
            | Part::Norm(..)
            | Part::NormBias(..)
            | Part::FinalNorm
            | Part::FinalNormBias
            | Part::Head => false,
        });
        match self.rows {
            FusedRows::Whole => 1,
            FusedRows::ByGroup => keys.map_or(1, |keys| keys.shape[0] / config.head_dim).max(1),
        }
    }
}

/// [`expected_tensors`] as files of the architecture hold them.
pub fn stored_tensors(config: &ModelConfig, family: &Family) -> Vec<StoredTensor> {
    let mut out: Vec<StoredTensor> = Vec::new();
    for tensor in expected_tensors(config) {
        let held = |projection: Projection| {
            family.fused.iter().find(move |fused| fused.of.contains(&projection))
        };
        let fused = match tensor.part {
            Part::Weight(layer, projection) => held(projection).map(|of| (layer, of, "weight")),
            Part::Bias(layer, projection) => held(projection).map(|of| (layer, of, "bias")),
            Part::Embedding
            | Part::Positions
            | Part::Norm(..)
            | Part::NormBias(..)
            | Part::FinalNorm
            | Part::FinalNormBias
            | Part::Head => None,
        };
        let Some((layer, fused, kind)) = fused else {
            let names = (tensor.part.name(family), tensor.part.gguf_name(family));
            if let (Some(name), Some(gguf_name)) = names {
                let (shape, rows) = (tensor.shape.clone(), FusedRows::Whole);
                out.push(StoredTensor { name, gguf_name, shape, parts: vec![tensor], rows });
            }
            continue;
        };
        let name = format!("{}.{layer}.{}.{kind}", family.hf.outer.layers, fused.name.hf);
        match out.iter_mut().rev().find(|whole| whole.name == name) {
            Some(whole) => {
                whole.shape[0] += tensor.shape[0];
                whole.parts.push(tensor);
            }
            None => out.push(StoredTensor {
                name,
                gguf_name: format!("blk.{layer}.{}.{kind}", fused.name.gguf),
                shape: tensor.shape.clone(),
                parts: vec![tensor],
                rows: fused.rows,
            }),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Architecture, LayerWidths};

    fn names(architecture: Architecture, layers: Vec<LayerWidths>) -> Vec<(String, Vec<usize>)> {
        let config = ModelConfig::new(architecture, 10, 6, 17, layers);
        expected_tensors(&config).into_iter().map(|t| (t.name, t.shape)).collect()
    }

    #[test]
    fn every_family_names_each_tensor_once_in_both_formats() {
        let widths = LayerWidths { query_heads: 4, kv_heads: 2, ffn: 7 };
        for architecture in Architecture::ALL {
            let mut config = ModelConfig::new(architecture, 10, 6, 17, vec![widths; 2]);
            Projection::ALL.into_iter().for_each(|projection| config.add_bias(projection));
            let tensors = expected_tensors(&config);
            let hf: std::collections::BTreeSet<_> = tensors.iter().map(|t| &t.name).collect();
            let gguf = tensors.iter().map(|t| t.part.gguf_name(config.family()).unwrap());
            let gguf: std::collections::BTreeSet<String> = gguf.collect();
            assert_eq!((hf.len(), gguf.len()), (tensors.len(), tensors.len()), "{architecture:?}");
        }
    }

    #[test]
    fn fused_matrices_are_made_of_their_parts_in_order() {
        let widths = LayerWidths { query_heads: 4, kv_heads: 2, ffn: 7 };
        let config = ModelConfig::new(Architecture::Phi3, 10, 6, 17, vec![widths; 2]);
        let stored = stored_tensors(&config, config.family());
        let of = |name: &str| {
            let tensor = stored.iter().find(|t| t.name == format!("model.layers.1.{name}.weight"));
            let StoredTensor { gguf_name, shape, parts, .. } = tensor.unwrap().clone();
            let parts: Vec<_> = parts.into_iter().map(|part| part.part).collect();
            (gguf_name, shape, parts)
        };
        let weights =
            |all: &[Projection]| all.iter().map(|&p| Part::Weight(1, p)).collect::<Vec<_>>();
        let qkv = [Projection::Q, Projection::K, Projection::V];
        let expected = ("blk.1.attn_qkv.weight".to_owned(), vec![24 + 12 + 12, 10], weights(&qkv));
        assert_eq!(of("self_attn.qkv_proj"), expected);
        let both = [Projection::Gate, Projection::Up];
        let expected = ("blk.1.ffn_up.weight".to_owned(), vec![14, 10], weights(&both));
        assert_eq!(of("mlp.gate_up_proj"), expected);
        assert_eq!(stored.len(), expected_tensors(&config).len() - 2 * 3);
        // The same model as files of another family hold it.
        let apart = stored_tensors(&config, Architecture::Llama.family());
        assert_eq!(apart.len(), expected_tensors(&config).len());
    }

    #[test]
    fn norms_are_those_of_the_family() {
        let widths = LayerWidths { query_heads: 4, kv_heads: 2, ffn: 7 };
        let norms = |architecture, layers| -> Vec<(String, usize)> {
            let all = names(architecture, layers).into_iter();
            let norms = all.filter(|(_, shape)| shape.len() == 1);
            norms.map(|(name, shape)| (name.replace(".weight", ""), shape[0])).collect()
        };
        let of = |names: &[(&str, usize)]| -> Vec<(String, usize)> {
            let layer = |(name, size): &(&str, usize)| (format!("model.layers.0.{name}"), *size);
            names.iter().map(layer).chain([("model.norm".to_owned(), 10)]).collect()
        };
        assert_eq!(
            norms(Architecture::Gemma3, vec![widths]),
            of(&[
                ("input_layernorm", 10),
                ("self_attn.q_norm", 6),
                ("self_attn.k_norm", 6),
                ("post_attention_layernorm", 10),
                ("pre_feedforward_layernorm", 10),
                ("post_feedforward_layernorm", 10),
            ])
        );
        assert_eq!(
            norms(Architecture::Olmo2, vec![widths]),
            of(&[
                ("self_attn.q_norm", 24),
                ("self_attn.k_norm", 12),
                ("post_attention_layernorm", 10),
                ("post_feedforward_layernorm", 10),
            ])
        );
        let none = LayerWidths { query_heads: 0, kv_heads: 0, ffn: 7 };
        assert_eq!(
            norms(Architecture::Gemma3, vec![none]),
            of(&[("pre_feedforward_layernorm", 10), ("post_feedforward_layernorm", 10)])
        );
    }
}
