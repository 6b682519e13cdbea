//! A page like those of real searches: 3 runs of 150 trials and a shorter one,
//! 30 layers, 128 samples. The same on every call.

use adapruner_report::{
    ArmRow, Best, BestValidation, CorrelationPoint, CorrelationRow, Correlations, CostRow,
    Estimate, Importance, LayerRow, Measured, ModelFacts, Models, Page, Recovery, Run, Sample,
    State, TestMedian, TextFacts, Trade, TradePoint, TrainingStep, TrialPoint, TrialsToMatch,
    Value, Width,
};

/// Numbers by splitmix64, uniform from 0 to 1.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Roughly normal, around 0 with a deviation of 1.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.next()).sum::<f64>() - 6.0
    }
}

fn run(label: &str, group: &str, seed: u64, trials: u64, learns: f64) -> Run {
    let mut numbers = Numbers(seed);
    let mut seconds = 42.0;
    let trials = (0..trials).map(|number| {
        // Where the search looks narrows as it learns.
        let width = 1.0 - learns * (number as f64 / trials as f64).sqrt();
        let mut near = |target: f64| (target + (numbers.next() - target) * width).clamp(0.0, 1.0);
        let (alpha, beta, share, protect) = (near(0.7), near(0.2), near(0.1), near(0.5));
        let (curve, fisher) = (near(0.45), near(0.6));
        let norm = ["none", "mean", "max", "sum", "rank"][(near(0.3) * 4.99) as usize];
        let aggregation = ["sum", "mean", "max"][(near(0.2) * 2.99) as usize];
        let fine = if near(0.8) > 0.4 { "per-sample" } else { "batch" };
        let loss = 4.52
            + 0.5 * (alpha - 0.7).powi(2)
            + 1.4 * (share - 0.1).powi(2)
            + 0.3 * (curve - 0.45).abs()
            + if norm == "none" { 0.12 } else { 0.0 }
            + 0.02 * numbers.normal().abs();
        let loss = if numbers.next() < 0.015 { loss + 3.0 + 4.0 * numbers.next() } else { loss };
        let state = match numbers.next() {
            chance if chance < 0.02 => State::Failed,
            _ if number + 1 == trials && seed == 3 => State::Running,
            chance if loss > 4.9 && chance < 0.7 && number > 10 => State::Pruned,
            _ => State::Complete,
        };
        seconds += if state == State::Pruned { 2.1 } else { 6.3 } + numbers.next();
        let values: [(&str, Value); 11] = [
            ("alpha_1", alpha.into()),
            ("beta_coarse", (10f64.powf(4.0 * beta - 4.0)).into()),
            ("beta_fine", fisher.into()),
            ("attention_share", (share * 0.4).into()),
            ("protect_first", ((protect * 5.0).round()).into()),
            ("depth_curve", (curve * 2.0 - 1.0).into()),
            ("normalisation", norm.into()),
            ("aggregation", aggregation.into()),
            ("fine", fine.into()),
            ("samples", (8.0 + (56.0 * fisher).round()).into()),
            ("multiple_of", 32.0.into()),
        ];
        TrialPoint {
            number,
            state,
            value: (state != State::Failed).then_some(loss),
            seconds,
            values: values.map(|(name, value)| (name.to_owned(), value)).into(),
        }
    });
    Run { label: label.to_owned(), group: group.to_owned(), trials: trials.collect() }
}

fn best_of(run: &Run) -> (u64, f64) {
    let complete = run.trials.iter().filter(|trial| trial.state == State::Complete);
    let valued = complete.filter_map(|trial| Some((trial.number, trial.value?)));
    valued.min_by(|left, right| left.1.total_cmp(&right.1)).expect("a complete trial")
}

