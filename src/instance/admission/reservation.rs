//! Memory reserved for guests that are being started and do not show as running yet.
//!
//! A reservation is a locked file with the number of bytes in it. The kernel releases the lock when
//! the process ends; a file without a lock does not count.

use std::fs::{File, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::files::{Directory, open_or_make};

/// A reservation; released when dropped.
#[derive(Debug)]
pub struct Reservation {
    file: File,
}

impl Reservation {
    /// Reserves `bytes` under the name that is the last part of `path`. No other process may hold
    /// it.
    pub fn make(path: &Path, bytes: u64) -> io::Result<Reservation> {
        let file = open_or_make(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::ResourceBusy.into()),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        file.set_len(0)?;
        let reservation = Reservation { file };
        reservation.change(bytes)?;
        Ok(reservation)
    }

    /// Changes it to `bytes`: what its guest has not allocated yet.
    pub fn change(&self, bytes: u64) -> io::Result<()> {
        // Always the same length, and written in one call: a reader sees either the old or the new
        // value.
        self.file.write_all_at(format!("{bytes:020}").as_bytes(), 0)
    }
}

/// The reservations in `directory`, by name, in bytes.
pub fn all(directory: &Path) -> io::Result<Vec<(String, u64)>> {
    let (entries, files) = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => (entries?, Directory::open(directory)?),
    };
    let mut held = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let file = match files.open_file(&*name) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            // Foreign files, and files that are gone by now, reserve nothing.
            Err(_) => continue,
            Ok(file) => file,
        };
        if !matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)) {
            continue;
        }
        let mut text = String::new();
        file.take(32).read_to_string(&mut text)?;
        // A file that is locked but not yet written: the admission lock prevents this.
        held.push((name, text.parse().unwrap_or(0)));
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_counts_while_it_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reservations/lab01_user_7");
        let directory = path.parent().unwrap();
        assert_eq!(all(directory).unwrap(), []);
        let held = Reservation::make(&path, 5).unwrap();
        assert_eq!(all(directory).unwrap(), [("lab01_user_7".to_owned(), 5)]);
        assert!(Reservation::make(&path, 6).is_err());
        held.change(3).unwrap();
        assert_eq!(all(directory).unwrap(), [("lab01_user_7".to_owned(), 3)]);
        std::os::unix::fs::symlink("/dev/zero", directory.join("planted")).unwrap();
        assert_eq!(all(directory).unwrap(), [("lab01_user_7".to_owned(), 3)]);
        drop(held);
        assert_eq!(all(directory).unwrap(), []);
    }
}
