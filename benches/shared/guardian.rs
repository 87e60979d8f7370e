//! Cleans up after a benchmark, however it ends.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

use super::URI;

/// Waits for the end of its standard input, which is the end of the benchmark.
const CLEAN_UP: &str = r#"trap '' INT TERM HUP
read -r _
cyyber=$1 dir=$2 lab=$3
virsh -q -c "$URI" destroy "cyyber-warm_$lab"
for _ in 1 2 3; do
    "$cyyber" --config "$dir/labs-config.json" --connect "$URI" -q instance cleanup --lab "$lab" --yes
    virsh -q -c "$URI" list --all --name | grep -q "^${lab}_" || break
    sleep 2
done
chattr -R -f -i "$dir"
rm -rf "$dir"
"#;

/// A process that destroys the instances of a benchmark and removes its directory when the
/// benchmark has ended, also if that was killed.
pub struct Guardian(Child);

impl Guardian {
    pub fn of(dir: &Path, lab: &str) -> Result<Guardian> {
        let mut guardian = Command::new("sh");
        guardian
            .args(["-c", CLEAN_UP, "sh", env!("CARGO_BIN_EXE_cyyber")])
            .arg(dir)
            .arg(lab)
            .env("URI", URI)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        let guardian = guardian.spawn().context("no shell")?;
        Ok(Guardian(guardian))
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
