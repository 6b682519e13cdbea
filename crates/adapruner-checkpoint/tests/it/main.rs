//! Integration tests of the checkpoint crate, one binary, a module per topic.

mod dataset;
mod readers;
mod text;
mod tokenizer;
mod writers;
