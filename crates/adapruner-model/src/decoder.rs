//! [`Decoder`]: a whole model, its weights held in memory or read block by
//! block as they are needed.
//!
//! Axes: `B` sequences, `T` tokens, `H` hidden, `V` vocabulary, `P` positions.

use std::sync::Arc;

use adapruner_checkpoint::{
    Checkpoint, ModelConfig,
    arch::{family::Positions, names::Part},
};
use adapruner_kernels::{Head, sublayer::Norm};
use candle_core::{DType, Result as CandleResult, Tensor};
use rayon::prelude::*;

use crate::{
    block::{Block, LayerCache, Pass},
    changes::Changes,
    error::{Error, Result},
    load::{as_factor, load_norm},
    placement::Placement,
    rotary::{RotaryTables, Rotations},
};

/// How a model's weights are held while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residency {
    /// All in memory, in the placement's type: the fastest.
    Resident,
    /// One block at a time, read from the checkpoint for every pass: memory
    /// is bounded by one block.
    Streamed,
}

#[derive(Clone)]
enum Weights {
    Resident { embedding: Embedding, blocks: Vec<Arc<Block>>, norm: Norm, head: Head },
    Streamed(Box<Checkpoint>),
}

/// A model that runs.
pub struct Decoder {
    config: ModelConfig,
    placement: Placement,
    rotary: Arc<RotaryTables>,
    weights: Weights,
    /// What was changed of the weights; of resident ones, already in place.
    pub(crate) changes: Changes,
}

/// What tokens become.
#[derive(Clone)]
pub struct Embedding {
    /// A vector for each token, `[V, H]`.
    pub words: Tensor,
    /// A vector for each position, `[P + offset, H]`, where the model has learned them.
    pub positions: Option<Tensor>,
}

/// Where the tokens of sequences stand.
#[derive(Debug, Clone, Copy)]
pub enum Places<'a> {
    /// One after the other, the first of each sequence here.
    From(usize),
    /// Each token of the only sequence somewhere.
    Each(&'a [u32]),
}

/// Keys and values of the positions that were run, layer by layer; copies share them until one
/// goes on.
#[derive(Debug, Default, Clone)]
pub struct KvCache {
    layers: Vec<Option<LayerCache>>,
    tokens: usize,
}

impl KvCache {
    /// Positions held.
    pub fn tokens(&self) -> usize {
        self.tokens
    }
}

impl Decoder {
    /// Loads (or prepares to stream) the weights of `checkpoint`.
    ///
    /// # Errors
    /// Weights that are damaged or not finite, or no memory on the device.
    pub fn load(
        checkpoint: &Checkpoint,
        placement: &Placement,
        residency: Residency,
    ) -> Result<Self> {
        Self::load_each(checkpoint, placement, residency, &|_, _| Ok(()))
    }

    /// Another model, run where this one is and held as it is: one that was pruned of its
    /// checkpoint, say. Resident weights that are the same tensors in both are laid out for
    /// products once.
    ///
    /// # Errors
    /// As [`Decoder::load`].
    pub fn load_beside(&self, checkpoint: &Checkpoint) -> Result<Self> {
        let (placement, residency) = (&self.placement, self.residency());
        let Weights::Resident { blocks, head, .. } = &self.weights else {
            return Self::load(checkpoint, placement, residency);
        };
        let beside = |layer: usize, block: &mut Block| match blocks.get(layer) {
            Some(other) => block.lay_out_beside(other),
            None => Ok(()),
        };
        let mut other = Self::load_each(checkpoint, placement, residency, &beside)?;
        if let Weights::Resident { head: own, .. } = &mut other.weights
            && own.weight.id() == head.weight.id()
        {
            own.packed = head.packed.clone();
        }
        Ok(other)
    }

    /// [`Decoder::load`]; something is done with each resident block as soon as it is there.
    fn load_each(
        checkpoint: &Checkpoint,
        placement: &Placement,
        residency: Residency,
        done: &(dyn Fn(usize, &mut Block) -> CandleResult<()> + Sync),
    ) -> Result<Self> {
        let config = checkpoint.config.clone();
        let rotary = Arc::new(RotaryTables::new(&config, placement));
        let weights = match residency {
            Residency::Streamed => Weights::Streamed(Box::new(checkpoint.clone())),
            Residency::Resident => {
                let embedding = load_embedding(checkpoint, placement)?;
                let block = |layer| -> Result<_> {
                    let mut block = Block::load(checkpoint, layer, placement)?;
                    done(layer, &mut block)?;
                    Ok(Arc::new(block))
                };
                let blocks: Vec<Result<_>> =
                    (0..config.layers.len()).into_par_iter().map(block).collect();
                // Of several damaged layers the first is told, whoever was faster.
                let blocks = blocks.into_iter().collect::<Result<_>>()?;
                let norm = load_norm(checkpoint, FINAL_NORM, placement)?;
                let head = if config.tie_word_embeddings {
                    embedding.words.clone()
                } else {
                    load_outer(checkpoint, Part::Head, placement)?
                };
                let head = Head::new(&head, config.logit_cap);
                Weights::Resident { embedding, blocks, norm, head }
            }
        };
        let changes = Changes::default();
        Ok(Self { config, placement: placement.clone(), rotary, weights, changes })
    }

