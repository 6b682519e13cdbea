//! Cuts that are spread by measured losses.

use std::path::Path;

use adapruner_checkpoint::Checkpoint;
use adapruner_eval::{Stepwise, perplexity};
use adapruner_model::{Decoder, Placement, Residency};
use adapruner_prune::{LayerPlan, PrunePlan, apply};
use serde_json::Value;
use tempfile::tempdir;

use crate::program::{fail, json, model, tiny};

/// The same sums in another order, in f32.
const SAME: f64 = 1e-5;

fn number(value: &Value, path: &str) -> f64 {
    value.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} in {value}"))
}

/// After every change the loss is that of the model made in one piece, held in memory or not.
#[test]
fn a_model_cut_step_by_step_is_the_model_cut_at_once() {
    for name in ["tiny", "gemma3"] {
        let dense = Checkpoint::open(&model(name)).unwrap();
        let config = &dense.config;
        let windows: Vec<Vec<u32>> = (0..3)
            .map(|w| (0..17).map(|t| (w * 7 + t * 3) % config.vocab_size as u32).collect())
            .collect();
        let load =
            |of: &Checkpoint, residency| Decoder::load(of, &Placement::cpu(), residency).unwrap();
        let right = |of: &Checkpoint| {
            perplexity(&load(of, Residency::Resident), &windows, 4096, &|_, _| ()).unwrap().nll
        };
        let close = |found: f64, of: &Checkpoint| {
            let right = right(of);
            assert!((found - right).abs() < SAME * right, "{name}: {found} {right}");
        };
        for residency in [Residency::Resident, Residency::Streamed] {
            let mut model = Stepwise::new(load(&dense, residency), &windows).unwrap();
            close(model.loss(), &dense);
            let whole = || config.layers.iter().map(LayerPlan::whole).collect::<Vec<_>>();
            let mut kept = whole();
            let half = |layer: usize| LayerPlan {
                ffn: (0..config.layers[layer].ffn / 2).collect(),
                ..LayerPlan::whole(&config.layers[layer])
            };
            let bare = LayerPlan { ffn: half(1).ffn, ..LayerPlan::NOTHING };
            for (layer, cut) in [
                (1, half(1)),
                (3, LayerPlan::NOTHING),
                (0, half(0)),
                (1, bare),
                (1, LayerPlan::NOTHING),
            ] {
                let mut alone = whole();
                alone[layer] = cut.clone();
                let digest = dense.digest().unwrap();
                let of =
                    |layers| apply(&dense, &PrunePlan::keeping(config, digest, layers)).unwrap();
                let gone = cut == LayerPlan::NOTHING;
                let trial = match gone {
                    true => model.measure(layer, None).unwrap(),
                    false => model.measure(layer, Some(&of(alone))).unwrap(),
                };
                kept[layer] = cut;
                let all = of(kept.clone());
                close(trial.loss(), &all);
                model.take(trial);
                close(model.loss(), &all);
            }
        }
    }
}

const LINE: &str = "prune {model} --ratio 0.25 --calibration {text} --samples 12 --sample-tokens 48 \
                    --save-dtype f32 --out {out} --force --fast ";

#[test]
fn a_measured_cut_meets_its_budget_and_loses_less() {
    let (dir, tiny) = (tempdir().unwrap(), tiny());
    let (out, text) = (dir.path().join("out"), tiny.join("calibration.txt"));
    let paths = [("model", &*tiny), ("text", &*text), ("out", &*out)];
    let run = |options: &str| json(&format!("{LINE}{options}"), &paths)["manifest"].clone();
    let measured = run("--allocation measured");
    let share = 1.0 - number(&measured, "/parameters") / number(&measured, "/model/parameters");
    assert!((share - 0.25).abs() < 0.005, "{share}");
    assert_eq!(measured["settings"]["measured"], 32);
    assert_eq!(number(&measured, "/allocation/samples/windows"), 12.0);
    let chosen = measured["settings"]["recipe"]["options"].to_string();
    assert!(!chosen.contains("--protect"), "{chosen}");
    let steps = measured["allocation"]["steps"].as_array().unwrap();
    let removed: f64 = steps.iter().map(|step| number(step, "/parameters")).sum();
    let goal = 0.25 * number(&measured, "/model/parameters");
    assert!((removed - goal).abs() < 0.1 * goal, "{removed} {goal}");
    assert_eq!(run("--allocation measured")["plan"], measured["plan"], "deterministic");
    // What was measured is what the plan's loss is on such samples.
    let held_out = |manifest: &Value| number(manifest, "/held_out/after/nll");
    let local = run("--protect 0,0");
    assert!(held_out(&measured) < held_out(&local), "{} {}", held_out(&measured), held_out(&local));
    // Layers that are spared stay whole.
    let spared = run("--allocation measured --protect 1,1");
    for layer in [0, 3] {
        let kept = &spared["plan"]["layers"][layer];
        assert_eq!(kept["ffn"].as_array().unwrap().len(), 128);
        assert_eq!(kept["query_heads"].as_array().unwrap().len(), 4);
    }
    // Masks are learned within it.
    let masks = "--allocation measured --learn-masks 2 --mask-samples 24 --mask-tokens 16";
    assert_eq!(run(masks)["parameters"], measured["parameters"]);
    check_refusals(&paths);
}

fn check_refusals(paths: &[(&str, &Path)]) {
    for options in ["--layout uniform", "--sensitivity", "--drop-attention 1"] {
        let error = fail(&format!("{LINE}--allocation measured {options}"), paths);
        assert!(error.contains("do not go with"), "{error}");
    }
    for options in ["--allocation-samples 3", "--allocation measured --allocation-samples 0"] {
        let error = fail(&format!("{LINE}{options}"), paths);
        assert!(error.contains("allocation-samples: "), "{error}");
    }
}
