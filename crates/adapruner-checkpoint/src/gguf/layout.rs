//! As which of llama.cpp's architectures a model is written, and what none of them can hold.

use adapruner_arch::{
    Architecture, Family,
    config::all_but,
    family::{ExpertsRule, Gguf, GgufBiases, NormalisedRule, RowOrder, ScoreRule, WindowRule},
};

use super::Planned;
use crate::config::{AttentionBias, LayerWidths, ModelConfig, RopeScaling};

/// Architecture of files whose layers are like Llama's, with widths of their own.
pub(super) const PER_LAYER: &str = "deci";

/// How a file is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// `general.architecture`.
    pub(super) architecture: &'static str,
    /// Order of the rows of queries and keys.
    pub(super) rows: RowOrder,
    /// The architecture whose files are laid out like this one.
    like: Architecture,
}

impl Layout {
    /// The family whose files are laid out like this one.
    pub(super) fn family(self) -> &'static Family {
        self.like.family()
    }

    /// That of Llama, under a name.
    fn llama(architecture: &'static str) -> Self {
        Self { architecture, rows: RowOrder::Interleaved, like: Architecture::Llama }
    }
}

/// The layout of a model's file, or what llama.cpp cannot hold of it as it is planned to be.
///
/// # Errors
/// What it is, and what can be done instead.
pub(super) fn layout(
    config: &ModelConfig,
    planned: Planned,
) -> Result<Layout, (String, &'static str)> {
    const FOLDER: &str = "write a Hugging Face folder";
    let family = config.family();
    let uniform =
        !planned.per_layer && config.uniform_widths().filter(LayerWidths::has_attention).is_some();
    let llama = config.is_llama_like();
    let none = Err((format!("llama.cpp has no architecture for {}", family.title), FOLDER));
    if family.gguf.is_none() {
        return none;
    }
    if !uniform {
        return match llama {
            true => Ok(Layout::llama(PER_LAYER)),
            false => Err((
                format!("llama.cpp has no architecture for {} with widths per layer", family.title),
                "give --layout uniform, or write a Hugging Face folder",
            )),
        };
    }
    let Some(gguf) = family.gguf else { return none };
    let biases = match gguf.biases {
        GgufBiases::None => config.attention_bias == AttentionBias::None && !config.mlp_bias,
        GgufBiases::Qkv => config.attention_bias == AttentionBias::Qkv && !config.mlp_bias,
        GgufBiases::All => true,
        GgufBiases::AllRequired => config.attention_bias == AttentionBias::All && config.mlp_bias,
    };
    if !biases && llama {
        return Ok(Layout::llama("llama"));
    }
    if !gguf.any_heads && (planned.heads || !config.heads_fit_class()) {
        let message =
            format!("llama.cpp has no room for other numbers of heads in {}", family.title);
        return Err((message, "give --attention-share 0, or write a Hugging Face folder"));
    }
    let refuse = |what: &str| Err((format!("llama.cpp runs {} {what}", family.title), FOLDER));
    if !biases {
        return refuse(match gguf.biases {
            GgufBiases::AllRequired => "with biases on all maps",
            GgufBiases::None | GgufBiases::Qkv | GgufBiases::All => "without these biases",
        });
    }
    if let (Some(ExpertsRule { normalised: NormalisedRule::Key { gguf, .. }, .. }), Some(experts)) =
        (family.experts, config.experts)
        && experts.normalised != gguf
    {
        return refuse(match gguf {
            true => "with weights of the chosen experts that are divided by their sum",
            false => "with weights of the chosen experts as they are, not divided by their sum",
        });
    }
    let grouped = |widths: &LayerWidths| widths.kv_heads != widths.query_heads;
    if !gguf.grouped && config.layers.iter().any(grouped) {
        return refuse("with as many key-value heads as query heads");
    }
    if gguf.needs_head && config.tie_word_embeddings {
        return refuse("with an output projection of its own");
    }
    // Only Phi's files say it by tensors alone.
    let long = matches!(config.rope.scaling, RopeScaling::Long { .. });
    if long && config.architecture != Architecture::Phi3 {
        return refuse("with one rotation for texts of any length");
    }
    if config.activation != family.activation.1 {
        return refuse("with another activation");
    }
    if family.caps.is_some() && [config.score_cap, config.logit_cap].contains(&None) {
        return refuse("with caps on scores and logits");
    }
    let layers = config.layers.len();
    let windows = match family.windows {
        WindowRule::None | WindowRule::All { .. } | WindowRule::Switched => {
            if config.windows.iter().any(Option::is_some) {
                return refuse("without windows");
            }
            true
        }
        WindowRule::AllBut { every, .. } => {
            (0..layers).map(|layer| config.window(layer).is_some()).eq(all_but(layers, every))
        }
    };
    if !windows {
        return refuse("with windows in other layers");
    }
    if let Some(rule) = family.unrotated {
        let rotates = (0..layers).map(|layer| !config.unrotated.contains(&layer));
        if !rotates.eq(all_but(layers, rule.every)) {
            return refuse("with rotation in other layers");
        }
    }
    if let ScoreRule::InverseRoot { .. } = family.scores
        && config.score_scale != by_layers(config)
    {
        return refuse("with another scale of attention scores");
    }
    let Gguf { architecture, rows, .. } = gguf;
    Ok(Layout { architecture, rows, like: config.architecture })
}

/// The scale of scores that llama.cpp takes from sizes, `None` where it is `1/√D`.
pub(super) fn by_layers(config: &ModelConfig) -> Option<f64> {
    let heads = config.layers.first().map_or(0, |widths| widths.query_heads);
    match config.family().scores {
        ScoreRule::InverseRoot { by_hidden, .. } if config.layers.len() == by_hidden => {
            Some((heads as f64 / config.hidden_size as f64).sqrt())
        }
        ScoreRule::InverseRoot { .. } | ScoreRule::HeadWidth | ScoreRule::Key { .. } => None,
    }
}
