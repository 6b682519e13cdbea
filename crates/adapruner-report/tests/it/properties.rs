//! Whatever the data: no panic, well-formed markup, nothing loaded, nothing
//! that runs, and no coordinate that is no number.

use adapruner_report::{
    ArmRow, Best, BestValidation, CorrelationPoint, CorrelationRow, Correlations, CostRow,
    Estimate, Importance, LayerRow, Measured, ModelFacts, Models, Page, Recovery, Run, Sample,
    State, TestMedian, TextFacts, Tile, Trade, TradePoint, TrainingStep, TrialPoint, TrialsToMatch,
    Value, Width, render,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::markup;

/// Elements that we write; none of them loads or runs anything.
const ELEMENTS: [&str; 43] = [
    "a",
    "body",
    "circle",
    "code",
    "details",
    "div",
    "figcaption",
    "figure",
    "footer",
    "g",
    "h1",
    "h2",
    "h3",
    "head",
    "header",
    "html",
    "li",
    "main",
    "meta",
    "nav",
    "p",
    "path",
    "pre",
    "rect",
    "section",
    "span",
    "strong",
    "style",
    "summary",
    "svg",
    "table",
    "tbody",
    "td",
    "text",
    "th",
    "thead",
    "title",
    "tr",
    "ul",
    "dl",
    "dt",
    "dd",
    "caption",
];
/// Attributes that we write.
const ATTRIBUTES: [&str; 27] = [
    "data-label",
    "aria-hidden",
    "aria-label",
    "aria-labelledby",
    "charset",
    "class",
    "content",
    "cx",
    "cy",
    "d",
    "dir",
    "height",
    "href",
    "http-equiv",
    "id",
    "lang",
    "name",
    "r",
    "role",
    "scope",
    "tabindex",
    "viewBox",
    "width",
    "x",
    "y",
    "points",
    "transform",
];

/// Holds a page to what every page must be.
pub(crate) fn check(page: &Page) -> Result<(), TestCaseError> {
    let text = render(page);
    let read = markup::read(&text).map_err(TestCaseError::fail)?;
    for element in &read.elements {
        prop_assert!(ELEMENTS.contains(&element.name.as_str()), "element {}", element.name);
        for (key, value) in &element.attributes {
            prop_assert!(ATTRIBUTES.contains(&key.as_str()), "attribute {key}={value}");
            if key == "href" {
                prop_assert!(value.starts_with('#'), "a link out: {value}");
            }
            if ["x", "y", "width", "height", "cx", "cy", "r"].contains(&key.as_str()) {
                let number: f64 = value
                    .parse()
                    .map_err(|_| TestCaseError::fail(format!("{key} is {value:?}")))?;
                prop_assert!(number.is_finite(), "{key} is {value}");
            }
            if key == "d" || key == "viewBox" {
                let is_path = |letter: char| "MHVLZhlmvza0123456789-. ".contains(letter);
                prop_assert!(value.chars().all(is_path), "{key} is {value:?}");
                prop_assert!(!value.contains("--"), "{key} is {value:?}");
            }
        }
    }
    prop_assert!(read.elements.iter().filter(|element| element.name == "style").count() == 1);
    prop_assert!(!text.contains("url(") && !text.contains("@import"));
    Ok(())
}

fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => -10.0..10.0f64,
        1 => Just(4.5),
        1 => any::<f64>(),
        1 => prop_oneof![
            Just(f64::NAN), Just(f64::INFINITY), Just(f64::NEG_INFINITY), Just(f64::MAX),
            Just(f64::MIN), Just(5e-324), Just(0.0), Just(-0.0), Just(1e149), Just(1e-149)
        ],
    ]
}

fn string() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[a-c]",
        1 => ".{0,40}",
        1 => vec(any::<char>(), 0..20).prop_map(|letters| letters.into_iter().collect()),
        1 => prop_oneof![
            Just("</style><script>alert(1)</script>".to_owned()),
            Just("\" onmouseover=\"alert(1)".to_owned()),
            Just("]]>--><!--&amp;&#x3c;".to_owned()),
            Just("\u{202e}\u{2066}\u{200f}\u{0}\u{1b}[31m\u{85}\u{feff}\u{ffff}".to_owned()),
        ],
    ]
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0..20usize, 1 => any::<usize>()]
}

fn trial() -> impl Strategy<Value = TrialPoint> {
    let state = prop_oneof![
        4 => Just(State::Complete), 1 => Just(State::Pruned), 1 => Just(State::Failed),
        1 => Just(State::Infeasible),
        1 => Just(State::Running)
    ];
    let value = prop_oneof![
        2 => number().prop_map(Value::Number), 1 => string().prop_map(Value::Text)
    ];
    (any::<u64>(), state, option::of(number()), number(), vec(("[a-c]", value), 0..4)).prop_map(
        |(number, state, value, seconds, values)| TrialPoint {
            number,
            state,
            value,
            seconds,
            values,
        },
    )
}

