//! Models with random weights, held in memory: for examples and tests.

use std::{collections::BTreeMap, sync::Arc};

use candle_core::{DType, Device, Tensor};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::{
    checkpoint::{Checkpoint, TensorMeta, TensorSource},
    config::ModelConfig,
    digest::{Digest, Parts},
    error::{Error, Result},
    names::expected_tensors,
    tokenizer::TextTokenizer,
};

/// Where such a model is said to come from.
const ORIGIN: &str = "random";

impl Checkpoint {
    /// A model of `config` with random f32 weights that follow from `seed`. Its tokenizer has one
    /// token for each of the words `t0`, `t1`, … `t{V-1}`.
    ///
    /// Vectors other than biases are drawn around 1, matrices so that activations stay near 1.
    ///
    /// ```
    /// use adapruner_checkpoint::{Architecture, Checkpoint, LayerWidths, ModelConfig};
    ///
    /// let widths = LayerWidths { query_heads: 4, kv_heads: 2, ffn: 96 };
    /// let config = ModelConfig::new(Architecture::Llama, 32, 8, 100, vec![widths; 2]);
    /// let model = Checkpoint::random(config, 1)?;
    /// assert_eq!(model.tokenizer.encode("t3 t14")?, [3, 14]);
    /// # Ok::<(), adapruner_checkpoint::Error>(())
    /// ```
    ///
    /// # Errors
    /// A vocabulary without tokens.
    pub fn random(config: ModelConfig, seed: u64) -> Result<Self> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut digest = Parts::default();
        let mut tensors = BTreeMap::new();
        for expected in expected_tensors(&config) {
            let count: usize = expected.shape.iter().product();
            let range = match expected.shape[..] {
                [_] if expected.name.ends_with("bias") => -0.1..0.1,
                [_] => 0.5..1.5,
                [.., inputs] => {
                    let bound = 1.7 / (inputs.max(1) as f32).sqrt();
                    -bound..bound
                }
                [] => -1.0..1.0,
            };
            let values: Vec<f32> = (0..count).map(|_| random.random_range(range.clone())).collect();
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            digest.add(&expected.name, &bytes);
            let tensor = Tensor::from_vec(values, expected.shape, &Device::Cpu)?;
            tensors.insert(expected.name, tensor);
        }
        let vocabulary: serde_json::Map<String, serde_json::Value> =
            (0..config.vocab_size).map(|id| (format!("t{id}"), json!(id))).collect();
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "t0"}
        });
        let source = RandomSource { tensors, digest: digest.finish() };
        Ok(Self {
            config,
            tokenizer: Arc::new(TextTokenizer::from_json(tokenizer.to_string().into_bytes())?),
            generation_config: None,
            pass_through: None,
            tensors: Arc::new(source),
            origin: ORIGIN.into(),
        })
    }
}

struct RandomSource {
    tensors: BTreeMap<String, Tensor>,
    digest: Digest,
}

impl TensorSource for RandomSource {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn meta(&self, name: &str) -> Option<TensorMeta> {
        let tensor = self.tensors.get(name)?;
        let bytes = (tensor.elem_count() * DType::F32.size_in_bytes()) as u64;
        Some(TensorMeta { shape: tensor.dims().to_vec(), stored: "F32".into(), bytes })
    }

    fn load(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let tensor = self.tensors.get(name);
        let tensor = tensor.ok_or_else(|| Error::tensor(ORIGIN, name, "not in the model"))?;
        Ok(tensor.to_dtype(dtype)?.to_device(device)?)
    }

    fn digest(&self) -> Result<Digest> {
        Ok(self.digest)
    }
}
