//! Errors with hints.

use crate::error::Error;

/// An error `message` with a hint.
pub fn advised(message: impl Into<String>, hint: &'static str) -> Error {
    Error::Refused { message: message.into(), hint: Some(hint) }
}
