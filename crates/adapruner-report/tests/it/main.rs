//! Pages of any data: well formed, escaped, alone; and as a browser shows them.

#![expect(clippy::disallowed_methods, reason = "tests read what they wrote")]

mod browser;
mod contents;
mod contrast;
mod example;
mod markup;
mod properties;
