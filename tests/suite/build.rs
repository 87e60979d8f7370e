//! `build` without a VM: what is rendered, what is built and why, and what goes wrong. Packer and QEMU
//! are stood in for where a build would begin; `end_to_end.rs` has the real ones.

use crate::common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::builder::{GOOD, cloud_image, fake_builder};
use common::shape::{BUILT, assert_null, assert_shape};
use common::{Run, Sandbox, SmallDisk, UNREACHABLE, files_below, lab, run, text, tool, wait_until};
use cyyber::instance::admission::reservation::Reservation;
use serde_json::{Value, json};

const FAILING: &str = "echo '1,,ui,message,    qemu.lab: [cyyber] Installing packages'
echo '1,,ui,error,==> qemu.lab: E: no such package: nmapp'
exit 1";

/// A builder of stages that go well and labs that fail.
fn failing_labs(sandbox: &Sandbox) {
    fake_builder(
        sandbox,
        "1.6.6",
        &format!("[ -e cyyber/stage.sh ] || {{ {FAILING}; }}\n{GOOD}"),
    );
}

/// Labs of the fake cloud image, by their ids and own keys.
fn configure(sandbox: &Sandbox, labs: &[(&str, Value)], defaults: Value) {
    let labs: Vec<Value> = labs.iter().map(|(id, extra)| lab(id, extra)).collect();
    let mut all = json!({"image": {"url": "cloud.img"}});
    let defaults = defaults.as_object().unwrap().clone();
    all.as_object_mut().unwrap().extend(defaults);
    sandbox.write_config(&json!({"labs": labs, "defaults": all}).to_string());
}

/// The directories in which Packer was run since this was last asked, by name.
fn packer_runs(sandbox: &Sandbox) -> Vec<String> {
    let runs = sandbox.path("packer-runs");
    let said = fs::read_to_string(&runs).unwrap_or_default();
    let _ = fs::remove_file(runs);
    let name = |line: &str| {
        Path::new(line)
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    };
    said.lines().map(name).collect()
}

/// Each lab's result and reason.
fn built(sandbox: &Sandbox, options: &[&str]) -> Vec<(String, String)> {
    let all = sandbox.cyyber(["-o", "json", "build"].iter().chain(options));
    let all = all.json();
    let labs = all["labs"].as_array().unwrap();
    for lab in labs {
        assert_shape(lab, BUILT);
    }
    labs.iter()
        .map(|lab| (text(&lab["result"]), text(&lab["reason"])))
        .collect()
}

fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter()
        .map(|(one, other)| ((*one).to_owned(), (*other).to_owned()))
        .collect()
}

fn stages(sandbox: &Sandbox) -> Vec<PathBuf> {
    let files = files_below(&sandbox.path("storage/stages")).into_keys();
    files
        .filter(|file| file.extension().is_some_and(|kind| kind == "qcow2"))
        .collect()
}

#[test]
fn labs_share_a_stage_and_a_second_build_changes_nothing() {
    let sandbox = Sandbox::new();
    fake_builder(&sandbox, "1.6.6", GOOD);
    let labs = [
        ("one", json!({"disk_size": "3G"})),
        ("two", json!({"motd": "Other", "disk_size": "2G"})),
        ("three", json!({"packages": ["gdb"]})),
    ];
    configure(&sandbox, &labs, json!({"disk_size": "4G"}));
    let first = ("built", "first build");
    assert_eq!(
        built(&sandbox, &["--jobs", "3"]),
        pairs(&[first, first, first])
    );
    let mut runs = packer_runs(&sandbox);
    assert!(runs[0].starts_with("_stage-"), "{runs:?}");
    let variables = |directory: &str| {
        let file = sandbox
            .path("output")
            .join(directory)
            .join("lab.auto.pkrvars.json");
        serde_json::from_slice::<Value>(&fs::read(file).unwrap()).unwrap()
    };
    assert_eq!(
        variables(&runs[0])["disk_size"],
        "1G",
        "a disk can only grow"
    );
    assert_eq!(variables("one.packer")["disk_size"], "3G");
    let stage = sandbox.path("storage/stages").join(&stages(&sandbox)[0]);
    let sum = run(tool("sha256sum").arg(&stage));
    let sum = sum.split(' ').next().unwrap();
    assert_eq!(
        variables("one.packer")["image_checksum"],
        format!("sha256:{sum}"),
        "the stage is looked at before it is used"
    );
    runs.remove(0);
    runs.sort();
    assert_eq!(runs, ["one.packer", "three.packer", "two.packer"]);

    let same = ("unchanged", "unchanged");
    let took = common::quickest(|| {
        assert_eq!(built(&sandbox, &[]), pairs(&[same, same, same]));
    });
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(packer_runs(&sandbox), [""; 0]);

    // Made anew with its stage, once, and only where it was asked for.
    assert_eq!(
        built(&sandbox, &["--force", "one", "two"]),
        pairs(&[("built", "forced"), ("built", "forced")])
    );
    assert_eq!(packer_runs(&sandbox).len(), 3);
    assert_eq!(built(&sandbox, &[]), pairs(&[same, same, same]));
}

