//! Hardware virtualisation or software emulation: what this host supports.

use crate::config::AcceleratorChoice;
use crate::error::{Fault, Kind};

/// How guests are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The kernel's hardware virtualisation.
    Kvm,
    /// QEMU's software emulation: everything works, many times slower.
    Tcg,
}

impl Accelerator {
    /// The `type` of a libvirt domain.
    pub const fn domain_type(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "qemu",
        }
    }

    /// The name that QEMU and Packer use.
    pub const fn qemu_name(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg",
        }
    }
}

/// What the host supports.
#[derive(Debug, Clone, Copy)]
pub struct Host {
    /// The CPU has the `vmx` or `svm` flag. Without it a KVM device may open and run firmware, yet
    /// a Linux kernel hangs in it.
    pub cpu_flag: bool,
    /// `/dev/kvm` exists.
    pub device: bool,
}

impl Host {
    /// Checks this machine.
    pub fn probe() -> Host {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Host {
            cpu_flag: has_virtualisation_flag(&cpuinfo),
            device: std::path::Path::new("/dev/kvm").exists(),
        }
    }
}

fn has_virtualisation_flag(cpuinfo: &str) -> bool {
    let lists = cpuinfo.lines().filter_map(|it| it.strip_prefix("flags"));
    let mut flags = lists.flat_map(str::split_ascii_whitespace);
    flags.any(|flag| flag == "vmx" || flag == "svm")
}

/// The accelerator to use, and a warning if it is software emulation for lack of hardware
/// virtualisation.
pub fn choose(
    choice: AcceleratorChoice,
    host: Host,
) -> Result<(Accelerator, Option<String>), Fault> {
    let lacking = match (host.cpu_flag, host.device) {
        (true, true) => None,
        (false, _) => Some("the CPU shows no vmx or svm flag"),
        (true, false) => Some("/dev/kvm does not exist"),
    };
    match (choice, lacking) {
        (AcceleratorChoice::Tcg, _) => Ok((Accelerator::Tcg, None)),
        (AcceleratorChoice::Auto | AcceleratorChoice::Kvm, None) => Ok((Accelerator::Kvm, None)),
        (AcceleratorChoice::Auto, Some(why)) => {
            let warning = format!(
                "no hardware virtualisation ({why}): using software emulation, which is many times \
                 slower"
            );
            Ok((Accelerator::Tcg, Some(warning)))
        }
        (AcceleratorChoice::Kvm, Some(why)) => {
            let message = format!("hardware virtualisation is required but missing: {why}");
            let hint = "enable it in the firmware, load kvm_intel or kvm_amd, or set the \
                        accelerator to auto";
            Err(Fault::new(Kind::Unavailable, message).hint(hint))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use AcceleratorChoice::{Auto, Kvm, Tcg};

    #[test]
    fn kvm_needs_both_the_flag_and_the_device() {
        for (cpu_flag, device) in [(true, true), (true, false), (false, true), (false, false)] {
            let host = Host { cpu_flag, device };
            let works = cpu_flag && device;
            let (accelerator, warning) = choose(Auto, host).unwrap();
            assert_eq!(
                (accelerator == Accelerator::Kvm, warning.is_none()),
                (works, works)
            );
            assert_eq!(choose(Kvm, host).is_ok(), works);
            assert_eq!(choose(Tcg, host).unwrap(), (Accelerator::Tcg, None));
        }
    }

    #[test]
    fn flags_are_whole_words_of_the_flags_line() {
        assert!(has_virtualisation_flag(
            "processor\t: 0\nflags\t\t: fpu svm sse\n"
        ));
        assert!(!has_virtualisation_flag(
            "model name\t: svm\nflags\t\t: fpu svm_lock vmx2\n"
        ));
    }
}
