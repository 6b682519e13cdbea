//! The decoder against what transformers computes of the fixtures, and against
//! itself run in other ways.

mod common;
mod fixtures;
mod generate;
mod gradients;
mod masks;
mod packed;
mod placement;
mod running;
mod training;
mod wide;
