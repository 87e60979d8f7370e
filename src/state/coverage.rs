//! Which labs the reaper covers, so that a command can warn if none covers what it starts. This is
//! judged by the passes that ran, not by what is set up to run them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::clock::Moment;
use crate::files;

/// A longer time without a pass is an outage: earlier observations then do not count.
pub const LONGEST_GAP: SignedDuration = SignedDuration::from_mins(10);

/// The last pass with each configuration.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Coverage(BTreeMap<String, CoveringPass>);

#[derive(Debug, Serialize, Deserialize)]
struct CoveringPass {
    at: Timestamp,
    labs: BTreeSet<String>,
}

impl Coverage {
    /// The record at `path`.
    pub fn read(path: &Path) -> io::Result<Coverage> {
        let text = files::read_if_there(path)?;
        Ok(text.map_or_else(|| Ok(Coverage::default()), |it| serde_json::from_slice(&it))?)
    }

    /// Records at `path` a pass with the configuration `file`, which has `labs`.
    pub fn note<'a>(
        path: &Path,
        file: &Path,
        labs: impl Iterator<Item = &'a str>,
        now: &Moment,
    ) -> io::Result<()> {
        // An unreadable file is replaced.
        let mut coverage = Coverage::read(path).unwrap_or_default();
        coverage.0.retain(|_, pass| counts(pass.at, now));
        let pass = CoveringPass {
            at: now.time,
            labs: labs.map(str::to_owned).collect(),
        };
        let file = std::path::absolute(file)?.display().to_string();
        coverage.0.insert(file, pass);
        files::replace_soon(path, &serde_json::to_vec(&coverage)?, files::SHARED)
    }

    /// Why no pass covers `lab`, if so.
    pub fn gap(&self, lab: &str, now: &Moment) -> Option<String> {
        let lately = self.0.iter().filter(|(_, pass)| counts(pass.at, now));
        let (files, passes): (Vec<_>, Vec<_>) = lately.map(|(file, pass)| (&**file, pass)).unzip();
        if passes.iter().any(|pass| pass.labs.contains(lab)) {
            return None;
        }
        Some(match &files[..] {
            [] => "there was no pass of `cyyber reap` for 10 minutes".to_owned(),
            files => format!(
                "`cyyber reap` reads {}, which does not have this lab",
                files.join(" and ")
            ),
        })
    }
}

/// Whether a pass is recent. On a host that has just booted, the next one may still be to come.
fn counts(pass: Timestamp, now: &Moment) -> bool {
    let since = now.time.duration_since(pass);
    now.uptime < LONGEST_GAP || (SignedDuration::from_secs(-60)..=LONGEST_GAP).contains(&since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_is_looked_after_where_a_pass_of_late_knew_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("coverage.json");
        let at = |minutes| Moment {
            time: Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minutes),
            uptime: SignedDuration::from_mins(minutes),
        };
        let note = |file: &str, lab: &str, minutes| {
            let labs = [lab].into_iter();
            Coverage::note(&path, Path::new(file), labs, &at(minutes)).unwrap();
        };
        let gap = |lab: &str, minutes| Coverage::read(&path).unwrap().gap(lab, &at(minutes));
        assert!(gap("a", 100).unwrap().contains("no pass"));
        note("/etc/a.json", "a", 100);
        assert_eq!(gap("a", 110), None);
        assert!(gap("b", 110).unwrap().contains("/etc/a.json"));
        note("/etc/b.json", "b", 109);
        assert_eq!((gap("a", 110), gap("b", 110)), (None, None));
        assert!(gap("a", 111).unwrap().contains("/etc/b.json"));
        assert!(gap("b", 98).is_some(), "passes of the future");
        // The host was booted.
        let booted = Moment {
            uptime: SignedDuration::from_mins(1),
            ..at(1000)
        };
        assert_eq!(Coverage::read(&path).unwrap().gap("a", &booted), None);
        std::fs::write(&path, "{").unwrap();
        assert!(Coverage::read(&path).is_err());
        note("/etc/a.json", "a", 100);
        assert_eq!(gap("a", 100), None);
    }
}
