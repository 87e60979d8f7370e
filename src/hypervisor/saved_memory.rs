//! A guest's memory on disk, which libvirt calls its managed save.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::fs::{AtFlags, CWD, linkat};
use uuid::Uuid;
use virt::connect::Connect;
use virt::sys;

use super::{Domain, Facts, Hypervisor, Power, failed, job, xml};
use crate::config::connect;
use crate::error::{Fault, Kind};
use crate::files;
use crate::text;

/// Where the QEMU driver of the system's libvirt keeps saved memory: `saveDir` in its
/// `qemu_conf.c`. Only root can read it.
const SYSTEM_DIRECTORY: &str = "/var/lib/libvirt/qemu/save";

/// The directory with second names of saved memory while it is restored: only root can write to it
/// and its parent, and it is usually on the file system of libvirt's directory.
const RESTORING: &str = "/var/lib/libvirt/cyyber";

/// The beginning of the file of an incomplete save: `QEMU_SAVE_PARTIAL` in libvirt's
/// `qemu_saveimage.h`.
const PARTIAL: &[u8; 16] = b"LibvirtQemudPart";

/// The suffix, after a domain's name, of the file with its saved memory.
const SUFFIX: &str = ".save";

/// The suffix, after a domain's name, of a file with memory that was set aside.
const UNUSABLE: &str = ".unusable-";

/// The minimum speed of a save in bytes per second: if it is slower, the disk or QEMU hangs.
const SLOWEST: u64 = 16 << 20;

/// The minimum time limit of a save.
const SHORTEST: Duration = Duration::from_secs(60);

/// How often to check whether a save should continue.
const INTERVAL: Duration = Duration::from_millis(50);

/// How long libvirt may take to abort a save.
const ABORTING: Duration = Duration::from_secs(20);

/// Where the libvirt at `uri` keeps saved memory, if that is known.
pub(super) fn directory(uri: &str) -> Option<PathBuf> {
    connect::is_system(uri).then(|| PathBuf::from(SYSTEM_DIRECTORY))
}

/// The name of the file in that directory with the saved memory of the domain `name`.
pub(super) fn file_name(name: &str) -> String {
    format!("{name}{SUFFIX}")
}

/// Adds to the facts of a domain whether it has `saved` memory, in `directory` if that is known.
///
/// If libvirtd was killed right after a save, it has not recorded that QEMU is done and reports a
/// crash. If the memory is complete, or if we cannot read it, the guest counts as off with saved
/// memory. libvirt is not asked, because it would run the program that is named in the file.
pub(super) fn note_saved(facts: &mut Facts, saved: bool, directory: Option<&Path>) {
    facts.saved = saved;
    if saved && facts.power == Power::Crashed && facts.id.is_none() {
        let file = directory.map(|it| it.join(file_name(&facts.name)));
        facts.saved = !file.is_some_and(|file| is_cut_off(&file));
        if facts.saved {
            facts.power = Power::Off;
        }
    }
}

/// Whether the save into `file` is incomplete: libvirt overwrites its beginning when it is
/// complete.
fn is_cut_off(file: &Path) -> bool {
    let mut head = [0; PARTIAL.len()];
    let read = File::open(file).and_then(|mut file| file.read_exact(&mut head));
    read.is_ok() && head == *PARTIAL
}

impl Hypervisor {
    /// The directory in which libvirt keeps saved memory; `None` if it is unknown, as with the
    /// libvirt of another host.
    pub fn saved_memory_directory(&self) -> Option<PathBuf> {
        directory(self.pool.uri())
    }

    /// The complete definition that the memory in `file` was saved with; the file must belong to
    /// root.
    pub fn definition_in(&self, file: &Path) -> Result<String> {
        let file = file.to_string_lossy();
        let xml = self
            .conn
            .save_image_xml_desc(&file, sys::VIR_DOMAIN_SAVE_IMAGE_XML_SECURE);
        xml.map_err(|e| failed("read the saved memory", e))
    }

    /// The domain that a file in this directory is named after, whether the file has its saved
    /// memory or memory that was set aside.
    pub fn saved_memory_name(file: &str) -> Option<&str> {
        let aside = || Some(file.rsplit_once(UNUSABLE)?.0);
        file.strip_suffix(SUFFIX).or_else(aside)
    }

    /// The UUID of the domain whose memory is in `file`; `None` if it is unknown.
    pub fn saved_memory_owner(&self, file: &Path) -> Option<Uuid> {
        if file.symlink_metadata().ok()?.uid() != 0 {
            return None;
        }
        let file = file.to_str()?.to_owned();
        let answer = self
            .pool
            .within(ABORTING, move |conn| conn.save_image_xml_desc(&file, 0));
        xml::domain::uuid_of(&answer?.ok()?).ok()
    }
}

impl Domain {
    /// The path of its saved memory, whether it exists or not; `None` if it is unknown.
    pub fn saved_memory_file(&self) -> Option<PathBuf> {
        let name = self.inner.name().ok()?;
        Some(directory(self.pool.uri())?.join(file_name(&name)))
    }