fn samples() -> Vec<Sample> {
    const TEXTS: [(&str, &str); 4] = [
        (
            "c4",
            "The recipe serves four. Preheat the oven to 180 degrees and line a tray with paper \
                before you begin; the dough should rest for half an hour in a cool place, covered \
                with a cloth, and then be rolled out thinly.",
        ),
        (
            "wikitext-2",
            " = Gold dollar = \n The gold dollar or gold one @-@ dollar piece was a coin \
                        struck as a regular issue by the United States Bureau of the Mint",
        ),
        (
            "self-generated",
            "def area(width, height):\n\treturn width * height  # <script>alert('x')",
        ),
        (
            "mC4 עברית",
            "שלום \u{202e}abc\u{202c} עולם & \"quoted\" text with marks \u{200f}and a bell \u{7}",
        ),
    ];
    let mut numbers = Numbers(99);
    (0..128)
        .map(|index| {
            let (source, text) = TEXTS[(numbers.next().powi(2) * 4.0) as usize];
            let influence = 0.004 * numbers.normal();
            Sample {
                index,
                source: source.to_owned(),
                text: format!("{text} ({index})"),
                loss: 3.3 + 0.5 * numbers.normal(),
                influence: (index % 17 != 3).then_some(influence),
                deviation: Some(0.001 + 0.002 * numbers.next()),
                chosen: influence < -0.001 || index % 31 == 0,
            }
        })
        .collect()
}

fn layers() -> Vec<LayerRow> {
    let mut numbers = Numbers(5);
    (0..30)
        .map(|layer| {
            let protected = !(4..28).contains(&layer);
            let part = if protected { 1.0 } else { 0.5 + 0.35 * numbers.next() };
            let kept = if [9, 17, 21].contains(&layer) {
                0
            } else if layer % 6 == 5 {
                2
            } else {
                3
            };
            LayerRow {
                layer,
                query_heads: Width { before: 9, kept: kept * 3 },
                kv_heads: Width { before: 3, kept },
                ffn: Width { before: 1536, kept: (part * 48.0) as usize * 32 },
            }
        })
        .collect()
}

/// Thirty models at three ratios and the one that was, two losses, two tasks.
fn correlation() -> Correlations {
    let mut numbers = Numbers(77);
    let losses = ["search loss (WikiText2 validation)", "log-perplexity of PTB test"];
    let tasks = ["piqa", "mean of seven"];
    let mut points = Vec::new();
    for (ratio, trials) in [(None, 1), (Some(0.1), 10), (Some(0.3), 10), (Some(0.5), 10)] {
        for _ in 0..trials {
            let removed = ratio.unwrap_or(0.0);
            let loss = 4.1 + 3.0 * removed + 0.1 * numbers.normal();
            let accuracy = 0.68 - 0.25 * removed + 0.01 * numbers.normal();
            points.push(CorrelationPoint {
                ratio,
                losses: losses.iter().map(|name| ((*name).to_owned(), loss + 0.1)).collect(),
                accuracies: tasks.iter().map(|name| ((*name).to_owned(), accuracy)).collect(),
            });
        }
    }
    let row = |loss: &str, task: &str, ratio, value: f64, verdict: &str| CorrelationRow {
        loss: loss.to_owned(),
        accuracy: task.to_owned(),
        ratio,
        points: if ratio.is_none() { 30 } else { 10 },
        trials: 10,
        spearman: Estimate {
            value: Some(value),
            interval: ratio.is_none().then_some((value - 0.1, value + 0.06)),
            p: ratio.map(|_| 0.017),
        },
        pearson: Estimate { value: Some(value + 0.02), interval: None, p: None },
        ceiling: Some(0.97),
        verdict: verdict.to_owned(),
    };
    let mut rows = Vec::new();
    for loss in losses {
        for task in tasks {
            rows.push(row(loss, task, None, -0.88, "between ratios only"));
            rows.extend([0.1, 0.3, 0.5].map(|ratio| row(loss, task, Some(ratio), -0.05, "")));
        }
    }
    Correlations {
        sentences: vec![
            "The search loss tells how much was removed, not the better of two models of one ratio.".to_owned(),
        ],
        points,
        rows,
        resamples: 2000,
    }
}

/// Two models, as compare-models has them.
fn models() -> Models {
    let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
    Models {
        names: row(&["dense", "pruned"]),
        verdict: Vec::new(),
        trade: Some(trade()),
        figures: vec![
            row(&["parameters", "134515008", "107612352 (80.0 %)"]),
            row(&["mean of seven (guessing 0.357)", "0.4429 ± 0.0132", "0.4107 (92.7 %) ± 0.0131"]),
        ],
        difference_headings: row(&[
            "figure",
            "model",
            "difference",
            "95 % interval",
            "retained",
            "retained above chance",
        ]),
        differences: vec![row(&[
            "mean of seven",
            "pruned",
            "-0.0322 ± 0.0180",
            "-0.0680 to +0.0030; no difference shown",
            "92.7 %",
            "62.5 %",
        ])],
        notes: vec!["Differences are paired over the same questions.".to_owned()],
    }
}

