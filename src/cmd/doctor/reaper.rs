//! Whether `cyyber reap` is called every minute or so.

use std::path::{Path, PathBuf};

use jiff::SignedDuration;

use super::finding::Finding;
use crate::context::Context;
use crate::state::passes::{LONGEST_GAP, Passes};
use crate::units::age;

/// Where cron and systemd are told to do something.
const SCHEDULES: [&str; 5] = [
    "/etc/cron.d",
    "/var/spool/cron/crontabs",
    "/etc/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
];

pub fn check(context: &Context) -> Finding {
    let last = Passes::read(&context.paths.passes()).last();
    let since = last.map(|last| context.time().duration_since(last));
    let scheduled = scheduled();
    let by = scheduled.as_ref().map(|path| path.display());
    match (since, by) {
        (Some(since), _) if recent(since) => {
            Finding::ok("reaper", format!("the last pass was {} ago", age(since)))
        }
        (_, Some(by)) => Finding::warning(
            "reaper",
            match since {
                Some(since) => format!("{by} calls it, but the last pass was {} ago", age(since)),
                None => format!("{by} calls it, but there was no pass yet"),
            },
            "wait a minute; then look whether cron or the timer runs, and what `cyyber reap` says",
        ),
        (_, None) => Finding::failed(
            "reaper",
            "nothing calls `cyyber reap`: instances that nobody uses keep their memory",
            "echo '* * * * * root /usr/local/bin/cyyber -q reap' > /etc/cron.d/cyyber",
        ),
    }
}

/// A pass of the future is no sign of anything.
fn recent(since: SignedDuration) -> bool {
    (SignedDuration::from_secs(-60)..=LONGEST_GAP).contains(&since)
}

/// The file that has cron or systemd call it.
fn scheduled() -> Option<PathBuf> {
    let files = SCHEDULES.iter().flat_map(|directory| {
        let entries = std::fs::read_dir(directory).into_iter().flatten();
        entries.filter_map(|entry| Some(entry.ok()?.path()))
    });
    let own = Path::new("/etc/crontab").to_owned();
    let mut files = files.filter(|path| path.is_file()).chain([own]);
    files.find(|path| std::fs::read_to_string(path).is_ok_and(|text| calls_it(&text)))
}

fn calls_it(text: &str) -> bool {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with(['#', ';']))
        .any(|line| line.contains("cyyber") && line.split_whitespace().any(|word| word == "reap"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_calls_it_is_known() {
        for text in [
            "* * * * * root /usr/local/bin/cyyber -q reap\n",
            "[Service]\nExecStart=/usr/bin/cyyber reap --jobs 2\n",
        ] {
            assert!(calls_it(text), "{text}");
        }
        for text in [
            "",
            "# * * * * * root cyyber reap\n",
            "* * * * * root reaper cyyber\n",
        ] {
            assert!(!calls_it(text), "{text}");
        }
    }
}
