//! Text of any length as ids, piece by piece, with the ids of the whole text.
//!
//! A piece is encoded in a window: some text that is encoded already stands
//! before it (the context) and some that follows stands behind it (the look
//! ahead). A cut at byte `p` is taken only where
//!
//! 1. the context before `p`, encoded alone, gives the ids `A`;
//! 2. the context with what follows `p` begins with the same ids: `A`, then `T`;
//! 3. the window of the whole piece ends with the last half of `A`, then `T`.
//!
//! So `p` is a boundary between tokens both in the window that ends there and in
//! the one that begins there, and neither the end of the first nor the beginning
//! of the second shows around it. That is what equality with the whole text
//! takes: pre-tokenizers match from left to right, so that what follows a
//! boundary depends on nothing before it; and byte-pair encoding has a boundary
//! wherever the two tokens beside it do not merge. Prefixes that a tokenizer puts
//! in front of a text fall on the context, whose ids are dropped.
//!
//! Ids do not show everything. Digits in groups of three have the same ids
//! wherever the groups begin, until the run ends; and white space is split behind
//! its last line break, which may follow far away. A cut at the end of a token,
//! not of a word, is therefore taken only where pre-tokenizing splits the text
//! before it alike from the window's start and from the context's, and whatever
//! follows the window ([`PROBES`]).
//!
//! Where no place passes, the piece grows up to [`Limits::most`]; a longer run
//! is an error that names its place.

use std::ops::ControlFlow;

use tokenizers::ModelWrapper;

use super::{TextTokenizer, Token};
use crate::error::{Error, Result};

/// Sizes in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// New text in a window.
    pub piece: usize,
    /// Text before a cut that its window repeats.
    pub context: usize,
    /// Text behind a cut that its window looks at.
    pub ahead: usize,
    /// Most new text in a window.
    pub most: usize,
}

impl Limits {
    /// Windows of 128 KiB take some tens of MiB while they are encoded. The
    /// regular expression engine gives up after ten million steps; a run of
    /// `most` bytes takes fewer.
    pub const DEFAULT: Self = Self { piece: 128 << 10, context: 512, ahead: 1024, most: 2 << 20 };

    /// Longest text that is encoded as one window.
    pub fn whole(self) -> usize {
        self.piece + self.ahead
    }
}

/// Places of one kind that are tried in a window.
const TRIED: usize = 8;

/// What may follow a window: nothing, or a character of a class that
/// pre-tokenizers tell apart, so that a match that runs to the window's end may go
/// on or end there. (`あ` is of the letters that are neither small nor capital, and
/// stand for both.)
const PROBES: [&str; 7] = ["", "a", "あ", "7", " ", "\n", "."];

/// What comes of the ids that were handed on.
pub(super) type Visit<'v, E> = dyn FnMut(&[u32]) -> Result<ControlFlow<()>, E> + 'v;

/// The state between two pieces.
pub(super) struct Pieces<'t> {
    tokenizer: &'t TextTokenizer,
    limits: Limits,
    /// Context, then text that is not encoded yet.
    window: String,
    /// Where the latter begins.
    from: usize,
    /// Ids of the context alone.
    context: Vec<u32>,
    /// New text wanted in this window.
    goal: usize,
    /// Bytes of the text before the window's new text.
    before: u64,
}

/// A cut that passed.
struct Cut {
    at: usize,
    /// Where the next window begins.
    start: usize,
    /// Ids of the next window's context.
    context: Vec<u32>,
    /// Ids of the new text before the cut.
    ids: Vec<u32>,
}

impl<'t> Pieces<'t> {
    pub fn new(tokenizer: &'t TextTokenizer, limits: Limits) -> Self {
        Self {
            tokenizer,
            limits,
            window: String::new(),
            from: 0,
            context: Vec::new(),
            goal: limits.piece,
            before: 0,
        }
    }

