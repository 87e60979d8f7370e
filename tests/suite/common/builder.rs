//! Stand-ins for the programs that build images, where a test is about what goes on around them.

use std::fs;

use serde_json::json;

use super::Sandbox;

/// Programs that stand in for Packer and QEMU. `build` is a shell script that does what Packer would
/// do, in a build's directory; each run is noted.
pub fn fake_builder(sandbox: &Sandbox, version: &str, build: &str) {
    let runs = sandbox.path("packer-runs");
    sandbox.fake(
        "packer",
        &format!(
            "case $1 in version) echo 'Packer v{version}';; *) echo \"$PWD\" >>'{}'\n{build}\n;; esac",
            runs.display()
        ),
    );
    sandbox.fake(
        "qemu-system-x86_64",
        "echo 'QEMU emulator version 7.2.22 (Debian)'",
    );
    sandbox.fake(
        "qemu-img",
        "echo '{\"format\": \"qcow2\", \"virtual-size\": 1, \"actual-size\": 1}'",
    );
    fs::write(sandbox.path("cloud.img"), cloud_image("a cloud image")).unwrap();
    sandbox.configure(&json!({"image": {"url": "cloud.img"}}));
}

/// What a build that goes well leaves: a disk, and a report on the archive or on what is installed.
pub const GOOD: &str = "mkdir out
{ printf 'QFI\\373'; head -c 76 /dev/zero; date +%s%N; } >out/disk.qcow2
if [ -e cyyber/stage.sh ]; then printf 'nmap\\ngdb\\nexiftool\\tperl\\nmta\\texim4\\nmta\\tpostfix\\n' >report; else printf 'nmap\\t7.93\\n' >report; fi";

/// What begins as a cloud image does and goes on with `content`.
pub fn cloud_image(content: &str) -> Vec<u8> {
    let mut image = vec![0; 80];
    image[..4].copy_from_slice(b"QFI\xfb");
    image.extend(content.bytes());
    image
}
