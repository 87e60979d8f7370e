//! The examples of the program's JSON in the README, in the manual and in the documents beside it are what it answers: the same
//! keys in the same order, and the same values where these do not differ from run to run.
//!
//! Examples of configurations are looked at in `schema.rs`.

use crate::common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use common::shape::{LISTED, SECRET};
use common::{Run, Sandbox, UNREACHABLE, run, tool, virsh};
use serde_json::json;

/// A JSON document that knows the order of its keys; or an abbreviated one, with keys without their
/// values, words for values, and dots for more of the same.
#[derive(Debug)]
enum Doc {
    Object(Vec<(String, Option<Doc>)>),
    Array(Vec<Doc>),
    Text(String),
    /// A number, `true`, `null`, or what an example has in place of a value.
    Word(String),
}
use Doc::*;

/// Reads documents from the beginning of a text, and keeps the rest.
struct Reader<'a>(&'a str);

impl Reader<'_> {
    fn doc(&mut self) -> Doc {
        if self.take('{') {
            let mut fields = Vec::new();
            while !self.take('}') {
                let (Text(key) | Word(key)) = self.doc() else {
                    panic!("no key before {}", self.0);
                };
                let value = self.take(':').then(|| self.doc());
                fields.push((key, value));
                self.take(',');
            }
            Object(fields)
        } else if self.take('[') {
            let mut elements = Vec::new();
            while !self.take(']') {
                elements.push(self.doc());
                self.take(',');
            }
            Array(elements)
        } else if self.0.starts_with('"') {
            let mut texts = serde_json::Deserializer::from_str(self.0).into_iter();
            let text = texts.next().unwrap().unwrap();
            self.0 = &self.0[texts.byte_offset()..];
            Text(text)
        } else {
            let ends = |c: char| c.is_whitespace() || ",:[]{}".contains(c);
            let end = self.0.find(ends).unwrap_or(self.0.len());
            assert!(end > 0, "no JSON: {}", self.0);
            let (word, rest) = self.0.split_at(end);
            self.0 = rest;
            Word(word.to_owned())
        }
    }

    fn take(&mut self, sign: char) -> bool {
        self.0 = self.0.trim_start();
        let rest = self.0.strip_prefix(sign);
        self.0 = rest.unwrap_or(self.0).trim_start();
        rest.is_some()
    }
}

impl Doc {
    fn of(text: &str) -> Doc {
        let mut reader = Reader(text);
        let doc = reader.doc();
        assert_eq!(reader.0, "");
        doc
    }

    /// The answer of a command that may have failed for some.
    #[track_caller]
    fn answer(run: &Run) -> Doc {
        assert!(!run.stdout.is_empty(), "{run:#?}");
        Doc::of(run.stdout.trim())
    }

    fn get(&self, name: &str) -> &Doc {
        let Object(fields) = self else {
            panic!("no object: {self:?}");
        };
        let field = fields.iter().find(|(key, _)| key == name);
        let value = field.and_then(|(_, value)| value.as_ref());
        value.unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }

    fn keys(&self) -> Vec<&str> {
        let Object(fields) = self else {
            panic!("no object: {self:?}");
        };
        fields.iter().map(|(key, _)| &**key).collect()
    }

    fn elements(&self) -> &[Doc] {
        let Array(elements) = self else {
            panic!("no array: {self:?}");
        };
        elements
    }
}

fn is_dots(word: &str) -> bool {
    matches!(word, "..." | "…")
}

/// Asserts that `real` is what `example` shows.
#[track_caller]
fn assert_shown(example: &Doc, real: &Doc, name: &str) {
    assert_all_shown(example, &[real], name);
}

