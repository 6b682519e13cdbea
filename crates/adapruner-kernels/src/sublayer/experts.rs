//! The feed-forward sublayer that is a mixture of experts:
//! `Σ_e w_e · down_e(a(gate_e(h)) · up_e(h))` over the `k` experts that each row takes, added to
//! `x`, with `h` the norm of `x`.
//!
//! The weights `w` of a row are the softmax of `W_router · h` over all experts, of which the `k`
//! largest are kept, the first of equal ones, and where the mixture says so divided by their sum.
//! Each expert runs on its own rows alone; what experts give a row is added in their order. An
//! expert that too few rows take runs on some more, of weight 0, so that how its products are made
//! does not depend on the other rows; where gradients are made, that is so of one that no row
//! takes, whose gradients are then 0.
//!
//! Made of this crate's and candle's operations, each with its backward; there is no fused form.
//!
//! Axes: `R` rows, `H` hidden, `E` experts, `F` width of an expert.

use std::sync::Arc;

use candle_core::{D, DType, Result, Tensor, bail};

use super::{FeedForward, Norm, Residual};
use crate::{
    gemm, linear,
    packed::{self, Arithmetic, Entering},
};

/// The weights of a mixture of experts.
#[derive(Clone)]
pub struct Experts {
    /// Norm before it, `[H]`, where there is one.
    pub norm: Option<Norm>,
    /// What gives the logits of the experts, `[E, H]`.
    pub router: Tensor,
    /// The experts: of each its activation and its maps are read.
    pub each: Vec<FeedForward>,
    /// `k`.
    pub chosen: usize,
    /// Whether the weights of the chosen experts are divided by their sum.
    pub normalised: bool,
    /// How it is added to its input.
    pub residual: Residual,
}

/// Which rows take which experts.
struct Routes {
    /// Of each expert its rows, in ascending order.
    rows: Vec<Arc<[u32]>>,
    /// Weights of all experts, 0 where a row does not take one, `[R, E]`.
    weights: Tensor,
}

/// What an expert makes of its rows.
pub struct Expertise<'a> {
    /// Which expert.
    pub expert: usize,
    /// Its rows, in ascending order; none where no row takes it.
    pub rows: &'a [u32],
    /// What its last map reads, `[rows, F]`.
    pub channels: &'a Tensor,
    /// What it gives, before it is weighted, `[rows, H]`.
    pub given: &'a Tensor,
    /// What that is multiplied by, `[rows]` of f32.
    pub weights: &'a Tensor,
}

/// Is shown every expert of a mixture.
pub type ShowExpert<'a> = dyn FnMut(&Expertise<'_>) -> Result<()> + 'a;

impl Experts {
    /// The sublayer of `x`, added to `stream`.
    ///
    /// `of` gives an expert as it is to run on these rows (counted over all but the last axis of
    /// `x`), with taps, say; `show` is shown all experts, also those that no row
    /// takes.
    ///
    /// # Shapes
    /// `[.., H]`, `[.., H]` → `[.., H]`.
    ///
    /// # Errors
    /// Shapes that do not fit, logits that are NaN, those of taps and of `show`.
    pub fn onto(
        &self,
        stream: &Tensor,
        x: &Tensor,
        of: &dyn Fn(usize, &Arc<[u32]>) -> FeedForward,
        mut show: Option<&mut ShowExpert<'_>>,
    ) -> Result<Tensor> {
        let hidden = x.dim(D::Minus1)?;
        let h = match &self.norm {
            Some(norm) => norm.apply(x)?,
            None => x.clone(),
        };
        let h = h.reshape(((), hidden))?;
        let (all, device) = (h.dim(0)?, h.device());
        let Routes { rows, weights } = self.route(&h)?;
        let (least, tracked) = (least_rows(all), h.track_op() || self.tracked());
        let (mut from, mut places, mut given) = (Vec::new(), Vec::new(), Vec::new());
        let mut real = Vec::new();
        for (expert, rows) in rows.iter().enumerate() {
            if all == 0 || rows.is_empty() && !tracked && show.is_none() {
                continue;
            }
            let fill = least.saturating_sub(rows.len());
            // Row 0 for those that fill it up.
            let ids: Vec<u32> = rows.iter().copied().chain(std::iter::repeat_n(0, fill)).collect();
            let run = of(expert, rows);
            let index = Tensor::from_slice(&ids, ids.len(), device)?;
            let channels = run.channels(&h.index_select(&index, 0)?)?;
            let gives = run.down.apply(&channels)?;
            if let Some(show) = show.as_mut() {
                let own = |all: &Tensor| all.narrow(0, 0, rows.len());
                let weights = weights.narrow(1, expert, 1)?.flatten_all()?;
                show(&Expertise {
                    expert,
                    rows,
                    channels: &own(&channels)?,
                    given: &own(&gives)?,
                    weights: &own(&weights.index_select(&index, 0)?)?,
                })?;
            }
            given.push(gives);
            places.extend(ids.iter().map(|row| row * self.each.len() as u32 + expert as u32));
            real.extend((0..ids.len()).map(|at| f32::from(u8::from(at < rows.len()))));
            from.extend(ids);
        }
        let mut sum = h.zeros_like()?.detach();
        if !given.is_empty() {
            let count = from.len();
            let places = Tensor::from_vec(places, count, device)?;
            let real = Tensor::from_vec(real, count, device)?.to_dtype(weights.dtype())?;
            let weights = (weights.flatten_all()?.index_select(&places, 0)? * real)?;
            let weights = weights.to_dtype(h.dtype())?.unsqueeze(1)?;
            let given = Tensor::cat(&given, 0)?.broadcast_mul(&weights)?;
            sum = sum.index_add(&Tensor::from_vec(from, count, device)?, &given, 0)?;
        }
        self.residual.add(stream, &sum.reshape(x.shape())?)
    }

