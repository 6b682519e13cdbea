//! The literature's perplexity: non-overlapping windows of fixed length, the
//! mean negative log-likelihood over all predicted tokens (`T − 1` a window),
//! exponentiated once.
//!
//! Axes: `B` windows of a batch, `T` tokens of a window. Losses in nats, summed
//! in f64.

use adapruner_model::Decoder;
use candle_core::DType;
use serde::Serialize;

use crate::error::{Error, Result};

/// Loss of a model on windows of a text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Perplexity {
    /// `exp(nll)`.
    pub perplexity: f64,
    /// Mean negative log-likelihood, in nats per predicted token.
    pub nll: f64,
    /// Standard error of `nll` over windows, in nats; none for a single window.
    pub nll_stderr: Option<f64>,
    /// Predicted tokens, `windows · (window − 1)`.
    pub tokens: u64,
    /// Number of windows.
    pub windows: usize,
    /// `T`, tokens of each window.
    pub window: usize,
    /// Summed loss of each window, in nats.
    #[serde(skip)]
    pub window_nll: Vec<f64>,
}

impl Perplexity {
    /// Sums up the losses of windows of `window` tokens.
    ///
    /// # Errors
    /// No windows, or a loss that is not finite.
    fn of(window_nll: Vec<f64>, window: usize) -> Result<Self> {
        let windows = window_nll.len();
        if windows == 0 {
            return Err(Error::Windows("expected at least 1, found none".into()));
        }
        if let Some(at) = window_nll.iter().position(|loss| !loss.is_finite()) {
            return Err(Error::Loss { window: at, loss: window_nll[at] });
        }
        let predicted = (window - 1) as f64;
        let tokens = windows as u64 * (window - 1) as u64;
        let nll = window_nll.iter().sum::<f64>() / tokens as f64;
        let squares = window_nll.iter().map(|loss| (loss / predicted - nll).powi(2)).sum::<f64>();
        let n = windows as f64;
        Ok(Self {
            perplexity: nll.exp(),
            nll,
            nll_stderr: (windows > 1).then(|| (squares / (n - 1.0) / n).sqrt()),
            tokens,
            windows,
            window,
            window_nll,
        })
    }
}

/// Measures `decoder` on windows of equal length, `batch_tokens` tokens at a
/// time (at least one window). `progress` is told (tokens done, tokens in all).
///
/// # Errors
/// No windows, unequal or too short ones, ids outside the vocabulary, a loss
/// that is not finite, or damaged weights.
pub fn perplexity(
    decoder: &Decoder,
    windows: &[Vec<u32>],
    batch_tokens: usize,
    progress: &dyn Fn(u64, u64),
) -> Result<Perplexity> {
    let window = windows.first().map_or(0, Vec::len);
    if window < 2 && !windows.is_empty() {
        let message = format!("expected at least 2 tokens each to predict one, found {window}");
        return Err(Error::Windows(message));
    }
    let all = windows.len() as u64 * window as u64;
    let mut losses = Vec::with_capacity(windows.len());
    for batch in windows.chunks((batch_tokens / window.max(1)).max(1)) {
        let ids = decoder.tokens(batch)?;
        let nll = decoder.nll(&ids)?.to_dtype(DType::F32)?.to_vec2::<f32>()?;
        losses.extend(nll.iter().map(|row| row.iter().map(|&v| f64::from(v)).sum::<f64>()));
        progress(losses.len() as u64 * window as u64, all);
    }
    Perplexity::of(losses, window)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_averaged_once_over_all_tokens() {
        let p = Perplexity::of(vec![30.0, 50.0], 11).unwrap();
        assert_eq!((p.tokens, p.windows, p.window), (20, 2, 11));
        assert!((p.nll - 4.0).abs() < 1e-12 && (p.perplexity - 4.0_f64.exp()).abs() < 1e-9);
        // Window means 3 and 5: variance 2, over 2 windows.
        assert!((p.nll_stderr.unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(Perplexity::of(vec![1.0], 2).unwrap().nll_stderr, None);
    }

    #[test]
    fn no_windows_and_bad_losses_are_errors() {
        assert!(Perplexity::of(Vec::new(), 2).is_err());
        let error = Perplexity::of(vec![1.0, f64::NAN], 2).unwrap_err();
        assert!(matches!(error, Error::Loss { window: 1, .. }), "{error}");
    }
}