/// The same of all that stand in one place, where what is shown of arrays is there at least once.
#[track_caller]
fn assert_all_shown(example: &Doc, real: &[&Doc], name: &str) {
    match example {
        Object(shown) => {
            let dots = shown.iter().position(|(key, _)| is_dots(key));
            let count = dots.unwrap_or(shown.len());
            let keys: Vec<_> = example.keys().into_iter().take(count).collect();
            for real in real {
                let mut real_keys = real.keys();
                if dots.is_some() {
                    real_keys.truncate(count);
                }
                assert_eq!(real_keys, keys, "of {name}");
            }
            for (key, shown) in &shown[..count] {
                if let Some(shown) = shown {
                    let values: Vec<_> = real.iter().map(|real| real.get(key)).collect();
                    assert_all_shown(shown, &values, key);
                }
            }
        }
        Array(shown) => {
            let elements: Vec<_> = real.iter().flat_map(|real| real.elements()).collect();
            assert!(!elements.is_empty(), "{name} is empty");
            let is_more = |doc: &&Doc| matches!(doc, Word(word) if is_dots(word));
            for shown in shown.iter().filter(|doc| !is_more(doc)) {
                assert_all_shown(shown, &elements, name);
            }
        }
        Word(shown) if shown == "INSTANCE" => {
            let fields = LISTED.iter().chain(SECRET).map(|(field, _)| *field);
            let fields: Vec<_> = fields.collect();
            assert!(real.iter().all(|real| real.keys() == fields), "{real:?}");
        }
        Text(shown) | Word(shown) => {
            for real in real {
                let is_shown = match (example, real) {
                    (Word(_), Word(number)) if shown == "N" => number.parse::<u64>().is_ok(),
                    (Text(_), Text(value)) | (Word(_), Word(value)) => is_like(name, shown, value),
                    _ => false,
                };
                assert!(is_shown, "{name} is shown as {example:?} and is {real:?}");
            }
        }
    }
}

/// Whether two values of a field differ only in what differs from run to run.
fn is_like(name: &str, shown: &str, value: &str) -> bool {
    match name {
        "created" | "last_activity" | "next_step_at" | "vnc_password_expires" => [shown, value]
            .iter()
            .all(|time| time.ends_with('Z') && time.parse::<jiff::Timestamp>().is_ok()),
        "vnc_password" => shown.len() == value.len(),
        "vnc_port" | "novnc_port" | "base_image" | "reason" => {
            without_digits(shown) == without_digits(value)
        }
        _ => shown == value,
    }
}

/// A text with a zero for each of its digits, also of hexadecimal ones.
fn without_digits(text: &str) -> String {
    text.replace(|c: char| c.is_ascii_hexdigit(), "0")
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(path).unwrap()
}

/// A part of the manual, as a reader sees it.
fn part(name: &str) -> String {
    let mut page = read(&format!("man/parts/{name}.roff"));
    for (roff, shown) in [
        ("\\(dq", "\""),
        ("\\fI", ""),
        ("\\fR", ""),
        ("\\-", "-"),
        ("\\ ", " "),
    ] {
        page = page.replace(roff, shown);
    }
    page
}

/// The examples of JSON in a text, but for those of configurations.
fn examples(text: &str) -> Vec<Doc> {
    let mut rest = text;
    let mut all = Vec::new();
    while let Some(begin) = rest.find('{') {
        let from = &rest[begin..];
        rest = &from[1..];
        if rest.trim_start().starts_with('"') {
            let mut reader = Reader(from);
            let example = reader.doc();
            rest = reader.0;
            if !from[..from.len() - rest.len()].contains("\"lab_name\"") {
                all.push(example);
            }
        }
    }
    all
}

/// The examples of the text called `name`: as many as a test expects.
#[track_caller]
fn all_of<const COUNT: usize>(name: &str, text: &str) -> [Doc; COUNT] {
    examples(text)
        .try_into()
        .unwrap_or_else(|all| panic!("{name} has other examples than are tested: {all:#?}"))
}

/// Those of a part of the manual.
#[track_caller]
fn examples_of<const COUNT: usize>(name: &str) -> [Doc; COUNT] {
    all_of(name, &part(name))
}