#[test]
fn what_changed_is_told_and_no_more_is_built_than_that_needs() {
    let sandbox = Sandbox::new();
    fake_builder(&sandbox, "1.6.6", GOOD);
    fs::write(sandbox.path("flag"), "FLAG{1}").unwrap();
    let with = |extra: Value, host: Value| {
        let mut one = json!({"provision": {"files": [{"source": "flag", "target": "/flag"}]}});
        one.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        let labs = [lab("one", &one), lab("two", &json!({}))];
        let config =
            json!({"labs": labs, "defaults": {"image": {"url": "cloud.img"}}, "host": host});
        sandbox.write_config(&config.to_string());
    };
    with(json!({}), json!({}));
    built(&sandbox, &[]);
    packer_runs(&sandbox);
    let same = ("unchanged", "unchanged");
    let once = |why: &str, runs: &[&str]| {
        // A dry run says so, and is not what makes it so.
        let dry = built(&sandbox, &["--dry-run"]);
        assert_eq!(dry, pairs(&[("rendered", why), ("rendered", "unchanged")]));
        assert_eq!(built(&sandbox, &[]), pairs(&[("built", why), same]));
        let ran = packer_runs(&sandbox);
        let short = |run: &String| run.split(['-', '.']).next().unwrap().to_owned();
        assert_eq!(ran.iter().map(short).collect::<Vec<_>>(), runs, "{why}");
        assert_eq!(built(&sandbox, &[]), pairs(&[same, same]));
    };
    with(json!({"packages": ["gdb"]}), json!({}));
    once("changed: packages", &["one"]);
    with(json!({"motd": "Hi", "instructions": "Go."}), json!({}));
    once("changed: message, packages", &["one"]);
    with(json!({"motd": "Hi", "disk_size": "2G"}), json!({}));
    once("changed: disk size, message", &["one"]);
    fs::write(sandbox.path("flag"), "FLAG{2}").unwrap();
    once("changed: provision", &["one"]);
    with(
        json!({"motd": "Hi", "disk_size": "2G", "desktop": "xfce"}),
        json!({}),
    );
    // Each desktop has templates of its own.
    once("changed: desktop, templates", &["_stage", "one"]);
    fs::write(sandbox.path("school.png"), b"\x89PNG\r\n\x1a\nx").unwrap();
    let branded = json!({"motd": "Hi", "disk_size": "2G", "desktop": "xfce", "branding": {"logo": "school.png"}});
    with(branded.clone(), json!({}));
    once("changed: branding", &["_stage", "one"]);

    // What two labs share changes both.
    let both = |why: &str, runs: usize| {
        let wanted = pairs(&[("built", why), ("built", why)]);
        assert_eq!(built(&sandbox, &[]), wanted);
        assert_eq!(packer_runs(&sandbox).len(), runs, "{why}");
    };
    fs::create_dir_all(sandbox.path("mine/guest")).unwrap();
    fs::write(sandbox.path("mine/guest/install.sh"), "# mine").unwrap();
    let mine = json!({"templates_dir": "mine"});
    with(branded.clone(), mine.clone());
    both("changed: templates", 2);
    let installed = files_below(&sandbox.path("output/one.packer"));
    assert_eq!(installed[Path::new("cyyber/install.sh")], b"# mine");
    fs::write(
        sandbox.path("cloud.img"),
        cloud_image("another cloud image"),
    )
    .unwrap();
    both("changed: source image", 4);
    sandbox.fake("qemu-system-x86_64", "echo 'QEMU emulator version 9.0.0'");
    both("changed: tools", 4);

    fs::remove_file(sandbox.path("output/one-metadata.json")).unwrap();
    assert_eq!(
        built(&sandbox, &["one"]),
        pairs(&[("built", "results of the last build are missing")])
    );
}

