//! Integration tests of the checkpoint crate, one binary, a module per topic.

#![expect(clippy::disallowed_methods, reason = "tests read what they wrote")]

mod dataset;
mod multimodal;
mod readers;
mod text;
mod tokenizer;
mod writers;
