//! Creates a warm image: boots a guest of a lab without a network and without a user, and saves its
//! memory when it is ready and idle. See [`crate::images::warm`] and [`super::fork`].

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::config::Lab;
use crate::context::Context;
use crate::files;
use crate::host;
use crate::hypervisor::save_file::SaveFile;
use crate::hypervisor::xml::domain::{TEMPLATE, warm_xml};
use crate::hypervisor::xml::interface;
use crate::hypervisor::{Detail, Hypervisor, Script};
use crate::images::base::Base;
use crate::images::warm::{self, Draft, Warm};
use crate::inputs::Inputs;
use crate::names::LabId;
use crate::secret::Secret;
use crate::units::MIB;

/// Script that waits in the guest until it is ready and idle, and removes its identity.
const READY: &str = include_str!("../../templates/warm/ready.sh");

/// Script that gives a fork its own identity. Waits in the guest from then on.
pub(super) const IDENTITY: &str = include_str!("../../templates/warm/identity.pl");

/// How long a guest may take to boot and become idle, including a desktop under software emulation.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// What a warm image of `lab` must match on this host.
pub fn fits(context: &Context, lab: &Lab) -> Result<Inputs> {
    let versions = context.hypervisor()?.versions()?;
    Ok(Inputs::default()
        .with("libvirt", versions.libvirt.to_string())
        .with("QEMU", versions.hypervisor.to_string())
        .with("CPU", host::processor()?)
        .with("accelerator", context.accelerator()?.qemu_name())
        .with("memory", lab.memory_mb.to_string())
        .with("vCPUs", lab.vcpus.to_string())
        .with(
            "nested virtualisation",
            lab.nested_virtualization.to_string(),
        )
        .with("disk size", lab.disk_size.to_string())
        .with_hash("domain template", [TEMPLATE, READY, IDENTITY]))
}

/// Why a warm image of `lab`, made for `then`, no longer fits.
pub fn misfit(context: &Context, lab: &Lab, then: &Inputs) -> Result<Option<String>> {
    let changed = fits(context, lab)?;
    let changed = changed.changes_since(then).join(", ");
    let why = format!("the warm image was made for another {changed}");
    Ok((!changed.is_empty()).then_some(why))
}

/// Why `base` of `lab` needs a new warm image; `None` if it has a valid one.
pub fn why(context: &Context, lab: &Lab, base: &Base) -> Result<Option<String>> {
    let Some(warm) = warm::current(&context.paths, &lab.lab_id, base) else {
        return Ok(Some("there is no warm image".to_owned()));
    };
    if let Some(damage) = warm.damage(false) {
        return Ok(Some(damage));
    }
    misfit(context, lab, &warm.note.fits)
}

/// The name of the domain while it is booted. No instance has such a name.
fn domain_name(lab: &LabId) -> String {
    format!("cyyber-warm_{lab}")
}

/// Creates a warm image of `base`, replacing its present one. The caller holds the lock of the lab
/// and has reserved memory for a guest of it. Progress is reported to `phase`.
pub fn make(
    context: &Context,
    lab: &Lab,
    base: &Base,
    stop: &AtomicBool,
    phase: impl Fn(&str),
) -> Result<Warm> {
    let (paths, hypervisor) = (&context.paths, context.hypervisor()?);
    let fits = fits(context, lab)?;
    end(hypervisor, lab)?;
    warm::forget(paths, &lab.lab_id, &base.build)?;
    let memory = u64::from(lab.memory_mb) * MIB;
    let draft = Draft::begin(
        paths,
        &lab.lab_id,
        base,
        lab.disk_size,
        memory,
        context.time(),
    )?;
    let made = boot_and_save(context, lab, base, &draft, stop, phase);
    if made.is_err() {
        // Its disk is removed after it.
        end(hypervisor, lab)?;
    }
    made?;
    draft.finish(fits, context.time())
}

fn boot_and_save(
    context: &Context,
    lab: &Lab,
    base: &Base,
    draft: &Draft,
    stop: &AtomicBool,
    phase: impl Fn(&str),
) -> Result<()> {
    let hypervisor = context.hypervisor()?;
    let utf8 = |path: &Path| -> Result<String> {
        let text = path.to_str();
        Ok(text
            .with_context(|| format!("{} is not valid Unicode", path.display()))?
            .to_owned())
    };
    let (disk, below) = (utf8(draft.disk())?, utf8(&base.path)?);
    let xml = warm_xml(
        lab,
        &domain_name(&lab.lab_id),
        &disk,
        &below,
        context.accelerator()?,
    )?;
    // Its devices have the same addresses as an instance's; the network card's place stays free.
    let (definition, _) = interface::unplugged(&hypervisor.expanded(&xml)?)?;
    phase("Booting it to save its memory");
    let domain = hypervisor.run(&definition)?;
    let ready = Script {
        interpreter: ("/bin/sh", "-c"),
        text: READY,
        // It leaves that running.
        input: Secret::new(IDENTITY.to_owned()),
    };
    domain
        .run_script(&ready, Instant::now() + PATIENCE, stop)
        .context("it did not become ready")?;
    phase("Saving its memory");
    let saved = draft.saved();
    let done = domain.save_memory_to(&saved, stop);
    if let Ok(Some(_)) = domain.facts(Detail::Power) {
        done?;
        bail!("libvirt did not save its memory");
    }
    // Renamed when complete; forks share it.
    SaveFile::open(fs_err::File::open(&saved)?.into_parts().0)
        .and_then(|whole| {
            let memory = files::create_anew(&draft.memory(), files::PRIVATE)?;
            whole.write_with(&definition, &memory)
        })
        .context("its saved memory is not usable")
}

/// Powers off the guest that an earlier command left.
fn end(hypervisor: &Hypervisor, lab: &Lab) -> Result<()> {
    let name = domain_name(&lab.lab_id);
    let Some(domain) = hypervisor.other(&name)? else {
        return Ok(());
    };
    domain.power_off()?;
    if hypervisor.other(&name)?.is_some() {
        domain.undefine()?;
    }
    ensure!(
        hypervisor.other(&name)?.is_none(),
        "failed to power off the domain {name}"
    );
    Ok(())
}
