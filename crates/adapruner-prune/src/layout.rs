//! Where the numbers of each structural vector stand in flat arrays.
//!
//! A vector is a row or column of a projection: the part of a weight that is kept or removed as a
//! whole, a column where the projection reads what units give, else a row. A flat array
//! holds one number per vector: layers in order, within a layer the projections
//! in the order of [`Projection::ALL`], within a projection its vectors by
//! index. A layer without attention has none for that's projections, a feed-forward without a
//! gate none for the gate.
//!
//! Arrays of what the columns read have the columns' numbers alone, in the same order.
//!
//! Axes: `N` query heads, `K` key-value heads, `D` head width, `F` feed-forward
//! width, `U` vectors (`Σ over layers (2·N·D + 2·K·D + 3·F)` with gates, `2·F` without), `C = Σ
//! over layers (N·D + F)` of them columns.

use std::ops::Range;

use adapruner_checkpoint::{
    LayerWidths,
    arch::{family::FeedForwardKind, names::UnitAxis},
    names::Projection,
};

/// Number of vectors of `projection`, its length along the pruned axis.
/// `None` where that overflows.
fn vectors(widths: &LayerWidths, head_dim: usize, projection: Projection) -> Option<usize> {
    match projection.axis() {
        UnitAxis::QueryHeads => widths.query_heads.checked_mul(head_dim),
        UnitAxis::KvHeads => widths.kv_heads.checked_mul(head_dim),
        UnitAxis::Channels => Some(widths.ffn),
    }
}

/// Positions of every layer's and projection's vectors in a flat array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VectorLayout {
    /// Start of each projection, layer by layer, and the total at the end.
    starts: Vec<usize>,
}

impl VectorLayout {
    /// The layout for layers of these widths and feed-forwards of a kind; `None` where the sizes
    /// overflow.
    pub fn new(layers: &[LayerWidths], head_dim: usize, kind: FeedForwardKind) -> Option<Self> {
        Self::of(layers, head_dim, |projection| kind.has(projection))
    }

    /// The layout of the columns alone, what the sublayers' outputs read; `None`
    /// where the sizes overflow.
    pub fn columns(layers: &[LayerWidths], head_dim: usize) -> Option<Self> {
        Self::of(layers, head_dim, Projection::prunes_columns)
    }

    fn of(
        layers: &[LayerWidths],
        head_dim: usize,
        holds: impl Fn(Projection) -> bool,
    ) -> Option<Self> {
        let mut starts = vec![0];
        let mut at = 0_usize;
        for widths in layers {
            for projection in Projection::ALL {
                if holds(projection) {
                    at = at.checked_add(vectors(widths, head_dim, projection)?)?;
                }
                starts.push(at);
            }
        }
        Some(Self { starts })
    }

    /// The number of vectors: `U`, or `C` of the columns.
    pub fn len(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Whether there are no vectors at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        (self.starts.len() - 1) / Projection::ALL.len()
    }

    /// Where the vectors of `projection` in layer `layer` stand.
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn range(&self, layer: usize, projection: Projection) -> Range<usize> {
        let at = layer * Projection::ALL.len() + projection as usize;
        self.starts[at]..self.starts[at + 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_each_other_without_gaps() {
        let layers = [
            LayerWidths { query_heads: 6, kv_heads: 2, ffn: 7 },
            LayerWidths { query_heads: 0, kv_heads: 0, ffn: 5 },
        ];
        let layout = VectorLayout::new(&layers, 4, FeedForwardKind::Gated).unwrap();
        assert_eq!((layout.len(), layout.layers()), (2 * 24 + 2 * 8 + 3 * 7 + 3 * 5, 2));
        let plain = VectorLayout::new(&layers, 4, FeedForwardKind::Plain).unwrap();
        assert_eq!(plain.len(), 2 * 24 + 2 * 8 + 2 * 7 + 2 * 5);
        assert!(plain.range(1, Projection::Gate).is_empty());
        let mut at = 0;
        for layer in 0..2 {
            for projection in Projection::ALL {
                let range = layout.range(layer, projection);
                assert_eq!(range.start, at);
                at = range.end;
            }
        }
        assert_eq!(layout.range(0, Projection::O).len(), 24);
        assert_eq!(layout.range(1, Projection::Q).len(), 0);
        assert_eq!(layout.range(1, Projection::Down).len(), 5);
    }

    #[test]
    fn columns_follow_each_other_without_the_rows() {
        let layers = [
            LayerWidths { query_heads: 6, kv_heads: 2, ffn: 7 },
            LayerWidths { query_heads: 0, kv_heads: 0, ffn: 5 },
        ];
        let layout = VectorLayout::columns(&layers, 4).unwrap();
        assert_eq!((layout.len(), layout.layers()), (24 + 7 + 5, 2));
        assert_eq!(layout.range(0, Projection::O), 0..24);
        assert_eq!(layout.range(0, Projection::Down), 24..31);
        assert_eq!(layout.range(1, Projection::Down), 31..36);
        for projection in [Projection::Q, Projection::K, Projection::V, Projection::Gate] {
            assert!(layout.range(0, projection).is_empty());
        }
    }

    #[test]
    fn absurd_widths_are_refused() {
        let widths = LayerWidths { query_heads: usize::MAX, kv_heads: 1, ffn: 1 };
        assert_eq!(VectorLayout::new(&[widths], 2, FeedForwardKind::Plain), None);
    }
}
