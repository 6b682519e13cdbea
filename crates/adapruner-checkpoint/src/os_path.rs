//! Paths in JSON and TOML, for `#[serde(with = "os_path")]`.
//!
//! A path is a string. One that is not UTF-8, which no string is, is an object: `lossy` for
//! people, and its `bytes` as hexadecimal digits, from which the same path is restored.

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

/// A path, or several of them, that serde can hold.
pub trait Paths: Sized {
    /// What serde holds of it.
    type Held: Serialize + DeserializeOwned;

    /// Its form for serde.
    fn to_held(&self) -> Self::Held;

    /// Back again.
    ///
    /// # Errors
    /// Digits that are none.
    fn from_held(held: Self::Held) -> Result<Self, String>;
}

/// A path as serde holds it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum HeldPath {
    /// It is UTF-8.
    Text(String),
    /// It is not.
    Bytes {
        /// With U+FFFD for what is not UTF-8.
        lossy: String,
        /// Its bytes, two digits each.
        bytes: String,
    },
}

impl Paths for PathBuf {
    type Held = HeldPath;

    fn to_held(&self) -> HeldPath {
        match self.to_str() {
            Some(text) => HeldPath::Text(text.to_owned()),
            None => HeldPath::Bytes {
                lossy: self.to_string_lossy().into_owned(),
                bytes: hexadecimal(self.as_os_str()),
            },
        }
    }

    fn from_held(held: HeldPath) -> Result<Self, String> {
        match held {
            HeldPath::Text(text) => Ok(text.into()),
            HeldPath::Bytes { lossy, bytes } => Ok(os_string(lossy, &bytes)?.into()),
        }
    }
}

impl<T: Paths> Paths for Option<T> {
    type Held = Option<T::Held>;

    fn to_held(&self) -> Self::Held {
        self.as_ref().map(T::to_held)
    }

    fn from_held(held: Self::Held) -> Result<Self, String> {
        held.map(T::from_held).transpose()
    }
}

impl<T: Paths> Paths for Vec<T> {
    type Held = Vec<T::Held>;

    fn to_held(&self) -> Self::Held {
        self.iter().map(T::to_held).collect()
    }

    fn from_held(held: Self::Held) -> Result<Self, String> {
        held.into_iter().map(T::from_held).collect()
    }
}

fn hexadecimal(path: &OsStr) -> String {
    path.as_encoded_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(unix)]
fn os_string(_lossy: String, digits: &str) -> Result<OsString, String> {
    use std::os::unix::ffi::OsStringExt;
    let refused =
        || format!("expected the bytes of a path as hexadecimal digits, found {digits:?}");
    let byte = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2);
        pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).ok_or_else(refused)
    };
    digits.as_bytes().chunks(2).map(byte).collect::<Result<_, _>>().map(OsString::from_vec)
}

#[cfg(not(unix))]
fn os_string(lossy: String, _digits: &str) -> Result<OsString, String> {
    Ok(lossy.into())
}

/// For `#[serde(with)]`.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<T: Paths, S: Serializer>(paths: &T, serializer: S) -> Result<S::Ok, S::Error> {
    paths.to_held().serialize(serializer)
}

/// For `#[serde(with)]`.
///
/// # Errors
/// What is no path.
pub fn deserialize<'de, T: Paths, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    use serde::de::Error as _;
    T::from_held(T::Held::deserialize(deserializer)?).map_err(D::Error::custom)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Example {
        #[serde(with = "crate::os_path")]
        one: PathBuf,
        #[serde(default, with = "crate::os_path")]
        none: Option<PathBuf>,
        #[serde(with = "crate::os_path")]
        several: Vec<PathBuf>,
    }

    #[test]
    fn every_path_comes_back() {
        let odd = PathBuf::from(OsString::from_vec(b"a\xff/\xc3".to_vec()));
        let example = Example { one: odd.clone(), none: None, several: vec!["b é".into(), odd] };
        let json = serde_json::to_string(&example).unwrap();
        let expected = r#"{"one":{"lossy":"a�/�","bytes":"61ff2fc3"},"none":null,"several":["b é",{"lossy":"a�/�","bytes":"61ff2fc3"}]}"#;
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_str::<Example>(&json).unwrap(), example);
        let plain: Example = serde_json::from_str(r#"{"one":"a","several":[]}"#).unwrap();
        assert_eq!(plain, Example { one: "a".into(), none: None, several: vec![] });
        let wrong = json.replace("61ff2fc3", "6");
        assert!(serde_json::from_str::<Example>(&wrong).is_err());
    }
}
