//! Values as typed on the command line and stored in files.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A value that is typed and stored by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named<T>(pub T);

impl<T: FromStr<Err: fmt::Display>> FromStr for Named<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|e: T::Err| e.to_string())
    }
}

impl<T: fmt::Display> fmt::Display for Named<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: fmt::Display> Serialize for Named<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A number. NaN and infinities, which JSON lacks, are stored as text, so that
/// they reach the check that refuses them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Real(pub f64);

impl FromStr for Real {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| format!("expected a number, found {text:?}"))
    }
}

impl Serialize for Real {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_finite() {
            serializer.serialize_f64(self.0)
        } else {
            serializer.collect_str(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Real {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        stored(deserializer, Self)
    }
}

/// A number as a file has it: a number, or text as it would be typed.
fn stored<'de, T, D>(deserializer: D, number: impl FnOnce(f64) -> T) -> Result<T, D::Error>
where
    T: FromStr<Err: fmt::Display>,
    D: Deserializer<'de>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Stored {
        Number(f64),
        Text(String),
    }
    match Stored::deserialize(deserializer)? {
        Stored::Number(found) => Ok(number(found)),
        Stored::Text(text) => text.parse().map_err(D::Error::custom),
    }
}

/// A share, as a number (`0.2`) or in percent (`20%`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Proportion(pub f64);

impl FromStr for Proportion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, whole) = match text.trim().strip_suffix('%') {
            Some(percent) => (percent.trim_end(), 100.0),
            None => (text, 1.0),
        };
        let number: f64 = number
            .parse()
            .map_err(|_| format!("expected a share such as 0.2 or 20%, found {text:?}"))?;
        Ok(Self(number / whole))
    }
}

impl Serialize for Proportion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Real(self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Proportion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        stored(deserializer, Self)
    }
}

/// A share to remove, or a range of shares to search: `0.2`, `20%`, `0.1..0.5`, `10%..50%`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shares {
    /// One share.
    One(f64),
    /// From the first to the second.
    Between(f64, f64),
}

impl Shares {
    /// The share, if it is one.
    pub fn one(self) -> Option<f64> {
        match self {
            Self::One(ratio) => Some(ratio),
            Self::Between(..) => None,
        }
    }
}

impl FromStr for Shares {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let share = |text: &str| text.trim().parse().map(|Proportion(share)| share);
        match text.split_once("..") {
            None => share(text).map(Self::One),
            Some((least, most)) => Ok(Self::Between(share(least)?, share(most)?)),
        }
    }
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(ratio) => ratio.fmt(f),
            Self::Between(least, most) => write!(f, "{least}..{most}"),
        }
    }
}

impl Serialize for Shares {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::One(ratio) => Real(*ratio).serialize(serializer),
            Self::Between(..) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Shares {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        stored(deserializer, Self::One)
    }
}

/// A count: a number, also with `k`, `M` or `B` (a thousand, a million, a billion) behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count(pub u64);

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("expected a count such as 100M or 134515008, found {text:?}");
        let plain = text.trim().replace('_', "");
        let (number, unit) = match plain.chars().last() {
            Some('k' | 'K') => (&plain[..plain.len() - 1], 1e3),
            Some('m' | 'M') => (&plain[..plain.len() - 1], 1e6),
            Some('b' | 'B' | 'g' | 'G') => (&plain[..plain.len() - 1], 1e9),
            Some(_) | None => (&plain[..], 1.0),
        };
        let count = number.trim_end().parse::<f64>().map_err(|_| refused())? * unit;
        if !((0.0..=1e18).contains(&count) && count.fract() == 0.0) {
            return Err(refused());
        }
        Ok(Self(count as u64))
    }
}

impl Serialize for Count {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Stored {
            Number(u64),
            Text(String),
        }
        match Stored::deserialize(deserializer)? {
            Stored::Number(count) => Ok(Self(count)),
            Stored::Text(text) => text.parse().map_err(D::Error::custom),
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A size in bytes: a number, also with `kB`, `MB`, `GB` (of a thousand) or `KiB`, `MiB`, `GiB`
/// (of 1024) behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("expected a size such as 80MB or 1.5GiB, found {text:?}");
        let text = text.trim();
        let digits = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 1.0,
            "k" | "kb" => 1e3,
            "m" | "mb" => 1e6,
            "g" | "gb" => 1e9,
            "kib" => 1024.0,
            "mib" => 1024.0 * 1024.0,
            "gib" => 1024.0 * 1024.0 * 1024.0,
            _ => return Err(refused()),
        };
        let number = number.trim_end().replace('_', "");
        let bytes = number.parse::<f64>().map_err(|_| refused())? * unit;
        if !(0.0..=1e18).contains(&bytes) {
            return Err(refused());
        }
        Ok(Self(bytes as u64))
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        stored(deserializer, |bytes| Self(bytes.max(0.0) as u64))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_with_units_of_1000_or_1024() {
        for (text, bytes) in [
            ("80MB", 80_000_000),
            ("1.5 GiB", 1_610_612_736),
            ("12", 12),
            ("3k", 3000),
            ("0.5kb", 500),
            ("1_000 B", 1000),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "MB", "-1MB", "80 MiBs", "nan", "1e30GB", "80%"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn shares_are_numbers_or_percent() {
        for (text, share) in [("0.2", 0.2), ("20%", 0.2), ("12.5 %", 0.125), ("-0.2", -0.2)] {
            assert_eq!(text.parse(), Ok(Proportion(share)), "{text}");
        }
        for text in ["a fifth", "%", "20%%", ""] {
            assert!(text.parse::<Proportion>().is_err(), "{text}");
        }
        let table: std::collections::BTreeMap<String, Proportion> =
            toml::from_str("a = 0.5\nb = \"50%\"").unwrap();
        assert_eq!(table["a"], table["b"]);
    }

    #[test]
    fn counts_take_the_usual_units() {
        for (text, count) in [
            ("100M", 100_000_000),
            ("1.2B", 1_200_000_000),
            ("134_515_008", 134_515_008),
            ("64k", 64_000),
        ] {
            assert_eq!(text.parse(), Ok(Count(count)), "{text}");
        }
        for text in ["", "M", "-1", "1.5", "many", "1e300B", "inf"] {
            assert!(text.parse::<Count>().is_err(), "{text}");
        }
    }
}
