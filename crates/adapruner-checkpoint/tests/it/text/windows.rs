//! The perplexity protocol.

use std::sync::LazyLock;

use adapruner_checkpoint::{
    text::{Cut, Source, TextOptions, TokenSet, read},
    tokenizer::TextTokenizer,
};
use proptest::prelude::*;

use super::{Files, after_path, documents, read_as, tales, tokenizer};

static TOKENIZER: LazyLock<TextTokenizer> = LazyLock::new(tokenizer);

#[test]
fn documents_are_joined_and_tokenised_once() {
    let wiki = read_as("wiki.test.raw", " \n = A tale = \n \n There was fog . \n").unwrap();
    let joined = "\n\n = A tale = \n\n\n\n\n There was fog . \n";
    let ids = TOKENIZER.encode(joined).unwrap();
    let set = TokenSet::windows(&wiki, &TOKENIZER, 4, None).unwrap();
    assert_eq!(set.windows.concat(), ids[..ids.len() / 4 * 4]);
    assert_eq!(set.dropped, Some(ids.len() % 4));
    assert_eq!(set.cut, Cut::Joined);
    assert_eq!(set.text_digest, wiki.digest);
    assert_eq!(set.name, "wiki.test.raw");
}

#[test]
fn only_the_head_of_c4_is_the_text_of_perplexity() {
    let files = Files::new();
    let rows: String = (0..1200).map(|i| format!("{{\"text\": \"d{i}\"}}\n")).collect();
    files.write("c4/c4-validation.00000-of-00008.json", rows);
    let options = TextOptions { data_dir: Some(files.0.path().to_owned()), ..Default::default() };
    let text = read("c4", &options).unwrap();
    assert_eq!(documents(&text).0.len(), 1200);
    let joined = (0..1100).map(|i| format!("d{i}")).collect::<Vec<_>>().join(" ");
    let ids = TOKENIZER.encode(&joined).unwrap();
    let set = TokenSet::windows(&text, &TOKENIZER, 2, None).unwrap();
    assert_eq!(set.windows.concat(), ids[..ids.len() / 2 * 2]);
}

#[test]
fn given_ids_are_concatenated() {
    let text = read_as("ids.json", "[[1, 2, 3], [4], [5, 6, 7]]").unwrap();
    let set = TokenSet::windows(&text, &TOKENIZER, 3, None).unwrap();
    assert_eq!(set.windows, [[1, 2, 3], [4, 5, 6]]);
    assert_eq!(set.sources, [0, 3].map(|start| Source { document: 0, start }));
    assert_eq!(set.dropped, Some(1));
}

/// Windows that begin with BOS have as many tokens as others, one fewer of their own, and the
/// tokenizer's special tokens stand nowhere else.
#[test]
fn windows_of_an_opened_text_each_begin_with_the_token() {
    let adds =
        TextTokenizer::from_hf_folder(&crate::readers::fixture("models/llama3_rope")).unwrap();
    let bos = adds.bos_id().unwrap();
    let plain = tales();
    let mut ids = Vec::new();
    let all: String = plain.passages().map(|p| p.to_text().unwrap()).collect();
    assert_eq!(adds.encode(&all).unwrap()[0], bos);
    ids.extend(adds.encode_plain(&all).unwrap());
    let text = plain.clone().opened_by(Some(bos));
    let set = TokenSet::windows(&text, &adds, 8, Some(20)).unwrap();
    for (window, own) in set.windows.iter().zip(ids.chunks(7)) {
        assert_eq!((window[0], &window[1..]), (bos, own));
    }
    assert_eq!(set.windows.len(), 20);
    assert_eq!(set.sources[3], Source { document: 0, start: 21 });
    let spread = TokenSet::spread(&text, &adds, 8, 5).unwrap();
    for (window, source) in spread.windows.iter().zip(&spread.sources) {
        assert_eq!((window[0], &window[1..]), (bos, &ids[source.start..source.start + 7]));
    }
    let samples = TokenSet::samples(&text, &adds, 6, 8, 1).unwrap();
    for window in &samples.windows {
        assert_eq!((window.len(), window[0]), (8, bos));
        assert!(!window[1..].contains(&bos));
        assert!(ids.windows(7).any(|own| own == &window[1..]));
    }
    assert_ne!(samples.digest, TokenSet::samples(&plain, &adds, 6, 8, 1).unwrap().digest);
    // Given ids are as they are, and without a token nothing changes.
    let rows = read_as("ids.json", "[[1, 2, 3], [4, 5, 6]]").unwrap().opened_by(Some(bos));
    let set = TokenSet::windows(&rows, &TOKENIZER, 3, None).unwrap();
    assert_eq!(set.windows, [[1, 2, 3], [4, 5, 6]]);
    let same = TokenSet::windows(&plain.clone().opened_by(None), &adds, 8, Some(3)).unwrap();
    assert_eq!(same, TokenSet::windows(&plain, &adds, 8, Some(3)).unwrap());
}

