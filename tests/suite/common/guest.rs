//! Looking into a booted guest, by its agent, and at its screen.

use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::virsh;

/// A disk that boots quickly, with an agent that runs from the start: it can do without a build. Made
/// by `tests/quick-guest.sh`.
pub const QUICK_IMAGE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/quick-guest.qcow2");

/// How long a guest may take to boot on a busy machine, with `policy.boot_timeout` longer than that.
pub const BOOTING: Duration = Duration::from_secs(800);

/// Software emulation on a busy machine is slow.
const PATIENCE: Duration = Duration::from_secs(240);

/// What a shell in the guest prints for `script`, which must succeed.
#[track_caller]
pub fn shell(domain: &str, script: &str) -> String {
    let started = agent(
        domain,
        &json!({"execute": "guest-exec", "arguments": {
            "path": "/bin/sh", "arg": ["-c", script], "capture-output": true,
        }}),
    );
    let status = json!({"execute": "guest-exec-status", "arguments": {"pid": started["pid"]}});
    let began = Instant::now();
    loop {
        let ended = agent(domain, &status);
        if ended["exited"] == true {
            let said = |what: &str| {
                let bytes = STANDARD
                    .decode(ended[what].as_str().unwrap_or_default())
                    .unwrap();
                String::from_utf8(bytes).unwrap()
            };
            assert_eq!(
                ended["exitcode"],
                0,
                "{script}: {}{}",
                said("out-data"),
                said("err-data")
            );
            return said("out-data");
        }
        assert!(began.elapsed() < PATIENCE, "{script} does not end");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[track_caller]
fn agent(domain: &str, command: &Value) -> Value {
    let answer = virsh(["qemu-agent-command", "--", domain, &command.to_string()]);
    let answer: Value = serde_json::from_str(&answer)
        .unwrap_or_else(|error| panic!("the agent of {domain} does not answer: {error}: {answer}"));
    answer["return"].clone()
}

/// Width and height of what is on a guest's screen just now.
#[track_caller]
pub fn screen_size(domain: &str) -> (u32, u32) {
    let picture = tempfile::NamedTempFile::new().unwrap();
    screenshot(domain, picture.path());
    let bytes = std::fs::read(picture.path()).unwrap();
    assert!(
        bytes.starts_with(b"\x89PNG\r\n\x1a\n"),
        "{domain}'s screen is no PNG"
    );
    let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}

/// Writes what is on a guest's screen to a file.
#[track_caller]
pub fn screenshot(domain: &str, picture: &Path) {
    virsh([
        OsStr::new("screenshot"),
        "--".as_ref(),
        domain.as_ref(),
        picture.as_ref(),
    ]);
}
