//! The pre-tokenizers of byte-level BPE that llama.cpp knows by name.
//!
//! A GGUF file names how text is cut into words (`tokenizer.ggml.pre`);
//! `tokenizer.json` writes it out. This table holds both, from llama.cpp's
//! `llama-vocab.cpp` and from transformers' converters, and is read in both
//! directions. Normalisation to NFC is part of it: llama.cpp leaves it out,
//! but the folders of the models that these names stand for have it.

use serde_json::{Value as Json, json};

/// One step that cuts the pieces of the step before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Matches of a regular expression become pieces, and what is between.
    Split(String),
    /// Every digit by itself.
    Digits,
    /// GPT-2's expression, which `ByteLevel` brings with it.
    Gpt2,
}

/// A way of cutting text into words, with what else goes by its name.
#[derive(Debug)]
pub(super) struct Pre {
    /// The name that is written.
    pub name: &'static str,
    /// Other names that llama.cpp treats alike.
    aliases: &'static [&'static str],
    steps: &'static [Fixed],
    nfc: bool,
    /// Words that are tokens stay whole, whatever the merges say.
    pub ignore_merges: bool,
    /// Whether BOS is added where a file does not say.
    pub adds_bos: bool,
}

/// [`Step`] as a constant.
#[derive(Debug, Clone, Copy)]
enum Fixed {
    Split(&'static str),
    Digits,
    Gpt2,
}

impl Fixed {
    fn step(self) -> Step {
        match self {
            Self::Split(regex) => Step::Split(regex.to_owned()),
            Self::Digits => Step::Digits,
            Self::Gpt2 => Step::Gpt2,
        }
    }
}

const GPT2_REGEX: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^"##,
    "\r\n",
    r"\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[",
    "\r\n",
    r"]*|\s*[",
    "\r\n",
    r"]+|\s+(?!\S)|\s+"
);

/// Every pre-tokenizer supported. Where two cut alike, the first is written.
const KNOWN: [Pre; 11] = [
    Pre {
        name: "gpt-2",
        aliases: &["phi-2"],
        steps: &[Fixed::Gpt2],
        nfc: false,
        ignore_merges: false,
        adds_bos: false,
    },
    Pre {
        name: "smollm",
        aliases: &["starcoder", "refact"],
        steps: &[Fixed::Digits, Fixed::Gpt2],
        nfc: false,
        ignore_merges: false,
        adds_bos: false,
    },
    Pre {
        name: "command-r",
        aliases: &[],
        steps: &[Fixed::Digits, Fixed::Gpt2],
        nfc: true,
        ignore_merges: false,
        adds_bos: false,
    },
    Pre {
        name: "llama-bpe",
        aliases: &["llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        steps: &[Fixed::Split(LLAMA3)],
        nfc: false,
        ignore_merges: true,
        adds_bos: true,
    },
    Pre {
        name: "smaug-bpe",
        aliases: &["dbrx"],
        steps: &[Fixed::Split(LLAMA3)],
        nfc: false,
        ignore_merges: false,
        adds_bos: false,
    },
    Pre {
        name: "qwen2",
        aliases: &[],
        steps: &[Fixed::Split(QWEN2)],
        nfc: true,
        ignore_merges: false,
        adds_bos: false,
    },
    Pre {
        name: "deepseek-r1-qwen",
        aliases: &[],
        steps: &[Fixed::Split(QWEN2)],
        nfc: false,
        ignore_merges: false,
        adds_bos: false,
    },
    Pre {
        name: "tekken",
        aliases: &[],
        steps: &[Fixed::Split(TEKKEN)],
        nfc: false,
        ignore_merges: true,
        adds_bos: true,
    },
    Pre {
        name: "deepseek-v3",
        aliases: &[],
        steps: &[
            Fixed::Split(r"\p{N}{1,3}"),
            Fixed::Split("[一-龥\u{3040}-ゟ゠-ヿ]+"),
            Fixed::Split(DEEPSEEK3),
        ],
        nfc: false,
        ignore_merges: false,
        adds_bos: false,
    },
    Pre {
        name: "deepseek-coder",
        aliases: &[],
        steps: &[
            Fixed::Split("[\r\n]"),
            Fixed::Split(r"\s?\p{L}+"),
            Fixed::Split(r"\s?\p{P}+"),
            Fixed::Split("[一-龥\u{800}-一가-\u{d7ff}]+"),
            Fixed::Digits,
        ],
        nfc: false,
        ignore_merges: false,
        adds_bos: false,
    },
    Pre {
        name: "default",
        aliases: &[],
        steps: &[
            Fixed::Split(r"[\p{P}\$\+<=>\^~\|]+"),
            Fixed::Split(GPT2_REGEX),
            Fixed::Split(r"\p{N}+"),
            Fixed::Split("[0-9][0-9][0-9]"),
        ],
        nfc: false,
        ignore_merges: false,
        adds_bos: false,
    },
];

impl Pre {
    /// The pre-tokenizer of a name in a GGUF file.
    pub fn named(name: &str) -> Option<&'static Self> {
        KNOWN.iter().find(|pre| pre.name == name || pre.aliases.contains(&name))
    }

    /// The pre-tokenizer that cuts in these steps.
    pub fn of_steps(steps: &[Step], nfc: bool, ignore_merges: bool) -> Option<&'static Self> {
        KNOWN.iter().find(|pre| {
            pre.nfc == nfc
                && pre.ignore_merges == ignore_merges
                && pre.steps.iter().map(|step| step.step()).eq(steps.iter().cloned())
        })
    }

    /// All names, for messages.
    pub fn names() -> String {
        let names = KNOWN.iter().flat_map(|pre| [pre.name].into_iter().chain(pre.aliases.to_vec()));
        names.collect::<Vec<_>>().join(", ")
    }

    /// `normalizer` of tokenizer.json.
    pub fn normalizer(&self) -> Json {
        if self.nfc { json!({"type": "NFC"}) } else { Json::Null }
    }

    /// `pre_tokenizer` of tokenizer.json.
    pub fn pre_tokenizer(&self) -> Json {
        let mut steps = Vec::new();
        let mut use_regex = false;
        for step in self.steps {
            match step {
                Fixed::Split(regex) => steps.push(json!({
                    "type": "Split",
                    "pattern": {"Regex": regex},
                    "behavior": "Isolated",
                    "invert": false,
                })),
                Fixed::Digits => steps.push(json!({"type": "Digits", "individual_digits": true})),
                Fixed::Gpt2 => use_regex = true,
            }
        }
        steps.push(json!({
            "type": "ByteLevel",
            "add_prefix_space": false,
            "trim_offsets": true,
            "use_regex": use_regex,
        }));
        match steps.len() {
            1 => steps.remove(0),
            _ => json!({"type": "Sequence", "pretokenizers": steps}),
        }
    }
}

