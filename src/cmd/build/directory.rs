//! A build's directory: the rendered template with all its files, for Packer and for people.

use std::ffi::OsStr;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::files;
use crate::packer::apt;
use crate::packer::provision::Content;
use crate::packer::render::{self, Files};
use crate::process::Program;

/// Writable for the owner and readable for everyone: results and templates contain no secrets.
pub const PUBLIC: u32 = 0o644;

/// Like [`PUBLIC`].
pub const PUBLIC_DIRECTORY: u32 = 0o755;

/// Writes all files into `directory`, with a link to the initial `image` if it is a file on this
/// machine, and removes files of an earlier build, so that they are not copied into the guest.
pub fn fill(
    directory: &Path,
    rendered: &Files,
    variables: &[u8],
    image: Option<&Path>,
) -> Result<()> {
    files::make_directory(directory, PUBLIC_DIRECTORY)?;
    let of_packer = ["plugins.pkr.hcl", "out"];
    let of_ours = [
        render::GUEST,
        render::SERVED,
        render::REPORT,
        render::CONSOLE,
        render::SOURCE_LINK,
    ];
    for stale in of_packer.into_iter().chain(of_ours) {
        files::remove(&directory.join(stale))?;
    }
    for (path, content) in rendered {
        let path = directory.join(path);
        files::make_directory(path.parent().unwrap_or(directory), PUBLIC_DIRECTORY)?;
        match content {
            Content::Bytes(bytes) => files::replace_soon(&path, bytes, PUBLIC)?,
            // It may contain flags or solutions.
            Content::Copy(from) => copy(from, &path)?,
        }
    }
    let private = |name: &Path, content: &[u8]| {
        files::replace_soon(&directory.join(name), content, files::PRIVATE)
    };
    private(Path::new(render::VARIABLES), variables)?;
    let proxies = apt::proxies_of_host()?;
    if !proxies.is_empty() {
        // A proxy URL may contain a password.
        private(Path::new(render::APT), proxies.as_bytes())?;
    }
    if let Some(image) = image {
        let link = directory.join(render::SOURCE_LINK);
        symlink(image, &link)
            .with_context(|| format!("failed to create the link {}", link.display()))?;
    }
    let user_data = Path::new(render::SERVED).join("user-data");
    private(&user_data, &render::build_user_data(&key(directory)?))?;
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut new = files::create_anew(to, files::PRIVATE)?;
    std::io::copy(fs_err::File::open(from)?.file_mut(), &mut new)
        .with_context(|| format!("failed to copy {}", from.display()))?;
    Ok(())
}

/// The public part of the build's SSH key, which is generated if it is missing. It opens a VM that
/// exists for one build, on a port of this machine only.
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
