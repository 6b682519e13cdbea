//! The loss of a model that is cut layer by layer, measured again after every change of one
//! layer.
//!
//! What enters each layer is kept, so a change costs the layers behind it alone.
//!
//! Axes: `B` windows, `T` tokens of a window, `H` hidden. Losses in nats per predicted token,
//! summed in f64.

use std::{collections::BTreeMap, sync::Arc};

use adapruner_checkpoint::Checkpoint;
use adapruner_model::{
    Decoder, Places, Residency,
    block::{Block, Pass},
};
use candle_core::{DType, Tensor};

use crate::error::{Error, Result};

/// A layer that is not the dense model's any more.
#[derive(Clone)]
enum Changed {
    /// The stream passes it unchanged.
    Gone,
    /// Held in memory.
    Held(Arc<Block>),
    /// Read when it is run: layer of a model.
    Read(Box<Checkpoint>),
}

/// Windows on a model of which one layer changes at a time.
pub struct Stepwise {
    dense: Decoder,
    /// u32 `[B, T]`.
    ids: Tensor,
    changed: BTreeMap<usize, Changed>,
    /// What enters layer 0, 1, … and what leaves the last, `[B, T, H]` each.
    entering: Vec<Tensor>,
    loss: f64,
}

/// A change as it was measured.
pub struct Trial {
    layer: usize,
    changed: Changed,
    /// What leaves the changed layer and every one behind it, `[B, T, H]` each.
    behind: Vec<Tensor>,
    loss: f64,
}

impl Trial {
    /// The loss with it.
    pub fn loss(&self) -> f64 {
        self.loss
    }
}

impl Stepwise {
    /// The dense model on windows of equal length, all of which run together.
    ///
    /// # Errors
    /// No windows, unequal or too short ones, ids outside the vocabulary, a loss that is not
    /// finite, damaged weights, no memory.
    pub fn new(dense: Decoder, windows: &[Vec<u32>]) -> Result<Self> {
        let window = windows.first().map_or(0, Vec::len);
        if window < 2 {
            let message = format!("expected at least 2 tokens each to predict one, found {window}");
            return Err(Error::Windows(message));
        }
        let ids = dense.tokens(windows)?;
        let entering = vec![dense.embedded(&ids, Places::From(0))?];
        let mut model = Self { dense, ids, changed: BTreeMap::new(), entering, loss: 0.0 };
        let behind = model.through(model.entering[0].clone(), 0)?;
        model.loss = model.loss_of(&behind, &model.entering[0])?;
        model.entering.extend(behind);
        Ok(model)
    }

    /// The loss of the model as it is now.
    pub fn loss(&self) -> f64 {
        self.loss
    }

    /// Measures the model with another layer in place of layer `layer`: the one of `cut` with
    /// the same index, or none.
    ///
    /// # Errors
    /// A loss that is not finite, damaged weights, no memory.
    pub fn measure(&self, layer: usize, cut: Option<&Checkpoint>) -> Result<Trial> {
        let block = match cut {
            Some(cut) => Some(Arc::new(Block::load(cut, layer, self.dense.placement())?)),
            None => None,
        };
        let entering = &self.entering[layer];
        let stream = match &block {
            Some(block) => self.run(block, entering)?,
            None => entering.clone(),
        };
        let mut behind = vec![stream.clone()];
        behind.extend(self.through(stream, layer + 1)?);
        let loss = self.loss_of(&behind, entering)?;
        let changed = match (block, cut, self.dense.residency()) {
            (None, _, _) | (_, None, _) => Changed::Gone,
            (Some(block), _, Residency::Resident) => Changed::Held(block),
            (Some(_), Some(cut), Residency::Streamed) => Changed::Read(Box::new(cut.clone())),
        };
        Ok(Trial { layer, changed, behind, loss })
    }

    /// Makes a change that was measured on the model as it is now.
    pub fn take(&mut self, trial: Trial) {
        let Trial { layer, changed, behind, loss } = trial;
        self.entering.truncate(layer + 1);
        self.entering.extend(behind);
        self.changed.insert(layer, changed);
        self.loss = loss;
    }

    fn run(&self, block: &Block, stream: &Tensor) -> Result<Tensor> {
        let rotations = self.dense.positions(0, self.ids.dim(1)?)?;
        Ok(block.forward(stream, &Pass::of(&rotations), None)?)
    }

    /// The stream behind `layer` and every layer after it.
    fn through(&self, mut stream: Tensor, layer: usize) -> Result<Vec<Tensor>> {
        let mut behind = Vec::new();
        for at in layer..self.dense.config().layers.len() {
            stream = match self.changed.get(&at) {
                None => self.run(&*self.dense.block(at)?, &stream)?,
                Some(Changed::Gone) => stream,
                Some(Changed::Held(block)) => self.run(block, &stream)?,
                Some(Changed::Read(cut)) => {
                    self.run(&Block::load(cut, at, self.dense.placement())?, &stream)?
                }
            };
            behind.push(stream.clone());
        }
        Ok(behind)
    }

    /// The loss where the last of `behind` leaves the last layer, or `entering` where nothing
    /// is behind it.
    fn loss_of(&self, behind: &[Tensor], entering: &Tensor) -> Result<f64> {
        let hidden = behind.last().unwrap_or(entering);
        let losses = self.dense.nll_of_hidden(hidden, &self.ids)?.to_dtype(DType::F32)?;
        let losses: Vec<Vec<f32>> = losses.to_vec2()?;
        let mut sum = 0.0;
        for (window, losses) in losses.iter().enumerate() {
            let loss: f64 = losses.iter().map(|&loss| f64::from(loss)).sum();
            if !loss.is_finite() {
                return Err(Error::Loss { window, loss });
            }
            sum += loss;
        }
        Ok(sum / losses.iter().map(Vec::len).sum::<usize>() as f64)
    }
}
