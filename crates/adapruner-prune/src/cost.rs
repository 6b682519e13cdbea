//! Parameters that each unit takes, biases included.
//!
//! Axes: `H` hidden, `D` head width.

use adapruner_checkpoint::{
    LayerWidths, ModelConfig,
    arch::{
        family::HeadNorm,
        names::{Norm, Part, Projection, Sublayer, UnitAxis},
    },
};

/// Parameter counts of the parts of a layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Costs {
    /// One feed-forward channel: its rows and its column.
    pub ffn_channel: u64,
    /// One query head: query rows, output columns.
    pub query_head: u64,
    /// One key-value head: key rows, value rows.
    pub kv_head: u64,
    /// What remains of an attention sublayer without heads: its norms and the
    /// bias of its output.
    pub attention: u64,
    /// What every layer has: the feed-forward's norms and the bias of its output.
    pub layer: u64,
}

impl Costs {
    pub fn new(config: &ModelConfig) -> Self {
        let (h, d, family) = (config.hidden_size as u64, config.head_dim as u64, config.family());
        let bias = |projection| u64::from(config.has_bias(projection));
        // Of the norms on the stream, `H` each, and of those of heads, `D`.
        let norms = |attention: bool| {
            let here = move |norm: &&Norm| norm.is_attention() == attention;
            Norm::ALL.iter().filter(here).filter(|norm| norm.of(family).is_some()).map(
                move |norm| {
                    match norm.normed(family) {
                        None if Part::NormBias(0, *norm).name(family).is_some() => 2 * h,
                        None => h,
                        Some((_, HeadNorm::Each)) => d,
                        // Counted with the heads.
                        Some((_, HeadNorm::All)) => 0,
                    }
                },
            )
        };
        let of_head = if family.head_norm == Some(HeadNorm::All) { d } else { 0 };
        // Vectors of all maps that are cut along an axis; rows with their biases.
        let vectors = |count: u64, axis: UnitAxis| {
            let on = |p: &Projection| p.axis() == axis && family.has(*p);
            let size = |p: Projection| if p.prunes_columns() { h } else { h + bias(p) };
            Projection::ALL.into_iter().filter(on).map(|p| count * size(p)).sum::<u64>()
        };
        Self {
            ffn_channel: vectors(1, UnitAxis::Channels),
            query_head: vectors(d, UnitAxis::QueryHeads) + of_head,
            kv_head: vectors(d, UnitAxis::KvHeads) + of_head,
            attention: norms(true).sum::<u64>() + bias(Sublayer::Attention.output()) * h,
            layer: norms(false).sum::<u64>() + bias(Sublayer::FeedForward.output()) * h,
        }
    }

    /// The attention sublayer of a layer; 0 where it has none.
    pub fn attention_sublayer(&self, widths: &LayerWidths) -> u64 {
        if !widths.has_attention() {
            return 0;
        }
        self.attention
            + widths.query_heads as u64 * self.query_head
            + widths.kv_heads as u64 * self.kv_head
    }

    /// A whole layer; 0 where nothing of it is left.
    pub fn layer(&self, widths: &LayerWidths) -> u64 {
        if widths.is_empty() {
            return 0;
        }
        self.layer + self.attention_sublayer(widths) + widths.ffn as u64 * self.ffn_channel
    }
}

#[cfg(test)]
mod tests {
    use adapruner_checkpoint::Architecture;

    use super::*;

    #[test]
    fn layers_and_ends_add_up_to_the_model() {
        let layers = vec![
            LayerWidths { query_heads: 6, kv_heads: 2, ffn: 7 },
            LayerWidths { query_heads: 0, kv_heads: 0, ffn: 5 },
            LayerWidths { query_heads: 3, kv_heads: 3, ffn: 1 },
        ];
        let biases: [&[Projection]; 4] =
            [&[], &[Projection::O], &[Projection::Down], &[Projection::O, Projection::Down]];
        for architecture in Architecture::ALL {
            for (tie_word_embeddings, biases) in [true, false].into_iter().cycle().zip(biases) {
                let config = ModelConfig::new(architecture, 10, 6, 17, layers.clone());
                let mut config = ModelConfig { tie_word_embeddings, ..config };
                biases.iter().for_each(|&projection| config.add_bias(projection));
                let costs = Costs::new(&config);
                let layers: u64 = config.layers.iter().map(|w| costs.layer(w)).sum();
                let outer = [Part::FinalNorm, Part::FinalNormBias]
                    .map(|part| u64::from(part.name(config.family()).is_some()) * 10);
                let positions = config.learned_positions().map_or(0, |rows| 10 * rows as u64);
                let words = 170 * if tie_word_embeddings { 1 } else { 2 };
                let ends = outer.iter().sum::<u64>() + positions + words;
                assert_eq!(layers + ends, config.parameters(), "{architecture:?}, {biases:?}");
            }
        }
    }
}
