//! `cyyber metrics`: what Prometheus would read, read as strictly as it does, and a little more.

use crate::common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use common::{Run, Sandbox, UNREACHABLE};

/// Labels in braces and values by metric.
type Samples = BTreeMap<String, BTreeMap<String, f64>>;

/// Reads the text format. Each metric has its help, its type and then its samples, all together and
/// once; names and labels are such that every reader takes them.
#[track_caller]
fn parse(text: &str) -> Samples {
    assert!(text.ends_with('\n') && !text.ends_with("\n\n"), "{text}");
    let mut all = Samples::new();
    let mut current: Option<(String, String)> = None;
    let mut helped = None;
    for line in text.lines() {
        assert_eq!(line, line.trim(), "{line}");
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(help.ends_with('.'), "{line}");
            helped = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(helped.take().as_deref(), Some(name), "{line}");
            assert!(name.starts_with("cyyber_") && is_name(name), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            let fresh = all.insert(name.to_owned(), BTreeMap::new()).is_none();
            assert!(fresh, "{name} is there twice");
            current = Some((name.to_owned(), kind.to_owned()));
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = match series.split_once('{') {
                Some((name, labels)) => (name, labels.strip_suffix('}').unwrap()),
                None => (series, ""),
            };
            let (of, kind) = current.as_ref().expect("a sample before any type");
            let part = name.strip_prefix(of.as_str()).unwrap();
            let parts = match kind.as_str() {
                "histogram" => &["_bucket", "_sum", "_count"][..],
                _ => &[""],
            };
            assert!(parts.contains(&part), "{line}");
            let value: f64 = value.parse().unwrap();
            assert!(value.is_finite() && value >= 0.0, "{line} {kind}");
            check_labels(labels);
            let samples = all.get_mut(of).unwrap();
            let twice = samples.insert(format!("{part}{labels}"), value);
            assert_eq!(twice, None, "{line}");
        }
    }
    for (name, samples) in &all {
        assert!(!samples.is_empty(), "{name}");
    }
    all
}

fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    name.chars().all(plain) && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// `a="…",b="…"`, with backslashes before what must be escaped and nothing else.
fn check_labels(labels: &str) {
    let mut names = BTreeSet::new();
    let mut rest = labels;
    while !rest.is_empty() {
        let (name, value) = rest.split_once("=\"").unwrap();
        assert!(is_name(name) && !name.starts_with("__"), "{labels}");
        assert!(names.insert(name), "{labels}");
        let mut escaped = false;
        let end = value.char_indices().find(|(_, c)| {
            let was = escaped;
            escaped = *c == '\\' && !was;
            assert!(!was || matches!(c, '\\' | '"' | 'n'), "{labels}");
            *c == '"' && !was
        });
        let (end, _) = end.unwrap_or_else(|| panic!("{labels}"));
        rest = &value[end + 1..];
        rest = match rest.strip_prefix(',') {
            Some(more) if !more.is_empty() => more,
            Some(_) => panic!("{labels}"),
            None => {
                assert_eq!(rest, "", "{labels}");
                rest
            }
        };
    }
}

