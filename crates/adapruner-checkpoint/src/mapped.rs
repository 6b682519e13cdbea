//! Files as read-only memory maps.

use std::{
    fs::File,
    ops::{Deref, Range},
    path::{Path, PathBuf},
};

use memmap2::Mmap;

use crate::{
    digest::Digest,
    error::{Error, Result},
    input::{self, Cap},
};

/// Bytes that are digested before they are released.
const PIECE: usize = 1 << 24;

/// A regular, non-empty file mapped read-only, with the path it was opened by.
#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    /// Maps `path`.
    ///
    /// # Errors
    /// A file that is missing, unreadable, empty, not a regular file or a Git LFS
    /// pointer.
    pub fn open(path: &Path) -> Result<Self> {
        Self::of(input::open(path)?, path)
    }

    /// Maps a plain file of at most so many bytes.
    ///
    /// # Errors
    /// Those of [`open`](Self::open); a file that is larger.
    pub fn open_capped(path: &Path, cap: Cap) -> Result<Self> {
        Self::of(input::open_capped(path, cap)?.0, path)
    }

    /// Maps a plain file of any size that was opened, or made, as `path`.
    ///
    /// # Errors
    /// An empty file, or one that cannot be mapped.
    pub(crate) fn of(file: File, path: &Path) -> Result<Self> {
        if file.metadata().map_err(Error::io(path, "read"))?.len() == 0 {
            return Err(Error::format(path, "empty file"));
        }
        #[expect(
            unsafe_code,
            reason = "the memory map; see ARCHITECTURE, `unsafe` is confined to two places"
        )]
        // SAFETY: the map is private to this process and read-only. This
        // program replaces outputs by rename, never by writing into them, so
        // it does not change a mapped file itself. Another process that
        // truncates the file meanwhile stops this one with a signal; that is
        // the known price of a map, and no bytes are trusted before they are
        // checked.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path, "map"))?;
        Ok(Self { path: path.to_path_buf(), map })
    }

    /// The path the file was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Says that the bytes of `range` will not be read again soon: their pages leave
    /// this process's memory, and come back from the file where they are read after
    /// all. Where the system does not take such advice, nothing happens.
    pub fn release(&self, range: Range<usize>) {
        let Some(bytes) = self.map.get(range.clone()) else { return };
        #[cfg(unix)]
        {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            #[expect(
                unsafe_code,
                reason = "the memory map; see ARCHITECTURE, `unsafe` is confined to two places"
            )]
            // SAFETY: the range lies in the map. The map is shared with the file and
            // read-only, so its pages hold nothing but the file's bytes, and whoever
            // reads them now or later is given the same bytes again.
            let taken =
                unsafe { self.map.unchecked_advise_range(advice, range.start, bytes.len()) };
            if let Err(error) = taken {
                tracing::debug!("{}: pages are kept: {error}", self.path.display());
            }
        }
        #[cfg(not(unix))]
        let _ = bytes;
    }

    /// Digest of the content, on all threads. What is read for it is released
    /// piece by piece.
    pub fn digest(&self) -> Digest {
        self.digested(|hasher, piece| _ = hasher.update_rayon(piece))
    }

    /// The same on the calling thread alone, for when the threads of this process
    /// are not set up yet.
    pub fn digest_alone(&self) -> Digest {
        self.digested(|hasher, piece| _ = hasher.update(piece))
    }

    fn digested(&self, update: impl Fn(&mut blake3::Hasher, &[u8])) -> Digest {
        let mut hasher = blake3::Hasher::new();
        for (index, piece) in self.map.chunks(PIECE).enumerate() {
            update(&mut hasher, piece);
            self.release(index * PIECE..index * PIECE + piece.len());
        }
        Digest::from_bytes(*hasher.finalize().as_bytes())
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of `file` in this process's memory, where the system tells.
    fn resident(file: &Path) -> Option<u64> {
        let maps = std::fs::read_to_string("/proc/self/smaps").ok()?;
        let file = file.to_str()?;
        let of_file = maps.lines().skip_while(|line| !line.ends_with(file));
        let line = of_file.into_iter().find_map(|line| line.strip_prefix("Rss:"))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    }

    #[test]
    fn what_was_released_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bytes");
        let bytes: Vec<u8> = (0..3 * PIECE / 2).map(|at| (at % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let file = MappedFile::open(&path).unwrap();
        assert_eq!(&file[..], &bytes[..]);
        if let Some(before) = resident(&path) {
            assert_eq!(before, bytes.len() as u64);
        }
        assert_eq!(file.digest(), Digest::of_bytes(&bytes));
        if let Some(after) = resident(&path) {
            // What surrounds a page that is read may come with it.
            assert!(after < 1 << 20, "{after} bytes are kept");
        }
        assert_eq!(&file[..], &bytes[..]);
        // Beyond the file there is nothing to release.
        file.release(1..bytes.len() + 1);
        file.release(1..bytes.len());
        assert_eq!(&file[..], &bytes[..]);
    }
}