    /// How the weights are held.
    pub fn residency(&self) -> Residency {
        match self.weights {
            Weights::Resident { .. } => Residency::Resident,
            Weights::Streamed(_) => Residency::Streamed,
        }
    }

    /// Whether products of many rows read weights that were laid out before, in the
    /// precision that is set.
    pub fn lays_out_once(&self) -> bool {
        self.residency() == Residency::Resident && self.placement.packed_bytes().forward > 0
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Device and weight type.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// Layer `layer`, read now if the weights are streamed.
    ///
    /// # Errors
    /// Weights that are damaged or not finite.
    pub fn block(&self, layer: usize) -> Result<Arc<Block>> {
        match &self.weights {
            Weights::Resident { blocks, .. } => Ok(blocks[layer].clone()),
            Weights::Streamed(checkpoint) => {
                let mut block = Block::load(checkpoint, layer, &self.placement)?;
                self.changes.apply(&self.config, layer, &mut block)?;
                Ok(Arc::new(block))
            }
        }
    }

    /// The same model with changed weights.
    pub(crate) fn changed(&self, changes: Changes) -> Result<Self> {
        let mut weights = self.weights.clone();
        if let Weights::Resident { embedding, blocks, norm, head } = &mut weights {
            for (layer, block) in blocks.iter_mut().enumerate() {
                changes.apply(&self.config, layer, Arc::make_mut(block))?;
            }
            let changed = |part| changes.parameters.get(&self.config.name(part));
            if let Some(tensor) = changed(Part::Embedding) {
                embedding.words = tensor.clone();
            }
            if let Some(tensor) = changed(Part::Positions) {
                embedding.positions = Some(tensor.clone());
            }
            if let Some(tensor) = changed(Part::FinalNorm) {
                norm.weight = as_factor(tensor, self.config.family())?;
            }
            if let Some(tensor) = changed(Part::FinalNormBias) {
                norm.bias = Some(tensor.clone());
            }
            if let Some(tensor) = changed(head_part(&self.config)) {
                *head = Head::new(tensor, self.config.logit_cap);
            }
        }
        let (config, placement) = (self.config.clone(), self.placement.clone());
        Ok(Self { config, placement, rotary: self.rotary.clone(), weights, changes })
    }

    /// The same model with the first `rows` tokens of its vocabulary alone: what a smaller one
    /// takes. A streamed model reads its vocabulary anew for every pass and stays as it is.
    ///
    /// # Errors
    /// More rows than there are, or no memory.
    pub fn with_first_tokens(&self, rows: usize) -> Result<Self> {
        let (mut config, mut weights) = (self.config.clone(), self.weights.clone());
        if let Weights::Resident { embedding, head, .. } = &mut weights {
            embedding.words = embedding.words.narrow(0, 0, rows)?;
            *head = Head::new(&head.weight.narrow(0, 0, rows)?, config.logit_cap);
            config.vocab_size = rows;
        }
        let (placement, rotary) = (self.placement.clone(), self.rotary.clone());
        Ok(Self { config, placement, rotary, weights, changes: self.changes.clone() })
    }

    /// A changed tensor outside the blocks, of a streamed model.
    fn streamed(&self, part: Part) -> Option<Tensor> {
        self.changes.parameters.get(&self.config.name(part)).cloned()
    }

    /// What tokens become.
    ///
    /// # Errors
    /// Weights that are damaged or not finite.
    pub fn embedding(&self) -> Result<Embedding> {
        match &self.weights {
            Weights::Resident { embedding, .. } => Ok(embedding.clone()),
            Weights::Streamed(checkpoint) => {
                let changed = self.streamed(Part::Embedding);
                let words = match changed {
                    Some(words) => words,
                    None => load_outer(checkpoint, Part::Embedding, &self.placement)?,
                };
                let positions = match self.streamed(Part::Positions) {
                    Some(positions) => Some(positions),
                    None => load_positions(checkpoint, &self.placement)?,
                };
                Ok(Embedding { words, positions })
            }
        }
    }

    /// The final norm, `[H]`.
    ///
    /// # Errors
    /// Weights that are damaged or not finite.
    pub fn final_norm(&self) -> Result<Norm> {
        match &self.weights {
            Weights::Resident { norm, .. } => Ok(norm.clone()),
            Weights::Streamed(checkpoint) => {
                let mut norm = load_norm(checkpoint, FINAL_NORM, &self.placement)?;
                if let Some(weight) = self.streamed(Part::FinalNorm) {
                    norm.weight = as_factor(&weight, self.config.family())?;
                }
                if let Some(bias) = self.streamed(Part::FinalNormBias) {
                    norm.bias = Some(bias);
                }
                Ok(norm)
            }
        }
    }

    /// What comes after the last block.
    ///
    /// # Errors
    /// Weights that are damaged or not finite.
    pub fn ending(&self) -> Result<Ending> {
        let divisor = self.config.logit_divisor;
        Ok(Ending { norm: self.final_norm()?, divisor, head: self.head()? })
    }

    /// The output projection, `[V, H]`; the embedding where they are tied.
    ///
    /// # Errors
    /// Weights that are damaged or not finite.
    pub fn head(&self) -> Result<Head> {
        let weight = match &self.weights {
            Weights::Resident { head, .. } => return Ok(head.clone()),
            Weights::Streamed(checkpoint) => {
                let part = head_part(&self.config);
                match self.streamed(part) {
                    Some(weight) => weight,
                    None => load_outer(checkpoint, part, &self.placement)?,
                }
            }
        };
        Ok(Head::new(&weight, self.config.logit_cap))
    }

    /// Cosines and sines of positions `start..start + tokens`.
    ///
    /// # Errors
    /// More positions than the model was made for.
    pub fn positions(&self, start: usize, tokens: usize) -> Result<Rotations> {
        self.check_positions(start + tokens)?;
        Ok(self.rotary.positions(start, tokens)?)
    }

    /// Refuses more positions than the model was made for.
    fn check_positions(&self, found: usize) -> Result<()> {
        let (limit, made_for) = (self.config.longest(), self.config.max_position_embeddings);
        if found > limit {
            return Err(Error::Tokens(match limit == made_for {
                true => format!("{found} positions, but the model was made for at most {limit}"),
                false => format!(
                    "{found} positions, but beyond {limit} the model rotates otherwise, which is \
                     not run"
                ),
            }));
        }
        Ok(())
    }

    /// Cosines and sines of the position of every row.
    pub(crate) fn positions_of(&self, places: Vec<u32>) -> Result<Rotations> {
        let longest = places.iter().max().map_or(0, |&last| last as usize + 1);
        let all = self.positions(0, longest)?;
        let rows = places.len();
        Ok(all.rows(&Tensor::from_vec(places, rows, &self.placement.device)?)?)
    }

    /// The token ids of equally long sequences as a tensor on the model's
    /// device, checked against the vocabulary.
    ///
    /// # Shapes
    /// `B` sequences of `T` ids → u32 `[B, T]`.
    ///
    /// # Errors
    /// No sequences, unequal lengths, or an id outside the vocabulary.
    pub fn tokens(&self, sequences: &[impl AsRef<[u32]>]) -> Result<Tensor> {
        let length = sequences.first().map_or(0, |s| s.as_ref().len());
        if length == 0 {
            return Err(Error::Tokens("expected at least one token, found none".into()));
        }
        let mut ids = Vec::with_capacity(sequences.len() * length);
        for (index, sequence) in sequences.iter().enumerate() {
            let sequence = sequence.as_ref();
            if sequence.len() != length {
                return Err(Error::Tokens(format!(
                    "sequence {index} has {} tokens, the first has {length}",
                    sequence.len()
                )));
            }
            if let Some(id) = sequence.iter().find(|&&id| id as usize >= self.config.vocab_size) {
                return Err(Error::Tokens(format!(
                    "sequence {index} has token id {id}, but the vocabulary ends at {}",
                    self.config.vocab_size
                )));
            }
            ids.extend_from_slice(sequence);
        }
        Ok(Tensor::from_vec(ids, (sequences.len(), length), &self.placement.device)?)
    }

    /// Embeds token ids.
    ///
    /// # Shapes
    /// u32 `[B, T]` → `[B, T, H]`.
    ///
    /// # Errors
    /// More positions than the model has, or no memory.
    pub fn embed(&self, embedding: &Embedding, ids: &Tensor, places: Places<'_>) -> Result<Tensor> {
        let (b, t) = ids.dims2()?;
        let rows = embedding.words.index_select(&ids.flatten_all()?, 0)?;
        let rows = rows.to_dtype(self.placement.activations())?;
        let scale = self.config.embedding_scale;
        let rows = if scale == 1.0 { rows } else { (rows * scale)? };
        let rows = rows.reshape((b, t, self.config.hidden_size))?;
        let Some(positions) = &embedding.positions else { return Ok(rows) };
        let places = self.position_rows(places, t)?;
        let positions = positions.index_select(&places, 0)?.to_dtype(rows.dtype())?;
        Ok(rows.broadcast_add(&positions)?)
    }

    /// The rows of the learned positions of `tokens` tokens.
    ///
    /// # Shapes
    /// u32 `[T]`.
    pub(crate) fn position_rows(&self, places: Places<'_>, tokens: usize) -> Result<Tensor> {
        let offset = match self.config.family().positions {
            Positions::Rotary => 0,
            Positions::Learned { offset, .. } => offset as u32,
        };
        let rows: Vec<u32> = match places {
            Places::From(start) => {
                self.check_positions(start + tokens)?;
                (start as u32 + offset..(start + tokens) as u32 + offset).collect()
            }
            Places::Each(places) => {
                self.check_positions(places.iter().max().map_or(0, |&last| last as usize + 1))?;
                places.iter().map(|place| place + offset).collect()
            }
        };
        Ok(Tensor::from_vec(rows, tokens, &self.placement.device)?)
    }

    /// The embedded tokens: what enters the first layer.
    ///
    /// # Shapes
    /// u32 `[B, T]` → `[B, T, H]`.
    ///
    /// # Errors
    /// More positions than the model has, damaged weights, or no memory.
    pub fn embedded(&self, ids: &Tensor, places: Places<'_>) -> Result<Tensor> {
        self.embed(&self.embedding()?, ids, places)
    }

    /// Some layers, one after the other, on the residual stream that enters the
    /// first of them; positions begin at 0.
    ///
    /// # Shapes
    /// `[B, T, H]` → `[B, T, H]`.
    ///
    /// # Errors
    /// As [`Decoder::hidden`].
    pub fn through(&self, x: &Tensor, layers: std::ops::Range<usize>) -> Result<Tensor> {
        let (_, t, _) = x.dims3()?;
        let rotations = self.positions(0, t)?;
        let pass = Pass::of(&rotations);
        let mut x = x.clone();
        for layer in layers {
            x = self.block(layer)?.forward(&x, &pass, None)?;
        }
        Ok(x)
    }

    /// Hidden states after the last block, before the final norm; with
    /// `cache`, `ids` continue what the cache holds.
    ///
    /// # Shapes
    /// u32 `[B, T]` → `[B, T, H]`.
    ///
    /// # Errors
    /// More positions than the model has, damaged weights, or no memory.
    pub fn hidden(&self, ids: &Tensor, mut cache: Option<&mut KvCache>) -> Result<Tensor> {
        let (_, t) = ids.dims2()?;
        let start = cache.as_ref().map_or(0, |c| c.tokens);
        let rotations = self.positions(start, t)?;
        let pass = Pass::of(&rotations);
        let mut x = self.embedded(ids, Places::From(start))?;
        for layer in 0..self.config.layers.len() {
            let slot = cache.as_deref_mut().map(|c| {
                c.layers.resize_with(self.config.layers.len(), || None);
                &mut c.layers[layer]
            });
            x = self.block(layer)?.forward(&x, &pass, slot)?;
        }
        if let Some(cache) = cache {
            cache.tokens += t;
        }
        Ok(x)
    }

    /// Scores of the next token at every position.
    ///
    /// # Shapes
    /// u32 `[B, T]` → `[B, T, V]`.
    ///
    /// # Errors
    /// As [`Decoder::hidden`].
    pub fn logits(&self, ids: &Tensor) -> Result<Tensor> {
        let hidden = self.hidden(ids, None)?;
        let ending = self.ending()?;
        Ok(ending.head.logits(&ending.read(&hidden)?)?)
    }

    /// Scores of the token after the last position, `ids` continuing `cache`.
    ///
    /// # Shapes
    /// u32 `[B, T]` → f32 `[B, V]`.
    ///
    /// # Errors
    /// As [`Decoder::hidden`].
    pub fn next_logits(&self, ids: &Tensor, cache: &mut KvCache) -> Result<Tensor> {
        let (_, t) = ids.dims2()?;
        let last = self.hidden(ids, Some(cache))?.narrow(1, t - 1, 1)?.squeeze(1)?;
        let ending = self.ending()?;
        let last = ending.read(&last.contiguous()?)?;
        Ok(ending.head.logits(&last)?.to_dtype(DType::F32)?)
    }

    /// Scores of the token after one sequence that continues `cache`, on the host: `V` numbers.
    ///
    /// # Errors
    /// No tokens, or as [`Decoder::hidden`].
    pub fn next_row(&self, ids: &[u32], cache: &mut KvCache) -> Result<Vec<f32>> {
        let logits = self.next_logits(&self.tokens(&[ids])?, cache)?;
        Ok(logits.flatten_all()?.to_vec1()?)
    }

    /// Negative log-likelihood of every token but the first, given those
    /// before it, in nats; the logits are never held as a whole.
    ///
    /// # Shapes
    /// u32 `[B, T]` → f32 `[B, T−1]`.
    ///
    /// # Errors
    /// Fewer than two tokens, or as [`Decoder::hidden`].
    pub fn nll(&self, ids: &Tensor) -> Result<Tensor> {
        let hidden = self.hidden(ids, None)?;
        self.nll_of_hidden(&hidden, ids)
    }

    /// [`Decoder::nll`] from hidden states before the final norm
    /// (differentiable in them).
    ///
    /// # Shapes
    /// `[B, T, H]`, u32 `[B, T]` → f32 `[B, T−1]`.
    ///
    /// # Errors
    /// Fewer than two tokens, or no memory.
    pub fn nll_of_hidden(&self, hidden: &Tensor, ids: &Tensor) -> Result<Tensor> {
        next_token_nll(hidden, ids, &self.ending()?)
    }
}

/// What comes after the last block: its norm, and the output projection of what that gives,
/// divided.
#[derive(Clone)]
pub struct Ending {
    /// Norm of the last hidden states, `[H]`.
    pub norm: Norm,
    /// Divisor of the logits.
    pub divisor: f64,
    /// The output projection, `[V, H]`.
    pub head: Head,
}

impl Ending {
    /// What the output projection reads.
    ///
    /// # Shapes
    /// `[.., H]` → `[.., H]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn read(&self, hidden: &Tensor) -> CandleResult<Tensor> {
        let normed = self.norm.apply(hidden)?;
        if self.divisor == 1.0 { Ok(normed) } else { normed / self.divisor }
    }
}