#[test]
fn without_instances_there_are_the_host_and_zeros() {
    let sandbox = Sandbox::new();
    let samples = parse(&sandbox.cyyber(["metrics"]).ok().stdout);
    let states = &samples["cyyber_instances"];
    assert_eq!(states.len(), common::shape::STATES.len());
    for state in common::shape::STATES {
        assert_eq!(states[&format!("state=\"{state}\"")], 0.0);
    }
    let (all, left) = (
        samples["cyyber_host_memory_bytes"][""],
        samples["cyyber_host_memory_available_bytes"][""],
    );
    assert!(0.0 < left && left <= all);
    assert!(!samples.contains_key("cyyber_instance_cpu_seconds_total"));
    assert!(!samples.contains_key("cyyber_reaper_last_pass_timestamp_seconds"));
    sandbox.cyyber(["reap"]).ok();
    let samples = parse(&sandbox.cyyber(["metrics"]).ok().stdout);
    let pass = samples["cyyber_reaper_last_pass_timestamp_seconds"][""];
    let now = jiff::Timestamp::now().as_duration().as_secs_f64();
    assert!((now - 60.0..=now).contains(&pass), "{pass}");
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn each_instance_has_its_figures() {
    let sandbox = Sandbox::with_guests(2);
    let base = sandbox.base(&sandbox.lab);
    sandbox.instance("start", "7", &[]).json();
    sandbox.instance("start", "anna.b", &[]).json();
    sandbox.instance("pause", "anna.b", &[]).json();
    sandbox.instance("create", "idle-one", &[]).json();

    let samples = parse(&sandbox.cyyber(["metrics"]).ok().stdout);
    let labels = |user: &str| {
        let (name, lab) = (sandbox.instance_name(user), &sandbox.lab);
        format!("instance=\"{name}\",lab=\"{lab}\",user=\"{user}\"")
    };
    let of = |metric: &str, user: &str| samples[metric].get(&labels(user)).copied();
    assert!(of("cyyber_instance_cpu_seconds_total", "7").unwrap() > 0.0);
    assert_eq!(
        of("cyyber_instance_memory_bytes", "7"),
        Some(128.0 * 1048576.0)
    );
    assert!(of("cyyber_instance_memory_resident_bytes", "7").unwrap() > 1e6);
    assert_eq!(of("cyyber_instance_memory_resident_bytes", "anna.b"), None);
    // libvirt gives a figure all the same, which is somebody else's.
    assert_eq!(of("cyyber_instance_cpu_seconds_total", "anna.b"), None);
    let stats = sandbox.instance("stats", "anna.b", &[]).json();
    assert_eq!(stats["cpu_time_ns"], serde_json::Value::Null);
    for user in ["7", "anna.b", "idle-one"] {
        assert!(of("cyyber_instance_disk_bytes", user).unwrap() > 1000.0);
        assert!(of("cyyber_instance_last_activity_timestamp_seconds", user).unwrap() > 1.7e9);
    }
    for (user, state) in [
        ("7", "starting"),
        ("anna.b", "paused"),
        ("idle-one", "stopped"),
    ] {
        let name = sandbox.instance_name(user);
        let lab = &sandbox.lab;
        let wanted = format!("instance=\"{name}\",lab=\"{lab}\",state=\"{state}\",user=\"{user}\"");
        assert_eq!(samples["cyyber_instance_state"][&wanted], 1.0);
        assert!(samples["cyyber_instances"][&format!("state=\"{state}\"")] >= 1.0);
    }
    // Other instances may be on this host as well.
    assert!(samples["cyyber_memory_saved_bytes"][""] >= 128.0 * 1048576.0);
    let base = cyyber::images::allocated(&fs::canonicalize(base).unwrap()).unwrap();
    assert!(samples["cyyber_disk_saved_bytes"][""] >= 2.0 * base as f64);

    let json = sandbox.cyyber(["-o", "json", "metrics"]).json();
    let metrics = json["metrics"].as_array().unwrap();
    let states = metrics
        .iter()
        .find(|it| it["name"] == "cyyber_instances")
        .unwrap();
    assert_eq!(states["type"], "gauge");
    assert!(states["samples"][0]["labels"]["state"].is_string());
}

#[test]
fn a_file_is_there_as_a_whole_and_for_everyone() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("collector")).unwrap();
    symlink("collector", sandbox.path("link")).unwrap();
    let file = sandbox.path("collector/cyyber.prom");
    for name in [
        file.to_str().unwrap(),
        "collector/cyyber.prom",
        "link/cyyber.prom",
    ] {
        let run = sandbox.cyyber(["metrics", "--textfile", name]).ok();
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""));
        parse(&fs::read_to_string(&file).unwrap());
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o644);
        let names = fs::read_dir(sandbox.path("collector")).unwrap();
        assert_eq!(names.count(), 1, "something is left over");
    }
    let written = sandbox
        .cyyber(["-o", "json", "metrics", "--textfile", "x.prom"])
        .json();
    assert_eq!(written["textfile"], "x.prom");
    assert!(written["samples"].as_u64().unwrap() >= 9);

    // What cannot be told leaves the last that could.
    let before = fs::read(&file).unwrap();
    let mut command = sandbox.command(["metrics", "--textfile", file.to_str().unwrap()]);
    Run::of(command.env("CYYBER_CONNECT", UNREACHABLE)).says(8, "libvirt");
    assert_eq!(fs::read(&file).unwrap(), before);
}