fn run() -> impl Strategy<Value = Run> {
    (string(), string(), vec(trial(), 0..12)).prop_map(|(label, group, trials)| Run {
        label,
        group,
        trials,
    })
}

fn arm() -> impl Strategy<Value = ArmRow> {
    let test = (string(), number()).prop_map(|(text, perplexity)| TestMedian { text, perplexity });
    let matched = (string(), option::of(any::<u64>()), string())
        .prop_map(|(other, trials, shown)| TrialsToMatch { other, trials, shown });
    (
        (string(), size(), size()),
        (number(), number(), number()),
        vec(test, 0..3),
        vec(matched, 0..3),
    )
        .prop_map(|((arm, seeds, trials), (median, low, high), tests, trials_to_match)| {
            ArmRow { arm, seeds, trials, median, low, high, tests, trials_to_match }
        })
}

fn estimate() -> impl Strategy<Value = Estimate> {
    let interval = option::of((-1.0..1.0f64, -1.0..1.0f64));
    (option::of(-1.0..1.0f64), interval, option::of(0.0..1.0f64))
        .prop_map(|(value, interval, p)| Estimate { value, interval, p })
}

fn models() -> impl Strategy<Value = Models> {
    let cells = || vec(string(), 0..4);
    let rows = || vec(vec(string(), 0..4), 0..4);
    let tile = (string(), string(), string()).prop_map(|(above, number, below)| Tile {
        above,
        number,
        below,
    });
    let point = (string(), number(), number()).prop_map(|(name, bytes, quality)| TradePoint {
        name,
        bytes,
        quality,
    });
    let trade =
        (string(), vec(point, 0..6)).prop_map(|(quality, points)| Trade { quality, points });
    let header = (vec(tile, 0..3), option::of(trade));
    (cells(), header, rows(), cells(), rows(), cells()).prop_map(
        |(names, (verdict, trade), figures, difference_headings, differences, notes)| Models {
            names,
            verdict,
            trade,
            figures,
            difference_headings,
            differences,
            notes,
        },
    )
}

fn correlation() -> impl Strategy<Value = Correlations> {
    // Names of few letters, so that points have what rows ask for.
    let finite = || any::<i32>().prop_map(|value| f64::from(value) / 64.0);
    let values = || vec(("[a-b]", finite()), 0..3);
    let point = (option::of(finite()), values(), values())
        .prop_map(|(ratio, losses, accuracies)| CorrelationPoint { ratio, losses, accuracies });
    let name = || prop_oneof![3 => "[a-b]", 1 => string()];
    let row = (
        (name(), name(), option::of(finite()), size(), size()),
        (estimate(), estimate(), option::of(finite()), string()),
    )
        .prop_map(
            |((loss, accuracy, ratio, points, trials), (spearman, pearson, ceiling, verdict))| {
                CorrelationRow {
                    loss,
                    accuracy,
                    ratio,
                    points,
                    trials,
                    spearman,
                    pearson,
                    ceiling,
                    verdict,
                }
            },
        );
    (vec(string(), 0..3), vec(point, 0..9), vec(row, 0..5), size()).prop_map(
        |(sentences, points, rows, resamples)| Correlations { sentences, points, rows, resamples },
    )
}

fn sample() -> impl Strategy<Value = Sample> {
    (
        (size(), string(), string()),
        (number(), option::of(number()), option::of(number()), any::<bool>()),
    )
        .prop_map(|((index, source, text), (loss, influence, deviation, chosen))| Sample {
            index,
            source,
            text,
            loss,
            influence,
            deviation,
            chosen,
        })
}

fn layer() -> impl Strategy<Value = LayerRow> {
    let width = || (size(), size()).prop_map(|(before, kept)| Width { before, kept });
    (size(), width(), width(), width()).prop_map(|(layer, query_heads, kv_heads, ffn)| LayerRow {
        layer,
        query_heads,
        kv_heads,
        ffn,
    })
}

fn cost() -> impl Strategy<Value = CostRow> {
    (string(), number(), any::<u64>(), number())
        .prop_map(|(phase, seconds, tokens, flops)| CostRow { phase, seconds, tokens, flops })
}

fn model() -> impl Strategy<Value = ModelFacts> {
    ((string(), string(), string()), (any::<u64>(), option::of(any::<u64>()), number())).prop_map(
        |((path, digest, layout), (parameters, parameters_after, ratio))| ModelFacts {
            path,
            digest,
            parameters,
            parameters_after,
            ratio,
            layout,
        },
    )
}