/// Next-token losses from hidden states before the final norm.
pub(crate) fn next_token_nll(hidden: &Tensor, ids: &Tensor, ending: &Ending) -> Result<Tensor> {
    let (b, t, h) = hidden.dims3()?;
    if t < 2 {
        return Err(Error::Tokens(format!(
            "expected sequences of at least 2 tokens to predict one, found {t}"
        )));
    }
    let x = hidden.narrow(1, 0, t - 1)?.reshape((b * (t - 1), h))?;
    let x = ending.read(&x)?;
    let targets = ids.narrow(1, 1, t - 1)?.flatten_all()?;
    let nll = adapruner_kernels::linear_cross_entropy(&x, &ending.head, &targets)?;
    Ok(nll.reshape((b, t - 1))?)
}

/// The final norm's weight and bias.
const FINAL_NORM: [Part; 2] = [Part::FinalNorm, Part::FinalNormBias];

/// What the output projection is: the embedding where they are tied.
pub(crate) fn head_part(config: &ModelConfig) -> Part {
    if config.tie_word_embeddings { Part::Embedding } else { Part::Head }
}

fn load_outer(checkpoint: &Checkpoint, part: Part, placement: &Placement) -> Result<Tensor> {
    let name = checkpoint.config.name(part);
    Ok(checkpoint.tensors.load(&name, placement.dtype, &placement.device)?)
}

fn load_positions(checkpoint: &Checkpoint, placement: &Placement) -> Result<Option<Tensor>> {
    let there = checkpoint.config.learned_positions().is_some();
    there.then(|| load_outer(checkpoint, Part::Positions, placement)).transpose()
}

fn load_embedding(checkpoint: &Checkpoint, placement: &Placement) -> Result<Embedding> {
    let words = load_outer(checkpoint, Part::Embedding, placement)?;
    Ok(Embedding { words, positions: load_positions(checkpoint, placement)? })
}
