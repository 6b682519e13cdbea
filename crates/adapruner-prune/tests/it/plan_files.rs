//! Plans as JSON: round trips, corruption, and the table.

use adapruner_prune::{Error, Layout, PlanOptions, PrunePlan, plan, plan::PlanRow};
use proptest::prelude::*;

use crate::common::{any_config, config, digest, plan_or_largest, random_scores, tried, widths};

fn example() -> (adapruner_checkpoint::ModelConfig, PrunePlan) {
    let config = config(vec![widths(6, 3, 20), widths(6, 3, 20), widths(6, 3, 20)]);
    let options = PlanOptions {
        attention_share: Some(0.4),
        drop_attention: vec![1],
        ..PlanOptions::new(0.3)
    };
    let plan = plan(&random_scores(&config, 1), &config, digest(), &options).unwrap();
    (config, plan)
}

#[test]
fn plans_read_back_as_written() {
    let (config, plan) = example();
    let json = plan.to_json().unwrap();
    let read = PrunePlan::from_json(json.as_bytes()).unwrap();
    assert_eq!(read, plan);
    read.validate(&config).unwrap();
    assert_eq!(read.digest().unwrap(), plan.digest().unwrap());
    for key in ["\"layers\":[{\"query_heads\":[", "\"kv_heads\":[", "\"ffn\":["] {
        assert!(json.contains(key), "{json}");
    }
}

#[test]
fn files_that_are_no_plans_are_refused() {
    let (_, plan) = example();
    let json = plan.to_json().unwrap();
    for (corrupt, what) in [
        (String::new(), "not a plan"),
        ("[]".to_owned(), "not a plan"),
        ("{}".to_owned(), "version"),
        (json.replace("\"version\":1", "\"version\":2"), "version 2"),
        (json.replace("\"version\":1", "\"version\":1,\"extra\":0"), "extra"),
        (json.replace("\"ffn\":[", "\"ffn\":[-1,"), "not a plan"),
        (json.replace("\"ffn\":[", "\"ffn\":[1e99,"), "not a plan"),
        (json.replace("\"layout\":\"per-layer\"", "\"layout\":\"diagonal\""), "diagonal"),
        (json.replace("\"layout\":\"per-layer\"", "\"layout\":\"uniform\""), "uniform"),
        (json.replace("\"requested_ratio\":0.3", "\"requested_ratio\":1.3"), "1.3"),
        (json.replace("\"multiple_of\":1", "\"multiple_of\":0"), "multiple_of"),
        (json[..json.len() / 2].to_owned(), "not a plan"),
    ] {
        assert_ne!(corrupt, json, "{what}");
        let message = PrunePlan::from_json(corrupt.as_bytes()).unwrap_err().to_string();
        assert!(message.contains(what), "{what}: {message}");
    }
}

#[test]
fn plans_that_do_not_fit_are_refused() {
    let (config, plan) = example();
    type Change = fn(&mut PrunePlan);
    let changes: [(Change, &str); 13] = [
        (|p| p.layers[0].ffn.push(20), "channel 20"),
        (|p| p.layers[0].ffn.swap(0, 1), "ascending"),
        (|p| p.layers[0].ffn[1] = p.layers[0].ffn[0], "ascending"),
        (|p| p.layers[0].ffn.clear(), "at least 1"),
        (|p| p.layers[0].kv_heads.clear(), "multiple"),
        (|p| p.layers[1].query_heads = vec![0], "multiple"),
        (|p| p.layers[1].kv_heads = vec![0], "multiple"),
        (
            |p| {
                p.layers[0].kv_heads = vec![0, 1];
                p.layers[0].query_heads = vec![0, 1, 2, 10];
            },
            "query head 10",
        ),
        (
            |p| {
                p.layers[2].kv_heads = vec![0, 2];
                p.layers[2].query_heads = vec![0, 2, 4, 5];
            },
            "not its key-value head 1",
        ),
        (
            |p| {
                p.layers[2].kv_heads = vec![0, 1, 2];
                p.layers[2].query_heads = vec![0, 1, 2];
            },
            "found 2 for key-value head 0",
        ),
        (
            |p| {
                p.layers.pop();
            },
            "3 layers",
        ),
        (|p| p.parameters_after += 1, "parameters after"),
        (|p| p.reached_ratio += 1e-6, "reached ratio"),
    ];
    for (change, what) in changes {
        let mut plan = plan.clone();
        change(&mut plan);
        let message = plan.validate(&config).unwrap_err().to_string();
        assert!(message.contains(what), "{what}: {message}");
    }
    assert!(matches!(plan.validate(&config), Ok(())));
}

#[test]
fn the_table_shows_what_changes() {
    let (config, plan) = example();
    let table = plan.table(&config).unwrap();
    assert_eq!(table.rows.len(), 3);
    let sum = |of: fn(&PlanRow) -> u64| table.rows.iter().map(of).sum();
    let (before, after): (u64, u64) = (sum(|r| r.parameters_before), sum(|r| r.parameters_after));
    assert_eq!(before - after, plan.parameters_before - plan.parameters_after);
    assert_eq!(table.rows[1].after.query_heads, 0);
    let text = table.to_string();
    assert!(text.contains("6 → 0") && text.contains("asked for 30.00 %"), "{text}");
    assert_eq!(text.lines().count(), 3 + 3, "{text}");
    let mut other = plan;
    other.layers[0].ffn.push(99);
    assert!(matches!(other.table(&config), Err(Error::Plan(_))));
}

#[test]
fn any_plan_survives_its_json() {
    const CASES: u32 = 256;
    let cut = tried(CASES, (any_config(), any::<u64>(), 0.01..0.5), |(config, seed, ratio)| {
        let options = PlanOptions { attention_share: None, ..PlanOptions::new(ratio) };
        let Some(plan) = plan_or_largest(&config, seed, &options)? else { return Ok(false) };
        let read = PrunePlan::from_json(plan.to_json().unwrap().as_bytes()).unwrap();
        prop_assert_eq!(&read, &plan);
        prop_assert_eq!(read.layout, Layout::PerLayer);
        read.validate(&config).unwrap();
        Ok(plan.parameters_after < plan.parameters_before)
    });
    assert!(cut > CASES / 2, "of {CASES} plans {cut} cut anything");
}

/// Units too coarse for a ratio: the largest ratio below it is offered, and no
/// dropped sublayer is blamed.
#[test]
fn a_ratio_that_units_overshoot_is_out_of_reach() {
    let config = adapruner_checkpoint::ModelConfig {
        hidden_size: 24,
        vocab_size: 50,
        tie_word_embeddings: true,
        ..config(vec![widths(2, 2, 1)])
    };
    let options = PlanOptions { attention_share: None, ..PlanOptions::new(0.1457740253332456) };
    let error = plan(&random_scores(&config, 0), &config, digest(), &options).unwrap_err();
    assert!(matches!(error, Error::Unreachable { largest, .. } if largest < 0.1457), "{error}");
}

proptest! {
    #[test]
    fn damaged_plans_never_panic(at in 0_usize..1000, byte in any::<u8>()) {
        let (config, plan) = example();
        let mut json = plan.to_json().unwrap().into_bytes();
        let at = at % json.len();
        json[at] = byte;
        if let Ok(plan) = PrunePlan::from_json(&json) {
            let _ = plan.validate(&config);
        }
    }
}
