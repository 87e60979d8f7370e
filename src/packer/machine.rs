//! Parses Packer's `-machine-readable` output: lines of `time,target,type,data…`
//! (<https://developer.hashicorp.com/packer/docs/commands#machine-readable-output>). Pure.

use crate::error::Kind;

/// The prefix of lines with which our scripts in the guest announce their phases.
const PHASE: &str = "[cyyber] ";

/// One message.
#[derive(Debug, PartialEq, Eq)]
pub struct Said {
    /// It is an error message.
    pub is_error: bool,
    /// The text for people; may have several lines.
    pub text: String,
}

/// Parses a line; `None` if it is not a message for people.
pub fn parse(line: &str) -> Option<Said> {
    let fields: Vec<_> = line.splitn(5, ',').collect();
    let [_time, _target, "ui", level, text] = fields[..] else {
        return None;
    };
    let text = text.replace("%!(PACKER_COMMA)", ",");
    Some(Said {
        is_error: level == "error",
        text: text.replace("\\r", "").replace("\\n", "\n"),
    })
}

impl Said {
    /// The phase of the build that this announces.
    pub fn phase(&self) -> Option<String> {
        let text = without_source(self.text.lines().next()?);
        if let Some(phase) = text.strip_prefix(PHASE) {
            return Some(phase.to_owned());
        }
        let known = [
            ("Retrieving ISO", "Fetching and checking the image"),
            ("Copying hard drive", "Copying the image"),
            ("Starting VM", "Booting the image"),
            ("Waiting for SSH", "Booting the image"),
            ("Uploading", "Copying files into the VM"),
            ("Gracefully halting", "Shutting the VM down"),
            ("Converting hard drive", "Compacting the image"),
        ];
        let (_, means) = known.iter().find(|(says, _)| text.starts_with(says))?;
        Some((*means).to_owned())
    }
}

/// The text without `==> qemu.lab: ` or the equivalent indent.
fn without_source(line: &str) -> &str {
    let line = line.trim_start().trim_start_matches("==> ");
    let line = line.trim_start_matches("--> ");
    line.strip_prefix("qemu.lab: ").unwrap_or(line)
}

/// The lines that explain a failure: the last errors of the guest's package manager and scripts and
/// of Packer itself, at most `most`.
pub fn reasons(said: &[Said], most: usize) -> Vec<String> {
    // Packer's messages about its own cleanup do not explain the cause.
    let noise = [
        "Deleting output directory",
        "Some builds didn't complete",
        "Step \"",
        "Wait completed",
        "Provisioning step had errors",
        "Script exited with",
    ];
    let telling = |said: &&Said| said.is_error || without_source(&said.text).starts_with("E: ");
    let mut lines: Vec<String> = Vec::new();
    let told = said.iter().filter(telling);
    for text in told.flat_map(|said| said.text.lines()) {
        let text = without_source(text).trim();
        let is_noise = text.is_empty() || noise.iter().any(|noise| text.starts_with(noise));
        // "Build 'qemu.lab' errored after 9 seconds: " and an earlier message.
        let is_known = lines.iter().any(|line| text.ends_with(line.as_str()));
        if !is_noise && !is_known {
            lines.push(text.to_owned());
        }
    }
    lines.split_off(lines.len().saturating_sub(most))
}

