//! A guest's memory on disk, which libvirt calls its managed save.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use uuid::Uuid;
use virt::sys;

use super::{Domain, Hypervisor, failed, job};
use crate::config::connect;
use crate::domain;
use crate::error::{Fault, Kind};

/// Where the QEMU driver of the system's libvirt keeps saved memory: `saveDir` of its
/// `qemu_conf.c`. Only root may look into it.
const SYSTEM_DIRECTORY: &str = "/var/lib/libvirt/qemu/save";

/// What follows a domain's name in the name of a file with memory that was put aside.
const UNUSABLE: &str = ".unusable-";

/// A save slower than this, in bytes a second, is not waited for: the disk or QEMU hangs.
const SLOWEST: u64 = 16 << 20;

/// The least time that a save is given.
const SHORTEST: Duration = Duration::from_secs(60);

/// How often a save is asked whether it should go on.
const INTERVAL: Duration = Duration::from_millis(50);

/// How long libvirt may take to give up a save.
const ABORTING: Duration = Duration::from_secs(20);

impl Hypervisor {
    /// The directory in which libvirt keeps saved memory; `None` where it is not known, as with a
    /// libvirt that is not this host's own.
    pub fn saved_memory_directory(&self) -> Option<PathBuf> {
        (connect::local(self.side.uri()) == Some("system")).then(|| PathBuf::from(SYSTEM_DIRECTORY))
    }

    /// The domain that a file in there has the name of, with its memory or with memory of it that
    /// was put aside.
    pub fn saved_memory_name(file: &str) -> Option<&str> {
        let aside = || Some(file.rsplit_once(UNUSABLE)?.0);
        file.strip_suffix(".save").or_else(aside)
    }

    /// The UUID of the domain whose memory is in `file`; `None` where that cannot be told.
    pub fn saved_memory_owner(&self, file: &Path) -> Option<Uuid> {
        let file = file.to_str()?.to_owned();
        let answer = self
            .side
            .apart(ABORTING, move |conn| conn.save_image_xml_desc(&file, 0));
        domain::uuid_of(&answer?.ok()?).ok()
    }
}

impl Domain {
    /// The file with its saved memory, there or not; `None` where it is not known.
    pub fn saved_memory_file(&self) -> Option<PathBuf> {
        let name = self.inner.name().ok()?;
        (self.side.uri() == "qemu:///system")
            .then(|| PathBuf::from(SYSTEM_DIRECTORY).join(format!("{name}.save")))
    }

    /// The memory that its guest may have, in bytes.
    pub fn memory(&self) -> Result<u64> {
        let info = self.inner.info();
        Ok(info
            .map_err(|e| failed("read the size of its memory", e))?
            .max_mem
            << 10)
    }

    /// Saves its memory to disk and ends its QEMU. It will come back running, also when it is held
    /// still now. Given up when `stop` becomes true or the disk is much too slow.
    ///
    /// An error does not tell whether it was saved: libvirt may have finished all the same, or may
    /// have left half a file. The domain's facts tell.
    pub fn save_memory(&self, stop: &AtomicBool) -> Result<()> {
        let uuid = self.uuid()?;
        let enough = SHORTEST.max(Duration::from_secs(self.memory()? / SLOWEST));
        let save = self.side.begin(move |conn| {
            conn.lookup_domain_by_uuid(uuid)?
                .managed_save(sys::VIR_DOMAIN_SAVE_RUNNING)
        });
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
                // Again and again: libvirt may not have begun yet.
                self.abort_job();
            }
            if overdue {
                bail!("failed to save its memory: QEMU or the disk does not keep up");
            }
        };
        match saved {
            Ok(()) => Ok(()),
            Err(_) if interrupted => bail!("failed to save its memory: interrupted"),
            Err(e) if e.message().contains("No space left") => {
                let message = format!("failed to save its memory: {}", e.message());
                Err(Fault::new(Kind::Capacity, message)
                    .hint(format!(
                        "make space in {SYSTEM_DIRECTORY}, or use --keep-memory"
                    ))
                    .into())
            }
            Err(e) => Err(failed("save its memory", e)),
        }
    }

    /// Ends the long job, such as a save, that libvirt is doing to it.
    fn abort_job(&self) {
        if let Ok(uuid) = self.uuid() {
            self.side.apart(ABORTING, move |conn| {
                job::abort(&conn.lookup_domain_by_uuid(uuid)?)
            });
        }
    }

    /// The definition that is saved with its memory, and with which it will be restored; `None` where
    /// it is not known. Or why it could not be restored, as far as the beginning of the file tells:
    /// libvirt would silently boot a domain whose file is empty or half written, and fail for ever
    /// on one with garbage.
    pub fn saved_definition(&self) -> Result<Result<Option<String>, String>> {
        let Some(file) = self.saved_memory_file() else {
            return Ok(Ok(None));
        };
        let uuid = self.uuid()?;
        let answer = self.side.apart(ABORTING, move |conn| {
            conn.save_image_xml_desc(&file.to_string_lossy(), 0)
        });
        Ok(match answer {
            None => bail!("failed to look at the saved memory: libvirt does not answer"),
            Some(Err(e)) if super::is_lost(&e) => {
                return Err(failed("look at the saved memory", e));
            }
            Some(Err(e)) => Err(e.message().to_owned()),
            Some(Ok(xml)) if domain::uuid_of(&xml).is_ok_and(|of| of == uuid) => Ok(Some(xml)),
            Some(Ok(_)) => Err("it is of another VM".to_owned()),
        })
    }

    /// Removes its saved memory from disk.
    pub fn drop_saved_memory(&self) -> Result<()> {
        let Err(error) = self.inner.managed_save_remove(0) else {
            return Ok(());
        };
        // libvirt remembers a file that is no longer there until it has removed one.
        if let Some(file) = self.saved_memory_file()
            && std::fs::File::create_new(file).is_ok()
            && self.inner.managed_save_remove(0).is_ok()
        {
            return Ok(());
        }
        Err(failed("drop the saved memory", error))
    }

    /// Puts its saved memory aside under another name, beside where it was, and returns that name;
    /// `None` when there was no file. From then on the domain has none.
    pub fn set_saved_memory_aside(&self, now: jiff::Timestamp) -> Result<Option<PathBuf>> {
        let Some(file) = self.saved_memory_file() else {
            bail!("it is not known where libvirt keeps it");
        };
        let name = self.inner.name();
        let name = name.map_err(|e| failed("read the domain's name", e))?;
        let at = now.strftime("%Y%m%dT%H%M%S%.3fZ");
        let aside = file.with_file_name(format!("{name}{UNUSABLE}{at}"));
        // A second name first: there is no moment in which the file has none.
        let kept = match std::fs::hard_link(&file, &aside) {
            Ok(()) => Some(aside),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                return Err(anyhow::Error::from(error).context(format!(
                    "failed to keep {} as {}",
                    file.display(),
                    aside.display()
                )));
            }
        };
        self.drop_saved_memory()?;
        Ok(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
