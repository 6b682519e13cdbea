//! Which tokens go, and the model without them.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use adapruner_checkpoint::{Checkpoint, LayerWidths, ModelConfig, tokenizer::TextTokenizer};
use adapruner_model::{Decoder, Placement, Residency};
use adapruner_prune::{LayerPlan, PrunePlan, VocabularyPlan, apply, mask, vocabulary::Ranking};
use candle_core::{Device, Tensor};
use serde_json::Value;

use crate::common::{config, random_checkpoint, widths};

/// The same products in other sizes of matrices, in f32: logits near 1.
const TOLERANCE: f32 = 1e-5;

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn json(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixtures().join(path)).unwrap()).unwrap()
}

fn tokenizer(family: &str) -> TextTokenizer {
    TextTokenizer::from_hf_folder(&fixtures().join("tokenizers").join(family)).unwrap()
}

fn texts() -> Vec<String> {
    serde_json::from_value(json("tokenizers/texts.json")).unwrap()
}

/// A random model with a real tokenizer; five rows have no token.
fn model(family: &str, tied: bool) -> Checkpoint {
    let tokenizer = tokenizer(family);
    let config = ModelConfig {
        vocab_size: tokenizer.vocab_size() + 5,
        bos_token_id: tokenizer.bos_id(),
        eos_token_ids: tokenizer.eos_id().into_iter().collect(),
        tie_word_embeddings: tied,
        ..config(vec![widths(6, 2, 17), widths(4, 4, 11)])
    };
    Checkpoint { tokenizer: Arc::new(tokenizer), ..random_checkpoint(&config, 3) }
}

fn counts(tokenizer: &TextTokenizer, texts: &[String]) -> Vec<u64> {
    let mut counts = vec![0; tokenizer.vocab_size()];
    for id in texts.iter().flat_map(|text| tokenizer.encode_plain(text).unwrap()) {
        counts[id as usize] += 1;
    }
    counts
}

fn ranking(checkpoint: &Checkpoint) -> Ranking {
    let counts = counts(&checkpoint.tokenizer, &texts());
    Ranking::new(&checkpoint.vocabulary().unwrap(), &counts)
}

/// `[T, V]`
fn logits(checkpoint: &Checkpoint, ids: &[u32]) -> Vec<Vec<f32>> {
    let decoder = Decoder::load(checkpoint, &Placement::cpu(), Residency::Resident).unwrap();
    let ids = Tensor::from_vec(ids.to_vec(), (1, ids.len()), &Device::Cpu).unwrap();
    decoder.logits(&ids).unwrap().squeeze(0).unwrap().to_vec2().unwrap()
}

#[test]
fn a_trimmed_model_computes_the_kept_logits_of_the_whole_one() {
    for (family, tied) in [("smollm", true), ("llama-spm", false), ("qwen2", false)] {
        let whole = model(family, tied);
        let ranking = ranking(&whole);
        let kept = ranking.keep(ranking.least() + 40).unwrap();
        let vocabulary = VocabularyPlan::new(kept.clone(), whole.config.vocab_size, 32).unwrap();
        let rows = vocabulary.rows;
        assert!(rows > kept.len() && rows.is_multiple_of(32));
        let alone =
            PrunePlan::of_vocabulary(&whole.config, whole.digest().unwrap(), vocabulary.clone());
        let trimmed = apply(&whole, &alone).unwrap();
        assert_eq!(trimmed.config.parameters(), alone.parameters_after);
        let ids: Vec<u32> = trimmed.tokenizer.encode("The mountains, 人 and 12.").unwrap();
        let old: Vec<u32> = ids.iter().map(|id| kept[*id as usize]).collect();
        let (before, after) = (logits(&whole, &old), logits(&trimmed, &ids));
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(after.len(), rows);
            for (new, old) in kept.iter().enumerate() {
                assert!((after[new] - before[*old as usize]).abs() < TOLERANCE, "{family}");
            }
            // Padding is the mean of the others, and never the largest.
            let mean = after[..kept.len()].iter().sum::<f32>() / kept.len() as f32;
            let most = after[..kept.len()].iter().fold(f32::MIN, |a, b| a.max(*b));
            for padding in &after[kept.len()..] {
                assert!((padding - mean).abs() < TOLERANCE && *padding < most, "{family}");
            }
        }
        for id in trimmed.config.eos_token_ids.iter().chain(&trimmed.config.bos_token_id) {
            assert!(trimmed.tokenizer.special_ids().contains(id), "{family}");
        }
        // With layers cut as well: what the masked model computes, with these tokens.
        let cut = |widths: &LayerWidths| {
            let mut kept = LayerPlan::whole(widths);
            kept.ffn.retain(|channel| channel % 3 != 1);
            kept
        };
        let layers = trimmed.config.layers.iter().map(cut).collect();
        let layers = PrunePlan::keeping(&trimmed.config, trimmed.digest().unwrap(), layers);
        let digest = whole.digest().unwrap();
        let both = layers.clone().after_vocabulary(&whole.config, digest, vocabulary, Some(0.4));
        both.validate(&whole.config).unwrap();
        assert_eq!(PrunePlan::from_json(both.to_json().unwrap().as_bytes()).unwrap(), both);
        let (sliced, masked) = (apply(&whole, &both).unwrap(), mask(&whole, &both).unwrap());
        let (a, b) = (logits(&sliced, &ids), logits(&masked, &ids));
        let c = logits(&apply(&trimmed, &layers).unwrap(), &ids);
        for ((a, b), c) in a.iter().flatten().zip(b.iter().flatten()).zip(c.iter().flatten()) {
            assert!((a - b).abs() < 1e-4 && (a - c).abs() < TOLERANCE, "{family}: {a} {b} {c}");
        }
    }
}

