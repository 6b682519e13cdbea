//! Tokenizers from tokenizer.json or GGUF metadata.

/// A tokenizer with its special tokens and chat template.
#[derive(Debug)]
pub struct TextTokenizer {}