#[test]
fn the_digest_is_of_the_windows() {
    let digest = |json: &str, window| {
        let text = read_as("ids.json", json).unwrap();
        TokenSet::windows(&text, &TOKENIZER, window, None).unwrap().digest
    };
    assert_eq!(digest("[1, 2, 3, 4]", 2), digest("[[1], [2, 3, 4, 9]]", 2));
    assert_ne!(digest("[1, 2, 3, 4]", 2), digest("[1, 2, 3, 4]", 4));
    assert_ne!(digest("[1, 2, 3, 4]", 2), digest("[3, 4, 1, 2]", 2));
}

#[test]
fn what_cannot_be_cut_is_refused() {
    let short = read_as("a.txt", "abc").unwrap();
    let found = TOKENIZER.encode("abc").unwrap().len();
    for (window, limit, expected) in [
        (128, None, format!("{found} tokens, one window needs 128")),
        (0, None, "a window of 0 tokens: at least 2, one to predict the other".to_owned()),
        (1, None, "a window of 1 tokens: at least 2, one to predict the other".to_owned()),
        (2, Some(0), "a limit of 0 windows leaves nothing".to_owned()),
        (usize::MAX, None, format!("{found} tokens, one window needs {}", usize::MAX)),
    ] {
        let error = TokenSet::windows(&short, &TOKENIZER, window, limit).unwrap_err();
        assert_eq!(after_path(&error), expected);
    }
    let ids = read_as("ids.json", "[[1, 2], [3, 512]]").unwrap();
    let error = TokenSet::windows(&ids, &TOKENIZER, 2, None).unwrap_err();
    assert_eq!(after_path(&error), "row 1, place 1: id 512 is beyond the vocabulary of 512");
}

#[test]
fn windows_are_spread_over_the_whole_text() {
    let text = tales();
    let all = TokenSet::windows(&text, &TOKENIZER, 64, None).unwrap();
    let count = all.windows.len();
    for windows in [1, 2, 7, count - 1, count, count + 1, usize::MAX] {
        let set = TokenSet::spread(&text, &TOKENIZER, 64, windows).unwrap();
        let kept = windows.min(count);
        assert_eq!((set.windows.len(), set.dropped), (kept, all.dropped));
        for (at, (window, source)) in set.windows.iter().zip(&set.sources).enumerate() {
            let of = at * count / kept;
            assert_eq!((window, source), (&all.windows[of], &all.sources[of]), "{windows}: {at}");
        }
    }
    assert_eq!(TokenSet::spread(&text, &TOKENIZER, 64, count).unwrap(), all);
    let none = TokenSet::spread(&text, &TOKENIZER, 64, 0).unwrap_err();
    assert_eq!(after_path(&none), "a limit of 0 windows leaves nothing");
}

proptest! {
    #[test]
    fn windows_and_remainder_are_the_whole_text(
        window in 2usize..300,
        limit in prop::option::of(1usize..60),
    ) {
        let text = tales();
        let ids = TOKENIZER.encode(&documents(&text).0[0]).unwrap();
        let set = TokenSet::windows(&text, &TOKENIZER, window, limit).unwrap();
        let count = (ids.len() / window).min(limit.unwrap_or(usize::MAX));
        prop_assert_eq!(set.windows.len(), count);
        let whole = limit.is_none_or(|limit| count < limit);
        prop_assert_eq!(set.dropped, whole.then_some(ids.len() - count * window));
        prop_assert_eq!(set.windows.concat(), &ids[..count * window]);
        for (i, (cut, source)) in set.windows.iter().zip(&set.sources).enumerate() {
            prop_assert_eq!(cut.len(), window);
            prop_assert_eq!(*source, Source { document: 0, start: i * window });
        }
    }
}
