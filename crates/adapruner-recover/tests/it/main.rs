//! Tests of recovering, against PEFT, torch and files that are hostile.

mod common;
mod data;
mod distill;
mod peft;
mod resume;
mod training;
