//! A model with part of its vocabulary: rows of the embedding and the head, and every
//! id that a file of the model names.
//!
//! Axes: `V` vocabulary before, `W` kept tokens, `R` rows after (`W` and padding), `H`
//! hidden.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use serde_json::Value as Json;

use crate::{
    checkpoint::{Checkpoint, TensorMeta, TensorSource},
    config::ModelConfig,
    digest::Digest,
    error::{Error, Result},
    names::Part,
    tokenizer::{
        trimmed::{Kept, generation_config},
        vocabulary::Vocabulary,
    },
};

impl Checkpoint {
    /// What of the vocabulary must stay: see
    /// [`TextTokenizer::vocabulary`](crate::tokenizer::TextTokenizer::vocabulary).
    ///
    /// # Errors
    /// A tokenizer that cannot lose pieces, by name; an id of the configuration without a
    /// token.
    pub fn vocabulary(&self) -> Result<Vocabulary> {
        let ModelConfig { bos_token_id, eos_token_ids, pad_token_id, vocab_size, .. } =
            &self.config;
        let mut named = eos_token_ids.clone();
        named.extend(bos_token_id.iter().chain(pad_token_id));
        for (key, value) in self.generation_config.iter().filter_map(Json::as_object).flatten() {
            let lists = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
            let ids = lists.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok());
            if key.ends_with("_token_id") {
                named.extend(ids.filter(|id| (*id as usize) < *vocab_size));
            }
        }
        if let Some(passed) = &self.pass_through {
            named.extend(passed.token_ids(*vocab_size));
        }
        self.tokenizer.vocabulary(*vocab_size, &named)
    }

    /// The same model with the tokens `kept` alone (ascending ids), which become 0, 1, …,
    /// in a vocabulary of `rows`, at least as many as are kept.
    ///
    /// Rows beyond the kept ones belong to no token. They are the mean of the kept rows:
    /// their logit is the mean of all others', so never the largest of them. They are in
    /// the generation config's `suppress_tokens` too.
    ///
    /// # Errors
    /// Ids that do not ascend or have no token, one that the configuration names left out,
    /// too few rows, a tokenizer that cannot lose tokens.
    pub fn with_vocabulary(&self, kept: &[u32], rows: usize) -> Result<Self> {
        let refuse =
            |message: String| Error::unsupported(&self.origin, format!("vocabulary: {message}"));
        if kept.is_empty() || rows < kept.len() {
            let count = kept.len();
            return Err(refuse(format!("{count} tokens do not fill {rows} rows")));
        }
        let ids = Kept::new(kept, self.config.vocab_size).map_err(refuse)?;
        let of = |id: u32| {
            ids.get(id)
                .ok_or_else(|| refuse(format!("id {id}, which the configuration names, goes")))
        };
        let config = ModelConfig {
            vocab_size: rows,
            bos_token_id: self.config.bos_token_id.map(of).transpose()?,
            eos_token_ids: self
                .config
                .eos_token_ids
                .iter()
                .map(|id| of(*id))
                .collect::<Result<_>>()?,
            pad_token_id: self.config.pad_token_id.map(of).transpose()?,
            ..self.config.clone()
        };
        // In range: they were counted as rows.
        let padding = kept.len() as u32..rows as u32;
        let tokenizer = self.tokenizer.trimmed(kept, rows)?;
        let bytes: Vec<u8> = kept.iter().flat_map(|id| id.to_le_bytes()).collect();
        let digest = Digest::of_parts([
            ("trimmed", self.digest()?.as_bytes().as_slice()),
            ("rows", (rows as u64).to_le_bytes().as_slice()),
            ("kept", bytes.as_slice()),
        ]);
        let family = self.config.family();
        let by_token = [Part::Embedding, Part::Head].map(|part| part.name(family));
        let source = TrimmedSource {
            base: self.tensors.clone(),
            by_token: by_token.into_iter().flatten().collect(),
            kept: kept.into(),
            rows,
            digest,
        };
        let before = self.config.vocab_size;
        let passed = self.pass_through.as_ref();
        Ok(Self {
            pass_through: passed.map(|passed| Arc::new(passed.renumbered(&ids, before))),
            generation_config: generation_config(self.generation_config.as_ref(), &ids, padding),
            tokenizer: Arc::new(tokenizer),
            tensors: Arc::new(source),
            config,
            origin: self.origin.clone(),
        })
    }
}

/// A model's tensors with some rows of the embedding and the head.
struct TrimmedSource {
    base: Arc<dyn TensorSource>,
    /// Tensors that have a row for each token.
    by_token: Vec<String>,
    /// `[W]`
    kept: Arc<[u32]>,
    /// `R`
    rows: usize,
    digest: Digest,
}

impl TrimmedSource {
    /// Whether a tensor has a row for each token.
    fn has_rows(&self, name: &str) -> bool {
        self.by_token.iter().any(|own| own == name)
    }
}

impl TensorSource for TrimmedSource {
    fn names(&self) -> Vec<String> {
        self.base.names()
    }

    fn meta(&self, name: &str) -> Option<TensorMeta> {
        let mut meta = self.base.meta(name)?;
        if self.has_rows(name) {
            let before = meta.shape.first_mut()?;
            let bytes = u128::from(meta.bytes) * self.rows as u128 / (*before).max(1) as u128;
            meta.bytes = bytes as u64;
            *before = self.rows;
        }
        Some(meta)
    }

    /// # Shapes
    /// Of what has a row for each token: `[V, H]` before, `[R, H]` here.
    fn load(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let whole = self.base.load(name, dtype, device)?;
        if !self.has_rows(name) {
            return Ok(whole);
        }
        let kept = Tensor::new(&*self.kept, whole.device())?;
        let rows = whole.index_select(&kept, 0)?;
        let padding = self.rows - self.kept.len();
        if padding == 0 {
            return Ok(rows);
        }
        let mean = rows.to_dtype(DType::F32)?.mean_keepdim(0)?.to_dtype(dtype)?;
        let mean = mean.broadcast_as((padding, rows.dim(1)?))?;
        Ok(Tensor::cat(&[&rows, &mean.contiguous()?], 0)?)
    }

    fn digest(&self) -> Result<Digest> {
        Ok(self.digest)
    }
}
