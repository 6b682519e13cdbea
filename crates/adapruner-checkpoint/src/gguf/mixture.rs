//! llama.cpp's mixtures of K-quants: the matrices that matter most get more bits.
//!
//! | mixture | value projection | feed-forward output | attention output | the rest |
//! |---|---|---|---|---|
//! | `q2_k_m` ¹ | Q3_K, Q4_K from four query heads a key-value head on | Q3_K | Q3_K | Q2_K |
//! | `q3_k_s` | Q3_K | Q3_K | Q3_K | Q3_K |
//! | `q3_k_m` | Q5_K in the first two layers, else Q4_K | Q5_K in the first sixteenth, else Q4_K | Q4_K | Q3_K |
//! | `q3_k_l` | Q5_K | Q5_K | Q5_K | Q3_K |
//! | `q4_k_s` | Q5_K in the first four layers | Q5_K in the first eighth | Q4_K | Q4_K |
//! | `q4_k_m` | Q6_K where it pays | Q6_K where it pays | Q4_K | Q4_K |
//! | `q5_k_s` | Q5_K | Q5_K | Q5_K | Q5_K |
//! | `q5_k_m` | Q6_K where it pays | Q6_K where it pays | Q5_K | Q5_K |
//!
//! More bits pay in the first and last eighth of the layers and in every third between. The
//! matrix that gives the logits is Q6_K. Queries, keys and values that a file holds as one matrix
//! have Q4_K in `q3_k_m` and `q3_k_l`, Q5_K in `q4_k_m`, Q6_K in `q5_k_m`. llama.cpp gives
//! Falcon's feed-forward outputs fewer bits; here they have those of the table.
//! ¹ llama.cpp's file type `Q2_K`.

use std::{fmt, str::FromStr};

use adapruner_arch::names::{Part, Projection, StoredTensor};
use adapruner_choice::Unknown;

use super::kind::TensorKind;
use crate::config::ModelConfig;

/// The type of a file's matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufType {
    /// One type for all.
    Plain(TensorKind),
    /// One by what a matrix does.
    Mixed(Mixture),
}

impl From<TensorKind> for GgufType {
    fn from(kind: TensorKind) -> Self {
        Self::Plain(kind)
    }
}

impl fmt::Display for GgufType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(kind) => kind.fmt(f),
            Self::Mixed(mixture) => mixture.fmt(f),
        }
    }
}

impl FromStr for GgufType {
    type Err = Unknown;

    /// ggml's name of a type or llama.cpp's of a mixture, in capitals or not.
    fn from_str(text: &str) -> Result<Self, Unknown> {
        if let Ok(kind) = text.parse() {
            return Ok(Self::Plain(kind));
        }
        text.parse().map(Self::Mixed).map_err(|_| {
            let plain = TensorKind::ALL.map(TensorKind::name);
            let mixed = Mixture::NAMED.iter().map(|(name, _)| *name);
            Unknown::new("type", text, &plain.into_iter().chain(mixed).collect::<Vec<_>>())
        })
    }
}

impl GgufType {
    /// Numbers of a block of most matrices; 1 for float types.
    pub fn block_size(self) -> u64 {
        match self {
            Self::Plain(kind) => kind.block_size(),
            Self::Mixed(mixture) => mixture.base().block_size(),
        }
    }

    /// The type of a matrix of a model, before its rows are looked at.
    pub(super) fn of(self, tensor: &StoredTensor, config: &ModelConfig) -> TensorKind {
        match self {
            Self::Plain(kind) => kind,
            Self::Mixed(mixture) => {
                let groups = config.layers.iter().filter(|widths| widths.has_attention());
                let group = groups.map(|widths| widths.query_heads / widths.kv_heads).max();
                mixture.kind(Place::of(tensor), config.layers.len(), group.unwrap_or(1))
            }
        }
    }
}

/// A mixture of types, by llama.cpp's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mixture {
    /// Two bits and more.
    Q2KM,
    /// Three bits throughout.
    Q3KS,
    /// Three bits and more.
    Q3KM,
    /// Three bits and more still.
    Q3KL,
    /// Four bits, five in a few matrices.
    Q4KS,
    /// Four bits, six in some matrices: what most published files are.
    Q4KM,
    /// Five bits throughout.
    Q5KS,
    /// Five bits, six in some matrices.
    Q5KM,
}
adapruner_choice::choice!(Mixture, "mixture", {
    Q2KM => "q2_k_m",
    Q3KS => "q3_k_s",
    Q3KM => "q3_k_m",
    Q3KL => "q3_k_l",
    Q4KS => "q4_k_s",
    Q4KM => "q4_k_m",
    Q5KS => "q5_k_s",
    Q5KM => "q5_k_m",
});

/// What a matrix does, as far as mixtures tell matrices apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The value projection of a layer.
    Value(usize),
    /// The output projection of a layer's feed-forward.
    Down(usize),
    /// The output projection of attention.
    AttentionOutput,
    /// Queries, keys and values as one matrix.
    QueryKeyValue,
    /// Any other.
    Other,
}

