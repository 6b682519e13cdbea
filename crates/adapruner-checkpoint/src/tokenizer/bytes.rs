//! How many bytes of text each token stands for, so that losses of models with
//! different tokenizers can be compared per byte of the text.
//!
//! The count is what decoding the token adds to a text, in UTF-8 bytes:
//!
//! | tokens | bytes |
//! |---|---|
//! | of byte-level BPE | one for each character, which stands for a byte |
//! | `<0x41>` of byte fallback | 1 |
//! | SentencePiece's | of their text, the mark `▁` being a space |
//! | WordPiece's | of their text, without `##` or with a space in front |
//! | added tokens that are not special | of their text |
//! | special tokens | 0: they are no part of a text |
//!
//! Over the ids of a text without special tokens the counts add up to its length,
//! also where a character is split between tokens. Exceptions: a normalizer that
//! changes the text (the counts are those of the normalised text), a space that
//! SentencePiece puts in front of a text (1 byte more), unknown tokens.

use std::collections::HashMap;

use serde_json::Value as Json;

use super::TextTokenizer;

/// What a decoder makes of a piece's text.
#[derive(Debug, Default)]
struct Decoding {
    /// Characters stand for bytes.
    byte_level: bool,
    /// `<0x41>` stands for a byte.
    byte_fallback: bool,
    /// Texts that are replaced, with what replaces them.
    replaced: Vec<(String, String)>,
    /// What a piece begins with that follows the one before without a space.
    continues: Option<String>,
}

impl Decoding {
    fn of(part: &Json) -> Self {
        let mut out = Self::default();
        out.add(part);
        out
    }

    fn add(&mut self, part: &Json) {
        if let Some(steps) = part["decoders"].as_array() {
            steps.iter().for_each(|step| self.add(step));
            return;
        }
        let text = |key: &str| part[key].as_str().map(str::to_owned);
        match part["type"].as_str().unwrap_or_default() {
            "ByteLevel" => self.byte_level = true,
            "ByteFallback" => self.byte_fallback = true,
            "Metaspace" => {
                self.replaced.extend(text("replacement").map(|mark| (mark, " ".to_owned())));
            }
            "Replace" => {
                let from = part["pattern"]["String"].as_str().map(str::to_owned);
                self.replaced.extend(from.zip(text("content")));
            }
            "BPEDecoder" => {
                self.replaced.extend(text("suffix").map(|suffix| (suffix, " ".to_owned())));
            }
            "WordPiece" => self.continues = text("prefix"),
            // The others work on whole texts (`Strip`, `Fuse`) or join pieces as they are.
            _ => {}
        }
    }

    /// Bytes of a piece's text once decoded.
    fn bytes(&self, piece: &str) -> usize {
        if self.byte_level {
            // Tokens that are no part of the alphabet are decoded as they stand.
            let own = |c: char| {
                let code = u32::from(c);
                matches!(code, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0x143)
            };
            return if piece.chars().all(own) { piece.chars().count() } else { piece.len() };
        }
        if self.byte_fallback && is_byte(piece) {
            return 1;
        }
        if let Some(prefix) = &self.continues {
            return match piece.strip_prefix(prefix.as_str()) {
                Some(rest) => rest.len(),
                None => piece.len() + 1,
            };
        }
        let mut text = piece.to_owned();
        for (from, to) in &self.replaced {
            if !from.is_empty() {
                text = text.replace(from.as_str(), to);
            }
        }
        text.len()
    }
}

/// Whether a piece is one byte, as byte fallback writes it: `<0x41>`.
pub(super) fn is_byte(piece: &str) -> bool {
    let digits = piece.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| {
        digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

impl TextTokenizer {
    /// UTF-8 bytes of text that each token stands for, by id; 0 for special tokens.
    /// See the table in the source of this module for the exact count.
    ///
    /// ```
    /// # use std::path::Path;
    /// # use adapruner_checkpoint::tokenizer::TextTokenizer;
    /// # let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tokenizers/smollm");
    /// let tokenizer = TextTokenizer::from_hf_folder(&folder)?;
    /// let (text, bytes) = ("naïve 人\n", tokenizer.bytes_of_ids());
    /// let ids = tokenizer.encode_plain(text)?;
    /// assert_eq!(ids.iter().map(|id| bytes[id] as usize).sum::<usize>(), text.len());
    /// # Ok::<(), adapruner_checkpoint::Error>(())
    /// ```
    pub fn bytes_of_ids(&self) -> HashMap<u32, u32> {
        let decoder = self.inner.get_decoder().map(serde_json::to_value);
        let decoding = Decoding::of(&decoder.and_then(Result::ok).unwrap_or_default());
        let added = self.inner.get_added_tokens_decoder();
        let bytes = |(piece, id): (String, u32)| {
            let count = match added.get(&id) {
                Some(token) if token.special => 0,
                Some(token) => token.content.len(),
                None => decoding.bytes(&piece),
            };
            (id, u32::try_from(count).unwrap_or(u32::MAX))
        };
        self.inner.get_vocab(true).into_iter().map(bytes).collect()
    }

    /// Bytes of text that the predicted tokens of each window stand for: all but its
    /// first.
    pub fn predicted_bytes(&self, windows: &[Vec<u32>]) -> Vec<u64> {
        let bytes = self.bytes_of_ids();
        let of = |id: &u32| bytes.get(id).map_or(0, |&count| u64::from(count));
        windows.iter().map(|window| window.iter().skip(1).map(of).sum()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;

    fn family(name: &str) -> TextTokenizer {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tokenizers");
        TextTokenizer::from_hf_folder(&folder.join(name)).unwrap()
    }

    fn counted(tokenizer: &TextTokenizer, text: &str) -> usize {
        let bytes = tokenizer.bytes_of_ids();
        let ids = tokenizer.encode_plain(text).unwrap();
        ids.iter().map(|id| bytes[id] as usize).sum()
    }

    proptest! {
        #[test]
        fn bytes_add_up_to_the_text(text in "[a-z ▁人é\u{301}👍🏽\n0-9\\PC]{0,40}") {
            let byte_level = family("smollm");
            prop_assert_eq!(counted(&byte_level, &text), text.len());
            // A space in front, and the mark read as the space that it is written for.
            let pieces = family("llama-spm");
            let spaced = text.replace('▁', " ").len() + usize::from(!text.is_empty());
            prop_assert_eq!(counted(&pieces, &text), spaced);
        }
    }

    #[test]
    fn special_tokens_are_no_text() {
        let tokenizer = family("smollm");
        let bytes = tokenizer.bytes_of_ids();
        assert!(!tokenizer.special_ids().is_empty());
        assert!(tokenizer.special_ids().iter().all(|id| bytes[id] == 0));
    }

    #[test]
    fn pieces_of_other_kinds() {
        let decoding = |json: &str| Decoding::of(&serde_json::from_str(json).unwrap());
        let words = decoding(r###"{"type": "WordPiece", "prefix": "##"}"###);
        assert_eq!((words.bytes("the"), words.bytes("##s")), (4, 1));
        let suffix = decoding(r#"{"type": "BPEDecoder", "suffix": "</w>"}"#);
        assert_eq!((suffix.bytes("the</w>"), suffix.bytes("th")), (4, 2));
        let space = decoding(r#"{"type": "Metaspace", "replacement": "▁"}"#);
        assert_eq!((space.bytes("▁é"), space.bytes("<0x41>")), (3, 6));
    }
}
