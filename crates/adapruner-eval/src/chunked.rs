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

use std::ops::Range;

use adapruner_model::{Decoder, Places};
use candle_core::{D, DType, Tensor};

use crate::error::{Error, Result};

/// Tokens of chunks that run together, where a chunk has fewer: of the first of them and
/// at most. Products of more rows are better worth reading and laying out their weights, but
/// of a model that is given up early, few chunks are asked for. Where weights are laid out
/// once, there is no more to win: all run by the first number. A chunk's loss does not
/// depend on it.
pub const TOGETHER: (usize, usize) = (512, 2048);

/// Windows in fixed chunks, with what the dense model computes of them in its
/// first layers.
pub struct ChunkedWindows {
    /// u32 `[W, T]`, all windows.
    ids: Tensor,
    /// Residual stream that enters layer 0, 1, …, each `[W, T, H]`.
    entering: Vec<Tensor>,
    /// Windows of a chunk; the last may have fewer.
    chunk: usize,
    windows: usize,
    window: usize,
    /// Tokens of chunks that run together, at most.
    together: usize,
}

impl ChunkedWindows {
    /// Cuts windows of equal length into chunks of `chunk` windows (the last may be smaller)
    /// and runs `dense` through its first `leading` layers, whose inputs and output are kept:
    /// `leading + 1` numbers a token and hidden channel. `progress` receives (layers done, all
    /// layers).
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
        let ids = dense.tokens(windows)?;
        let (chunk, windows) = (chunk.max(1), windows.len());
        let leading = leading.min(dense.config().layers.len());
        let (first, most) = TOGETHER;
        let together = if dense.lays_out_once() { first } else { most };
        let entering = vec![dense.embedded(&ids, Places::From(0))?];
        let mut cut = Self { entering, ids, chunk, windows, window, together };
        for layer in 0..leading {
            let together = cut.together(usize::MAX);
            let groups = (0..cut.len()).step_by(together).map(|first| {
                let group = cut.windows_of(first..first + together);
                let entering = cut.entering[layer].narrow(0, group.start, group.len())?;
                dense.through(&entering, layer..layer + 1)
            });
            let groups = groups.collect::<Result<Vec<_>, _>>()?;
            cut.entering.push(Tensor::cat(&groups, 0)?);
            progress(layer as u64 + 1, leading as u64);
        }
        Ok(cut)
    }

    /// Number of chunks.
    pub fn len(&self) -> usize {
        self.windows.div_ceil(self.chunk)
    }

    /// Whether there are none (never).
    pub fn is_empty(&self) -> bool {
        self.windows == 0
    }

    /// Windows of all chunks.
    pub fn windows(&self) -> usize {
        self.windows
    }

    /// `T`, tokens of each window.
    pub fn window(&self) -> usize {
        self.window
    }

    /// How many chunks are best run together after `done` were: as many again, within
    /// [`TOGETHER`].
    pub fn together(&self, done: usize) -> usize {
        let (first, _) = TOGETHER;
        let tokens = done.saturating_mul(self.chunk * self.window).clamp(first, self.together);
        (tokens / (self.chunk * self.window)).max(1)
    }

    /// Windows of some chunks; those that do not exist have none.
    fn windows_of(&self, chunks: Range<usize>) -> Range<usize> {
        let start = |chunk: usize| (chunk * self.chunk).min(self.windows);
        start(chunks.start)..start(chunks.end)
    }

    /// Tokens of a chunk.
    pub fn tokens(&self, chunk: usize) -> u64 {
        (self.windows_of(chunk..chunk + 1).len() * self.window) as u64
    }

    /// Number of first layers whose output is cached.
    pub fn leading(&self) -> usize {
        self.entering.len() - 1
    }

    /// Mean loss of `decoder` on each of some chunks, in nats per predicted token, where
    /// its first `unchanged` layers are those of the dense model. The chunks run together;
    /// those that do not exist are left out.
    ///
    /// # Errors
    /// A loss that is not finite (of which window), or damaged weights.
    pub fn nll(
        &self,
        decoder: &Decoder,
        unchanged: usize,
        chunks: Range<usize>,
    ) -> Result<Vec<f64>> {
        // Never stopped, so always there.
        Ok(self.nll_unless(decoder, unchanged, chunks, &|| false)?.unwrap_or_default())
    }

    /// As [`ChunkedWindows::nll`]; `None` once `stop` says so, which is asked before each
    /// block.
    ///
    /// # Errors
    /// Those of [`ChunkedWindows::nll`].
    pub fn nll_unless(
        &self,
        decoder: &Decoder,
        unchanged: usize,
        chunks: Range<usize>,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<f64>>> {
        let of_all = self.windows_of(chunks.clone());
        if of_all.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let from = unchanged.min(self.leading());
        let mut hidden = self.entering[from].narrow(0, of_all.start, of_all.len())?;
        for layer in from..decoder.config().layers.len() {
            if stop() {
                return Ok(None);
            }
            hidden = decoder.through(&hidden, layer..layer + 1)?;
        }
        self.losses(decoder, &hidden, chunks).map(Some)
    }

    /// Mean loss of all windows, in nats per predicted token, where the stream passes the
    /// layers `gone` of the dense model unchanged.
    ///
    /// # Errors
    /// Those of [`ChunkedWindows::nll`].
    pub fn nll_without(&self, dense: &Decoder, gone: &[usize]) -> Result<f64> {
        let layers = dense.config().layers.len();
        let first = gone.iter().copied().min().unwrap_or(layers);
        let from = first.min(self.leading());
        let mut hidden = self.entering[from].clone();
        for layer in (from..layers).filter(|layer| !gone.contains(layer)) {
            hidden = dense.through(&hidden, layer..layer + 1)?;
        }
        let chunks = self.losses(dense, &hidden, 0..self.len())?;
        // The last chunk may have fewer windows.
        let sums = chunks.iter().enumerate().map(|(at, loss)| loss * self.tokens(at) as f64);
        let tokens: u64 = (0..self.len()).map(|at| self.tokens(at)).sum();
        Ok(sums.sum::<f64>() / tokens as f64)
    }

    /// How much each layer whose output is at hand turns the stream: `1 − cos(x, y)` of what
    /// enters and what leaves it, the mean over all tokens of all windows, first layer first.
    ///
    /// # Errors
    /// No memory.
    pub fn influences(&self) -> Result<Vec<f64>> {
        let pairs = self.entering.windows(2);
        pairs.map(|pair| Ok(1.0 - mean_cosine(&pair[0], &pair[1])?)).collect()
    }

    /// Mean loss of each of some chunks from the stream that leaves the last layer on them,
    /// `[windows of the chunks, T, H]`.
    fn losses(&self, decoder: &Decoder, hidden: &Tensor, chunks: Range<usize>) -> Result<Vec<f64>> {
        let of_all = self.windows_of(chunks.clone());
        let ids = self.ids.narrow(0, of_all.start, of_all.len())?;
        let losses = decoder.nll_of_hidden(hidden, &ids)?;
        let losses = losses.to_dtype(DType::F32)?.to_vec2::<f32>()?;
        let of_chunk = |windows: Range<usize>| {
            let mut sum = 0.0;
            for window in windows.clone() {
                let row = &losses[window - of_all.start];
                let loss: f64 = row.iter().map(|&v| f64::from(v)).sum();
                if !loss.is_finite() {
                    return Err(Error::Loss { window, loss });
                }
                sum += loss;
            }
            Ok(sum / (windows.len() * (self.window - 1)) as f64)
        };
        let windows = chunks.map(|chunk| self.windows_of(chunk..chunk + 1));
        windows.filter(|windows| !windows.is_empty()).map(of_chunk).collect()
    }
}

/// Mean over all tokens of the cosine of two vectors, in f64 from the sums of each token.
///
/// # Shapes
/// `[W, T, H]` each.
fn mean_cosine(a: &Tensor, b: &Tensor) -> Result<f64> {
    let (a, b) = (a.to_dtype(DType::F32)?, b.to_dtype(DType::F32)?);
    let sums = |x: &Tensor, y: &Tensor| -> Result<Vec<f32>> {
        Ok((x * y)?.sum(D::Minus1)?.flatten_all()?.to_vec1()?)
    };
    let (dots, of_a, of_b) = (sums(&a, &b)?, sums(&a, &a)?, sums(&b, &b)?);
    let cosines = dots.iter().zip(of_a.iter().zip(&of_b)).map(|(dot, (a, b))| {
        let size = (f64::from(*a) * f64::from(*b)).sqrt();
        // Nothing turns a vector of zeros.
        if size == 0.0 { 1.0 } else { f64::from(*dot) / size }
    });
    Ok(cosines.sum::<f64>() / dots.len().max(1) as f64)
}
