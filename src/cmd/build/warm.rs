//! Warming: after its build, a lab is booted once, so that its instances need not boot.

use anyhow::Result;
use rustix::process::geteuid;
use serde_json::{Value, json};

use super::common::Common;
use super::directory::PUBLIC;
use super::progress::Progress;
use crate::config::Lab;
use crate::files;
use crate::images::base;
use crate::images::warm::{self as image, Warm};
use crate::instance::warm;
use crate::packer::result;
use crate::units::MIB;

impl Common<'_> {
    /// Makes sure that the current base of `lab`, whose lock is held, has a warm image that fits
    /// this host: `made`, `kept` or `failed`, which is only a warning. `None` if the lab or the
    /// host does not use warm images.
    pub fn warm(&self, lab: &Lab) -> Option<&'static str> {
        let context = self.context;
        let told = |error: anyhow::Error| {
            let why = format!("{error:#}");
            let id = &lab.lab_id;
            context.output.warn(&format!(
                "{id}: no warm image was made, so its instances boot: {why}; the log of its \
                 domain is in \
                 /var/log/libvirt/qemu"
            ));
            "failed"
        };
        if !lab.instant {
            let dropped = base::current(&context.paths, &lab.lab_id)
                .and_then(|base| image::forget(&context.paths, &lab.lab_id, &base.build));
            return dropped.err().map(told);
        }
        if let Some(why) = self.cannot_warm() {
            let id = &lab.lab_id;
            let note = format!("{id}: no warm image is made, so its instances boot: {why}");
            context.output.detail(&note);
            return None;
        }
        Some(self.warm_again(lab).unwrap_or_else(told))
    }

    fn cannot_warm(&self) -> Option<String> {
        match self.context.hypervisor() {
            Err(error) => Some(format!("{error:#}")),
            Ok(hypervisor) if !hypervisor.is_system() => {
                Some("warm images need this host's own libvirt, qemu:///system".to_owned())
            }
            Ok(_) if !geteuid().is_root() => Some("only root can make warm images".to_owned()),
            Ok(_) => None,
        }
    }

    fn warm_again(&self, lab: &Lab) -> Result<&'static str> {
        let context = self.context;
        let base = base::current(&context.paths, &lab.lab_id)?;
        let Some(why) = warm::why(context, lab, &base)? else {
            return Ok("kept");
        };
        self.check_interrupt()?;
        let progress = Progress::begin(&context.output, lab.lab_id.as_str());
        context
            .output
            .detail(&format!("{}: making a warm image: {why}", lab.lab_id));
        let path = context.paths.warm_reservation(&lab.lab_id);
        let not_enough = format!("not enough memory to boot {}", lab.lab_id);
        let memory = u64::from(lab.memory_mb) * MIB;
        let _room = self.wait_for_memory(&path, memory, &not_enough, &progress)?;
        let made = warm::make(context, lab, &base, &self.stop, |phase| {
            progress.phase(phase)
        })?;
        self.describe(lab, &made)?;
        Ok("made")
    }

    /// Adds a warm image to the metadata of its build.
    fn describe(&self, lab: &Lab, warm: &Warm) -> Result<()> {
        let path = self.context.paths.built_metadata(&lab.lab_id);
        let Ok(described) = fs_err::read(&path) else {
            return Ok(());
        };
        if !result::is_about(&described, &warm.layer.build) {
            return Ok(());
        }
        let mut metadata: Value = serde_json::from_slice(&described)?;
        if let Some(metadata) = metadata.as_object_mut() {
            let note = &warm.note;
            let described = json!({
                "made": note.made,
                "memory_bytes": note.memory.size(),
                "disk_bytes": note.layer.size(),
                "fits": note.fits,
            });
            metadata.insert("warm".to_owned(), described);
        }
        let mut text = serde_json::to_vec_pretty(&metadata)?;
        text.push(b'\n');
        files::replace(&path, &text, PUBLIC)?;
        Ok(())
    }
}
