//! The literature's perplexity: non-overlapping windows of fixed length, the
//! mean negative log-likelihood over all predicted tokens (`T − 1` a window),
//! exponentiated once.
//!
//! Axes: `B` windows of a batch, `T` tokens of a window. Losses in nats, summed
//! in f64.
//!
//! Perplexity is per token and so depends on the tokenizer. [`BitsPerByte`] does not:
//! the same sum of losses, in bits, divided by the UTF-8 bytes of text that the
//! predicted tokens stand for. A window's bytes are those of all its tokens but the
//! first; a token's are what decoding it adds to a text, none for special tokens.

use std::f64::consts::LN_2;

use adapruner_model::Decoder;
use candle_core::DType;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    paired::by_unit,
};

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
    /// The loss by byte of the text, where the bytes are known.
    #[serde(flatten)]
    pub bits: Option<BitsPerByte>,
    /// Summed loss of each window, in nats.
    #[serde(skip)]
    pub window_nll: Vec<f64>,
    /// UTF-8 bytes of text that the predicted tokens of each window stand for; empty
    /// where they are not known.
    #[serde(skip)]
    pub window_bytes: Vec<u64>,
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
            bits: None,
            window_nll,
            window_bytes: Vec::new(),
        })
    }

    /// With the loss by byte, from the bytes of text that the predicted tokens of each
    /// window stand for; without it where they stand for none.
    ///
    /// # Errors
    /// Another number of windows.
    pub fn with_bytes(self, window_bytes: Vec<u64>) -> Result<Self> {
        let (expected, found) = (self.window_nll.len(), window_bytes.len());
        if expected != found {
            let message = format!("expected the bytes of {expected}, found those of {found}");
            return Err(Error::Windows(message));
        }
        let bits = by_unit(&self.window_nll, &window_bytes).map(|(nats, stderr)| BitsPerByte {
            bits_per_byte: nats / LN_2,
            bits_per_byte_stderr: stderr.map(|nats| nats / LN_2),
            bytes: window_bytes.iter().sum(),
        });
        Ok(Self { bits, window_bytes, ..self })
    }
}

/// Loss by byte of the text, which models with different tokenizers can be compared by.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BitsPerByte {
    /// Summed loss of all windows in bits, divided by `bytes`.
    pub bits_per_byte: f64,
    /// Its standard error over windows; none for a single window.
    pub bits_per_byte_stderr: Option<f64>,
    /// UTF-8 bytes of text that the predicted tokens stand for.
    pub bytes: u64,
}

/// Measures `decoder` on windows of equal length, `batch_tokens` tokens at a time (at least one
/// window). `progress` receives (tokens done, all tokens).
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
    fn bits_are_per_byte_of_all_windows_together() {
        let p = Perplexity::of(vec![30.0 * LN_2, 50.0 * LN_2], 11).unwrap();
        let bits = p.clone().with_bytes(vec![40, 40]).unwrap().bits.unwrap();
        assert!((bits.bits_per_byte - 1.0).abs() < 1e-12 && bits.bytes == 80);
        // Windows of 0.75 and 1.25 bits a byte: variance 0.125, over 2 windows.
        assert!((bits.bits_per_byte_stderr.unwrap() - 0.25).abs() < 1e-12);
        // Not the mean of the windows' own figures.
        let bits = p.clone().with_bytes(vec![10, 70]).unwrap().bits.unwrap();
        assert!((bits.bits_per_byte - 1.0).abs() < 1e-12);
        assert_eq!(p.clone().with_bytes(vec![0, 0]).unwrap().bits, None);
        assert!(p.with_bytes(vec![1]).is_err());
    }

    #[test]
    fn no_windows_and_bad_losses_are_errors() {
        assert!(Perplexity::of(Vec::new(), 2).is_err());
        let error = Perplexity::of(vec![1.0, f64::NAN], 2).unwrap_err();
        assert!(matches!(error, Error::Loss { window: 1, .. }), "{error}");
    }
}
