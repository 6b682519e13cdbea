//! The allocator of programs that run models.
//!
//! Activations are freed and reallocated all the time, megabytes each. An allocator that
//! returns freed pages to the system gets fresh ones next time, which the system first clears
//! page by page; that takes a tenth of a gradient pass.

pub use mimalloc::MiMalloc as Allocator;

/// `mi_option_purge_delay`, for which the crate has no name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Keeps freed pages for what is allocated next, to the end of the process, unless
/// `MIMALLOC_PURGE_DELAY` says otherwise. To be called once at the start by programs
/// whose global allocator is [`Allocator`].
pub fn keep_freed_pages() {
    // SAFETY: sets a number; no memory is touched, and any thread may do it.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, -1) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_the_one_that_is_meant() {
        // SAFETY: reads a number.
        let delay = || unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        if std::env::var_os("MIMALLOC_PURGE_DELAY").is_some() {
            return;
        }
        // mimalloc's own default, in milliseconds, which no other option has.
        assert_eq!(delay(), 1000);
        keep_freed_pages();
        assert_eq!(delay(), -1);
    }
}
