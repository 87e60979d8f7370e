//! Every shell script and every man page of the repository passes its checker, and the completions
//! are understood by their shells.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common;

use common::{Sandbox, run, tool};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files below `directory` that `wanted` picks, without what was compiled and git's own.
fn files(directory: &Path, wanted: &dyn Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        let skipped = ["target", ".git", "cyyber-labs-output"]
            .iter()
            .any(|name| entry.file_name() == *name);
        if kind.is_dir() && !skipped {
            found.extend(files(&path, wanted));
        } else if kind.is_file() && wanted(&path) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// By its name or by its first line.
fn is_shell_script(path: &Path) -> bool {
    let shebang = || {
        let content = std::fs::read(path).unwrap_or_default();
        let first = content.split(|byte| *byte == b'\n').next().unwrap();
        first.starts_with(b"#!") && (first.ends_with(b"/sh") || first.ends_with(b"bash"))
    };
    path.extension().is_some_and(|extension| extension == "sh") || shebang()
}

/// Fails with all that `program` says, if it says anything or ends with a failure.
fn passes(program: &str, args: &[&str], files: &[PathBuf]) {
    assert!(!files.is_empty(), "nothing to check with {program}");
    let output = Command::new(program)
        .args(args)
        .args(files)
        .current_dir(root())
        .output()
        .unwrap_or_else(|error| panic!("{program} cannot be run: {error}"));
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success() && said.is_empty(),
        "{program} ({}):\n{}",
        output.status,
        String::from_utf8_lossy(&said)
    );
}

#[test]
#[ignore = "needs shellcheck and mandoc: run by `make test`"]
fn shell_scripts_pass_shellcheck() {
    let scripts = files(root(), &is_shell_script);
    for script in &scripts {
        // Each by itself, with the .shellcheckrc of its directory.
        passes("shellcheck", &[], std::slice::from_ref(script));
    }
}

#[test]
#[ignore = "needs shellcheck and mandoc: run by `make test`"]
fn man_pages_pass_mandoc() {
    let is_page = |path: &Path| path.extension().is_some_and(|e| e == "1" || e == "5");
    let pages = files(&root().join("man"), &is_page);
    passes("mandoc", &["-Tlint", "-W", "warning"], &pages);
}

#[test]
#[ignore = "needs shellcheck, zsh and fish: run by `make test`"]
fn completions_are_understood_by_their_shells() {
    let completions = root().join("completions");
    // Its style is that of clap, which writes it; mistakes would be ours.
    let bash = completions.join("cyyber.bash");
    passes("shellcheck", &["-s", "bash", "-S", "error"], &[bash]);
    for (shell, file) in [
        ("bash", "cyyber.bash"),
        ("zsh", "_cyyber"),
        ("fish", "cyyber.fish"),
    ] {
        passes(shell, &["-n"], &[completions.join(file)]);
    }
}

#[test]
fn setup_starts_libvirts_one_daemon_or_those_of_its_parts_that_are_installed() {
    let sandbox = Sandbox::new();
    let daemons = || {
        let step = root().join("templates/host/steps/libvirt.sh");
        let mut bash = tool("/bin/bash");
        bash.args(["-c", ". \"$0\"; daemons"]).arg(step);
        run(bash.env("PATH", sandbox.path("bin")))
    };
    assert_eq!(daemons(), "libvirtd\n");
    for part in ["virtnetworkd", "virtlogd", "virtqemud"] {
        sandbox.fake(part, "");
    }
    assert_eq!(daemons(), "virtqemud\nvirtnetworkd\n");
    sandbox.fake("libvirtd", "");
    assert_eq!(daemons(), "libvirtd\n");
}