/// A sandbox with a base image, for `count` guests at once.
fn sandbox(count: usize) -> Sandbox {
    let sandbox = Sandbox::with_guests(count);
    sandbox.base(&sandbox.lab);
    sandbox
}

/// Puts somebody else's domain in the place of a user's instance.
fn stranger(sandbox: &Sandbox, user: &str) {
    let xml = sandbox.path("stranger.xml");
    let text = format!(
        "<domain type='qemu'><name>{}</name><memory unit='MiB'>64</memory>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os></domain>",
        sandbox.instance_name(user)
    );
    fs::write(&xml, text).unwrap();
    virsh(["define", &xml.to_string_lossy()]);
}

#[test]
fn no_page_has_an_example_that_is_not_looked_at() {
    let parts = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/parts");
    let mut with_examples = BTreeSet::new();
    for entry in fs::read_dir(parts).unwrap() {
        let name = entry.unwrap().path().with_extension("");
        let name = name.file_name().unwrap().to_str().unwrap().to_owned();
        if !examples(&part(&name)).is_empty() {
            with_examples.insert(name);
        }
    }
    let source = read("tests/suite/examples.rs");
    for name in &with_examples {
        let test = format!("examples_of(\"{name}\")");
        assert!(source.contains(&test), "no test has {test}");
    }
    assert_eq!(with_examples.len(), 9, "{with_examples:?}");
    for name in [
        "man/comparison.md",
        "man/from-docker.md",
        "man/releases.md",
        "man/several-hosts.md",
        "CONTRIBUTING.md",
    ] {
        assert!(examples(&read(name)).is_empty(), "{name}");
    }
    // Help texts and comments have none: what they showed would be seen by no test.
    assert!(examples(&read("src/cli.rs")).is_empty());
}

#[test]
fn an_error_is_as_documented() {
    let [error] = examples_of("cyyber");
    let sandbox = Sandbox::new();
    for arguments in [
        &["-c", UNREACHABLE, "-o", "json", "instance", "list"][..],
        &["-o", "json", "bild"],
    ] {
        let run = sandbox.cyyber(arguments);
        assert_shown(&error, &Doc::of(run.stderr.trim()), "the error");
    }
}

