//! GGUF files, in and out.

pub mod value;

pub use value::{Metadata, Value};
