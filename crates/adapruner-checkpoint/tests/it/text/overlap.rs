//! Text that calibration and evaluation share.

use std::sync::LazyLock;

use adapruner_checkpoint::{text::TokenSet, tokenizer::TextTokenizer};

use super::{documents, read_as, read_path, tales, tokenizer};

static TOKENIZER: LazyLock<TextTokenizer> = LazyLock::new(tokenizer);

/// The windows of given ids.
fn cut(ids: impl IntoIterator<Item = u32>, window: usize) -> TokenSet {
    let ids: Vec<String> = ids.into_iter().map(|id| id.to_string()).collect();
    let text = read_as("ids.json", format!("[{}]", ids.join(","))).unwrap();
    TokenSet::windows(&text, &TOKENIZER, window, None).unwrap()
}

#[test]
fn a_sample_from_the_evaluated_text_is_found_wherever_it_was_cut() {
    let evaluation = TokenSet::windows(&tales(), &TOKENIZER, 128, None).unwrap();
    // Tokenised paragraph by paragraph and cut at other places.
    let samples = TokenSet::samples(&tales(), &TOKENIZER, 16, 100, 1).unwrap();
    assert_eq!(samples.overlap(&evaluation), 16);
    assert!(evaluation.overlap(&samples) >= 16);
    // Under another name and with other text around it.
    let tale = documents(&tales()).0[0].split("\n\n").nth(9).unwrap().to_owned();
    let copy = read_as("copy.txt", format!("Something else. {tale}")).unwrap();
    let copied = TokenSet::windows(&copy, &TOKENIZER, 64, None).unwrap();
    assert!(copied.overlap(&evaluation) >= 1);
}

#[test]
fn other_text_of_the_same_kind_does_not_overlap() {
    let calibration = read_path(&crate::readers::fixture("models/tiny/calibration.txt")).unwrap();
    let samples = TokenSet::samples(&calibration, &TOKENIZER, 16, 100, 1).unwrap();
    let evaluation = TokenSet::windows(&tales(), &TOKENIZER, 128, None).unwrap();
    assert_eq!(samples.overlap(&evaluation), 0);
    assert_eq!(evaluation.overlap(&samples), 0);
}

#[test]
fn a_run_of_32_tokens_counts_and_one_of_31_does_not() {
    let known = cut(0..200, 100);
    for (shared, expected) in [(31, 0), (32, 1)] {
        let before = (300..300 + 64 - shared).chain(40..40 + shared);
        assert_eq!(cut(before, 64).overlap(&known), expected, "{shared}");
    }
    // A run over the edge of two windows stands in neither.
    assert_eq!(cut(84..116, 32).overlap(&known), 0);
}

#[test]
fn short_windows_are_compared_whole() {
    let known = cut(0..64, 64);
    assert_eq!(cut((7..15).chain(400..408), 8).overlap(&known), 1);
    assert_eq!(cut((7..14).chain(400..401), 8).overlap(&known), 0);
}

#[test]
fn monotonous_runs_do_not_count() {
    let rule = || (0..64).map(|i| 5 + i % 2);
    assert_eq!(cut(rule(), 64).overlap(&cut(rule(), 64)), 0);
}