    /// Takes the next part of the text and hands on the ids of all pieces that
    /// are complete.
    pub fn push<E: From<Error>>(
        &mut self,
        mut text: &str,
        visit: &mut Visit<'_, E>,
    ) -> Result<ControlFlow<()>, E> {
        while !text.is_empty() {
            let room =
                (self.from + self.goal + self.limits.ahead).saturating_sub(self.window.len());
            // At least a character, so that every turn makes progress.
            let take = text.ceil_char_boundary(room.clamp(1, text.len()));
            let (taken, rest) = text.split_at(take);
            self.window.push_str(taken);
            text = rest;
            if self.window.len() >= self.from + self.goal + self.limits.ahead
                && self.advance(visit)?.is_break()
            {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Hands on the ids of what is left at the end of the text.
    pub fn finish<E: From<Error>>(self, visit: &mut Visit<'_, E>) -> Result<ControlFlow<()>, E> {
        let ids = self.encode(&self.window)?;
        if !ids.starts_with(&self.context) {
            return Err(self.uncut().into());
        }
        visit(&ids[self.context.len()..])
    }

    /// Cuts the window, or wants a larger one.
    fn advance<E: From<Error>>(&mut self, visit: &mut Visit<'_, E>) -> Result<ControlFlow<()>, E> {
        let Some(cut) = self.cut()? else {
            if self.goal >= self.limits.most {
                return Err(self.uncut().into());
            }
            self.goal = (self.goal * 2).min(self.limits.most);
            return Ok(ControlFlow::Continue(()));
        };
        self.before += (cut.at - self.from) as u64;
        self.window.drain(..cut.start);
        self.from = cut.at - cut.start;
        self.context = cut.context;
        self.goal = self.limits.piece;
        visit(&cut.ids)
    }

    /// The last place in the window that passes.
    fn cut(&self) -> Result<Option<Cut>> {
        // Each costs the window; a place that does not pass costs little.
        let mut tries = 2;
        for at in self.word_ends() {
            let start = self.window.floor_char_boundary(at.saturating_sub(self.limits.context));
            if let Some(cut) = self.checked(start, at, &mut tries)? {
                return Ok(Some(cut));
            }
        }
        let mut tries = 2;
        let tokens = self.token_ends()?;
        for (start, at) in tokens.ends {
            if self.is_split_alike(start, at, &tokens.splits)?
                && let Some(cut) = self.checked(start, at, &mut tries)?
                && self.is_settled(at, &tokens.splits)?
            {
                return Ok(Some(cut));
            }
        }
        Ok(None)
    }

    /// Whether the context from `start` splits as the window does, up to the cut.
    fn is_split_alike(&self, start: usize, at: usize, splits: &[usize]) -> Result<bool> {
        let end = self.window.floor_char_boundary(at + self.limits.ahead);
        let context = splits_of(&self.tokens(&self.window[start..end])?);
        let context = context.into_iter().map(|split| start + split);
        let window = splits.iter().copied().filter(|split| *split > start);
        Ok(window.take_while(|split| *split <= at).eq(context.take_while(|split| *split <= at)))
    }

    /// Whether the window up to the cut splits alike whatever follows.
    fn is_settled(&self, at: usize, splits: &[usize]) -> Result<bool> {
        let end = self.window.floor_char_boundary(at + self.limits.ahead);
        let mut text = self.window[..end].to_owned();
        for probe in PROBES {
            text.truncate(end);
            text.push_str(probe);
            let found = splits_of(&self.tokens(&text)?).into_iter();
            let expected = splits.iter().copied().take_while(|split| *split <= at);
            if !found.take_while(|split| *split <= at).eq(expected) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The cut at `at` with a context from `start`, if it passes.
    fn checked(&self, start: usize, at: usize, tries: &mut usize) -> Result<Option<Cut>> {
        if *tries == 0 {
            return Ok(None);
        }
        let end = self.window.floor_char_boundary(at + self.limits.ahead);
        let context = self.encode(&self.window[start..at])?;
        let around = self.encode(&self.window[start..end])?;
        if context.is_empty() || around.len() == context.len() || !around.starts_with(&context) {
            return Ok(None);
        }
        *tries -= 1;
        let ids = self.encode(&self.window[..end])?;
        let ahead = around.len() - context.len();
        let shared = &around[context.len() / 2..];
        if !ids.starts_with(&self.context)
            || ids.len() < self.context.len() + ahead
            || !ids.ends_with(shared)
        {
            return Ok(None);
        }
        let ids = ids[self.context.len()..ids.len() - ahead].to_vec();
        Ok(Some(Cut { at, start, context, ids }))
    }

    /// Where words end, the last first: before a space between two words, then
    /// before whatever ends a word.
    fn word_ends(&self) -> Vec<usize> {
        let lowest = self.window.ceil_char_boundary((self.from + self.goal / 2).max(1));
        let highest = self.window.floor_char_boundary(self.from + self.goal);
        if lowest >= highest {
            return Vec::new();
        }
        let (mut spaces, mut ends) = (Vec::new(), Vec::new());
        let word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        let mut after = self.window[highest..].chars();
        let (mut next, mut second) = (after.next(), after.next());
        for (at, char) in self.window[lowest..highest].char_indices().rev() {
            let place = lowest + at + char.len_utf8();
            if char.is_alphanumeric() && next.is_some() && !word(next) {
                let list = if next == Some(' ') && word(second) { &mut spaces } else { &mut ends };
                if list.len() < TRIED {
                    list.push(place);
                }
            }
            if spaces.len() == TRIED {
                break;
            }
            (next, second) = (Some(char), next);
        }
        [spaces, ends].concat()
    }

    /// Where tokens end in a text without such places (scripts without spaces,
    /// long runs), each with the end of an earlier token. Byte-pair encoding only,
    /// whose boundaries depend on the tokens beside them alone, and none where a
    /// pre-tokenizer looks ahead, which may see the end of a run.
    fn token_ends(&self) -> Result<TokenEnds> {
        let inner = &self.tokenizer.inner;
        let pairs = match inner.get_model() {
            ModelWrapper::BPE(_) => true,
            ModelWrapper::Unigram(_) | ModelWrapper::WordPiece(_) | ModelWrapper::WordLevel(_) => {
                false
            }
        };
        if !pairs || has(&inner.get_pre_tokenizer(), &["(?=", "(?<"]) {
            return Ok(TokenEnds::default());
        }
        // White space is cut as the last resort, for what it becomes may depend on
        // where it ends.
        let strips = self.goal < self.limits.most
            || inner.get_added_tokens_decoder().values().any(|token| token.lstrip)
            || has(&inner.get_normalizer(), &["Strip", "Regex", "Precompiled", "BertNormalizer"]);
        let tokens = self.tokens(&self.window)?;
        let ends = tokens.windows(2).filter(|pair| pair[0].bytes.end == pair[1].bytes.start);
        let ends: Vec<usize> = ends
            .map(|pair| pair[0].bytes.end)
            .filter(|end| {
                let before = self.window.get(..*end).and_then(|text| text.chars().next_back());
                before.is_some_and(|c| !(strips && c.is_whitespace()))
            })
            .collect();
        let highest = ends.partition_point(|end| *end <= self.from + self.goal);
        let tried = ends[..highest].iter().rev().take_while(|end| **end > self.from);
        let start = |at: usize| {
            let after = ends.partition_point(|end| end + self.limits.context <= at);
            ends[..after].last().copied().unwrap_or(0)
        };
        let ends = tried.take(TRIED).map(|&at| (start(at), at)).collect();
        Ok(TokenEnds { ends, splits: splits_of(&tokens) })
    }

    fn tokens(&self, text: &str) -> Result<Vec<Token>> {
        self.tokenizer.tokens_window(text).map_err(|message| self.failed(&message))
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let ids = self.tokenizer.encoded_window(text, false);
        ids.map_err(|message| self.failed(&message))
    }

    /// An error at the window's place.
    fn failed(&self, message: &str) -> Error {
        self.tokenizer.error(format!("the text at byte {}: {message}", self.before))
    }

    fn uncut(&self) -> Error {
        let bytes = self.window.len() - self.from;
        let error = self.failed(&format!(
            "no place in {bytes} bytes where the text can be cut without changing its tokens"
        ));
        error.advise("break up such runs of characters, or remove them from the text")
    }
}

/// Places in a window that lie within its words.
#[derive(Default)]
struct TokenEnds {
    /// Where the context begins, and the cut.
    ends: Vec<(usize, usize)>,
    /// Where pre-tokenizing splits the window.
    splits: Vec<usize>,
}

/// Where pre-tokenizing splits a text: the ends of its words.
fn splits_of(tokens: &[Token]) -> Vec<usize> {
    let words = tokens.chunk_by(|one, next| one.word == next.word);
    words.filter_map(|word| Some(word.last()?.bytes.end)).collect()
}

/// Whether a part of a tokenizer, written out, holds any of `words`.
fn has(part: &impl serde::Serialize, words: &[&str]) -> bool {
    let json = serde_json::to_string(part);
    json.map_or(true, |json| words.iter().any(|word| json.contains(word)))
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, sync::LazyLock};

    use proptest::prelude::*;
    use serde_json::{Value as Json, json};

    use super::*;

    fn fixtures() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tokenizers")
    }

    fn edited(json: &Json) -> TextTokenizer {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
        TextTokenizer::from_hf_folder(folder.path()).unwrap()
    }

    fn file(family: &str) -> Json {
        let bytes = std::fs::read(fixtures().join(family).join("tokenizer.json")).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    /// All families, and what they have not: prefixes, tokens that take the spaces
    /// beside them, a Unigram, words without byte-pair encoding.
    static TOKENIZERS: LazyLock<Vec<(String, TextTokenizer)>> = LazyLock::new(|| {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(fixtures()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                all.push((name, TextTokenizer::from_hf_folder(&path).unwrap()));
            }
        }
        assert!(all.len() >= 13);
        let mut prefix = file("gpt-2");
        prefix["pre_tokenizer"]["add_prefix_space"] = true.into();
        all.push(("prefix space".into(), edited(&prefix)));
        let metaspace = |json: &mut Json, scheme: &str, split: bool| {
            json["normalizer"] = Json::Null;
            json["pre_tokenizer"] = json!({
                "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split,
            });
        };
        for (scheme, split) in [("first", false), ("always", false), ("first", true)] {
            let mut json = file("llama-spm");
            metaspace(&mut json, scheme, split);
            all.push((format!("metaspace {scheme} {split}"), edited(&json)));
        }
        let mut greedy = file("llama-bpe");
        for token in greedy["added_tokens"].as_array_mut().unwrap() {
            token["lstrip"] = true.into();
            token["rstrip"] = true.into();
        }
        all.push(("tokens that take spaces".into(), edited(&greedy)));
        // Line breaks that take the space behind them, before spaces pair up.
        let mut breaks = file("smaug-bpe");
        breaks["added_tokens"].as_array_mut().unwrap().retain(|token| token["content"] != "   ");
        let vocabulary = breaks["model"]["vocab"].as_object_mut().unwrap();
        let id = vocabulary.remove("Ġx").unwrap();
        vocabulary.insert("ĊĠ".into(), id);
        let merges = breaks["model"]["merges"].as_array_mut().unwrap();
        merges.retain(|merge| *merge != json!(["Ġ", "x"]));
        merges.insert(0, json!(["Ċ", "Ġ"]));
        all.push(("breaks".into(), edited(&breaks)));
        let mut nfkc = file("smollm");
        nfkc["normalizer"] = json!({"type": "Sequence", "normalizers": [
            {"type": "NFKC"}, {"type": "Lowercase"},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
            {"type": "Strip", "strip_left": true, "strip_right": true},
        ]});
        all.push(("normalized".into(), edited(&nfkc)));
        let pieces = [
            "<unk>", "▁", "a", "b", "e", "h", "l", "o", "r", "t", "w", "th", "the", "▁the", "▁wor",
            "lo", "▁hello", ".", "人", "中文", "1", "2", "12",
        ];
        let scored = pieces.iter().enumerate().map(|(at, piece)| json!([piece, -0.37 * at as f64]));
        let mut unigram = file("llama-spm");
        unigram["added_tokens"] = json!([]);
        unigram["post_processor"] = Json::Null;
        unigram["model"] =
            json!({"type": "Unigram", "unk_id": 0, "vocab": scored.collect::<Vec<_>>()});
        metaspace(&mut unigram, "always", true);
        all.push(("unigram".into(), edited(&unigram)));
        let mut words = file("gpt-2");
        let vocabulary = ["[UNK]", "the", "hello", "##s", "a", "##a", "1", "##2", "."];
        let ids = vocabulary.iter().enumerate().map(|(id, word)| ((*word).to_owned(), json!(id)));
        words["added_tokens"] = json!([]);
        words["post_processor"] = Json::Null;
        words["decoder"] = Json::Null;
        words["normalizer"] = json!({"type": "BertNormalizer", "clean_text": true,
            "handle_chinese_chars": true, "strip_accents": null, "lowercase": true});
        words["pre_tokenizer"] = json!({"type": "BertPreTokenizer"});
        words["model"] = json!({"type": "WordPiece", "unk_token": "[UNK]",
            "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
            "vocab": ids.collect::<serde_json::Map<_, _>>()});
        all.push(("word pieces".into(), edited(&words)));
        all
    });

    fn in_pieces(
        tokenizer: &TextTokenizer,
        limits: Limits,
        parts: &[&str],
        special: bool,
    ) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        let parts = parts.iter().map(|part| Ok::<_, Error>(*part));
        let _ = tokenizer.encode_pieces_of(limits, parts, special, &mut |piece| {
            ids.extend_from_slice(piece);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(ids)
    }

    /// Texts of some kilobytes from what meets the tokenizers' seams.
    fn text() -> impl Strategy<Value = String> {
        let seams = [
            " ",
            "  ",
            "   ",
            "\n",
            "\r\n",
            "\t",
            "'s",
            "'LL",
            "<|im_end|>",
            "<s>",
            "</s>",
            "▁",
            "12",
            "3456",
            " the",
            "The",
            "hello",
            " world",
            "人",
            "中文字符",
            "é",
            "e\u{301}",
            "👍🏽",
            "👨‍👩‍👧‍👦",
            "...",
            "/\n",
            "<|user_defined|>",
            "\0",
            "\u{7f}",
            "\u{feff}",
            "def f(x):\n    ",
            "ſ",
            "हिन्दी",
            "\u{a0}",
            "\u{3000}",
            "ﬁ",
            "%%",
        ];
        let seam = proptest::sample::select(seams.to_vec());
        let runs =
            proptest::sample::select(vec![" ", "a", "\n", "=", "人", "7", "\t", "▁", "ab", " \n"]);
        let piece = prop_oneof![
            6 => seam.prop_map(str::to_owned),
            1 => "\\PC{0,6}",
            1 => any::<String>(),
            6 => "[a-z]{1,8} [a-z]{1,8}",
            2 => "[a-zA-Z' ,.0-9]{0,24}",
            1 => (runs, 0..300usize).prop_map(|(run, times)| run.repeat(times)),
        ];
        proptest::collection::vec(piece, 0..150).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn ids_are_those_of_the_whole_text(
            text in text(),
            piece in 64..400usize,
            part in 1..700usize,
            special in any::<bool>(),
        ) {
            let limits = Limits { piece, context: 64, ahead: 96, most: 1 << 20 };
            let mut parts = Vec::new();
            let mut rest = text.as_str();
            while !rest.is_empty() {
                let (first, second) = rest.split_at(rest.ceil_char_boundary(part.min(rest.len())));
                parts.push(first);
                rest = second;
            }
            for (name, tokenizer) in TOKENIZERS.iter() {
                let whole = tokenizer.encoded_window(&text, special).unwrap();
                let found = in_pieces(tokenizer, limits, &parts, special).unwrap();
                prop_assert_eq!(found, whole, "{}", name);
            }
        }
    }

    #[test]
    fn nothing_is_read_after_the_visitor_has_enough() {
        let (_, tokenizer) = &TOKENIZERS[0];
        let mut read = 0;
        let parts = std::iter::repeat_with(|| {
            read += 1;
            Ok::<_, Error>("some words of an endless text ")
        });
        let mut seen = 0;
        let flow = tokenizer.encode_pieces(parts, true, |ids| {
            seen += ids.len();
            Ok(if seen > 10 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        assert!(flow.unwrap().is_break() && seen > 10);
        // One window, not more.
        assert!(read * 30 <= Limits::DEFAULT.whole() + 60, "{read} parts");
    }

    #[test]
    fn long_runs_have_the_ids_of_the_whole_or_an_error_that_names_the_place() {
        let limits = Limits { piece: 256, context: 64, ahead: 96, most: 2048 };
        for (name, tokenizer) in TOKENIZERS.iter() {
            let text = "hello".to_owned() + &" ".repeat(1500) + &"world ".repeat(200);
            let whole = tokenizer.encoded_window(&text, true).unwrap();
            assert_eq!(in_pieces(tokenizer, limits, &[&text], true).unwrap(), whole, "{name}");
            for run in [" ", "a", "人", "=", "\n ", "ab", "7"] {
                let text = "hello".to_owned() + &run.repeat(9000) + &"world ".repeat(200);
                match in_pieces(tokenizer, limits, &[&text], true) {
                    Ok(ids) => {
                        let whole = tokenizer.encoded_window(&text, true).unwrap();
                        assert!(ids == whole, "{name} {run:?}");
                    }
                    Err(error) => {
                        let message = error.to_string();
                        assert!(message.contains("the text at byte "), "{message}");
                        assert!(error.hint().is_some());
                        let uncut = ["unigram", "word pieces"].contains(&name.as_str());
                        assert!(uncut || run.trim().is_empty(), "{name} {run:?}");
                    }
                }
            }
        }
    }

    /// Runs whose ids look the same wherever they are cut, until they end.
    #[test]
    fn runs_with_hidden_phases_have_the_ids_of_the_whole_or_an_error() {
        let limits = Limits { piece: 256, context: 64, ahead: 96, most: 2048 };
        let spaced = "\n".to_owned() + &" ".repeat(700);
        let upper = "あ".to_owned() + &"A".repeat(700);
        let runs = [
            // Digits in groups of three, the last of which tells how they lie.
            ("7".repeat(6000), "12 "),
            ("7".repeat(6001), "12 "),
            ("7".repeat(6002), "12 "),
            ("12".repeat(3000), "7 "),
            // White space that is split behind its last line break.
            (spaced.repeat(12), "x"),
            (spaced.repeat(12), "\nx"),
            (" ".repeat(6000), "\nx"),
            (" ".repeat(6001), "x"),
            // Letters that end a word if no small letter follows.
            (upper.repeat(9), "あ"),
            (upper.repeat(9), " x"),
            // Suffixes, and punctuation before words.
            ("'s".repeat(4000), "x"),
            ("don't".repeat(2000), " x"),
            (".A".repeat(4000), " x"),
            ("=".repeat(6000), "\n\n"),
        ];
        let mut same = 0;
        for (name, tokenizer) in TOKENIZERS.iter() {
            for (run, end) in &runs {
                for before in ["", "hello "] {
                    let text = [before, run, end, &"world ".repeat(200)].concat();
                    let whole = tokenizer.encoded_window(&text, true).unwrap();
                    match in_pieces(tokenizer, limits, &[&text], true) {
                        Ok(ids) => {
                            let start: String = text.chars().take(9).collect();
                            assert!(ids == whole, "{name} {start:?} {end:?}");
                            same += 1;
                        }
                        Err(error) => {
                            let message = error.to_string();
                            assert!(message.contains("the text at byte "), "{message}");
                            assert!(error.hint().is_some());
                        }
                    }
                }
            }
        }
        assert!(same > TOKENIZERS.len() * runs.len(), "{same}");
    }

    #[test]
    fn a_run_that_the_engine_gives_up_on_is_cut_before() {
        let mut json = file("llama-bpe");
        // Spaces of the text, not tokens of their own.
        json["added_tokens"].as_array_mut().unwrap().retain(|token| token["content"] != "   ");
        let tokenizer = edited(&json);
        let spaces = 11_000_000;
        let text = "hello".to_owned() + &" ".repeat(spaces) + &"world ".repeat(200);
        let message = tokenizer.encoded_window(&text, true).unwrap_err();
        assert!(message.contains("retry-limit-in-match"), "{message}");
        // No window is that long: a quarter of it has several, and the ids of one.
        let text = "hello".to_owned() + &" ".repeat(spaces / 4) + &"world ".repeat(200);
        let whole = tokenizer.encoded_window(&text, true).unwrap();
        assert!(Limits::DEFAULT.most < spaces / 4);
        assert!(tokenizer.encode(&text).unwrap() == whole);
    }
}