#[test]
fn stages_that_no_lab_wants_are_removed_but_for_the_last() {
    let sandbox = Sandbox::new();
    fake_builder(&sandbox, "1.6.6", GOOD);
    let mut said = Vec::new();
    for content in ["first", "second, longer", "third, longer still"] {
        fs::write(sandbox.path("cloud.img"), cloud_image(content)).unwrap();
        said.push(sandbox.cyyber(["build"]).ok().stderr);
    }
    assert!(!said[1].contains("removed"), "{}", said[1]);
    assert!(said[2].contains("removed unused stage-"), "{}", said[2]);
    assert_eq!(stages(&sandbox).len(), 2);
    let directories = fs::read_dir(sandbox.path("output")).unwrap().flatten();
    let of_stages = directories.filter(|entry| {
        let name = entry.file_name();
        name.to_str().unwrap().starts_with("_stage-")
    });
    assert_eq!(of_stages.count(), 4, "a directory and a log for each");
}

#[test]
fn a_package_that_the_archive_does_not_have_is_told_before_the_vm_boots() {
    let sandbox = Sandbox::new();
    fake_builder(&sandbox, "1.6.6", GOOD);
    let labs = [
        ("one", json!({"packages": ["nmap", "nmapp", "x.y"]})),
        ("two", json!({})),
    ];
    configure(&sandbox, &labs, json!({}));
    let run = sandbox.cyyber(["build", "--jobs", "2"]);
    assert_eq!(run.code, Some(1), "{run:#?}");
    assert!(
        run.stderr.contains("one: no such package: nmapp x.y"),
        "{run:#?}"
    );
    assert!(run.stderr.contains("1 of 2 labs failed"), "{run:#?}");
    assert!(run.stdout.contains("two  built"), "{run:#?}");
    let runs = packer_runs(&sandbox);
    assert!(
        runs.contains(&"two.packer".to_owned()) && runs.len() == 2,
        "{runs:?}"
    );
    let dry = sandbox.cyyber(["build", "--dry-run", "one"]).ok();
    assert!(
        dry.stderr.contains("there is no package 'nmapp'"),
        "{dry:#?}"
    );
    // A stage that cannot be asked is no good news.
    let names = fs::read_dir(sandbox.path("storage/stages")).unwrap();
    let names = names.map(|entry| entry.unwrap().path());
    let names: Vec<_> = names
        .filter(|path| path.extension().is_some_and(|it| it == "packages"))
        .collect();
    fs::remove_file(&names[0]).unwrap();
    let dry = sandbox.cyyber(["build", "--dry-run", "one"]).ok();
    assert!(
        dry.stderr.contains("were not checked before the build"),
        "{dry:#?}"
    );
}

#[test]
fn a_name_that_one_package_provides_is_taken_and_of_several_it_is_told_which() {
    let sandbox = Sandbox::new();
    fake_builder(&sandbox, "1.6.6", GOOD);
    let one = json!({"packages": ["nmap", "exiftool"]});
    let two = json!({"packages": ["nmapp", "mta"]});
    configure(&sandbox, &[("one", one), ("two", two)], json!({}));
    let run = sandbox.cyyber(["build", "--jobs", "2"]);
    assert!(run.stdout.contains("one  built"), "{run:#?}");
    let wanted = "two: no such package: nmapp; 'mta' is provided by several packages, name one of \
                  them: exim4, postfix";
    assert!(run.stderr.contains(wanted), "{run:#?}");
}

