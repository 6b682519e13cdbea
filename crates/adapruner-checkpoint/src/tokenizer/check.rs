//! Checks the content of a `tokenizer.json`.
//!
//! The library trusts its files: an empty pattern, a damaged character map or a
//! chain of growing replacements panics or fills the memory when a text is
//! encoded, and some files when they are read. The parts are checked here before
//! the library sees them, then tried on a few texts; what is left panics behind
//! the fence of every call.

use serde::Deserialize;
use serde_json::Value as Json;
use tokenizers::{
    NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    Tokenizer,
};

use super::charsmap;
use crate::fence::fenced;

/// Deepest nesting of sequences; published files have two levels.
const MAX_DEPTH: usize = 8;
/// Most steps of a normalizer, pre-tokenizer, post-processor or decoder.
const MAX_STEPS: usize = 256;
/// Longest regular expression in bytes; the longest published ones have some 500.
const MAX_REGEX: usize = 16 << 10;
/// Deepest nesting of groups in a regular expression.
const MAX_GROUPS: usize = 64;
/// Most bytes that replacements may make of one byte of text, together.
const MAX_GROWTH: usize = 64;
/// Longest text that is put in front of another, and longest added token, in bytes.
pub(super) const MAX_TEXT: usize = 4096;
/// Most tokens that are added around a text.
const MAX_ADDED: usize = 64;

/// The parts of the file that are checked.
#[derive(Deserialize)]
pub(super) struct Outline {
    #[serde(default)]
    normalizer: Json,
    #[serde(default)]
    pre_tokenizer: Json,
    #[serde(default)]
    post_processor: Json,
    #[serde(default)]
    decoder: Json,
    #[serde(default)]
    added_tokens: Option<Vec<AddedOutline>>,
    model: ModelOutline,
}

#[derive(Deserialize)]
struct AddedOutline {
    content: String,
}

#[derive(Deserialize)]
struct ModelOutline {
    #[serde(default)]
    dropout: Option<f32>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    merges: Option<serde::de::IgnoredAny>,
}

impl Outline {
    /// Refuses what the library would panic on or what grows without bound; an
    /// error in words that names the part.
    pub fn check(&self) -> Result<(), String> {
        let model = &self.model;
        // The library cuts the prefix off merges without looking.
        let prefix = model.continuing_subword_prefix.as_deref().unwrap_or_default();
        if model.merges.is_some() && !prefix.is_empty() {
            return Err("BPE with continuing_subword_prefix is not supported".into());
        }
        if model.dropout.is_some_and(|p| p != 0.0) {
            return Err("BPE with dropout encodes at random, which is not supported".into());
        }
        for (at, token) in self.added_tokens.iter().flatten().enumerate() {
            let bytes = token.content.len();
            if bytes > MAX_TEXT {
                return Err(format!(
                    "added_tokens[{at}]: {bytes} bytes, at most {MAX_TEXT} expected"
                ));
            }
        }
        for (name, list, part) in [
            ("normalizer", "normalizers", &self.normalizer),
            ("pre_tokenizer", "pretokenizers", &self.pre_tokenizer),
            ("post_processor", "processors", &self.post_processor),
            ("decoder", "decoders", &self.decoder),
        ] {
            let mut walk = Walk { list, growth: 1, steps: 0 };
            walk.visit(name, part, 0)?;
        }
        Ok(())
    }
}

/// What is summed up over the steps of a part.
struct Walk {
    /// The key of a sequence's steps.
    list: &'static str,
    growth: usize,
    steps: usize,
}

impl Walk {
    fn visit(&mut self, name: &str, part: &Json, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("{name}: at most {MAX_DEPTH} nested sequences expected"));
        }
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return Err(format!("{name}: at most {MAX_STEPS} steps expected"));
        }
        if let Some(steps) = part[self.list].as_array() {
            let list = self.list;
            let mut numbered = steps.iter().enumerate();
            return numbered.try_for_each(|(at, step)| {
                self.visit(&format!("{name}.{list}[{at}]"), step, depth + 1)
            });
        }
        self.step(part).map_err(|message| {
            let kind = part["type"].as_str().unwrap_or("without a type");
            format!("{name} ({kind}): {message}")
        })
    }

    fn step(&mut self, step: &Json) -> Result<(), String> {
        let short = |key: &str| match step[key].as_str().map_or(0, str::len) {
            bytes if bytes > MAX_TEXT => {
                Err(format!("{key}: {bytes} bytes, at most {MAX_TEXT} expected"))
            }
            _ => Ok(()),
        };
        match step["type"].as_str().unwrap_or_default() {
            "Replace" => {
                let least = pattern(&step["pattern"])?;
                let content = step["content"].as_str().map_or(0, str::len);
                self.growth = self.growth.saturating_mul(content.div_ceil(least).max(1));
                if self.growth > MAX_GROWTH {
                    let growth = self.growth;
                    return Err(format!(
                        "it can make {growth} bytes of one, with those before it, at most {MAX_GROWTH} expected"
                    ));
                }
                Ok(())
            }
            "Split" => pattern(&step["pattern"]).map(|_| ()),
            "Prepend" => short("prepend"),
            "FixedLength" if step["length"] == 0 => {
                Err("length: at least 1 expected, 0 found".into())
            }
            "Precompiled" => charsmap::check(&step["precompiled_charsmap"]),
            "TemplateProcessing" => template(step),
            // The others have no numbers or texts that could do harm.
            _ => Ok(()),
        }
    }
}