    /// The memory assigned to its guest, in bytes.
    pub fn memory(&self) -> Result<u64> {
        let info = self.inner.info();
        let info = info.map_err(|e| failed("read the size of its memory", e))?;
        Ok(info.max_mem << 10)
    }

    /// Saves its memory to disk and ends its QEMU. It will be restored running, even if it is
    /// frozen now. Aborted when `stop` becomes true or the disk is much too slow.
    ///
    /// An error does not mean that it was not saved: libvirt may have completed the save, or may
    /// have left an incomplete file. The domain's facts tell.
    pub fn save_memory(&self, stop: &AtomicBool) -> Result<()> {
        self.saved(SYSTEM_DIRECTORY, stop, |domain| {
            domain.managed_save(sys::VIR_DOMAIN_SAVE_RUNNING)
        })
    }

    /// Like [`Domain::save_memory`], but into the file `path`, which libvirt does not keep track
    /// of.
    pub fn save_memory_to(&self, path: &Path, stop: &AtomicBool) -> Result<()> {
        let place = text::path(path)?;
        let file = place.to_owned();
        self.saved(place, stop, move |domain| job::save(domain, &file))
    }

    fn saved(
        &self,
        place: &str,
        stop: &AtomicBool,
        save: impl FnOnce(&virt::domain::Domain) -> Result<(), virt::error::Error> + Send + 'static,
    ) -> Result<()> {
        let uuid = self.uuid()?;
        let enough = SHORTEST.max(Duration::from_secs(self.memory()? / SLOWEST));
        let save = self
            .pool
            .begin(move |conn| save(&conn.lookup_domain_by_uuid(uuid)?));
        let began = Instant::now();
        let mut deadline = began + enough;
        let mut interrupted = false;
        let saved = loop {
            if let Some(saved) = save.answer(began.elapsed() + INTERVAL) {
                break saved;
            }
            if !interrupted && stop.load(Ordering::Relaxed) {
                interrupted = true;
                deadline = Instant::now() + ABORTING;
            }
            let overdue = Instant::now() > deadline;
            if interrupted || overdue {
                // Repeatedly: libvirt may not have started yet.
                self.abort_job();
            }
            if overdue {
                bail!("failed to save its memory: QEMU or the disk is too slow");
            }
        };
        match saved {
            Ok(()) => Ok(()),
            Err(_) if interrupted => bail!("failed to save its memory: interrupted"),
            Err(e) if e.message().contains("No space left") => {
                let message = format!("failed to save its memory: {}", e.message());
                let hint = format!("make space in {place}, or use --keep-memory");
                Err(Fault::new(Kind::Capacity, message).hint(hint).into())
            }
            Err(e) => Err(failed("save its memory", e)),
        }
    }

    /// Aborts libvirt's present job on it, such as a save.
    fn abort_job(&self) {
        self.within(ABORTING, job::abort);
    }

    /// Restores its saved memory with `definition` instead of the one in the file; `memory` is that
    /// file, if it can be opened. The domain is then running.
    ///
    /// libvirt reads exactly the opened file: it gets a second name that only root can replace. If
    /// that is not possible, the stored definition is replaced, and libvirt opens the file by its
    /// normal name.
    pub fn restore(&self, memory: Option<&File>, definition: &str) -> Result<()> {
        let Some(path) = self.saved_memory_file() else {
            return self.start();
        };
        let conn = self.inner.connect();
        let conn = conn.map_err(|e| failed("restore the domain", e))?;
        let own = memory.map(|memory| OwnName::link(memory, &path));
        match own.transpose() {
            Ok(Some(own)) => {
                let file = own.0.to_string_lossy();
                let running = sys::VIR_DOMAIN_SAVE_RUNNING;
                conn.restore_domain_flags(&file, Some(definition), running)
                    .map_err(|e| self.start_failed(e))?;
                drop(own);
                self.drop_saved_memory()
            }
            Ok(None) => self.restore_by_name(&conn, &path, definition),
            Err(error) => match error.kind() {
                // The second name is on another file system, or the user is not root.
                io::ErrorKind::CrossesDevices | io::ErrorKind::PermissionDenied => {
                    self.restore_by_name(&conn, &path, definition)
                }
                _ => Err(anyhow::Error::from(error)
                    .context("failed to create a link to the saved memory for root alone")),
            },
        }
    }

    /// Restores the memory in `file` with `definition`, which is also in the file. The domain is
    /// then running.
    pub fn restore_from(&self, file: &Path, definition: &str) -> Result<()> {
        let conn = self.inner.connect();
        let conn = conn.map_err(|e| failed("restore the domain", e))?;
        let running = sys::VIR_DOMAIN_SAVE_RUNNING;
        conn.restore_domain_flags(&file.to_string_lossy(), Some(definition), running)
            .map_err(|e| self.start_failed(e))
    }

    /// Removes the second name of its saved memory that a killed command left.
    pub(super) fn forget_own_name(&self) {
        if let Some(file) = self.saved_memory_file()
            && let Some(name) = file.file_name()
        {
            let _ = files::remove(&Path::new(RESTORING).join(name));
        }
    }