/// By this host's own lists, before there is a stage.
#[test]
fn names_are_looked_for_in_this_hosts_lists_first() {
    let sandbox = Sandbox::new();
    fake_builder(&sandbox, "1.6.6", GOOD);
    let release = fs::read_to_string("/etc/os-release").unwrap();
    let value = |key: &str| {
        let line = release.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap().trim_matches('"').to_owned()
    };
    let image = format!("{}-{}-cloud.img", value("ID="), value("VERSION_ID="));
    fs::rename(sandbox.path("cloud.img"), sandbox.path(&image)).unwrap();
    sandbox.configure(&json!({"image": {"url": image}, "packages": ["exiftool", "mta", "nmapp"]}));
    let dry = |script: &str| {
        sandbox.fake("apt-cache", script);
        sandbox.cyyber(["build", "--dry-run"]).ok().stderr
    };
    let said = dry(
        "case $1 in pkgnames) seq -f p%.0f 20000;; *) printf 'Package: exiftool\\nReverse Provides: \\nx 1\\n'
         printf 'Package: mta\\nReverse Provides: \\nexim4 1\\npostfix 2\\n';; esac",
    );
    assert!(!said.contains("exiftool"), "{said}");
    assert!(said.contains("there is no package 'nmapp'"), "{said}");
    assert!(said.contains("exim4, postfix"), "{said}");
    let said = dry("echo 'no lists today' >&2; exit 100");
    assert!(
        said.contains("failed to look up its packages") && said.contains("no lists today"),
        "{said}"
    );
}

#[test]
fn a_stage_that_fails_is_told_by_each_of_its_labs_and_stops_no_other() {
    let sandbox = Sandbox::new();
    let failing = format!("if grep -q xfce cyyber/desktop; then {FAILING}; fi\n{GOOD}");
    fake_builder(&sandbox, "1.6.6", &failing);
    let labs = [
        ("one", json!({"desktop": "xfce"})),
        ("two", json!({})),
        ("three", json!({"desktop": "xfce"})),
    ];
    configure(&sandbox, &labs, json!({}));
    let run = sandbox.cyyber(["-o", "json", "build", "--jobs", "2"]);
    assert_eq!(run.code, Some(1), "{run:#?}");
    let all: Value = serde_json::from_str(&run.stdout).unwrap();
    for (lab, result) in [(0, "failed"), (1, "built"), (2, "failed")] {
        let lab = &all["labs"][lab];
        assert_eq!(lab["result"], result, "{all:#}");
        if result == "failed" {
            let error = text(&lab["error"]);
            assert!(error.contains("E: no such package: nmapp"), "{error}");
            assert!(
                error.contains("output/_stage-") && error.contains(".log"),
                "{error}"
            );
        }
    }
    assert_eq!(stages(&sandbox).len(), 1);
}

/// Memory that somebody else has set aside, so that `mebibytes` are left for builds.
fn leave_memory(sandbox: &Sandbox, mebibytes: u64) -> Reservation {
    let kept_for_the_host = 1 << 30;
    let left = (mebibytes << 20) + kept_for_the_host;
    let taken = cyyber::host::memory()
        .unwrap()
        .available
        .saturating_sub(left);
    Reservation::make(&sandbox.path("state/reservations/other"), taken).unwrap()
}

