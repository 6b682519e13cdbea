//! The same windows measured again and again, in chunks, on models that share
//! their first layers.
//!
//! A search evaluates hundreds of pruned models on one text. Their leading
//! layers are often those of the dense model, so the residual stream that
//! enters the first layers is computed once; and hopeless models are given up
//! after a few chunks.
//!
//! Axes: `B` windows of a chunk, `T` tokens of a window, `H` hidden. Losses in
//! nats, summed in f64.

use adapruner_model::Decoder;
use candle_core::{DType, Tensor};

use crate::error::{Error, Result};

/// Windows in fixed chunks, with what the dense model computes of them in its
/// first layers.
pub struct ChunkedWindows {
    chunks: Vec<Chunk>,
    window: usize,
    windows: usize,
}

struct Chunk {
    /// u32 `[B, T]`.
    ids: Tensor,
    windows: usize,
    /// Residual stream that enters layer 0, 1, …, each `[B, T, H]`.
    entering: Vec<Tensor>,
}

impl ChunkedWindows {
    /// Cuts windows of equal length into chunks of `chunk` windows (the last may
    /// be smaller) and runs `dense` through its first `leading` layers, whose
    /// inputs and output are kept: `leading + 1` numbers a token and hidden
    /// channel. `progress` is told (chunks done, chunks in all).
    ///
    /// # Errors
    /// No windows, unequal or too short ones, ids outside the vocabulary, or
    /// damaged weights.
    pub fn new(
        dense: &Decoder,
        windows: &[Vec<u32>],
        chunk: usize,
        leading: usize,
        progress: &dyn Fn(u64, u64),
    ) -> Result<Self> {
        let window = windows.first().map_or(0, Vec::len);
        if windows.is_empty() {
            return Err(Error::Windows("expected at least 1, found none".into()));
        }
        if window < 2 {
            let message = format!("expected at least 2 tokens each to predict one, found {window}");
            return Err(Error::Windows(message));
        }
        let all = windows.len().div_ceil(chunk.max(1));
        let mut chunks = Vec::with_capacity(all);
        for batch in windows.chunks(chunk.max(1)) {
            let ids = dense.tokens(batch)?;
            let mut entering = vec![dense.embedded(&ids)?];
            for layer in 0..leading.min(dense.config().layers.len()) {
                let next = dense.through(&entering[layer], layer..layer + 1)?;
                entering.push(next);
            }
            chunks.push(Chunk { ids, windows: batch.len(), entering });
            progress(chunks.len() as u64, all as u64);
        }
        Ok(Self { chunks, window, windows: windows.len() })
    }

    /// Number of chunks.
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Whether there are none (never).
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Windows of all chunks.
    pub fn windows(&self) -> usize {
        self.windows
    }

    /// `T`, tokens of each window.
    pub fn window(&self) -> usize {
        self.window
    }

    /// Tokens of a chunk.
    pub fn tokens(&self, chunk: usize) -> u64 {
        (self.chunks[chunk].windows * self.window) as u64
    }

    /// First layers whose input is at hand.
    pub fn leading(&self) -> usize {
        self.chunks[0].entering.len() - 1
    }

    /// Mean loss of `decoder` on one chunk, in nats per predicted token, where
    /// its first `unchanged` layers are those of the dense model.
    ///
    /// # Errors
    /// A loss that is not finite (of which window), or damaged weights.
    pub fn nll(&self, decoder: &Decoder, unchanged: usize, chunk: usize) -> Result<f64> {
        let Chunk { ids, windows, entering } = &self.chunks[chunk];
        let from = unchanged.min(entering.len() - 1);
        let layers = decoder.config().layers.len();
        let hidden = decoder.through(&entering[from], from..layers)?;
        let losses = decoder.nll_of_hidden(&hidden, ids)?.to_dtype(DType::F32)?.to_vec2::<f32>()?;
        let mut sum = 0.0;
        for (at, row) in losses.iter().enumerate() {
            let loss: f64 = row.iter().map(|&v| f64::from(v)).sum();
            if !loss.is_finite() {
                let before: usize = self.chunks[..chunk].iter().map(|c| c.windows).sum();
                return Err(Error::Loss { window: before + at, loss });
            }
            sum += loss;
        }
        Ok(sum / (windows * (self.window - 1)) as f64)
    }
}