/// Checks a pattern; the bytes that it matches at least.
fn pattern(pattern: &Json) -> Result<usize, String> {
    if let Some(text) = pattern["String"].as_str() {
        return match text.len() {
            0 => Err("pattern: a text expected, an empty one found".into()),
            bytes if bytes > MAX_REGEX => {
                Err(format!("pattern: {bytes} bytes, at most {MAX_REGEX} expected"))
            }
            bytes => Ok(bytes),
        };
    }
    let Some(regex) = pattern["Regex"].as_str() else {
        return Err("pattern: String or Regex expected".into());
    };
    if regex.is_empty() {
        return Err("pattern: a regular expression expected, an empty one found".into());
    }
    if regex.len() > MAX_REGEX {
        let bytes = regex.len();
        return Err(format!("pattern: {bytes} bytes, at most {MAX_REGEX} expected"));
    }
    // An upper bound: parentheses that are escaped or in a class count too.
    let mut open = 0usize;
    for byte in regex.bytes() {
        match byte {
            b'(' => open += 1,
            b')' => open = open.saturating_sub(1),
            _ => {}
        }
        if open > MAX_GROUPS {
            return Err(format!("pattern: at most {MAX_GROUPS} nested groups expected"));
        }
    }
    Ok(1)
}

/// Bounds the tokens that a template adds to a text, which it holds once.
fn template(step: &Json) -> Result<(), String> {
    let ids = |piece: &Json| {
        let special = piece["SpecialToken"]["id"].as_str()?;
        Some(step["special_tokens"][special]["ids"].as_array().map_or(1, Vec::len))
    };
    for key in ["single", "pair"] {
        let pieces = step[key].as_array().map_or(&[][..], Vec::as_slice);
        let added: usize = pieces.iter().map(|piece| ids(piece).unwrap_or(1)).sum();
        if added > MAX_ADDED {
            return Err(format!("{key}: {added} parts, at most {MAX_ADDED} expected"));
        }
    }
    let pieces = step["single"].as_array().map_or(&[][..], Vec::as_slice);
    let texts = pieces.iter().filter(|piece| !piece["Sequence"].is_null()).count();
    if texts != 1 {
        return Err(format!("single: the text once expected, {texts} times found"));
    }
    Ok(())
}

/// Tries every part on a few texts; an error in words that names the part which
/// panics or fails.
pub(super) fn tried(tokenizer: &Tokenizer) -> Result<(), String> {
    const TEXTS: [&str; 6] = ["", " ", "a", "  Two words.\n\n", "é e\u{301} 人 ﬁ 😀", "\0\t12 <s>"];
    let failed = |part: &str, e: String| format!("{part}: it fails on a text: {e}");
    for text in TEXTS {
        if let Some(normalizer) = tokenizer.get_normalizer() {
            let run = fenced(|| {
                let mut string = NormalizedString::from(text);
                normalizer.normalize(&mut string).map(|()| string.get().len())
            });
            let run = run.and_then(|run| run.map_err(|e| e.to_string()));
            let bytes = run.map_err(|e| failed("normalizer", e))?;
            // What is put in front, and the growth of a character in Unicode's forms.
            let most = (text.len() + 1) * MAX_GROWTH + MAX_TEXT;
            if bytes > most {
                return Err(format!("normalizer: it makes {bytes} bytes of {}", text.len()));
            }
        }
        if let Some(pre_tokenizer) = tokenizer.get_pre_tokenizer() {
            let run = fenced(|| {
                let mut string = PreTokenizedString::from(text);
                pre_tokenizer.pre_tokenize(&mut string)?;
                string.get_splits(OffsetReferential::Original, OffsetType::Byte);
                Ok::<_, tokenizers::Error>(())
            });
            run.and_then(|run| run.map_err(|e| e.to_string()))
                .map_err(|e| failed("pre_tokenizer", e))?;
        }
        // A model without an unknown token may refuse a text, as an error.
        let ids = fenced(|| tokenizer.encode_fast(text, true).map(|e| e.get_ids().to_vec()));
        let ids = ids.map_err(|e| failed("model or post_processor", e))?;
        if let Ok(ids) = ids {
            let run = fenced(|| tokenizer.decode(&ids, false));
            run.map_err(|e| failed("decoder", e)).map(|_| ())?;
        }
    }
    Ok(())
}