prop_compose! {
    fn head()(
        title in string(), version in string(), command in string(), created in string(),
        model in model(), warnings in vec(string(), 0..3), runs in vec(run(), 0..6),
        costs in vec(cost(), 0..4), naive in option::of(cost()),
        peak_memory_bytes in option::of(any::<u64>()),
    ) -> Page {
        Page {
            title, version, command, created, model, warnings, runs, costs, naive,
            peak_memory_bytes, ..Page::default()
        }
    }
}

fn recovery() -> impl Strategy<Value = Recovery> {
    let step = (any::<u64>(), number(), number(), vec(option::of(number()), 3)).prop_map(
        |(step, loss, learning_rate, parts)| TrainingStep {
            step,
            loss,
            teacher_loss: parts[0],
            hidden_loss: parts[1],
            validation_loss: parts[2],
            learning_rate,
        },
    );
    let best = (any::<u64>(), number()).prop_map(|(step, loss)| BestValidation { step, loss });
    (
        vec(string(), 5),
        (any::<u64>(), size(), number()),
        (option::of(string()), option::of(number()), option::of(best)),
        vec(step, 0..9),
    )
        .prop_map(|(words, (count, sequences, seconds), (teacher, before, best), steps)| {
            let [path, method, data, data_digest, ended] =
                [0, 1, 2, 3, 4].map(|at: usize| words[at].clone());
            Recovery {
                path,
                method,
                learned_parameters: count,
                data,
                data_digest,
                sequences,
                learned_tokens: count,
                validation_sequences: sequences,
                validation_tokens: count,
                teacher,
                ended,
                tokens: count,
                seconds,
                kept_step: count,
                validation_before: before,
                best,
                steps,
            }
        })
}

prop_compose! {
    fn page()(
        head in head(),
        texts in vec((string(), string(), size(), size(), string()), 0..3),
        importances in vec((string(), number()), 0..30),
        best in option::of(
            ((string(), any::<u64>(), number(), number()), vec((string(), string()), 0..3))
        ),
        measured in vec((string(), size(), size(), number(), number()), 0..6),
        comparison in vec(arm(), 0..4),
        correlation in option::of(correlation()),
        models in option::of(models()),
        recovery in option::of(recovery()),
        samples in vec(sample(), 0..8),
        layers in vec(layer(), 0..40),
    ) -> Page {
        Page {
            texts: texts.into_iter().map(|(role, name, windows, window, tokens_digest)| {
                TextFacts { role, name, windows, window, tokens_digest }
            }).collect(),
            importances: importances.into_iter().map(|(name, share)| Importance { name, share })
                .collect(),
            best: best.map(|((run, number, loss, perplexity), values)| {
                Best { run, number, loss, perplexity, values }
            }),
            measured: measured.into_iter().map(|(text, windows, window, dense, pruned)| {
                let bits = [dense, pruned].map(|value| value.is_finite().then_some(value));
                let [dense_bits_per_byte, pruned_bits_per_byte] = bits;
                Measured {
                    text,
                    windows,
                    window,
                    dense,
                    pruned,
                    dense_bits_per_byte,
                    pruned_bits_per_byte,
                }
            }).collect(),
            comparison, correlation, models, recovery, samples, layers,
            ..head
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_page_is_well_formed_and_alone(page in page()) {
        check(&page)?;
    }

    #[test]
    fn any_page_is_read_back_from_json(page in page()) {
        let text = serde_json::to_string(&page).expect("plain data");
        let back: Page = serde_json::from_str(&text).expect("what was written");
        // NaN is unequal to itself: compare as text.
        prop_assert_eq!(serde_json::to_string(&back).expect("plain data"), text);
    }
}

#[test]
fn edge_cases_of_series_are_drawn() {
    let trial = |value| TrialPoint {
        number: 0,
        state: State::Complete,
        value: Some(value),
        seconds: 1.0,
        values: vec![("x".to_owned(), 1.0.into()), ("y".to_owned(), value.into())],
    };
    let series: [Vec<f64>; 8] = [
        vec![],
        vec![f64::NAN],
        vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY],
        vec![4.5],
        vec![4.5; 20],
        vec![1e308, -1e308, 4.0],
        vec![5e-324, 4e-324],
        vec![1e15, 1e15 + 0.125],
    ];
    for values in series {
        let trials = values.iter().copied().map(trial).collect();
        let run = Run { label: "a".to_owned(), group: "a".to_owned(), trials };
        let page = Page { runs: vec![run.clone(), run], ..Page::default() };
        check(&page).unwrap_or_else(|what| panic!("{values:?}: {what}"));
    }
}
