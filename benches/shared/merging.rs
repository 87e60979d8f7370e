//! Merging of equal pages by the kernel (KSM) while it is measured.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

const KSM: &str = "/sys/kernel/mm/ksm";

/// Ten times as fast as the product, so that it does not take as long.
const SETTINGS: [(&str, &str); 3] = [
    ("sleep_millisecs", "50"),
    ("pages_to_scan", "5000"),
    ("run", "1"),
];

/// Pages are merged in the second scan after the one that found them unchanged; and no longer than
/// this is waited for it.
const SCANS: u64 = 3;
const LONGEST: Duration = Duration::from_secs(150);

/// Separates the pages and makes the former settings, when its standard input ends.
const UNDO: &str = r#"trap '' INT TERM HUP
cd /sys/kernel/mm/ksm || exit
read -r _
echo 2 >run
while [ $# -gt 0 ]; do
    echo "$2" >"$1"
    shift 2
done
"#;

/// Merging, as long as this exists. The former settings are made again also if the benchmark is
/// killed.
pub struct Merging(Child);

impl Merging {
    pub fn start() -> Result<Merging> {
        let mut undo = Command::new("sh");
        undo.args(["-c", UNDO, "sh"]);
        for (setting, _) in SETTINGS {
            undo.args([setting, &get(setting)?]);
        }
        undo.stdin(Stdio::piped()).process_group(0);
        let merging = Merging(undo.spawn().context("no shell")?);
        for (setting, value) in SETTINGS {
            let file = format!("{KSM}/{setting}");
            std::fs::write(&file, value).context(file)?;
        }
        Ok(merging)
    }

    /// Waits until the kernel has scanned all pages often enough; how often it did.
    pub fn wait(&self) -> Result<u64> {
        let scans = || Ok::<u64, anyhow::Error>(get("full_scans")?.parse()?);
        let (first, began) = (scans()?, Instant::now());
        loop {
            let done = scans()? - first;
            if done >= SCANS || began.elapsed() > LONGEST {
                return Ok(done);
            }
            sleep(Duration::from_secs(1));
        }
    }
}

impl Drop for Merging {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn get(setting: &str) -> Result<String> {
    let file = format!("{KSM}/{setting}");
    let value = std::fs::read_to_string(&file).context(file)?;
    Ok(value.trim().to_owned())
}
