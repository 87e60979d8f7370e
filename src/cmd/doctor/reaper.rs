//! Whether `cyyber reap` runs about every minute, and with which configuration.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::SignedDuration;

use super::finding::{Check, Finding};
use crate::config::{Config, SEARCHED};
use crate::context::Context;
use crate::reaper::passes::Passes;
use crate::state::coverage::{Coverage, LONGEST_GAP};
use crate::units::age;

/// The directories of cron files and systemd units.
const SCHEDULES: [&str; 6] = [
    "/etc/crontab",
    "/etc/cron.d",
    "/var/spool/cron/crontabs",
    "/etc/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
];

const CHECK: Check = Check("reaper");

pub fn check(context: &Context) -> Finding {
    let last = Passes::read(&context.paths.passes()).last();
    let since = last.map(|last| context.time().duration_since(last));
    if let Some(since) = since.filter(|since| recent(*since)) {
        return match left_out(context) {
            None => CHECK.ok(format!("the last pass was {} ago", age(since))),
            Some(why) => CHECK.warning(why, remedy(context)),
        };
    }
    let mut unseen = Vec::new();
    let Some((file, config)) = scheduled(&mut unseen) else {
        if unseen.is_empty() {
            let message = "nothing calls `cyyber reap`: unused instances keep their memory";
            let remedy = format!("echo '{}' > /etc/cron.d/cyyber", line(context));
            return CHECK.failed(message, remedy);
        }
        let unseen = unseen.join(", ");
        let message = format!("there was no recent pass; cannot check what calls it: {unseen}");
        return CHECK.warning(message, "run doctor as root");
    };
    let file = format!("{} calls it with {}", file.display(), config.display());
    if let Some(why) = other(context, &config) {
        return CHECK.warning(format!("{file}, {why}"), remedy(context));
    }
    let but = match since {
        Some(since) => format!("the last pass was {} ago", age(since)),
        None => "there was no pass yet".to_owned(),
    };
    let remedy =
        "wait a minute; then check that cron or the timer runs, and what `cyyber reap` prints";
    CHECK.warning(format!("{file}, but {but}"), remedy)
}

fn remedy(context: &Context) -> String {
    let remedy = "put all labs into one configuration, or add a cron line for this one";
    format!("{remedy}: {}", line(context))
}

/// The cron line for passes.
fn line(context: &Context) -> String {
    let config = std::path::absolute(&context.config.path);
    let config = config.as_ref().unwrap_or(&context.config.path).display();
    format!("* * * * * root /usr/local/bin/cyyber --config {config} -q reap")
}

/// The labs that no pass covers.
fn left_out(context: &Context) -> Option<String> {
    let coverage = match Coverage::read(&context.paths.coverage()) {
        Ok(coverage) => coverage,
        Err(error) => {
            let what = "cannot determine which labs its passes cover";
            return Some(format!("{what}: {error}"));
        }
    };
    let now = context.moment();
    let labs = context.config.labs.iter().map(|lab| lab.lab_id.as_str());
    let gaps = labs.filter_map(|lab| Some((lab, coverage.gap(lab, &now)?)));
    let (labs, gaps): (Vec<_>, Vec<_>) = gaps.unzip();
    let (labs, why) = (labs.join(", "), gaps.first()?);
    Some(format!("no reaper covers instances of {labs}: {why}"))
}

/// How the configuration of the passes differs from this command's.
fn other(context: &Context, path: &Path) -> Option<String> {
    let same = |a: &Path, b: &Path| a.canonicalize().ok() == b.canonicalize().ok();
    if same(path, &context.config.path) {
        return None;
    }
    let config = match Config::load_trusted(Some(path), context.trust) {
        Ok(config) => config,
        Err(error) => return Some(format!("which cannot be used: {error:#}")),
    };
    let labs = context.config.labs.iter().map(|lab| &lab.lab_id);
    let missing = labs.filter(|lab| config.lab(lab).is_err());
    let missing: Vec<_> = missing.map(|lab| lab.as_str()).collect();
    if !missing.is_empty() {
        return Some(format!("which does not have {}", missing.join(", ")));
    }
    let state = &config.host.state_dir;
    (!same(state, context.paths.state()))
        .then(|| format!("which has another state_dir: {}", state.display()))
}

/// A pass in the future tells nothing.
fn recent(since: SignedDuration) -> bool {
    (SignedDuration::from_secs(-60)..=LONGEST_GAP).contains(&since)
}

/// The file from which cron or systemd runs it, and the configuration that it uses. Problems in
/// finding it are added to `unseen`.
fn scheduled(unseen: &mut Vec<String>) -> Option<(PathBuf, PathBuf)> {
    for place in SCHEDULES.map(Path::new) {
        let files = match fs::read_dir(place) {
            Ok(entries) => entries.filter_map(|it| Some(it.ok()?.path())).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => vec![place.to_owned()],
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                unseen.push(format!("{} ({error})", place.display()));
                continue;
            }
        };
        for file in files.into_iter().filter(|file| file.is_file()) {
            let text = fs::read(&file).unwrap_or_else(|error| {
                unseen.push(format!("{} ({error})", file.display()));
                Vec::new()
            });
            if let Some(config) = calls_it(&String::from_utf8_lossy(&text)) {
                return Some((file, config));
            }
        }
    }
    None
}

/// The configuration that `cyyber reap` reads according to `text`.
fn calls_it(text: &str) -> Option<PathBuf> {
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.starts_with(['#', ';']));
    let line = lines.clone().find(|line| {
        line.contains("cyyber") && line.split_whitespace().any(|word| word == "reap")
    })?;
    let unquoted = |word: &str| word.trim_matches(['"', '\'']).to_owned();
    let option = line.split_once("--config").and_then(|(_, rest)| {
        let rest = rest.trim_start_matches([' ', '\t', '=']);
        rest.split_whitespace().next().map(unquoted)
    });
    // Set in a line of its own, as in systemd and cron files, or before the command.
    let variable = || {
        let mut words = lines.flat_map(str::split_whitespace).map(unquoted);
        words.find_map(|word| {
            let word = word.strip_prefix("Environment=").unwrap_or(&word);
            unquoted(word).strip_prefix("CYYBER_CONFIG=").map(unquoted)
        })
    };
    let config = option.or_else(variable);
    Some(config.map_or_else(|| SEARCHED[1].into(), PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_calls_it_is_known_and_so_is_its_configuration() {
        for (text, config) in [
            (
                "* * * * * root /usr/local/bin/cyyber -q reap\n",
                "/etc/cyyber/labs-config.json",
            ),
            (
                "[Service]\nExecStart=/usr/bin/cyyber --config /a.json reap --jobs 2\n",
                "/a.json",
            ),
            ("* * * * * root cyyber --config=\"/a.json\" reap", "/a.json"),
            (
                "[Service]\nEnvironment=\"CYYBER_CONFIG=/a.json\"\nExecStart=cyyber reap\n",
                "/a.json",
            ),
            (
                "#CYYBER_CONFIG=/b.json\nCYYBER_CONFIG=/a.json\n* * * * * root cyyber reap\n",
                "/a.json",
            ),
        ] {
            assert_eq!(calls_it(text), Some(config.into()), "{text}");
        }
        for text in [
            "",
            "# * * * * * root cyyber reap\n",
            "* * * * * root reaper cyyber\n",
        ] {
            assert_eq!(calls_it(text), None, "{text}");
        }
    }
}