    fn restore_by_name(&self, conn: &Connect, path: &Path, definition: &str) -> Result<()> {
        let file = path.to_string_lossy();
        conn.save_image_define_xml(&file, definition, sys::VIR_DOMAIN_SAVE_RUNNING)
            .map_err(|e| self.start_failed(e))?;
        self.start()
    }

    /// Why its saved memory could not be restored, according to the beginning of the file: libvirt
    /// would silently boot a domain whose file is empty or incomplete, and fail for ever with an
    /// invalid one.
    pub fn check_saved_memory(&self) -> Result<Result<(), String>> {
        let Some(file) = self.saved_memory_file() else {
            return Ok(Ok(()));
        };
        let uuid = self.uuid()?;
        let answer = self.pool.within(ABORTING, move |conn| {
            conn.save_image_xml_desc(&file.to_string_lossy(), 0)
        });
        Ok(match answer {
            None => bail!("failed to inspect the saved memory: libvirt does not answer"),
            Some(Err(e)) if super::is_lost(&e) => {
                return Err(failed("inspect the saved memory", e));
            }
            Some(Err(e)) => Err(super::answer::words(e.message())),
            Some(Ok(xml)) if xml::domain::uuid_of(&xml).is_ok_and(|of| of == uuid) => Ok(()),
            Some(Ok(_)) => Err("it belongs to another VM".to_owned()),
        })
    }

    /// The definition that the memory in `file` was saved with.
    pub fn saved_definition(&self, file: &Path) -> Result<String> {
        let conn = self.inner.connect();
        let xml = conn.and_then(|conn| conn.save_image_xml_desc(&file.to_string_lossy(), 0));
        xml.map_err(|e| failed("read the saved memory", e))
    }

    /// Removes its saved memory from disk.
    pub fn drop_saved_memory(&self) -> Result<()> {
        let Err(error) = self.inner.managed_save_remove(0) else {
            return Ok(());
        };
        // libvirt still reports a removed file until it has removed one itself.
        if let Some(file) = self.saved_memory_file()
            && File::create_new(file).is_ok()
            && self.inner.managed_save_remove(0).is_ok()
        {
            return Ok(());
        }
        Err(failed("drop the saved memory", error))
    }

    /// Sets its saved memory aside under another name in the same directory, and returns that name;
    /// `None` if there was no file. The domain then has no saved memory.
    pub fn set_saved_memory_aside(&self, now: jiff::Timestamp) -> Result<Option<PathBuf>> {
        let Some(file) = self.saved_memory_file() else {
            bail!("its path in libvirt is unknown");
        };
        let name = self.inner.name();
        let name = name.map_err(|e| failed("read the domain's name", e))?;
        let at = now.strftime("%Y%m%dT%H%M%S%.3fZ");
        let aside = file.with_file_name(format!("{name}{UNUSABLE}{at}"));
        // Create the second name first, so that the file always has a name.
        let kept = match std::fs::hard_link(&file, &aside) {
            Ok(()) => Some(aside),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                let (file, aside) = (file.display(), aside.display());
                let failed = format!("failed to keep {file} as {aside}");
                return Err(anyhow::Error::from(error).context(failed));
            }
        };
        self.drop_saved_memory()?;
        Ok(kept)
    }
}

/// A second name of a file, removed on drop.
struct OwnName(PathBuf);

impl OwnName {
    /// A second name with the last part of `path`.
    fn link(file: &File, path: &Path) -> io::Result<OwnName> {
        files::make_directory(Path::new(RESTORING), files::PRIVATE_DIRECTORY)?;
        let there = Path::new(RESTORING).symlink_metadata()?;
        if there.uid() != 0 || there.mode() & 0o077 != 0 {
            let open = format!("{RESTORING} is not accessible to root alone");
            return Err(io::Error::other(open));
        }
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let own = OwnName(Path::new(RESTORING).join(name));
        // Left by a killed command.
        files::remove(&own.0)?;
        let descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
        linkat(CWD, descriptor, CWD, &own.0, AtFlags::SYMLINK_FOLLOW)?;
        Ok(own)
    }
}

impl Drop for OwnName {
    fn drop(&mut self) {
        let _ = files::remove(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_save_that_was_cut_off_is_told_from_a_whole_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let cut_off = |content: &[u8]| {
            std::fs::write(file.path(), content).unwrap();
            is_cut_off(file.path())
        };
        assert!(cut_off(b"LibvirtQemudPart, and more"));
        assert!(!cut_off(b"LibvirtQemudSave, and more"));
        assert!(!cut_off(b""));
        assert!(!is_cut_off(Path::new("/nonexistent")));
    }

    #[test]
    fn memory_files_are_known_by_their_names() {
        let name = Hypervisor::saved_memory_name;
        assert_eq!(name("lab01_user_a.7.save"), Some("lab01_user_a.7"));
        assert_eq!(
            name("lab01_user_a.7.unusable-20261124T010203.004Z"),
            Some("lab01_user_a.7")
        );
        assert_eq!(name("lab01_user_7.save.bak"), None);
    }
}
