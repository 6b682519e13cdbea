//! Settings from several places: what is typed on the command line wins over the file, and the
//! file over the defaults.

/// Settings of which each may be given or not.
pub trait Combine {
    /// These, and where they say nothing those of the file.
    #[must_use]
    fn over(&self, file: &Self) -> Self;
}

impl<T: Clone> Combine for Option<T> {
    fn over(&self, file: &Self) -> Self {
        self.clone().or_else(|| file.clone())
    }
}

/// Combines a table of settings field by field; one that is left out does not compile.
macro_rules! combine {
    ($type:ident { $($field:ident),+ $(,)? }) => {
        impl $crate::combine::Combine for $type {
            fn over(&self, file: &Self) -> Self {
                Self { $($field: $crate::combine::Combine::over(&self.$field, &file.$field)),+ }
            }
        }
    };
}
pub(crate) use combine;
