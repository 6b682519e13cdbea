//! The tasks on made-up records against what lm-evaluation-harness 0.4.13 made
//! of the same files and the same model (`fixtures/generate/harness_tasks.py`).

use adapruner_checkpoint::Checkpoint;
use adapruner_eval::{
    harness,
    requests::{Encoder, Sequence, sequences},
    score::log_likelihoods,
    tasks::{self, Task, wikitext},
    zero_shot::{Run, Selection},
};
use adapruner_model::{Decoder, Placement, Residency};
use serde_json::Value;

use crate::fixture;

/// Log-likelihoods in f32 against the harness's in f64, relative.
const LOG_LIKELIHOOD: f64 = 2e-5;
/// The same in f32, run beside others or alone, relative.
const ROUNDING: f64 = 5e-6;

struct Tiny {
    checkpoint: Checkpoint,
    decoder: Decoder,
}

impl Tiny {
    fn open() -> Self {
        let checkpoint = Checkpoint::open(&fixture("models/tiny")).unwrap();
        let decoder = Decoder::load(&checkpoint, &Placement::cpu(), Residency::Resident).unwrap();
        Self { checkpoint, decoder }
    }

    fn encoder(&self) -> Encoder<'_> {
        Encoder::new(&self.checkpoint.tokenizer, self.checkpoint.config.max_position_embeddings)
    }

    fn run(&self, batch_rows: usize) -> Run<'_> {
        Run { decoder: &self.decoder, encoder: self.encoder(), batch_rows }
    }
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(fixture("tasks/expected.json")).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u32).collect()
}

#[track_caller]
fn near(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        let distance = (found - expected).abs();
        assert!(distance < tolerance * expected.abs().max(1.0), "{what}: {found} {expected}");
    }
}

#[test]
fn prompts_and_tokens_are_the_harness_s() {
    let (tiny, expected) = (Tiny::open(), expected());
    let mut truncated = 0;
    for name in tasks::names() {
        let task = Task::named(name).unwrap();
        let set = task.questions(Some(&fixture("tasks"))).unwrap();
        let groups = sequences(name, &set.questions, &tiny.encoder()).unwrap();
        let expected = expected[name]["questions"].as_array().unwrap();
        assert_eq!(set.questions.len(), expected.len(), "{name}");
        for ((question, group), expected) in set.questions.iter().zip(&groups).zip(expected) {
            let arguments = expected["arguments"].as_array().unwrap();
            assert_eq!(question.requests.len(), arguments.len(), "{name} {}", question.id);
            for (at, request) in question.requests.iter().enumerate() {
                assert_eq!(arguments[at][0], request.context.as_str(), "{name} {}", question.id);
                assert_eq!(arguments[at][1], request.continuation.as_str());
                let (context, follows) =
                    (ids(&expected["ids"][at][0]), ids(&expected["ids"][at][1]));
                let whole = Sequence::new(&context, &follows, 256).unwrap();
                assert_eq!(group[at], whole, "{name} {}", question.id);
                truncated += usize::from(whole.truncated > 0);
            }
        }
    }
    assert_eq!(truncated, 2);
}

#[test]
fn figures_are_the_harness_s() {
    let (tiny, expected) = (Tiny::open(), expected());
    let mut results = Vec::new();
    for name in tasks::names() {
        let task = Task::named(name).unwrap();
        let set = task.questions(Some(&fixture("tasks"))).unwrap();
        let result = tiny.run(400).ask(&task, &set, Selection::All, &|_, _| {}).unwrap();
        let expected = &expected[name]["questions"];
        for (answer, expected) in result.answers.iter().zip(expected.as_array().unwrap()) {
            let what = format!("{name} {}", answer.doc_id);
            let lls = numbers(&expected["log_likelihoods"]);
            near(&answer.log_likelihoods, &lls, LOG_LIKELIHOOD, &what);
            for prediction in &answer.predictions {
                if let Some(right) = expected.get(prediction.metric.name()) {
                    assert_eq!(right.as_f64() == Some(1.0), prediction.right, "{what}");
                }
            }
        }
        assert_eq!(result.truncated, if name == "boolq" { 2 } else { 0 });
        results.push(result);
    }
    let layout = harness::layout(&results, None);
    for name in tasks::names() {
        let found = &layout["results"][name];
        for (key, expected) in expected[name]["results"].as_object().unwrap() {
            match (found[key].as_f64(), expected.as_f64()) {
                (Some(found), Some(expected)) => assert!((found - expected).abs() < 1e-12),
                (Some(_) | None, _) => assert_eq!(&found[key], expected, "{name} {key}"),
            }
        }
        assert_eq!(layout["n-samples"][name]["effective"], expected[name]["results"]["sample_len"]);
        assert_eq!(layout["n-shot"][name], 0);
    }
}

