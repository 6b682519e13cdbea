//! Settings from several sources: the command line overrides the file, and the file overrides
//! the defaults.

/// A group of optional settings.
pub trait Combine {
    /// These settings, completed by those of the file.
    #[must_use]
    fn over(&self, file: &Self) -> Self;
}

impl<T: Clone> Combine for Option<T> {
    fn over(&self, file: &Self) -> Self {
        self.clone().or_else(|| file.clone())
    }
}

/// Combines a group of settings field by field; a missing field does not compile.
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
