//! Closed choices by their names: the words that options, settings and files use for the
//! variants of an enum.
//!
//! [`choice!`] writes the parser, the printer and the list of names of an enum from one table,
//! so that they cannot disagree. Case and the difference between `-` and `_` do not matter when
//! a name is read; a name that is not known is refused with the nearest one that is.
//!
//! ```
//! #[derive(Debug, Clone, Copy, PartialEq)]
//! enum Layout {
//!     PerLayer,
//!     Uniform,
//! }
//! adapruner_choice::choice!(Layout, "layout", {
//!     PerLayer => "per-layer",
//!     Uniform => "uniform" | "same",
//! });
//!
//! assert_eq!("Per_Layer".parse(), Ok(Layout::PerLayer));
//! assert_eq!("same".parse(), Ok(Layout::Uniform));
//! assert_eq!(Layout::Uniform.to_string(), "uniform");
//! let error = "unifrom".parse::<Layout>().unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "unknown layout \"unifrom\", expected per-layer or uniform; did you mean uniform?"
//! );
//! ```

use std::fmt;

/// A name that stands for none of the choices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    what: &'static str,
    found: String,
    expected: Vec<&'static str>,
}

impl Unknown {
    /// `found` is none of the `expected` names of a `what`.
    pub fn new(what: &'static str, found: &str, expected: &[&'static str]) -> Self {
        Self { what, found: found.to_owned(), expected: expected.to_vec() }
    }

    /// The expected name that is close to the one found, if there is one.
    pub fn nearest(&self) -> Option<&'static str> {
        nearest(&self.found, self.expected.iter().copied())
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, found, expected } = self;
        write!(f, "unknown {what} {found:?}, expected ")?;
        match &expected[..] {
            [] => f.write_str("nothing")?,
            [one] => f.write_str(one)?,
            [first @ .., last] => write!(f, "{} or {last}", first.join(", "))?,
        }
        match self.nearest() {
            Some(nearest) => write!(f, "; did you mean {nearest}?"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Unknown {}

/// Least similarity (Jaro and Winkler's, 0 to 1) of two names that may stand for each other.
const CLOSE: f64 = 0.8;

/// The candidate closest to `found`, if it is close enough to be a slip of the hand.
pub fn nearest<T: AsRef<str>>(found: &str, candidates: impl IntoIterator<Item = T>) -> Option<T> {
    let found = plain(found);
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&found, &plain(candidate.as_ref())), candidate))
        .filter(|(similarity, _)| *similarity >= CLOSE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

/// A name without what does not matter: its case, and `_` for `-`.
fn plain(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

/// Whether two spellings are the same name.
pub fn same(a: &str, b: &str) -> bool {
    plain(a) == plain(b)
}

/// Names the variants of an enum: implements `Display`, `FromStr` (whose error is [`Unknown`])
/// and `NAMED`, every variant in the order of the table.
///
/// The first name of a variant is the one that is printed; those after `|` are understood too.
#[macro_export]
macro_rules! choice {
    ($type:ident, $what:literal, {
        $($variant:ident => $name:literal $(| $alias:literal)*),+ $(,)?
    }) => {
        impl $type {
            /// Every variant with its name.
            pub const NAMED: &'static [(&'static str, Self)] = &[$(($name, Self::$variant)),+];

            /// Its name in options, settings and files.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }

        impl ::std::fmt::Display for $type {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl ::std::str::FromStr for $type {
            type Err = $crate::Unknown;

            fn from_str(text: &str) -> ::std::result::Result<Self, Self::Err> {
                $(
                    if [$name $(, $alias)*].iter().any(|name| $crate::same(name, text)) {
                        return Ok(Self::$variant);
                    }
                )+
                Err($crate::Unknown::new($what, text, &[$($name),+]))
            }
        }
    };
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(test)]
mod tests {
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Kind {
        Q4,
        PerLayer,
    }
    choice!(Kind, "kind", { Q4 => "q4_0" | "four", PerLayer => "per-layer" });

    #[test]
    fn names_are_read_in_any_usual_spelling_and_printed_in_one() {
        for (text, kind) in [
            ("q4_0", Kind::Q4),
            ("Q4-0", Kind::Q4),
            ("FOUR", Kind::Q4),
            ("per_layer", Kind::PerLayer),
        ] {
            assert_eq!(text.parse(), Ok(kind), "{text}");
        }
        assert_eq!(Kind::Q4.to_string(), "q4_0");
        assert_eq!(format!("{:>10}", Kind::PerLayer), " per-layer");
        assert_eq!(Kind::NAMED, [("q4_0", Kind::Q4), ("per-layer", Kind::PerLayer)]);
    }

    #[test]
    fn the_nearest_name_is_said_where_one_is_near() {
        let said = |text: &str| text.parse::<Kind>().unwrap_err().to_string();
        let expected = "expected q4_0 or per-layer";
        assert_eq!(
            said("perlayer"),
            format!("unknown kind \"perlayer\", {expected}; did you mean per-layer?")
        );
        assert_eq!(said("round"), format!("unknown kind \"round\", {expected}"));
        assert_eq!(said(""), format!("unknown kind \"\", {expected}"));
    }
}
