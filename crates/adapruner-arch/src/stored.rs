//! Tensors as files hold them: each by itself, several as one.

use crate::{
    config::ModelConfig,
    family::{Family, Fused, FusedRows},
    names::{ExpectedTensor, Part, Projection, UnitAxis, expected_tensors},
};

/// Which files hold a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFormat {
    /// Hugging Face folders: the maps of experts one by one.
    HuggingFace,
    /// GGUF files: each map of all experts as one tensor.
    Gguf,
}

/// A tensor as a file holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTensor {
    /// Its name in a Hugging Face folder.
    pub name: String,
    /// Its name in a GGUF file.
    pub gguf_name: String,
    /// Row-major shape; where it is made of experts' maps, the experts are its first axis.
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
            | Part::Expert(..)
            | Part::Router(..)
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

/// What a tensor is a part of, of those that are held as one.
enum Whole {
    Fused(usize, &'static Fused, &'static str),
    Experts(String),
}

/// [`expected_tensors`] as files of the architecture hold them.
pub fn stored_tensors(
    config: &ModelConfig,
    family: &'static Family,
    format: FileFormat,
) -> Vec<StoredTensor> {
    let mut out: Vec<StoredTensor> = Vec::new();
    for tensor in expected_tensors(config) {
        let (Some(own), Some(gguf)) = (tensor.part.name(family), tensor.part.gguf_name(family))
        else {
            continue;
        };
        let held = |projection: Projection| {
            family.fused.iter().find(move |fused| fused.of.contains(&projection))
        };
        let whole = match tensor.part {
            Part::Weight(layer, projection) => {
                held(projection).map(|of| Whole::Fused(layer, of, "weight"))
            }
            Part::Bias(layer, projection) => {
                held(projection).map(|of| Whole::Fused(layer, of, "bias"))
            }
            Part::Expert(layer, _, projection) => match format {
                FileFormat::HuggingFace => None,
                FileFormat::Gguf => Some(Whole::Experts(projection.weight(family, layer))),
            },
            Part::Embedding
            | Part::Positions
            | Part::Norm(..)
            | Part::NormBias(..)
            | Part::Router(..)
            | Part::FinalNorm
            | Part::FinalNormBias
            | Part::Head => None,
        };
        let (name, gguf_name, rows) = match &whole {
            None => (own, gguf, FusedRows::Whole),
            Some(Whole::Experts(name)) => (name.clone(), gguf, FusedRows::Whole),
            Some(Whole::Fused(layer, fused, kind)) => (
                format!("{}.{layer}.{}.{kind}", family.hf.outer.layers, fused.name.hf),
                format!("blk.{layer}.{}.{kind}", fused.name.gguf),
                fused.rows,
            ),
        };
        let stacked = matches!(whole, Some(Whole::Experts(_)));
        let begun = match whole {
            None => None,
            Some(_) => out.iter_mut().rev().find(|stored| stored.name == name),
        };
        if let Some(begun) = begun {
            begun.shape[0] += if stacked { 1 } else { tensor.shape[0] };
            begun.parts.push(tensor);
            continue;
        }
        let mut shape = tensor.shape.clone();
        if stacked {
            shape.insert(0, 1);
        }
        out.push(StoredTensor { name, gguf_name, shape, parts: vec![tensor], rows });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Architecture, LayerWidths},
        experts::Experts,
    };

    #[test]
    fn fused_matrices_are_made_of_their_parts_in_order() {
        let widths = LayerWidths { query_heads: 4, kv_heads: 2, ffn: 7 };
        let config = ModelConfig::new(Architecture::Phi3, 10, 6, 17, vec![widths; 2]);
        let stored = stored_tensors(&config, config.family(), FileFormat::HuggingFace);
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
        let llama = Architecture::Llama.family();
        let apart = stored_tensors(&config, llama, FileFormat::HuggingFace);
        assert_eq!(apart.len(), expected_tensors(&config).len());
    }

    #[test]
    fn experts_are_held_one_by_one_or_stacked() {
        let widths = LayerWidths { query_heads: 4, kv_heads: 2, ffn: 21 };
        let config = ModelConfig::new(Architecture::Mixtral, 10, 6, 17, vec![widths; 2]);
        let experts = Experts { count: 3, chosen: 2, normalised: true };
        let config = ModelConfig { experts: Some(experts), ..config };
        let [folder, file] = [FileFormat::HuggingFace, FileFormat::Gguf]
            .map(|format| stored_tensors(&config, config.family(), format));
        assert_eq!(folder.len(), expected_tensors(&config).len());
        assert_eq!(file.len(), folder.len() - 2 * 3 * 2);
        let one =
            folder.iter().find(|t| t.name.ends_with("1.block_sparse_moe.experts.2.w2.weight"));
        let one = one.unwrap();
        assert_eq!((&one.shape[..], one.parts.len()), (&[10, 7][..], 1));
        let router = folder.iter().find(|t| t.name.ends_with("1.block_sparse_moe.gate.weight"));
        assert_eq!(router.unwrap().shape, [3, 10]);
        let stack = file.iter().find(|t| t.gguf_name == "blk.1.ffn_down_exps.weight").unwrap();
        assert_eq!(stack.shape, [3, 10, 7]);
        let parts: Vec<Part> = stack.parts.iter().map(|part| part.part).collect();
        assert_eq!(parts, [0, 1, 2].map(|expert| Part::Expert(1, expert, Projection::Down)));
        // All but one expert's 3 · 10 · 7 in each of two layers.
        assert_eq!(config.parameters() - config.active_parameters(), 2 * 3 * 70);
    }
}