#[test]
fn what_needs_no_instance_is_as_documented() {
    let sandbox = Sandbox::new();
    let answer = |words: &[&str]| Doc::answer(&sandbox.cyyber(["-o", "json"].iter().chain(words)));

    let [labs] = examples_of("cyyber-build");
    let built = answer(&["build", "--dry-run"]);
    assert_shown(&labs, &built, "build");
    assert_named("cyyber-build", "JSON", &built.get("labs").elements()[0]);

    let [ready] = examples_of("cyyber-doctor");
    assert_shown(&ready, &answer(&["doctor"]), "doctor");

    assert_named("cyyber-report", "JSON", &answer(&["report"]));
    assert_named("cyyber-timetable", "JSON", &answer(&["timetable"]));

    let [metrics, textfile] = examples_of("cyyber-metrics");
    assert_shown(&metrics, &answer(&["metrics"]), "metrics");
    let written = answer(&["metrics", "--textfile", "cyyber.prom"]);
    assert_shown(&textfile, &written, "metrics");
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn the_examples_of_readme_and_backend_are_what_is_answered() {
    let readme = read("README.md");
    let [error] = all_of("README.md", &readme);
    let backend = "man/backend.md";
    let [list, cleanup, start, of_the_backend] = all_of(backend, &read(backend));
    // Which answers with the first two fields of the program's; `tests/backend/` looks at it.
    assert_eq!(of_the_backend.get("error").keys(), ["code", "message"]);

    let sandbox = sandbox(1);
    // What the README's reader has: a lab called lab01, in the directories that are the default.
    let as_there = |text: String| {
        let storage = sandbox.path("storage");
        text.replace(
            storage.to_str().unwrap(),
            "/var/lib/libvirt/images/cyyber-labs",
        )
        .replace(&sandbox.lab, "lab01")
    };
    let mut started = sandbox.instance("start", "anna", &[]).ok();
    started.stdout = as_there(started.stdout);
    let mut answered = Doc::answer(&started);
    if let Object(fields) = &mut answered {
        // The backend keeps the server's paths to itself.
        fields.retain(|(key, _)| !["base_image", "disk_path"].contains(&key.as_str()));
    }
    assert_shown(&start, &answered, "start");

    // The same for people.
    let (_, shown) = readme.split_once("instance start lab01 anna  #").unwrap();
    let (shown, _) = shown.split_once("\n$ ").unwrap();
    let (_, shown) = shown.split_once('\n').unwrap();
    sandbox.instance("stop", "anna", &["--force"]).ok();
    let said = sandbox.cyyber(["instance", "start", &sandbox.lab, "anna"]);
    let said = as_there(said.ok().stdout);
    let words = |text: &str| -> Vec<String> {
        let words = text.split_whitespace().map(without_digits);
        words.collect()
    };
    let (shown, mut said) = (words(shown), words(&said));
    let password = said.iter().position(|word| *word == words("password")[0]);
    let password = password.unwrap() + 1;
    said[password].clone_from(&shown[password]);
    assert_eq!(said, shown);

    let command = ["-o", "json", "instance", "list", "--user", "anna"];
    let listed = sandbox.cyyber(command).ok();
    assert_shown(&list, &Doc::answer(&listed), "list");
    let denied = sandbox.cyyber(["-o", "json", "instance", "list", "--lab", "nowhere"]);
    assert_shown(&error, &Doc::of(denied.stderr.trim()), "the error");
    cleanup_of_every_kind(&sandbox, "anna", &cleanup);
}

/// Has one cleanup destroy, keep and fail, and asserts that its answer is as `shown`. The instance of
/// `there` is the only one so far.
fn cleanup_of_every_kind(sandbox: &Sandbox, there: &str, shown: &Doc) {
    sandbox.instance("create", "old", &[]).ok();
    // A newer base, and everyone else on it, so that the old one goes with its last instance.
    let name = format!("storage/base-images/{}-base.qcow2", sandbox.lab);
    fs::remove_file(sandbox.path(&name)).unwrap();
    let base = sandbox.base(&sandbox.lab);
    run(tool("qemu-io").args(["-c", "write -P 7 0 64k"]).arg(&base));
    sandbox.instance("reset", there, &["--yes"]).ok();
    sandbox.instance("create", "stranger", &[]).ok();
    virsh(["undefine", "--", &sandbox.instance_name("stranger")]);
    stranger(sandbox, "stranger");
    for user in ["old", "stranger"] {
        let file = format!("state/activity/{}", sandbox.instance_name(user));
        let file = File::options()
            .write(true)
            .open(sandbox.path(file))
            .unwrap();
        let hours = Duration::from_secs(2 * 3600);
        file.set_modified(SystemTime::now() - hours).unwrap();
    }
    let options = ["--lab", &sandbox.lab, "--inactive-for", "1h", "--yes"];
    let command = ["-o", "json", "instance", "cleanup"];
    let done = sandbox.cyyber(command.iter().chain(&options));
    assert_eq!(done.code, Some(1), "{done:#?}");
    assert_shown(shown, &Doc::answer(&done), "cleanup");
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn what_is_said_of_instances_is_as_documented() {
    let sandbox = sandbox(0);
    let [shown] = examples_of("cyyber-instance");
    let [list] = examples_of("cyyber-instance-list");
    let [stats] = examples_of("cyyber-instance-stats");
    let [cleanup] = examples_of("cyyber-instance-cleanup");

    stranger(&sandbox, "2");
    fs::write(sandbox.path("class.txt"), "1\n2\n").unwrap();
    let command = ["-o", "json", "instance", "create", &sandbox.lab];
    let class = sandbox.cyyber(command.iter().chain(&["--users-from", "class.txt"]));
    let class = Doc::answer(&class);
    assert_shown(&shown, &class, "a class");
    assert_named(
        "cyyber-instance",
        "JSON",
        &class.get("instances").elements()[0],
    );

    for (verb, shown) in [("list", &list), ("stats", &stats)] {
        let all = sandbox.cyyber(["-o", "json", "instance", verb]).ok();
        assert_shown(shown, &Doc::answer(&all), verb);
    }
    demo_reads(&sandbox, "1");
    let one = sandbox.instance("stats", "1", &[]).ok();
    assert_named("cyyber-instance-stats", "JSON", &Doc::answer(&one));
    cleanup_of_every_kind(&sandbox, "1", &cleanup);

    let journal = fs::read_to_string(sandbox.path("state/events.jsonl")).unwrap();
    assert_named(
        "cyyber",
        "THE JOURNAL",
        &Doc::of(journal.lines().next().unwrap()),
    );
}

/// The demo reads JSON with what every shell has.
fn demo_reads(sandbox: &Sandbox, user: &str) {
    let demo = read("labs/demo.sh");
    let field = demo.lines().find(|line| line.starts_with("field() {"));
    let script = format!(
        "cyyber() {{ '{}' \"$@\"; }}\n{}\nlab={} user={user}\nfield state; field disk_path",
        env!("CARGO_BIN_EXE_cyyber"),
        field.unwrap(),
        sandbox.lab
    );
    let mut shell = tool("bash");
    sandbox.confine(shell.args(["-euo", "pipefail", "-c", &script]));
    let disk = sandbox.overlay(user);
    assert_eq!(run(&mut shell), format!("stopped\n{}\n", disk.display()));
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn passes_are_as_documented() {
    let [_, pass, row, sign] = examples_of("cyyber-reap");
    let sandbox = sandbox(1);
    sandbox.configure(&json!({"policy": {"boot_timeout": "0s", "idle_after": "0s"}}));
    sandbox.instance("start", "7", &[]).ok();
    // The first one only looks.
    sandbox.cyyber(["reap"]).ok();
    let told = sandbox.cyyber(["-o", "json", "reap", "--dry-run"]).ok();
    let told = Doc::answer(&told);
    // Those of other tests are in sight too.
    let all = told.get("instances").elements();
    let is_ours = |row: &&Doc| matches!(row.get("instance"), Text(name) if *name == sandbox.instance_name("7"));
    let instance = all.iter().find(is_ours).unwrap();
    assert_shown(&row, instance, "a row");
    let signs = instance.get("signs");
    assert_eq!(signs.keys(), ["touched", "console", "guest", "work"]);
    for name in signs.keys() {
        assert_shown(&sign, signs.get(name), name);
    }
    let done = sandbox.cyyber(["-o", "json", "reap"]).ok();
    assert_shown(&pass, &Doc::answer(&done), "a pass");
}

/// Asserts that the fields of `object` are those that a section of a part names.
#[track_caller]
fn assert_named(part_name: &str, section: &str, object: &Doc) {
    let page = part(part_name);
    let (_, text) = page.split_once(&format!(".SH {section}\n")).unwrap();
    let text = text.split("\n.SH ").next().unwrap();
    let is_name = |word: &&str| word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let mut named = BTreeSet::new();
    for line in text.lines() {
        // In the one case all words are in italics, in the other every second one.
        let words: Vec<_> = match line.split_once(' ') {
            Some((".I", rest)) => rest.split(' ').collect(),
            Some((".IR", rest)) => rest.split(['"', ' ', ',']).collect(),
            _ => continue,
        };
        let words = words.into_iter().filter(|word| !word.is_empty());
        named.extend(words.filter(is_name));
    }
    let fields: BTreeSet<_> = object.keys().into_iter().collect();
    assert_eq!(named, fields, "{part_name}, {section}");
}