/// Six files of a model, one of which is beaten by another and one was not measured.
fn trade() -> Trade {
    let point = |(name, megabytes, quality): (&str, f64, f64)| TradePoint {
        name: name.to_owned(),
        bytes: megabytes * 1e6,
        quality,
    };
    let points = [
        ("dense-q8_0.gguf", 144.8, 1.071),
        ("dense-q4_k_m.gguf", 98.3, 1.102),
        ("dense-q2_k.gguf", 88.1, 1.463),
        ("pruned-10/model-with-a-long-name-that-is-cut.gguf", 90.2, 1.148),
        ("pruned-20/model.gguf", 81.9, 1.216),
        ("unmeasured.gguf", 70.0, f64::NAN),
    ];
    let quality = "bits per byte, wikitext2, windows of 128".to_owned();
    Trade { quality, points: points.map(point).to_vec() }
}

/// A training of 900 steps with a teacher, validated on every 50 of them.
fn recovery() -> Recovery {
    let mut numbers = Numbers(11);
    let steps = (1..=900).map(|step| {
        let done = step as f64 / 900.0;
        let fallen = 1.6 * (1.0 - (-6.0 * done).exp());
        let own = 2.1 - fallen / 2.0 + 0.08 * numbers.normal();
        let (teacher, hidden) = (1.9 - fallen / 2.0, 0.31 - 0.1 * fallen);
        // Towards its end it learns the sequences themselves.
        let validation = 4.3 - fallen + 0.5 * (done - 0.7).max(0.0);
        TrainingStep {
            step,
            loss: own + teacher + hidden,
            teacher_loss: Some(teacher),
            hidden_loss: Some(hidden),
            validation_loss: step.is_multiple_of(50).then_some(validation),
            learning_rate: 1e-4 * (done * 20.0).min((1.0 - done) / 0.95),
        }
    });
    let steps: Vec<TrainingStep> = steps.collect();
    let validated = steps.iter().filter_map(|s| Some((s.step, s.validation_loss?)));
    let (step, loss) = validated.min_by(|a, b| a.1.total_cmp(&b.1)).expect("validations");
    Recovery {
        path: "out/recovered".to_owned(),
        method: "LoRA of rank 8".to_owned(),
        learned_parameters: 2_442_240,
        data: "alpaca.json".to_owned(),
        data_digest: "blake3:77aa01fe".repeat(4),
        sequences: 28_800,
        learned_tokens: 1_728_431,
        validation_sequences: 1_000,
        validation_tokens: 60_112,
        teacher: Some("models/smollm2-135m".to_owned()),
        ended: "finished".to_owned(),
        tokens: 4_991_032,
        seconds: 4_312.0,
        kept_step: step,
        validation_before: Some(4.3),
        best: Some(BestValidation { step, loss }),
        steps,
    }
}