#[test]
fn vocabularies_are_beginnings_of_one_order_and_closed() {
    for family in ["smollm", "llama-bpe", "llama-spm"] {
        let whole = model(family, true);
        let (ranking, vocabulary) = (ranking(&whole), whole.vocabulary().unwrap());
        let mut larger: Option<BTreeSet<u32>> = None;
        for tokens in (ranking.least()..=ranking.most()).rev().step_by(7) {
            let kept: BTreeSet<u32> = ranking.keep(tokens).unwrap().into_iter().collect();
            assert_eq!(kept.len(), tokens);
            assert!(larger.is_none_or(|larger| kept.is_subset(&larger)));
            for id in &kept {
                assert!(vocabulary.needs(*id).iter().all(|need| kept.contains(need)), "{family}");
            }
            larger = Some(kept);
        }
        // What no text uses goes first, for nothing.
        assert_eq!(ranking.steps()[0].cost, 0);
        let growths = ranking.growths_of(&counts(&whole.tokenizer, &texts()));
        assert!(growths.windows(2).all(|pair| pair[0] <= pair[1]));
        assert!((growths[growths.len() - 1] - ranking.growth(0)).abs() < 1e-12);
        for tolerance in [0.0, 0.01, 0.1, 1e9] {
            let counts = counts(&whole.tokenizer, &texts());
            let tokens = ranking.within(&counts, tolerance);
            assert!(ranking.growth(tokens) <= tolerance);
            assert!(tokens == ranking.least() || ranking.growth(tokens - 1) > tolerance);
        }
    }
}

/// The order's own count of tokens is about what the tokenizer makes of the text then, and no
/// vocabulary by frequency alone (reference/trim_vocabulary.py) of the same size does better.
#[test]
fn the_ranking_is_no_worse_than_by_frequency() {
    let mut better = 0;
    for family in ["smollm", "qwen2", "tekken", "llama-spm", "llama-spm-no-prefix"] {
        let whole = model(family, true);
        let fixture = json(&format!("vocabulary/{family}.json"));
        let theirs: Vec<u32> = serde_json::from_value(fixture["kept"].clone()).unwrap();
        // Without what the chat template needs, which the reference does not keep.
        let ranking = ranking(&whole);
        let tokens = theirs.len().max(ranking.least());
        let ours = ranking.keep(tokens).unwrap();
        let length = |kept: &[u32]| {
            let trimmed = whole.tokenizer.trimmed(kept, kept.len()).unwrap();
            counts(&trimmed, &texts()).iter().sum::<u64>() as f64
        };
        let all = counts(&whole.tokenizer, &texts()).iter().sum::<u64>() as f64;
        let (found, right) = (length(&ours), length(&theirs));
        assert!(found <= right * 1.01, "{family}: {found} {right}");
        better += u32::from(found < right);
        let foretold = all * (1.0 + ranking.growth(tokens));
        assert!((found / foretold - 1.0).abs() < 0.05, "{family}: {found} {foretold}");
    }
    assert!(better > 0);
}

#[test]
fn plans_that_do_not_fit_are_refused() {
    let whole = model("smollm", true);
    let (config, digest) = (&whole.config, whole.digest().unwrap());
    let rows = config.vocab_size;
    let of = |kept: Vec<u32>, rows| {
        PrunePlan::of_vocabulary(config, digest, VocabularyPlan { kept, rows })
    };
    for (kept, size, said) in [
        (vec![3, 2], 2, "ascending ids"),
        (vec![], 0, "at least 1 kept token"),
        (vec![1, 2], 1, "do not fit"),
        (vec![1, rows as u32], 2, "is kept, but the model has"),
        (vec![1, 2], rows + 1, "requested ratio"),
    ] {
        let error = of(kept, size).validate(config).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    // One that leaves out a token that must stay.
    let ranking = ranking(&whole);
    let mut kept = ranking.keep(ranking.least()).unwrap();
    kept.retain(|id| Some(*id) != whole.config.bos_token_id);
    let size = kept.len();
    assert!(apply(&whole, &of(kept, size)).is_err());
    let few = ranking.keep(ranking.least() - 1).unwrap_err();
    assert!(few.to_string().contains("bytes, special") && few.hint().is_some());
    assert!(ranking.keep(rows).is_err());
    // A plan of before vocabularies reads as one that keeps all tokens.
    let layers = config.layers.iter().map(LayerPlan::whole).collect();
    let plan = PrunePlan::keeping(config, digest, layers);
    assert!(!plan.to_json().unwrap().contains("vocabulary"));
}
