//! Errors with hints.

use anyhow::Error;

/// An error with a hint.
#[derive(Debug)]
pub struct Advised {
    message: String,
    hint: &'static str,
}

impl Advised {
    /// The hint.
    pub fn hint(&self) -> &'static str {
        self.hint
    }
}

/// An error `message` with a hint.
pub fn advised(message: impl Into<String>, hint: &'static str) -> Error {
    Error::new(Advised { message: message.into(), hint })
}

impl std::fmt::Display for Advised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Advised {}