    /// The router's logits of all experts, and what each gives of every row, whichever it takes.
    ///
    /// # Shapes
    /// `[.., H]` → f32 `[R, E]` and of each expert `[R, H]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn everything(&self, x: &Tensor) -> Result<(Tensor, Vec<Tensor>)> {
        let h = match &self.norm {
            Some(norm) => norm.apply(x)?,
            None => x.clone(),
        };
        let h = h.reshape(((), x.dim(D::Minus1)?))?;
        let given = self.each.iter().map(|run| run.down.apply(&run.channels(&h)?));
        Ok((self.logits(&h)?, given.collect::<Result<_>>()?))
    }

    /// Whether a weight of its own is a variable.
    fn tracked(&self) -> bool {
        let maps = |FeedForward { gate, up, down, .. }: &FeedForward| {
            gate.iter().chain([up, down]).any(|map| map.weight.track_op())
        };
        self.router.track_op() || self.each.iter().any(maps)
    }

    /// The router's logits.
    ///
    /// # Shapes
    /// `[R, H]` → f32 `[R, E]`.
    fn logits(&self, h: &Tensor) -> Result<Tensor> {
        let (experts, hidden) = self.router.dims2()?;
        let mut router = self.router.to_dtype(h.dtype())?;
        // Narrow products are not made by our own kernels, so that other rows may change a bit.
        if let Some(missing) = gemm::NARROW.checked_sub(experts).filter(|missing| *missing > 0) {
            let zeros = Tensor::zeros((missing, hidden), h.dtype(), h.device())?;
            router = Tensor::cat(&[&router, &zeros], 0)?;
        }
        let logits = linear(h, &router, None)?.narrow(1, 0, experts)?.contiguous()?;
        logits.to_dtype(DType::F32)
    }

    /// Which rows take which experts, and how much of what these give.
    ///
    /// # Shapes
    /// `[R, H]`.
    fn route(&self, h: &Tensor) -> Result<Routes> {
        let experts = self.router.dim(0)?;
        if experts != self.each.len() || !(1..=experts).contains(&self.chosen) {
            bail!("{} of {} experts, a router of {experts}", self.chosen, self.each.len());
        }
        let logits = self.logits(h)?;
        let rows = logits.dim(0)?;
        if rows == 0 {
            return Ok(Routes { rows: vec![Arc::from([]); experts], weights: logits });
        }
        let largest = logits.detach().max_keepdim(1)?;
        let powers = logits.broadcast_sub(&largest)?.exp()?;
        let shares = powers.broadcast_div(&powers.sum_keepdim(1)?)?;

        let mut taken = vec![Vec::new(); experts];
        let mut mask = vec![0_f32; rows * experts];
        for (row, shares) in shares.detach().to_vec2::<f32>()?.iter().enumerate() {
            if shares.iter().any(|share| share.is_nan()) {
                bail!("row {row}: a router gave logits that are not finite");
            }
            let mut order: Vec<usize> = (0..experts).collect();
            order.sort_by(|&a, &b| shares[b].total_cmp(&shares[a]));
            for &expert in &order[..self.chosen] {
                mask[row * experts + expert] = 1.0;
                taken[expert].push(row as u32);
            }
        }
        let mask = Tensor::from_vec(mask, (rows, experts), h.device())?;
        let weights = (shares * mask)?;
        let weights = match self.normalised {
            true => weights.broadcast_div(&weights.sum_keepdim(1)?)?,
            false => weights,
        };
        Ok(Routes { rows: taken.into_iter().map(Arc::from).collect(), weights })
    }
}

/// Rows that an expert runs on at the least, of so many rows in all: where these are few, its own,
/// else as many as are made by our own kernels.
fn least_rows(all: usize) -> usize {
    // Which are those that rows of their own would be made by, with many of them.
    let usual = Arithmetic::of(DType::F32, usize::MAX, Entering::Activations);
    let rounds = usual != Arithmetic::exact();
    let few = if rounds && all > packed::NARROW { packed::NARROW } else { gemm::FEW };
    if all > few { few + 1 } else { 1 }
}
