//! Calibration samples.

use std::{collections::BTreeSet, sync::LazyLock};

use adapruner_checkpoint::{
    text::{Cut, Source, Text, TokenSet},
    tokenizer::TextTokenizer,
};
use proptest::prelude::*;

use super::{after_path, documents, read_as, tales, tokenizer};

static TOKENIZER: LazyLock<TextTokenizer> = LazyLock::new(tokenizer);

/// Records of different lengths: document `i` counts to `i`.
fn records(count: usize) -> Text {
    let record = |i: usize| {
        let words: Vec<String> = (0..=i).map(|n| n.to_string()).collect();
        format!("{{\"text\": \"{}\"}}\n", words.join(" "))
    };
    read_as("a.jsonl", (0..count).map(record).collect::<String>()).unwrap()
}

fn sample(text: &Text, samples: usize, tokens: usize, seed: u64) -> TokenSet {
    TokenSet::samples(text, &TOKENIZER, samples, tokens, seed).unwrap()
}

/// Every window stands where its source says, in `units`.
#[track_caller]
fn assert_sources(set: &TokenSet, units: &[impl AsRef<str>]) {
    for (window, source) in set.windows.iter().zip(&set.sources) {
        let ids = TOKENIZER.encode(units[source.document].as_ref()).unwrap();
        assert_eq!(*window, ids[source.start..source.start + window.len()]);
    }
}

#[test]
fn one_window_a_document_and_short_ones_left_out() {
    let text = records(60);
    let set = sample(&text, 20, 30, 7);
    assert_eq!((set.cut, set.windows.len(), set.sources.len()), (Cut::Documents, 20, 20));
    assert!(set.windows.iter().all(|w| w.len() == 30));
    let drawn: BTreeSet<usize> = set.sources.iter().map(|s| s.document).collect();
    assert_eq!(drawn.len(), 20, "a document was drawn twice");
    assert_sources(&set, &documents(&text).0);
    let sorted: Vec<usize> = drawn.into_iter().collect();
    let order: Vec<usize> = set.sources.iter().map(|s| s.document).collect();
    assert_ne!(order, sorted, "documents come in the order of the file");
    assert!(set.sources.iter().any(|s| s.start > 0), "windows are all cut at the start");
}

#[test]
fn the_seed_decides() {
    let text = records(60);
    let first = sample(&text, 10, 20, 1);
    assert_eq!(first, sample(&text, 10, 20, 1));
    assert_ne!(first.digest, sample(&text, 10, 20, 2).digest);
    // Fewer samples are the first of more.
    assert_eq!(first.windows[..4], sample(&text, 4, 20, 1).windows);
}

/// The draw of a seed is part of every recorded result: a change of the
/// generator or of its use would go unseen otherwise.
#[test]
fn the_draw_of_a_seed_stays_the_same() {
    let draw = |set: &TokenSet| -> Vec<(usize, usize)> {
        set.sources.iter().map(|s| (s.document, s.start)).collect()
    };
    assert_eq!(draw(&sample(&records(60), 4, 20, 42)), DRAWN);
    assert_eq!(draw(&sample(&records(6), 3, 15, 42)), PLACED);
}
const DRAWN: [(usize, usize); 4] = [(40, 88), (26, 31), (18, 4), (20, 26)];
const PLACED: [(usize, usize); 3] = [(0, 31), (0, 1), (0, 16)];

#[test]
fn paragraphs_are_the_documents_of_plain_text() {
    let text = tales();
    let whole = documents(&text).0.concat();
    let paragraphs: Vec<&str> = whole.split("\n\n").map(|p| p.trim_end_matches('\n')).collect();
    let set = sample(&text, 12, 64, 3);
    assert_eq!(set.cut, Cut::Documents);
    assert_sources(&set, &paragraphs);
}

#[test]
fn blank_rows_are_no_documents() {
    let text = read_as("a.raw", " \n = A = \n \n one two three four five six . \n \n").unwrap();
    let set = sample(&text, 1, 12, 0);
    assert_eq!((set.cut, set.sources[0].document), (Cut::Documents, 3));
}

