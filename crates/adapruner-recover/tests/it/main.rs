//! Tests of recovering, against PEFT, torch and files that are hostile.

#![expect(clippy::disallowed_methods, reason = "tests read what they wrote")]

mod common;
mod data;
mod distill;
mod peft;
mod resume;
mod training;