impl Place {
    fn of(tensor: &StoredTensor) -> Self {
        match tensor.parts.iter().map(|part| part.part).collect::<Vec<_>>()[..] {
            [Part::Weight(layer, Projection::V)] => Self::Value(layer),
            [Part::Weight(layer, Projection::Down)] => Self::Down(layer),
            [Part::Weight(_, Projection::O)] => Self::AttentionOutput,
            [Part::Weight(_, Projection::Q), ..] if tensor.parts.len() > 1 => Self::QueryKeyValue,
            _ => Self::Other,
        }
    }
}

impl Mixture {
    /// The type of most matrices.
    pub fn base(self) -> TensorKind {
        match self {
            Self::Q2KM => TensorKind::Q2K,
            Self::Q3KS | Self::Q3KM | Self::Q3KL => TensorKind::Q3K,
            Self::Q4KS | Self::Q4KM => TensorKind::Q4K,
            Self::Q5KS | Self::Q5KM => TensorKind::Q5K,
        }
    }

    /// The number that llama.cpp gives a file of this mixture (`general.file_type`).
    pub(super) fn file_type(self) -> u32 {
        match self {
            Self::Q2KM => 10,
            Self::Q3KS => 11,
            Self::Q3KM => 12,
            Self::Q3KL => 13,
            Self::Q4KS => 14,
            Self::Q4KM => 15,
            Self::Q5KS => 16,
            Self::Q5KM => 17,
        }
    }

    /// The type of a matrix in a model of `layers` layers with `group` query heads for each
    /// key-value head.
    pub(super) fn kind(self, place: Place, layers: usize, group: usize) -> TensorKind {
        use TensorKind::{Q3K, Q4K, Q5K, Q6K};
        let base = self.base();
        let six = |layer| if pays(layer, layers) { Q6K } else { base };
        match (self, place) {
            (_, Place::Other) => base,
            (Self::Q3KM | Self::Q3KL, Place::QueryKeyValue) => Q4K,
            (Self::Q4KM, Place::QueryKeyValue) => Q5K,
            (Self::Q5KM, Place::QueryKeyValue) => Q6K,
            (Self::Q2KM | Self::Q3KS | Self::Q4KS | Self::Q5KS, Place::QueryKeyValue) => base,
            (Self::Q2KM, Place::Value(_)) => {
                if group >= 4 {
                    Q4K
                } else {
                    Q3K
                }
            }
            (Self::Q2KM, Place::Down(_) | Place::AttentionOutput) => Q3K,
            (Self::Q3KM, Place::Value(layer)) => {
                if layer < 2 {
                    Q5K
                } else {
                    Q4K
                }
            }
            (Self::Q3KM, Place::Down(layer)) => {
                if layer < layers / 16 {
                    Q5K
                } else {
                    Q4K
                }
            }
            (Self::Q3KM, Place::AttentionOutput) => Q4K,
            (Self::Q3KL, Place::Value(_) | Place::Down(_) | Place::AttentionOutput) => Q5K,
            (Self::Q4KS, Place::Value(layer)) if layer < 4 => Q5K,
            (Self::Q4KS, Place::Down(layer)) if layer < layers / 8 => Q5K,
            (Self::Q4KM | Self::Q5KM, Place::Value(layer) | Place::Down(layer)) => six(layer),
            (Self::Q3KS | Self::Q4KS | Self::Q5KS, Place::Value(_) | Place::Down(_))
            | (
                Self::Q3KS | Self::Q4KS | Self::Q4KM | Self::Q5KS | Self::Q5KM,
                Place::AttentionOutput,
            ) => base,
        }
    }
}

/// Whether a layer is one of those in which more bits pay.
fn pays(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layers of Gemma-3-270M's published Q4_K_M file that have Q6_K.
    #[test]
    fn more_bits_go_to_the_ends_and_every_third_layer() {
        let of = |layers| (0..layers).filter(|&layer| pays(layer, layers)).collect::<Vec<_>>();
        assert_eq!(of(18), [0, 1, 4, 7, 10, 13, 15, 16, 17]);
        assert_eq!(of(3), [2]);
    }

    #[test]
    fn mixtures_are_those_of_the_table() {
        let q4 = |place| Mixture::Q4KM.kind(place, 30, 3);
        assert_eq!(q4(Place::Value(0)), TensorKind::Q6K);
        assert_eq!(q4(Place::Down(4)), TensorKind::Q4K);
        assert_eq!(q4(Place::AttentionOutput), TensorKind::Q4K);
        assert_eq!(q4(Place::Other), TensorKind::Q4K);
        let q3 = |place| Mixture::Q3KM.kind(place, 32, 1);
        assert_eq!([q3(Place::Value(1)), q3(Place::Value(2))], [TensorKind::Q5K, TensorKind::Q4K]);
        assert_eq!([q3(Place::Down(1)), q3(Place::Down(2))], [TensorKind::Q5K, TensorKind::Q4K]);
        assert_eq!(Mixture::Q2KM.kind(Place::Value(9), 32, 4), TensorKind::Q4K);
        assert_eq!(Mixture::Q4KS.kind(Place::Down(4), 32, 4), TensorKind::Q4K);
        assert_eq!("Q4_K_M".parse(), Ok(Mixture::Q4KM));
    }
}
