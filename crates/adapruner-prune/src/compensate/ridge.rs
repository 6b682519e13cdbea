//! The ridge of a fit towards the sliced weights.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::error::Error;

/// λ of a fit, as a share of the mean diagonal of its Gram matrix.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ridge {
    /// Of each fit, the one of a few powers of ten with which the held-out samples come
    /// closest.
    HeldOut,
    /// This share; at least 0.
    Share(f64),
}

impl Ridge {
    /// Refuses a share below 0.
    ///
    /// # Errors
    /// The share that was found.
    pub fn check(self) -> Result<(), Error> {
        match self {
            Self::HeldOut => Ok(()),
            Self::Share(share) if share >= 0.0 && share.is_finite() => Ok(()),
            Self::Share(share) => Err(refused(&share.to_string())),
        }
    }
}

fn refused(found: &str) -> Error {
    Error::Option {
        option: "compensate-ridge",
        message: format!("expected auto or a number of at least 0, found {found}"),
        hint: None,
    }
}

impl fmt::Display for Ridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HeldOut => f.write_str("auto"),
            Self::Share(share) => share.fmt(f),
        }
    }
}

impl FromStr for Ridge {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let ridge = match text {
            "auto" => Self::HeldOut,
            number => Self::Share(number.parse().map_err(|_| refused(text))?),
        };
        ridge.check().map(|()| ridge)
    }
}

impl Serialize for Ridge {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::HeldOut => serializer.serialize_str("auto"),
            Self::Share(share) => serializer.serialize_f64(*share),
        }
    }
}

impl<'de> Deserialize<'de> for Ridge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Stored {
            Number(f64),
            Text(String),
        }
        let ridge = match Stored::deserialize(deserializer)? {
            Stored::Number(share) => {
                let ridge = Self::Share(share);
                ridge.check().map(|()| ridge)
            }
            Stored::Text(text) => text.parse(),
        };
        ridge.map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ridges_are_read_as_they_are_written() {
        for (text, ridge) in [("auto", Ridge::HeldOut), ("0.1", Ridge::Share(0.1))] {
            assert_eq!((text.parse::<Ridge>().unwrap(), ridge.to_string()), (ridge, text.into()));
            let json = serde_json::to_string(&ridge).unwrap();
            assert_eq!(serde_json::from_str::<Ridge>(&json).unwrap(), ridge);
        }
        for text in ["-1", "NaN", "inf", "much", ""] {
            let message = text.parse::<Ridge>().unwrap_err().to_string();
            assert!(message.contains("compensate-ridge"), "{message}");
        }
        assert!(serde_json::from_str::<Ridge>("-0.5").is_err());
    }
}
