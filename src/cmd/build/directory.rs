//! A build's directory: the rendered template with all it reads, for Packer and for people.

use std::ffi::OsStr;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::files;
use crate::packer::render::{self, Files};
use crate::packer::source::Source;
use crate::process::Program;

/// For the owner to change and for everyone to read: results and templates hold nothing secret.
pub const PUBLIC: u32 = 0o644;

/// As [`PUBLIC`].
pub const PUBLIC_DIRECTORY: u32 = 0o755;

/// Writes everything into `directory`, and removes what an earlier build left there, so that it is
/// not copied into the guest.
pub fn fill(directory: &Path, rendered: &Files, variables: &[u8], source: &Source) -> Result<()> {
    files::make_directory(directory, PUBLIC_DIRECTORY)?;
    for stale in [
        "cyyber",
        "http",
        "plugins.pkr.hcl",
        "installed",
        "out",
        render::SOURCE_LINK,
    ] {
        files::remove(&directory.join(stale))?;
    }
    for below in ["cyyber", "cyyber/branding", "http"] {
        files::make_directory(&directory.join(below), PUBLIC_DIRECTORY)?;
    }
    for (path, content) in rendered {
        files::replace(&directory.join(path), content, PUBLIC)?;
    }
    files::replace(
        &directory.join(render::VARIABLES),
        variables,
        files::PRIVATE,
    )?;
    if let Some(file) = &source.file {
        let link = directory.join(render::SOURCE_LINK);
        symlink(file, &link)
            .with_context(|| format!("failed to make the link {}", link.display()))?;
    }
    let user_data = render::build_user_data(&key(directory)?);
    files::replace(
        &directory.join("http/user-data"),
        &user_data,
        files::PRIVATE,
    )?;
    Ok(())
}

/// The public half of the build's key, which is made where there is none. It opens a VM that lives
/// for one build, to a port of this machine alone.
fn key(directory: &Path) -> Result<String> {
    let private = directory.join(render::KEY);
    let public = private.with_extension("pub");
    if !private.exists() || !public.exists() {
        files::remove(&private)?;
        let args = ["-q", "-t", "ed25519", "-N", "", "-C", "cyyber-build", "-f"];
        Program::find("ssh-keygen", "openssh-client")?
            .run(args.iter().map(OsStr::new).chain([private.as_os_str()]))?;
    }
    Ok(fs_err::read_to_string(public)?)
}