#[test]
fn the_joined_text_serves_where_documents_do_not() {
    // Sentences shorter than a sample.
    let lines: String = (0..200).map(|i| format!(" line {i} of the text \n")).collect();
    let ptb = read_as("ptb.train.txt", lines).unwrap();
    // One long document, many samples.
    let book = read_as("book.txt", documents(&tales()).0.concat().replace("\n\n", " ")).unwrap();
    for text in [ptb, book] {
        let (all, joiner) = documents(&text);
        let joined = all.join(joiner);
        let set = sample(&text, 16, 48, 5);
        assert_eq!((set.cut, set.windows.len()), (Cut::Joined, 16));
        assert_sources(&set, &[&joined]);
        let mut starts: Vec<usize> = set.sources.iter().map(|s| s.start).collect();
        assert!(!starts.is_sorted(), "in the order of the text");
        starts.sort_unstable();
        assert!(starts.windows(2).all(|w| w[0] + 48 <= w[1]), "places overlap: {starts:?}");
    }
}

#[test]
fn given_rows_are_taken_as_they_are() {
    let text = read_as("ids.json", "[[1, 2, 3, 4], [5, 6, 7], [8]]").unwrap();
    for seed in [0, 9] {
        let set = sample(&text, 2, 3, seed);
        assert_eq!(set.windows, [[1, 2, 3], [5, 6, 7]]);
        assert_eq!(set.sources, [0, 1].map(|document| Source { document, start: 0 }));
        assert_eq!(set.cut, Cut::Rows);
    }
}

#[test]
fn what_cannot_be_drawn_is_refused() {
    let text = records(10);
    let (all, joiner) = documents(&text);
    let found = TOKENIZER.encode(&all.join(joiner)).unwrap().len();
    let rows = read_as("ids.json", "[[1, 2, 3], [4, 5]]").unwrap();
    let beyond = read_as("ids.json", "[[1, 2, 3], [4, 600]]").unwrap();
    let max = usize::MAX;
    for (text, samples, tokens, expected) in [
        (&text, 0, 8, "0 samples: at least 1".to_owned()),
        (&text, 3, 0, "a sample of 0 tokens: at least 2, one to predict the other".to_owned()),
        (&text, 3, 1, "a sample of 1 tokens: at least 2, one to predict the other".to_owned()),
        (&text, 50, 64, format!("{found} tokens, 50 samples of 64 tokens need 3200")),
        (&text, max, max, format!("{found} tokens, {max} samples of {max} tokens need {max}")),
        (&rows, 3, 2, "2 rows of token ids, 3 samples are needed".to_owned()),
        (&rows, 2, 3, "row 1 has 2 tokens, a sample needs 3".to_owned()),
        (&beyond, 2, 2, "row 1, place 1: id 600 is beyond the vocabulary of 512".to_owned()),
    ] {
        let error = TokenSet::samples(text, &TOKENIZER, samples, tokens, 0).unwrap_err();
        assert_eq!(after_path(&error), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn samples_are_separate_parts_of_the_text(
        samples in 1usize..40,
        tokens in 2usize..80,
        seed: u64,
    ) {
        let text = records(40);
        let (all, joiner) = documents(&text);
        let joined = all.join(joiner);
        let set = match TokenSet::samples(&text, &TOKENIZER, samples, tokens, seed) {
            Ok(set) => set,
            Err(error) => {
                let found = TOKENIZER.encode(&joined).unwrap().len();
                prop_assert!(found < samples * tokens, "{}", error);
                return Ok(());
            }
        };
        match set.cut {
            Cut::Documents => assert_sources(&set, &all),
            Cut::Joined => assert_sources(&set, &[&joined]),
            Cut::Rows => panic!("rows of a text"),
        }
        prop_assert_eq!(set.windows.len(), samples);
        let mut places = set.sources.clone();
        places.sort_unstable();
        for pair in places.windows(2) {
            let apart = pair[0].document < pair[1].document
                || pair[0].start + tokens <= pair[1].start;
            prop_assert!(apart, "{:?}", pair);
        }
    }
}
