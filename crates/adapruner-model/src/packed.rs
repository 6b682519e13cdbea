//! Sequences of different lengths in one pass, without padding, where those
//! that begin alike share the run of their beginning.
//!
//! All tokens are rows of one matrix, so that every projection is one product;
//! only attention goes sequence by sequence.
//!
//! Axes: `R` rows, `H` hidden, `N` query heads, `K` key-value heads, `D` head
//! width, `V` vocabulary.

use adapruner_kernels::{Scores, attention, linear_cross_entropy, sublayer::SelfAttention};
use candle_core::{DType, Result as CandleResult, Tensor};
use rayon::prelude::*;

use crate::{
    block::Pass,
    decoder::{Decoder, Places},
    error::{Error, Result},
};

/// Sequences with a common beginning. Its rows are those of the beginning, then
/// those of each ending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branches {
    /// Tokens that all sequences begin with, at least one.
    pub beginning: Vec<u32>,
    /// How each goes on; an ending may be empty.
    pub endings: Vec<Vec<u32>>,
}

impl Branches {
    /// Rows that it takes.
    pub fn rows(&self) -> usize {
        self.beginning.len() + self.endings.iter().map(Vec::len).sum::<usize>()
    }

    /// The row, counted from the first of these branches, of position `at` of
    /// the sequence with ending `ending`.
    pub fn row(&self, ending: usize, at: usize) -> usize {
        match at.checked_sub(self.beginning.len()) {
            None => at,
            Some(within) => {
                let before = self.endings[..ending].iter().map(Vec::len).sum::<usize>();
                self.beginning.len() + before + within
            }
        }
    }
}

impl Decoder {
    /// Hidden states after the last block, before the final norm, of all rows.
    ///
    /// # Shapes
    /// `R` rows → `[R, H]`, those of each of `branches` after those before it.
    ///
    /// # Errors
    /// No branches, an empty beginning, an id outside the vocabulary, more
    /// positions than the model has, damaged weights, or no memory.
    pub fn packed(&self, branches: &[Branches]) -> Result<Tensor> {
        let (mut ids, mut places) = (Vec::new(), Vec::new());
        for (index, branch) in branches.iter().enumerate() {
            if branch.beginning.is_empty() {
                return Err(Error::Tokens(format!("branches {index}: the beginning is empty")));
            }
            let begun = branch.beginning.len();
            ids.extend_from_slice(&branch.beginning);
            places.extend(0..begun as u32);
            for ending in &branch.endings {
                ids.extend_from_slice(ending);
                places.extend(begun as u32..(begun + ending.len()) as u32);
            }
        }
        let ids = self.tokens(&[ids])?;
        let mut x = self.embedded(&ids, Places::Each(&places))?;
        let rotations = self.positions_of(places)?;
        let pass = Pass::of(&rotations);
        for layer in 0..self.config().layers.len() {
            let block = self.block(layer)?;
            let y = match block.attention_in(&pass) {
                Some(sublayer) => attend_packed(&sublayer, &x, branches)?,
                None => x.clone(),
            };
            x = block.feed_forward(&x, &y, &pass)?;
        }
        Ok(x.squeeze(0)?)
    }

    /// Negative log-likelihood of `targets[i]` after row `rows[i]`, in nats,
    /// from hidden states before the final norm; a row may come more than once.
    ///
    /// # Shapes
    /// `[R, H]`, as many rows as targets → that many losses.
    ///
    /// # Errors
    /// A row or a target that is not there, or no memory.
    pub fn nll_of_rows(&self, hidden: &Tensor, rows: &[u32], targets: &[u32]) -> Result<Vec<f32>> {
        let device = &self.placement().device;
        let (all, vocabulary) = (hidden.dim(0)?, self.config().vocab_size);
        if let Some(row) = rows.iter().find(|row| **row as usize >= all) {
            return Err(Error::Tokens(format!("row {row} of {all}")));
        }
        if let Some(id) = targets.iter().find(|id| **id as usize >= vocabulary) {
            return Err(Error::Tokens(format!(
                "token id {id}, but the vocabulary ends at {vocabulary}"
            )));
        }
        let rows = Tensor::new(rows, device)?;
        let targets = Tensor::new(targets, device)?;
        let x = hidden.index_select(&rows, 0)?;
        let ending = self.ending()?;
        let losses = linear_cross_entropy(&ending.read(&x)?, &ending.head, &targets)?;
        Ok(losses.to_dtype(DType::F32)?.to_vec1()?)
    }
}

/// `x` with the attention sublayer added.
///
/// # Shapes
/// `[1, R, H]` → `[1, R, H]`.
fn attend_packed(
    sublayer: &SelfAttention,
    x: &Tensor,
    branches: &[Branches],
) -> CandleResult<Tensor> {
    let heads = sublayer.heads(x)?;
    let starts = branches.iter().scan(0, |next, branch| {
        let start = *next;
        *next += branch.rows();
        Some(start)
    });
    let starts: Vec<usize> = starts.collect();
    let one = |(branch, &start): (&Branches, &usize)| {
        attend_branches(&heads, sublayer.scores, branch, start)
    };
    let parts: Vec<Vec<Tensor>> = if x.device().is_cpu() {
        branches.par_iter().zip(&starts).map(one).collect::<CandleResult<_>>()?
    } else {
        branches.iter().zip(&starts).map(one).collect::<CandleResult<_>>()?
    };
    sublayer.finish(x, &Tensor::cat(&parts.concat(), 1)?)
}

/// Attention of the rows of one of the branches, which begin at `start`.
///
/// # Shapes
/// q `[1, R, N, D]`, k and v `[1, R, K, D]` → parts of `[1, R, N, D]` along `R`.
fn attend_branches(
    [q, k, v]: &[Tensor; 3],
    scores: Scores,
    branch: &Branches,
    start: usize,
) -> CandleResult<Vec<Tensor>> {
    let begun = branch.beginning.len();
    let rows = |t: &Tensor, from, count| t.narrow(1, from, count);
    let (keys, values) = (rows(k, start, begun)?, rows(v, start, begun)?);
    let mut parts = vec![attention(&rows(q, start, begun)?, &keys, &values, scores)?];
    let mut from = start + begun;
    for ending in branch.endings.iter().filter(|ending| !ending.is_empty()) {
        let count = ending.len();
        let keys = Tensor::cat(&[&keys, &rows(k, from, count)?], 1)?;
        let values = Tensor::cat(&[&values, &rows(v, from, count)?], 1)?;
        parts.push(attention(&rows(q, from, count)?, &keys, &values, scores)?);
        from += count;
    }
    Ok(parts)
}
