//! Integration tests of statistics, scores and plans.

#![expect(clippy::disallowed_methods, reason = "tests read what they wrote")]

mod activation;
mod apply;
mod bank;
mod collect;
mod common;
mod compensate;
mod experts;
mod masks;
mod memory;
mod plan;
mod plan_files;
mod scores;
mod unmet;
mod vocabulary;
mod whole_experts;