#[test]
fn what_is_no_file_is_not_replaced() {
    let sandbox = Sandbox::new();
    symlink("/etc/passwd", sandbox.path("passwd.prom")).unwrap();
    fs::create_dir(sandbox.path("directory.prom")).unwrap();
    for (path, wanted) in [
        ("passwd.prom", "something that is not a file"),
        ("directory.prom", "something that is not a file"),
        ("/dev/null", "something that is not a file"),
        ("/", "no name"),
        ("..", "no name"),
        ("nowhere/x.prom", "No such file"),
    ] {
        let run = sandbox
            .cyyber(["metrics", "--textfile", path])
            .says(1, wanted);
        assert!(run.stderr.contains("hint: "), "{run:#?}");
    }
    assert!(sandbox.path("passwd.prom").is_symlink());
}

#[test]
fn counters_go_on_when_journals_are_rotated_and_removed() {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.path("state")).unwrap();
    let lab = &sandbox.lab;
    let line = |ago, action, from, to| crate::report::line(lab, "7", ago, action, from, to, 700);
    let first = line(600, "start", "", "starting")
        + &line(540, "reap", "running", "paused")
        + &line(480, "resume", "paused", "running");
    let journal = sandbox.path("state/events.jsonl");
    fs::write(&journal, &first).unwrap();
    let of_lab = format!("lab=\"{lab}\"");
    let counters = || -> BTreeMap<String, f64> {
        let samples = parse(&sandbox.cyyber(["metrics"]).ok().stdout);
        let own = samples.into_iter().flat_map(|(name, samples)| {
            let counts = name.ends_with("_total") || name.ends_with("_seconds");
            let samples = samples.into_iter();
            let samples = samples.filter(move |(labels, _)| counts && labels.contains("lab="));
            samples.map(move |(labels, value)| (format!("{name} {labels}"), value))
        });
        own.collect()
    };
    let mut before = counters();
    let of = |counters: &BTreeMap<String, f64>, name: &str| counters[&format!("{name}{of_lab}")];
    assert_eq!(of(&before, "cyyber_pauses_total "), 1.0);
    assert_eq!(of(&before, "cyyber_resume_seconds _count"), 1.0);
    let mib = 1_048_576.0;
    // The lines were written a moment apart.
    let used = of(&before, "cyyber_memory_used_byte_seconds_total ") / mib / 2048.0;
    assert!((used - 3600.0).abs() < 10.0, "{used}");
    let second = line(420, "reap", "running", "paused");
    for step in 0..4 {
        match step {
            0 => {
                fs::rename(&journal, sandbox.path("state/events.jsonl.1")).unwrap();
                fs::write(&journal, &second).unwrap();
            }
            1 => fs::remove_file(sandbox.path("state/events.jsonl.1")).unwrap(),
            2 => {
                let more = second.clone() + &line(360, "start", "paused", "failed");
                fs::write(&journal, more).unwrap();
            }
            _ => fs::remove_file(&journal).unwrap(),
        }
        let now = counters();
        for (name, value) in &before {
            assert!(
                now[name] >= *value,
                "{step}: {name} went back from {value} to {}",
                now[name]
            );
        }
        before = now;
    }
    assert_eq!(
        of(&before, "cyyber_pauses_total "),
        2.0,
        "each line counts once"
    );
    assert_eq!(
        before[&format!("cyyber_failed_starts_total code=\"capacity\",{of_lab}")],
        1.0
    );
    // It belongs to all.
    let mine = parse(&sandbox.cyyber(["--as-user", "7", "metrics"]).ok().stdout);
    assert!(!mine.contains_key("cyyber_pauses_total"));
}