/// Whether `normalizer` of tokenizer.json is NFC (`Some(true)`) or nothing
/// (`Some(false)`); `None` for any other.
pub(super) fn is_nfc(normalizer: &Json) -> Option<bool> {
    if normalizer.is_null() {
        return Some(false);
    }
    match normalizer["type"].as_str()? {
        "NFC" => Some(true),
        "Sequence" => match normalizer["normalizers"].as_array()?.as_slice() {
            [] => Some(false),
            [only] => is_nfc(only),
            _ => None,
        },
        _ => None,
    }
}

/// The steps of a byte-level `pre_tokenizer` of tokenizer.json; what keeps it
/// from being one otherwise.
pub(super) fn steps(pre_tokenizer: &Json) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    let mut byte_level = false;
    for part in flat(pre_tokenizer) {
        let kind = part["type"].as_str().unwrap_or("none");
        if byte_level {
            return Err(format!("{kind} after ByteLevel"));
        }
        match kind {
            "Split" => steps.push(split(part)?),
            "Digits" if part["individual_digits"] == true => steps.push(Step::Digits),
            "ByteLevel" if part["add_prefix_space"] == true => {
                return Err("ByteLevel with add_prefix_space".into());
            }
            "ByteLevel" => {
                byte_level = true;
                // True where the file does not say, as in the library.
                if part["use_regex"] != false {
                    steps.push(Step::Gpt2);
                }
            }
            _ => return Err(format!("the step {part}")),
        }
    }
    if byte_level { Ok(steps) } else { Err("no ByteLevel".into()) }
}

fn split(part: &Json) -> Result<Step, String> {
    let cut = (part["behavior"].as_str(), part["invert"].as_bool());
    // An inverted removal keeps the matches and drops what is between them:
    // nothing, for the expressions of this table that match every character.
    let regex = part["pattern"]["Regex"].as_str();
    match (regex, cut) {
        (Some(regex), (Some("Isolated"), Some(false)))
        | (Some(regex @ (LLAMA3 | QWEN2 | TEKKEN)), (Some("Removed"), Some(true))) => {
            Ok(if regex == r"\p{N}" { Step::Digits } else { Step::Split(regex.to_owned()) })
        }
        _ => Err(format!("the step {part}")),
    }
}

fn flat(pre_tokenizer: &Json) -> Vec<&Json> {
    match pre_tokenizer["pretokenizers"].as_array() {
        Some(parts) => parts.iter().collect(),
        None => vec![pre_tokenizer],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_and_every_structure_recognised() {
        let mut names = std::collections::BTreeSet::new();
        for pre in &KNOWN {
            for name in [pre.name].iter().chain(pre.aliases) {
                assert!(names.insert(*name), "{name} twice");
                assert_eq!(Pre::named(name).unwrap().name, pre.name);
            }
            let steps = steps(&pre.pre_tokenizer()).unwrap();
            let nfc = is_nfc(&pre.normalizer()).unwrap();
            let found = Pre::of_steps(&steps, nfc, pre.ignore_merges).unwrap();
            assert_eq!(found.name, pre.name);
        }
    }
}
