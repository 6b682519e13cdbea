//! Pages of any data: well formed, escaped, alone; and as a browser shows them.

mod browser;
mod contents;
mod contrast;
mod example;
mod markup;
mod properties;