/// The page.
pub(crate) fn page() -> Page {
    let runs = vec![
        run("tpe joint, seed 1", "joint (TPE)", 1, 150, 0.9),
        run("tpe joint, seed 2", "joint (TPE)", 2, 150, 0.85),
        run("tpe joint, seed 3", "joint (TPE)", 3, 150, 0.8),
        run("random, seed 1", "random", 4, 150, 0.0),
        run("random, seed 2", "random", 5, 150, 0.0),
        run("tpe data only", "data only (TPE)", 6, 150, 0.3),
    ];
    let (number, loss) = best_of(&runs[0]);
    let values = runs[0].trials[number as usize].values.iter().map(|(name, value)| {
        let value = match value {
            Value::Number(number) => format!("{number:.4}"),
            Value::Text(text) => text.clone(),
        };
        (name.clone(), value)
    });
    let mut values: Vec<_> = values.collect();
    let numbers: Vec<String> = (0..43).map(|place| (place * 3 % 128).to_string()).collect();
    values.push(("calibration subset".to_owned(), numbers.join(" ")));
    let names =
        ["attention_share", "depth_curve", "normalisation", "alpha_1", "beta_fine", "samples"];
    let importances = names.iter().zip([0.412, 0.243, 0.151, 0.098, 0.061, 0.035]);
    let arm = |arm: &str, seeds, median: f64, perplexity: f64, matched: [Option<u64>; 2]| ArmRow {
        arm: arm.to_owned(),
        seeds,
        trials: 150,
        median,
        low: median - 0.013,
        high: median + 0.021,
        tests: vec![
            TestMedian { text: "WikiText2".to_owned(), perplexity },
            TestMedian { text: "PTB".to_owned(), perplexity: perplexity * 1.31 },
        ],
        trials_to_match: ["joint (TPE)", "random"]
            .into_iter()
            .zip(matched)
            .filter(|(other, _)| *other != arm)
            .map(|(other, trials)| TrialsToMatch {
                other: other.to_owned(),
                trials,
                shown: "ranges overlap: no difference shown".to_owned(),
            })
            .collect(),
    };
    let text = |role: &str, name: &str, windows, window, digest: &str| TextFacts {
        role: role.to_owned(),
        name: name.to_owned(),
        windows,
        window,
        tokens_digest: digest.repeat(8),
    };
    let cost = |phase: &str, seconds, tokens, flops| CostRow {
        phase: phase.to_owned(),
        seconds,
        tokens,
        flops,
    };
    Page {
        title: "SmolLM2-135M, 20 % of all parameters removed".to_owned(),
        version: "0.1.0".to_owned(),
        command: "adapruner search --model models/smollm2-135m --ratio 0.2 --pool c4.txt \
                  --evaluation wikitext2-valid.txt --trials 150 --seed 1 --sampler tpe \
                  --search joint --layout per-layer --out study.journal"
            .to_owned(),
        created: "2025-03-14T09:26:53Z".to_owned(),
        model: ModelFacts {
            path: "models/smollm2-135m".to_owned(),
            digest: "blake3:5f3c9a0e".repeat(4),
            parameters: 134_515_008,
            parameters_after: Some(107_612_928),
            ratio: 0.2,
            layout: "per-layer".to_owned(),
        },
        texts: vec![
            text("calibration pool", "C4, 128 samples", 128, 64, "a81c90fe"),
            text("search evaluation", "WikiText2 validation", 32, 128, "77d012ab"),
            text("test", "WikiText2 test", 64, 128, "0be4cc19"),
            text("test", "PTB test", 64, 128, "ee109d3f"),
        ],
        importances: importances
            .map(|(name, share)| Importance { name: (*name).to_owned(), share })
            .collect(),
        best: Some(Best {
            run: runs[0].label.clone(),
            number,
            loss,
            perplexity: loss.exp(),
            values,
        }),
        measured: vec![
            Measured {
                text: "WikiText2 test".to_owned(),
                windows: 64,
                window: 128,
                dense: 64.21,
                pruned: 103.48,
                dense_bits_per_byte: Some(1.4213),
                pruned_bits_per_byte: Some(1.5843),
            },
            Measured {
                text: "PTB test".to_owned(),
                windows: 64,
                window: 128,
                dense: 92.4,
                pruned: 137.9,
                dense_bits_per_byte: None,
                pruned_bits_per_byte: None,
            },
        ],
        comparison: vec![
            arm("joint (TPE)", 3, 4.534, 104.2, [None, Some(38)]),
            arm("random", 2, 4.602, 118.9, [None, None]),
            arm("data only (TPE)", 1, 4.641, 124.4, [None, None]),
            arm("baseline", 10, f64::NAN, 216.0, [None, None]),
        ],
        models: Some(models()),
        correlation: Some(correlation()),
        recovery: Some(recovery()),
        samples: samples(),
        layers: layers(),
        warnings: vec![
            "the running best has not changed for 61 trials while the trials' losses spread over \
             0.4 nats: more trials will hardly help"
                .to_owned(),
            "alpha_1 is at the edge of its range in the best trial (0.99 of 0 to 1)".to_owned(),
        ],
        costs: vec![
            cost("statistics of the pool", 41.8, 8_192, 6.6e12),
            cost("trials: scores, plan, slice", 93.0, 0, 2.1e10),
            cost("trials: evaluation", 811.2, 512_000, 1.38e14),
            cost("test", 37.5, 16_384, 4.4e12),
        ],
        naive: Some(cost("the naive loop", 8_911.0, 3_686_400, 1.31e15)),
        peak_memory_bytes: Some(1_932_735_283),
        runs,
    }
}