#[test]
fn wikitext_is_the_harness_s() {
    let (tiny, expected) = (Tiny::open(), expected());
    let (pages, files) = wikitext::pages(Some(&fixture("tasks"))).unwrap();
    let expected = &expected["wikitext"];
    let questions = expected["questions"].as_array().unwrap();
    for (page, question) in pages.iter().zip(questions) {
        assert_eq!(question["arguments"][0][0], page.text.as_str());
    }
    let result = tiny.run(600).read_pages(&pages, files, Selection::All, &|_, _| {}).unwrap();
    let lls = questions.iter().flat_map(|q| numbers(&q["log_likelihoods"])).collect::<Vec<_>>();
    near(&result.log_likelihoods, &lls, LOG_LIKELIHOOD, "wikitext");
    let layout = harness::layout(&[], Some(&result));
    for (key, expected) in expected["results"].as_object().unwrap() {
        let found = &layout["results"]["wikitext"][key];
        match (found.as_f64(), expected.as_f64()) {
            // A perplexity by word is the exponential of a large loss.
            (Some(found), Some(expected)) => {
                near(&[found], &[expected], 20.0 * LOG_LIKELIHOOD, key);
            }
            (Some(_) | None, _) => assert_eq!(found, expected, "{key}"),
        }
    }
}

#[test]
fn a_shared_context_and_company_change_nothing() {
    let tiny = Tiny::open();
    for name in ["hellaswag", "winogrande", "boolq", "arc_challenge"] {
        let task = Task::named(name).unwrap();
        let set = task.questions(Some(&fixture("tasks"))).unwrap();
        let groups = sequences(name, &set.questions, &tiny.encoder()).unwrap();
        let alone: Vec<Vec<Sequence>> =
            groups.iter().flatten().map(|sequence| vec![sequence.clone()]).collect();
        let score = |groups: &[Vec<Sequence>], rows| -> Vec<f64> {
            let found = log_likelihoods(&tiny.decoder, groups, rows, &|_, _| {}).unwrap();
            found.into_iter().flatten().collect()
        };
        let one_by_one = score(&alone, 1);
        for rows in [1, 100, 333, 100_000] {
            near(&score(&groups, rows), &one_by_one, ROUNDING, &format!("{name}, {rows} rows"));
        }
        let bits = |lls: Vec<f64>| lls.into_iter().map(f64::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(score(&groups, 100)), bits(score(&groups, 100)), "{name}");
    }
}

#[test]
fn a_selection_is_asked_and_progress_told() {
    let tiny = Tiny::open();
    let task = Task::named("piqa").unwrap();
    let set = task.questions(Some(&fixture("tasks"))).unwrap();
    let told = std::cell::RefCell::new(Vec::new());
    let ask = |selection| {
        let progress = |done, all| told.borrow_mut().push((done, all));
        tiny.run(60).ask(&task, &set, selection, &progress)
    };
    let whole = ask(Selection::All).unwrap();
    let (last, all) = *told.borrow().last().unwrap();
    assert!(last == all && told.borrow().len() > 1, "{:?}", told.borrow());
    let drawn = ask(Selection::Sample { questions: 3, seed: 5 }).unwrap();
    assert_eq!((drawn.answers.len(), drawn.all), (3, 8));
    for answer in &drawn.answers {
        let same = &whole.answers[answer.doc_id];
        assert_eq!((answer.doc_id, answer.gold), (same.doc_id, same.gold));
        near(&answer.log_likelihoods, &same.log_likelihoods, ROUNDING, "piqa");
    }
    assert!(ask(Selection::First(0)).unwrap_err().to_string().contains("at least one question"));
}