#[test]
fn no_more_is_built_at_once_than_there_is_memory_for() {
    let sandbox = Sandbox::new();
    let (busy, both) = (sandbox.path("busy"), sandbox.path("both"));
    let slow = format!(
        "mkdir '{0}' || touch '{1}'\nsleep 1\nrmdir '{0}'\n{GOOD}",
        busy.display(),
        both.display()
    );
    fake_builder(&sandbox, "1.6.6", &slow);
    let labs = ["one", "two", "three"].map(|id| (id, json!({"memory_mb": 4096})));
    configure(&sandbox, &labs, json!({}));
    let room_for_one = leave_memory(&sandbox, 6300);
    let run = sandbox.cyyber(["build", "--jobs", "3"]).ok();
    assert!(!both.exists(), "two were built at once");
    assert!(run.stderr.contains("Waiting for memory"), "{run:#?}");
    drop(room_for_one);
    sandbox.cyyber(["build", "--jobs", "3", "--force"]).ok();
    assert!(both.exists(), "they were built one after the other");

    packer_runs(&sandbox);
    let _room_for_none = leave_memory(&sandbox, 0);
    let error = sandbox
        .cyyber(["-q", "-o", "json", "build", "--force", "one"])
        .error_json(7);
    let message = text(&error["message"]);
    assert!(
        message.contains("not enough memory to build stage-"),
        "{message}"
    );
    assert_eq!(packer_runs(&sandbox), [""; 0]);
}