/// The kind of a failure with these `reasons`, and a hint, if known. The texts are those of Packer,
/// of its Go download library, of QEMU and of apt.
pub fn remedy(reasons: &[String]) -> Option<(Kind, &'static str)> {
    let said = |words: &str| reasons.iter().any(|reason| reason.contains(words));
    let downloads = said("error downloading ISO");
    let (kind, hint) = if said("hecksums did not match") {
        let hint = "the image does not match image.checksum: correct that, or get the image from a \
                    trusted source";
        (Kind::Failed, hint)
    } else if (downloads || said("qemu-img")) && said("No space left") {
        (Kind::Capacity, "free disk space on this host")
    } else if downloads {
        let hint = "can this host reach that address? image.url may also be the path of a file";
        (Kind::Failed, hint)
    } else if said("--shrink") {
        let hint = "disk_size is smaller than the image's disk: increase it";
        (Kind::Config, hint)
    } else if said("You don't have enough free space") || said("No space left on device") {
        (Kind::Failed, "the VM's disk is full: increase disk_size")
    } else {
        return None;
    };
    Some((kind, hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(line: &str) -> Said {
        parse(line).unwrap()
    }

    #[test]
    fn commas_and_newlines_are_read() {
        let said =
            say("1795444295,,ui,say,==> qemu.lab: Starting VM%!(PACKER_COMMA) booting\\nnow");
        assert_eq!(said.text, "==> qemu.lab: Starting VM, booting\nnow");
        assert_eq!(said.phase().as_deref(), Some("Booting the image"));
        assert_eq!(parse("1795444295,qemu.lab,artifact,0,files-count,1"), None);
        assert_eq!(parse("not machine-readable"), None);
    }

    #[test]
    fn our_scripts_name_their_phases() {
        let said = say("1,,ui,message,    qemu.lab: [cyyber] Installing packages");
        assert_eq!(said.phase().as_deref(), Some("Installing packages"));
        assert_eq!(
            say("1,,ui,message,    qemu.lab: Get:1 http://deb.debian.org").phase(),
            None
        );
    }

    #[test]
    fn a_failure_is_told_by_the_lines_that_matter() {
        let said: Vec<Said> = [
            "1,,ui,message,    qemu.lab: Reading state information...",
            "1,,ui,error,==> qemu.lab: E: no such package: nmapp",
            "1,,ui,error,==> qemu.lab: Provisioning step had errors: Running the cleanup provisioner%!(PACKER_COMMA) if present...",
            "1,,ui,say,==> qemu.lab: Deleting output directory...",
            "1,,ui,error,Build 'qemu.lab' errored after 9 seconds: Script exited with non-zero exit status: 1.",
            "1,,ui,error,\\n==> Some builds didn't complete successfully and had errors:",
        ]
        .iter()
        .map(|line| say(line))
        .collect();
        assert_eq!(
            reasons(&said, 5),
            [
                "E: no such package: nmapp",
                "Build 'qemu.lab' errored after 9 seconds: Script exited with non-zero exit status: 1.",
            ]
        );
        assert_eq!(reasons(&said, 1).len(), 1);
    }

    #[test]
    fn what_can_be_done_is_told() {
        let told = |text: &str| {
            let again = format!("Build 'qemu.lab' errored after 5 milliseconds: {text}");
            let said = [text, &again].map(|text| Said {
                is_error: true,
                text: text.to_owned(),
            });
            let reasons = reasons(&said, 5);
            assert_eq!(reasons, [text]);
            remedy(&reasons)
        };
        for (text, kind, hint) in [
            (
                "error downloading ISO: [Checksums did not match for /x.iso.",
                Kind::Failed,
                "image.checksum",
            ),
            (
                "error downloading ISO: [Get \"https://x/\": dial tcp: lookup x: no such host]",
                Kind::Failed,
                "reach",
            ),
            (
                "error downloading ISO: [write /x.iso: No space left on device]",
                Kind::Capacity,
                "this host",
            ),
            (
                "qemu-img: error while writing: No space left on device",
                Kind::Capacity,
                "this host",
            ),
            (
                "E: You don't have enough free space in /var/cache/apt/archives/.",
                Kind::Failed,
                "disk_size",
            ),
            (
                "qemu-img: Use the --shrink option to perform a shrink operation.",
                Kind::Config,
                "disk_size",
            ),
        ] {
            let (of, said) = told(text).unwrap();
            assert!(of == kind && said.contains(hint), "{text}: {said}");
        }
        assert_eq!(told("E: no such package: nmapp"), None);
    }
}