#[test]
#[ignore = "mounts a file system: run by `make test`"]
fn a_disk_that_fills_up_ends_a_build_instead_of_holding_it_still() {
    let sandbox = Sandbox::new();
    // As QEMU and Packer would wait for ever.
    let filling = "mkdir out; fallocate -l 2300M out/disk.qcow2; sleep 600";
    fake_builder(&sandbox, "1.6.6", filling);
    let output = sandbox.path("output");
    fs::create_dir(&output).unwrap();
    let _disk = SmallDisk::with_inodes(&output, 2500, 200);
    let began = Instant::now();
    let error = sandbox.cyyber(["-q", "-o", "json", "build"]).error_json(7);
    let message = text(&error["message"]);
    assert!(
        message.contains("not enough space for the build to continue"),
        "{message}"
    );
    assert!(error["hint"].is_string(), "{error:#}");
    assert!(
        began.elapsed() < Duration::from_secs(60),
        "{:?}",
        began.elapsed()
    );
    let stage = fs::read_dir(&output).unwrap().flatten();
    let left: Vec<_> = stage
        .filter(|entry| entry.path().join("out").exists())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn quiet_leaves_errors_alone() {
    let sandbox = Sandbox::new();
    failing_labs(&sandbox);
    let stage = format!("{}: Installing packages", sandbox.lab);
    let run = sandbox.cyyber(["build"]);
    assert!(run.stderr.contains(&stage), "{run:#?}");
    assert!(
        run.stderr
            .contains(&format!("{}: first build; the log is ", sandbox.lab)),
        "{run:#?}"
    );
    for quiet in ["-q", "--quiet"] {
        let run = sandbox.cyyber([quiet, "build"]);
        assert!(
            run.stderr.starts_with("error: ") && !run.stderr.contains(&stage),
            "{run:#?}"
        );
    }
}

#[test]
fn a_failed_build_tells_the_reason_and_the_log() {
    let sandbox = Sandbox::new();
    failing_labs(&sandbox);
    let run = sandbox.cyyber(["build"]);
    assert_eq!(run.code, Some(1), "{run:#?}");
    let log = sandbox.path(format!("output/{}.log", sandbox.lab));
    for wanted in ["E: no such package: nmapp", log.to_str().unwrap()] {
        assert!(run.stderr.contains(wanted), "{run:#?}");
    }
    assert!(
        fs::read_to_string(&log)
            .unwrap()
            .contains("no such package: nmapp")
    );
    assert_eq!(
        fs::read_dir(sandbox.path("storage/base-images"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn a_build_keeps_a_base_that_was_put_there_by_hand() {
    let sandbox = Sandbox::new();
    failing_labs(&sandbox);
    let link = sandbox.path(format!("storage/base-images/{}-base.qcow2", sandbox.lab));
    let by_hand = cloud_image("made by hand");
    fs::write(&link, &by_hand).unwrap();
    let dry = built(&sandbox, &["--dry-run"]);
    assert_eq!(dry, pairs(&[("rendered", "unknown origin of its base")]));
    assert!(!link.is_symlink(), "a dry run adopted it");
    let began = Instant::now();
    sandbox.cyyber(["build"]);
    assert!(began.elapsed() < common::PATIENCE, "it waited for itself");
    assert_eq!(fs::read(&link).unwrap(), by_hand);
    assert!(link.is_symlink(), "it was not adopted");
}

#[test]
fn a_wrong_checksum_of_a_file_fails_before_anything_is_run() {
    let sandbox = Sandbox::new();
    fake_builder(&sandbox, "1.6.6", GOOD);
    let wrong = format!("sha256:{}", "0".repeat(64));
    sandbox.configure(&json!({"image": {"url": "cloud.img", "checksum": wrong}}));
    let run = sandbox
        .cyyber(["-q", "build"])
        .says(1, "cloud.img has the wrong checksum");
    assert!(run.stderr.contains(&wrong), "{run:#?}");
    assert_eq!(packer_runs(&sandbox), [""; 0]);
}

#[test]
fn newer_packers_are_told_which_plugin_to_fetch() {
    let sandbox = Sandbox::new();
    let plugins = sandbox.path(format!("output/{}.packer/plugins.pkr.hcl", sandbox.lab));
    for (version, wanted) in [("1.11.2", true), ("1.6.6", false), ("1.7.0", true)] {
        fake_builder(&sandbox, version, "exit 1");
        sandbox.cyyber(["build", "--dry-run"]).ok();
        assert_eq!(plugins.exists(), wanted, "{version}");
    }
}

#[test]
fn a_plugin_that_cannot_be_fetched_is_told_with_what_to_do() {
    let sandbox = Sandbox::new();
    let init = "[ $1 = build ] || { echo '1 error occurred: dial tcp: no route'; exit 1; }";
    fake_builder(&sandbox, "1.11.2", init);
    let run = sandbox.cyyber(["build"]);
    assert_eq!(run.code, Some(1), "{run:#?}");
    for told in [
        "failed to fetch Packer's plugins: 1 error occurred: dial tcp: no route",
        "packer plugins install --path FILE",
    ] {
        assert!(run.stderr.contains(told), "{run:#?}");
    }
}

#[test]
fn a_dry_run_renders_and_runs_nothing() {
    let sandbox = Sandbox::new();
    fake_builder(&sandbox, "1.6.6", "touch ran; exit 1");
    let build = sandbox.cyyber(["-o", "json", "build", "--dry-run"]).json();
    let lab = &build["labs"][0];
    assert_shape(lab, BUILT);
    assert_eq!(
        (&lab["lab_id"], &lab["result"]),
        (&json!(sandbox.lab), &json!("rendered"))
    );
    assert_null(lab, &["image", "domain_xml", "metadata", "log", "error"]);
    assert_eq!(lab["reason"], "first build");

    let rendered = rendered(&sandbox);
    for file in [
        "lab.pkr.hcl",
        "lab.auto.pkrvars.json",
        "cyyber/motd",
        "cyyber/packages",
        "http/user-data",
    ] {
        assert!(rendered.contains_key(Path::new(file)), "{file}");
    }
    assert!(!rendered.contains_key(Path::new("ran")));
    assert_eq!(
        fs::read_dir(sandbox.path("storage/base-images"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn a_dry_run_needs_neither_packer_nor_libvirt() {
    let sandbox = Sandbox::new();
    sandbox.fake("ssh-keygen", "exec /usr/bin/ssh-keygen \"$@\"");
    let mut command = sandbox.command(["-c", UNREACHABLE, "build", "--dry-run"]);
    Run::of(command.env("PATH", sandbox.path("bin"))).ok();
    assert!(rendered(&sandbox).contains_key(Path::new("lab.pkr.hcl")));
}

#[test]
fn secrets_of_a_build_are_readable_for_their_owner_alone() {
    let sandbox = Sandbox::new();
    sandbox.cyyber(["build", "--dry-run"]).ok();
    let directory = build_directory(&sandbox);
    for file in ["lab.auto.pkrvars.json", "id_ed25519", "http/user-data"] {
        let mode = directory
            .join(file)
            .metadata()
            .unwrap()
            .permissions()
            .mode()
            & 0o777;
        assert_eq!(mode, 0o600, "{file}");
    }
}

#[test]
fn a_build_goes_through_the_proxies_of_this_hosts_apt_and_is_no_other_for_it() {
    let sandbox = Sandbox::new();
    let configuration = sandbox.path("apt.conf");
    let dry_run = |proxy: &str| {
        let line = format!("Acquire::http::Proxy \"{proxy}\";\n");
        fs::write(&configuration, line).unwrap();
        let mut command = sandbox.command(["-o", "json", "build", "--dry-run"]);
        let built = Run::of(command.env("APT_CONFIG", &configuration)).json();
        let file = build_directory(&sandbox).join("cyyber/apt.conf");
        (
            built["labs"][0]["stage"].clone(),
            fs::read_to_string(file).ok(),
        )
    };
    // An empty one is none, whatever /etc/apt says of this host.
    let (stage, nothing) = dry_run("");
    assert_eq!(nothing, None);
    let (same, proxies) = dry_run("http://teacher:secret@127.0.0.1:3142/");
    assert_eq!(same, stage);
    assert_eq!(
        proxies.unwrap(),
        "Acquire::http::Proxy \"http://teacher:secret@10.0.2.2:3142/\";\n"
    );
    let file = build_directory(&sandbox).join("cyyber/apt.conf");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

fn build_directory(sandbox: &Sandbox) -> PathBuf {
    sandbox.path(format!("output/{}.packer", sandbox.lab))
}

fn rendered(sandbox: &Sandbox) -> BTreeMap<PathBuf, Vec<u8>> {
    files_below(&build_directory(sandbox))
}

/// What a careless template would run, read or choke on.
fn hostile_texts() -> Vec<String> {
    let mut texts: Vec<String> = [
        "$(reboot)",
        "`reboot`",
        "'; rm -rf / #",
        "\"; rm -rf / #",
        "${file(\"/etc/shadow\")}",
        "%{ for x in [1] }${x}%{ endfor }",
        "{{ isotime }} {{ .SSHHostPort }} {{ build `PackerRunUUID` }}",
        "{% include '/etc/passwd' %}{# x #}",
        "'\"\\ \\\\ \\n \\u0041",
        "EOF\n\nEOT\n__END__\n",
        "#cloud-config\nruncmd: [reboot]\n",
        "</motd>&lt;<![CDATA[x]]>",
        "Добро пожаловать 🐧 e\u{301} \u{202e}right to left",
        "\ttab and \u{1b}[31mred\u{1b}[0m",
        "-n",
        "",
    ]
    .map(str::to_owned)
    .into();
    texts.push("ten kilobytes $(id) ".repeat(512));
    texts
}

/// Renders the sandbox's lab with a text in every place that takes one, and checks that it is in
/// the MOTD byte for byte and that nothing else is changed by it.
#[track_caller]
fn assert_only_content(sandbox: &Sandbox, plain: &BTreeMap<PathBuf, Vec<u8>>, text: &str) {
    sandbox.configure(&json!({"motd": text, "instructions": text}));
    sandbox.cyyber(["build", "--dry-run"]).ok();
    let mut files = rendered(sandbox);
    let mut wanted = match text {
        "" => String::new(),
        _ => format!("{text}\n\n{text}"),
    };
    if !wanted.ends_with('\n') {
        wanted.push('\n');
    }
    let motd = files.insert(
        "cyyber/motd".into(),
        plain[Path::new("cyyber/motd")].clone(),
    );
    assert_eq!(motd, Some(wanted.into_bytes()), "{text:?}");
    assert!(files == *plain, "{text:?} is in more than the MOTD");
}

#[test]
fn a_motd_lands_in_its_file_and_nowhere_else() {
    let sandbox = Sandbox::new();
    sandbox.cyyber(["build", "--dry-run"]).ok();
    let plain = rendered(&sandbox);
    for text in hostile_texts() {
        assert_only_content(&sandbox, &plain, &text);
    }
}

#[test]
#[ignore = "needs packer: run by `make test`"]
fn packer_accepts_what_is_rendered_whatever_the_texts_say() {
    let sandbox = Sandbox::new();
    sandbox.cyyber(["build", "--dry-run"]).ok();
    let plain = rendered(&sandbox);
    let packer = |verb: &str| {
        let mut command = tool("packer");
        command
            .args([verb, "."])
            .env("CHECKPOINT_DISABLE", "1")
            .current_dir(build_directory(&sandbox));
        run(&mut command)
    };
    if plain.contains_key(Path::new("plugins.pkr.hcl")) {
        packer("init");
    }
    packer("validate");
    for text in hostile_texts() {
        assert_only_content(&sandbox, &plain, &text);
        packer("validate");
    }
}

#[test]
#[ignore = "needs packer: run by `make test`"]
fn packer_accepts_a_cloud_image_whose_path_it_would_expand() {
    let sandbox = Sandbox::new();
    let directory = sandbox.path("{{ isotime }} ${file(\"x\")} $(id) 'ü");
    fs::create_dir(&directory).unwrap();
    let image = directory.join("cloud image.qcow2");
    fs::write(&image, cloud_image("a cloud image")).unwrap();
    sandbox.configure(&json!({"image": {"url": image}}));
    sandbox.cyyber(["build", "--dry-run"]).ok();
    let of_stages = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with('_');
    let mut output = fs::read_dir(sandbox.path("output")).unwrap().flatten();
    let directory = output.find(of_stages).unwrap().path();
    assert_eq!(fs::read_link(directory.join("source.img")).unwrap(), image);
    let variables = &files_below(&directory)[Path::new("lab.auto.pkrvars.json")];
    assert!(!String::from_utf8_lossy(variables).contains("isotime"));
    let mut validate = tool("packer");
    validate
        .args(["validate", "."])
        .env("CHECKPOINT_DISABLE", "1")
        .current_dir(directory);
    run(&mut validate);
}

#[test]
fn what_is_no_cloud_image_is_told_before_anything_is_run() {
    let sandbox = Sandbox::new();
    fake_builder(&sandbox, "1.6.6", GOOD);
    for (content, why) in [
        (&b""[..], "it is empty"),
        (b"<!DOCTYPE html>\n<html>", "it is a web page"),
        (b"\xfd7zXZ\0\0", "it is compressed with xz"),
    ] {
        fs::write(sandbox.path("cloud.img"), content).unwrap();
        let run = sandbox.cyyber(["-q", "build"]).says(3, why);
        assert!(run.stderr.contains("cloud.img"), "{run:#?}");
    }
    assert_eq!(packer_runs(&sandbox), [""; 0]);
    let (url, checksum) = (
        "https://example.org/a.img.gz",
        format!("sha256:{}", "0".repeat(64)),
    );
    sandbox.configure(&json!({"image": {"url": url, "checksum": checksum}}));
    sandbox
        .cyyber(["build", "--dry-run"])
        .says(3, "compressed with gzip");
}

#[test]
fn a_missing_cloud_image_is_told_before_anything_is_run() {
    let sandbox = Sandbox::new();
    sandbox.configure(&json!({"image": {"url": "no/such.img"}}));
    let path = sandbox.path("no/such.img");
    let run = sandbox.cyyber(["build", "--dry-run"]);
    assert_eq!(run.code, Some(3), "{run:#?}");
    assert!(run.stderr.contains(path.to_str().unwrap()), "{run:#?}");
}

#[test]
#[ignore = "needs QEMU and root: run by `make test`"]
fn the_qemu_of_a_build_gives_up_its_rights() {
    let version = cyyber::packer::qemu_version().unwrap();
    let mut qemu = tool("qemu-system-x86_64")
        .args(["-machine", "none", "-display", "none", "-S"])
        .args(cyyber::packer::as_nobody(&version))
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", qemu.id());
    let has_none = || {
        let said = fs::read_to_string(&status).unwrap();
        said.contains("\nUid:\t65534\t65534\t65534\t65534\nGid:\t65534\t65534\t65534\t65534\n")
    };
    wait_until("QEMU is nobody", has_none);
    qemu.kill().unwrap();
    qemu.wait().unwrap();
}
