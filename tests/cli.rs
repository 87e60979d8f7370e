//! The command line without a hypervisor: options, configuration, errors and exit codes, and what
//! `build` renders.

mod common;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::shape::{BUILT, assert_null, assert_shape};
use common::{Run, Sandbox, UNREACHABLE, files_below, lab, run, text, tool};
use serde_json::{Value, json};

/// Runs a command in a table and in JSON; both must fail with `code` and say `wanted`.
#[track_caller]
fn fails(mut command: impl FnMut() -> Command, code: usize, wanted: &str) {
    Run::of(&mut command()).says(code, wanted);
    let error = Run::of(command().env("CYYBER_OUTPUT", "json")).error_json(code);
    let message = text(&error["message"]);
    assert!(!message.starts_with("error"), "{message}");
    assert!(
        format!("{message}\n{}", error["hint"]).contains(wanted),
        "{error:#}"
    );
}

const HOSTILE_IDS: &[&str] = &[
    ".",
    "..",
    "../x",
    "x/../y",
    "/etc/passwd",
    "$(id)",
    "`id`",
    "; rm -rf / #",
    "a b",
    "a\nb",
    "a\tb",
    "a_b",
    "ä",
    "а",
    "a\u{202e}b",
    "\u{1b}[2J",
];

#[test]
fn ids_outside_their_pattern_reach_nothing() {
    let sandbox = Sandbox::new();
    let before = files_below(&sandbox.path(""));
    let long = ["l".repeat(33), "u".repeat(65)];
    for id in HOSTILE_IDS.iter().copied().chain(["-o", "--help"]) {
        let verbs: [&[&str]; 4] = [
            &["instance", "create", "--", id, "7"],
            &["instance", "start", "--", &sandbox.lab, id],
            &["build", "--dry-run", "--", id],
            &["instance", "stop", "--", &sandbox.lab, id],
        ];
        for verb in verbs {
            sandbox.cyyber(verb).says(2, "allowed is [");
            sandbox
                .cyyber(["-o", "json"].iter().chain(verb))
                .error_json(2);
        }
    }
    for options in [
        ["--lab", &long[0]],
        ["--user", &long[1]],
        ["--user", "-o"],
        ["--lab", "LAB"],
    ] {
        fails(
            || sandbox.command(["instance", "list"].iter().chain(&options)),
            2,
            "",
        );
    }
    assert!(
        files_below(&sandbox.path("")) == before,
        "something was written"
    );
}

#[test]
fn wrong_command_lines_are_usage_errors() {
    let sandbox = Sandbox::new();
    let lab = sandbox.lab.as_str();
    let cases: &[(&[&str], &str)] = &[
        (&["bild"], "bild"),
        (&["instance", "creat", lab, "7"], "creat"),
        (&["instance", "create", lab, ""], "USER"),
        (&["instance", "create", lab], "<USER>"),
        (&["instance", "create", lab, "7", "8"], "'8'"),
        (&["instance", "stats", lab], "<USER>"),
        (&["instance", "stats", "--watch", "5", lab], "<USER>"),
        (&["instance", "stats", "--watch", lab, "7"], "1 to 3600"),
        (&["instance", "stats", "--watch", "0"], "'0'"),
        (&["instance", "stats", "--watch=3601"], "'3601'"),
        (&["instance", "stats", "--watch=2s"], "'2s'"),
        (&["instance", "stats", "--watch=-1"], "'-1'"),
        (
            &["instance", "list", "--state", "flying"],
            "stopped, starting, running, idle, paused, crashed",
        ),
        (
            &["instance", "stop", lab, "7", "--timeout", "soon"],
            "90s, 10m, 24h or 7d",
        ),
        (
            &["instance", "stop", lab, "7", "--timeout=-1s"],
            "--timeout",
        ),
        (&["build", "--jobs", "0"], "'0'"),
        (&["build", "--jobs", "many"], "'many'"),
        (&["build", "--no-such-option"], "--no-such-option"),
        (&["-q", "-v", "instance", "list"], "--verbose"),
        (&["completions", "cmd.exe"], "bash"),
    ];
    for (arguments, wanted) in cases {
        fails(|| sandbox.command(*arguments), 2, wanted);
        // JSON is asked for in more than one way.
        for json in [
            &["-o", "json"][..],
            &["-ojson"],
            &["--output=json"],
            &["--output", "json"],
        ] {
            sandbox.cyyber(json.iter().chain(*arguments)).error_json(2);
            sandbox.cyyber(arguments.iter().chain(json)).error_json(2);
        }
    }
    sandbox
        .cyyber(["-o", "yaml", "instance", "list"])
        .says(2, "table, json");
}

#[test]
fn a_command_line_that_is_not_unicode_is_a_usage_error() {
    let sandbox = Sandbox::new();
    let arguments = [b"instance".as_slice(), b"create", b"lab\xff", b"7"].map(OsStr::from_bytes);
    fails(|| sandbox.command(arguments), 2, "");
}

#[test]
fn without_a_verb_the_help_is_shown_and_it_is_a_usage_error() {
    let sandbox = Sandbox::new();
    for arguments in [&[][..], &["instance"]] {
        let run = sandbox.cyyber(arguments).fails(2);
        assert!(run.stderr.contains("Usage: cyyber"), "{run:#?}");
    }
    sandbox.cyyber(["-o", "json"]).error_json(2);
    sandbox.cyyber(["-o", "json", "instance"]).error_json(2);
}

#[test]
fn bad_values_in_the_environment_are_usage_errors() {
    let sandbox = Sandbox::new();
    for (name, value, wanted) in [
        ("CYYBER_ACCELERATOR", "warp", "auto or kvm or tcg"),
        ("CYYBER_OUTPUT", "yaml", "table or json"),
    ] {
        let mut command = sandbox.command(["instance", "list"]);
        Run::of(command.env(name, value)).says(2, wanted);
    }
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("here")).unwrap();
    fs::copy(
        sandbox.path("labs-config.json"),
        sandbox.path("here/labs-config.json"),
    )
    .unwrap();
    for name in [
        "CYYBER_CONFIG",
        "CYYBER_OUTPUT",
        "CYYBER_OUTPUT_DIR",
        "CYYBER_ACCELERATOR",
        "CYYBER_STATE_DIR",
    ] {
        let mut command = sandbox.command(["--connect", common::TEST_DRIVER, "instance", "list"]);
        Run::of(command.env(name, "").current_dir(sandbox.path("here"))).ok();
    }
}

#[test]
fn a_bad_configuration_is_told_by_file_and_place() {
    let sandbox = Sandbox::new();
    let with = |extra: Value| json!({"labs": [lab("lab01", &extra)]}).to_string();
    let host = |host: Value| json!({"labs": [lab("lab01", &json!({}))], "host": host}).to_string();
    let cases = [
        ("{\"labs\": [\n  {,}\n]}".to_owned(), "line 2 column 4"),
        (String::new(), "line 1 column 0"),
        ("{\"labs\": []} trailing".to_owned(), "line 1 column 14"),
        ("{}".to_owned(), "missing field `labs`"),
        ("[]".to_owned(), "expected an object"),
        ("null".to_owned(), "null"),
        (json!({"labs": []}).to_string(), "at least one lab"),
        (
            json!({"labs": {}}).to_string(),
            "labs: invalid type: map, expected a sequence",
        ),
        (
            with(json!({"memroy_mb": 1})),
            "labs[0].memroy_mb: unknown field `memroy_mb`",
        ),
        (
            with(json!({"memory_mb": "2G"})),
            "labs[0].memory_mb: invalid type: string",
        ),
        (
            with(json!({"memory_mb": 4.5})),
            "labs[0].memory_mb: invalid type: floating point",
        ),
        (
            with(json!({"memory_mb": -1})),
            "labs[0].memory_mb: invalid value",
        ),
        (
            with(json!({"memory_mb": 127})),
            "127 is out of range: allowed is 128 to 1048576",
        ),
        (
            with(json!({"vcpus": 0})),
            "labs[0].vcpus: 0 is out of range: allowed is 1 to 64",
        ),
        (
            with(json!({"disk_size": "1M"})),
            "1M is out of range: allowed is 1G to 16T",
        ),
        (
            with(json!({"disk_size": 20})),
            "labs[0].disk_size: invalid type",
        ),
        (
            with(json!({"lab_id": "../x"})),
            "labs[0].lab_id: bad lab id '../x': allowed is",
        ),
        (
            with(json!({"packages": ["nmap", "-o"]})),
            "labs[0].packages[1]: bad package name '-o'",
        ),
        (
            with(json!({"packages": ["$(reboot)"]})),
            "labs[0].packages[0]: bad package name",
        ),
        (with(json!({"motd": 7})), "labs[0].motd: invalid type"),
        (
            with(json!({"motd": "\u{0}"})),
            "labs[0].motd: control character",
        ),
        (
            with(json!({"policy": {"idle_after": "soon"}})),
            "labs[0].policy.idle_after: bad duration 'soon'",
        ),
        (
            with(json!({"policy": {"boot_timeout": "never"}})),
            "labs[0].policy.boot_timeout",
        ),
        (with(json!({"network": "open"})), "`isolated` or `nat`"),
        (
            with(json!({"policy": ["10m", "20m"]})),
            "labs[0].policy: invalid type: sequence, expected an object",
        ),
        (
            host(json!(["qemu:///system"])),
            "host: invalid type: sequence, expected an object",
        ),
        (
            with(json!({"image": {"url": "http://example.org/x"}})),
            "labs[0].image.url",
        ),
        (
            with(json!({"image": {"url": "x", "checksum": "md5:0"}})),
            "labs[0].image.checksum: bad checksum",
        ),
        (
            json!({"labs": [lab("lab01", &json!({}))], "defaults": {"vcpus": "two"}}).to_string(),
            "defaults.vcpus: invalid type",
        ),
        (
            json!({"labs": [lab("lab01", &json!({}))], "defaults": {"vcpus": 65}}).to_string(),
            "defaults.vcpus: 65 is out of range",
        ),
        (host(json!({"vnc_listen": "everywhere"})), "host.vnc_listen"),
        (
            host(json!({"acelerator": "kvm"})),
            "host.acelerator: unknown field",
        ),
        (host(json!({"accelerator": "warp"})), "`auto`, `kvm`, `tcg`"),
        ("[".repeat(100_000), "recursion limit"),
        (
            with(json!({})).replace(r#""motd""#, r#""lab_id""#),
            r#"the key "lab_id" is there twice at line 1"#,
        ),
    ];
    for (content, wanted) in cases {
        sandbox.write_config(&content);
        fails(|| sandbox.command(["instance", "list"]), 3, wanted);
        let file = sandbox.path("labs-config.json");
        fails(
            || sandbox.command(["instance", "list"]),
            3,
            file.to_str().unwrap(),
        );
    }
}

#[test]
fn an_error_is_one_line_and_its_hint_another() {
    let sandbox = Sandbox::new();
    sandbox.write_config(r#"{"labs": [], "a\nb\u001b[2J": 1}"#);
    let run = sandbox.cyyber(["instance", "list"]).fails(3);
    assert_eq!(run.stderr.lines().count(), 1, "{run:#?}");
    assert!(!run.stderr.contains('\u{1b}'), "{run:#?}");
    let run = sandbox
        .cyyber(["--config", "missing.json", "instance", "list"])
        .fails(3);
    let [error, hint] = run.stderr.lines().collect::<Vec<_>>()[..] else {
        panic!("{run:#?}");
    };
    assert!(
        error.starts_with("error: ") && hint.starts_with("hint: "),
        "{run:#?}"
    );
}

#[test]
fn an_unreadable_configuration_is_a_configuration_error() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("directory")).unwrap();
    symlink("nowhere", sandbox.path("dangling")).unwrap();
    for (file, wanted) in [
        ("missing.json", "No such file"),
        ("directory", "Is a directory"),
        ("dangling", "No such file"),
        ("/dev/zero", "larger than 16 MiB"),
        ("/dev/null", "line 1 column 0"),
        ("labs-config.json/x", "Not a directory"),
    ] {
        fails(
            || sandbox.command(["--config", file, "instance", "list"]),
            3,
            wanted,
        );
        fails(
            || sandbox.command(["--config", file, "build", "--dry-run"]),
            3,
            file,
        );
    }
}

#[test]
fn an_unknown_lab_or_instance_is_not_found() {
    let sandbox = Sandbox::new();
    let lab = sandbox.lab.as_str();
    let missing = format!("no instance {lab}_user_7");
    let cases: &[(&[&str], &str)] = &[
        (&["build", "nolab"], "no lab 'nolab'"),
        (&["build", "--dry-run", lab, "nolab"], "no lab 'nolab'"),
        (&["instance", "create", "nolab", "7"], "no lab 'nolab'"),
        (&["instance", "start", "nolab", "7"], lab),
        (&["instance", "stop", "nolab", "7"], "no lab 'nolab'"),
        (&["instance", "stats", "nolab", "7"], "no lab 'nolab'"),
        (&["instance", "list", "--lab", "nolab"], "no lab 'nolab'"),
        (&["instance", "stop", lab, "7"], &missing),
        (&["instance", "stats", lab, "7"], "cyyber instance create"),
        (&["instance", "create", lab, "7"], "cyyber build"),
    ];
    for (arguments, wanted) in cases {
        fails(|| sandbox.command(*arguments), 4, wanted);
    }
}

#[test]
fn what_is_missing_or_unreachable_is_unavailable() {
    let sandbox = Sandbox::new();
    let empty = sandbox.path("empty");
    fs::create_dir(&empty).unwrap();
    fails(
        || {
            let mut command = sandbox.command(["build"]);
            command.env("PATH", &empty);
            command
        },
        8,
        "packer is not installed",
    );
    for verb in [
        &["list"][..],
        &["stats"],
        &["create", &sandbox.lab, "7"],
        &["stop", &sandbox.lab, "7"],
    ] {
        let arguments = ["-c", UNREACHABLE, "instance"].iter().chain(verb);
        fails(|| sandbox.command(arguments.clone()), 8, "libvirtd");
    }
    fails(
        || sandbox.command(["-c", "no-such-driver:///", "instance", "list"]),
        8,
        "no-such-driver",
    );
}

#[test]
fn a_state_directory_that_cannot_be_used_is_a_plain_failure() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("file"), "").unwrap();
    fails(
        || {
            let mut command = sandbox.command(["instance", "create", &sandbox.lab, "7"]);
            command.env("CYYBER_STATE_DIR", sandbox.path("file"));
            command
        },
        1,
        "failed to lock",
    );
}

#[test]
fn an_option_goes_before_the_environment_and_that_before_the_file() {
    let sandbox = Sandbox::new();
    let unreachable = |by: &str| format!("qemu+unix:///system?socket=/nonexistent/by-{by}");
    let document =
        json!({"labs": [lab("lab01", &json!({}))], "host": {"connect": unreachable("file")}});
    sandbox.write_config(&document.to_string());
    let list = |by_environment: bool, by_option: bool| {
        let mut command = sandbox.command(["instance", "list"]);
        command.env_remove("CYYBER_CONNECT");
        if by_environment {
            command.env("CYYBER_CONNECT", unreachable("environment"));
        }
        if by_option {
            command.args(["--connect", &unreachable("option")]);
        }
        command
    };
    Run::of(&mut list(false, false)).says(8, "by-file");
    Run::of(&mut list(true, false)).says(8, "by-environment");
    Run::of(&mut list(true, true)).says(8, "by-option");

    let mut command =
        sandbox.command(["-o", "table", "-c", common::TEST_DRIVER, "instance", "list"]);
    assert_eq!(
        Run::of(command.env("CYYBER_OUTPUT", "json")).ok().stdout,
        "no instances\n"
    );
}

#[test]
fn directories_in_the_environment_go_before_those_in_the_file() {
    let sandbox = Sandbox::new();
    let document = json!({"labs": [lab("lab01", &json!({}))], "host": {"output_dir": "by-file"}});
    sandbox.write_config(&document.to_string());
    let rendered = |by: &str| sandbox.path(by).join("lab01.packer/lab.pkr.hcl").exists();
    let build = || sandbox.command(["build", "--dry-run"]);
    Run::of(build().env("CYYBER_OUTPUT_DIR", "by-environment")).ok();
    assert_eq!(
        (rendered("by-environment"), rendered("by-file")),
        (true, false)
    );
    Run::of(build().env_remove("CYYBER_OUTPUT_DIR")).ok();
    assert!(rendered("by-file"), "relative to the working directory");
}

#[test]
fn the_configuration_is_the_options_then_the_environments_then_the_one_here() {
    let sandbox = Sandbox::new();
    for id in ["by-option", "by-environment", "by-place"] {
        fs::create_dir(sandbox.path(id)).unwrap();
        let document = json!({"labs": [lab(id, &json!({}))]});
        fs::write(
            sandbox.path(id).join("labs-config.json"),
            document.to_string(),
        )
        .unwrap();
    }
    let known = |command: &mut Command| {
        let run = Run::of(
            command
                .env("CYYBER_OUTPUT", "json")
                .current_dir(sandbox.path("by-place")),
        );
        text(&run.error_json(4)["hint"])
    };
    let list = || sandbox.command(["instance", "list", "--lab", "nolab"]);
    let option = sandbox.path("by-option/labs-config.json");
    let environment = sandbox.path("by-environment/labs-config.json");
    assert_eq!(
        known(list().env_remove("CYYBER_CONFIG")),
        "known labs: by-place"
    );
    assert_eq!(
        known(list().env("CYYBER_CONFIG", &environment)),
        "known labs: by-environment"
    );
    let mut both = list();
    both.env("CYYBER_CONFIG", &environment)
        .arg("--config")
        .arg(option);
    assert_eq!(known(&mut both), "known labs: by-option");
}

#[test]
#[ignore = "needs root and /etc/cyyber: run by `make test`"]
fn the_last_place_of_the_configuration_is_etc() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("elsewhere")).unwrap();
    // In a mount namespace of its own, so that this host's own file is neither seen nor touched.
    let list = |prepare: &str| {
        let mut command = Command::new("unshare");
        let cyyber = sandbox.command(["instance", "list"]);
        let script = format!("mount -t tmpfs tmpfs /etc/cyyber && {prepare} && exec \"$@\"");
        command
            .args(["--mount", "sh", "-c", &script, "sh"])
            .arg(cyyber.get_program())
            .args(cyyber.get_args());
        command
            .env_remove("CYYBER_CONFIG")
            .env("CYYBER_CONNECT", common::TEST_DRIVER);
        Run::of(command.current_dir(sandbox.path("elsewhere")))
    };
    list("true").says(
        3,
        "looked for labs-config.json and /etc/cyyber/labs-config.json",
    );
    let config = sandbox.path("labs-config.json");
    list(&format!("cp '{}' /etc/cyyber/", config.display())).ok();
}

#[test]
fn standard_output_carries_the_answer_alone() {
    let sandbox = Sandbox::new();
    assert_eq!(
        sandbox.cyyber(["instance", "list"]).ok().stdout,
        "no instances\n"
    );
    for verbosity in [&[][..], &["-v"], &["-q"]] {
        let list = sandbox.cyyber(["-o", "json", "instance", "list"].iter().chain(verbosity));
        assert_eq!(list.json(), json!({"instances": []}));
        let build = sandbox
            .cyyber(["-o", "json", "build", "--dry-run"].iter().chain(verbosity))
            .json();
        assert_shape(&build["labs"][0], BUILT);
    }
    for answer in [
        &["--help"][..],
        &["--version"],
        &["instance", "create", "--help"],
        &["completions", "bash"],
    ] {
        let run = sandbox.cyyber(answer).ok();
        assert!(!run.stdout.is_empty() && run.stderr.is_empty(), "{run:#?}");
    }
}

#[test]
fn a_reader_that_left_is_no_failure_and_a_full_disk_is_one() {
    let sandbox = Sandbox::new();
    let mut child = sandbox.command(["completions", "bash"]).spawn().unwrap();
    drop(child.stdout.take());
    let left = Run::end_of(child);
    assert_eq!((left.code, left.stderr.as_str()), (Some(0), ""));

    let full = Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    let run = Run::of(sandbox.command(["instance", "list"]).stdout(full));
    assert_eq!(run.code, Some(1));
    assert!(
        run.stderr.contains("failed to write to standard output"),
        "{run:#?}"
    );
}

/// Programs that stand in for Packer and QEMU: enough to come to the point where Packer is run.
fn fake_builder(sandbox: &Sandbox, version: &str, build: &str) {
    sandbox.fake(
        "packer",
        &format!("case $1 in version) echo 'Packer v{version}';; *) {build};; esac"),
    );
    for name in ["qemu-system-x86_64", "qemu-img"] {
        sandbox.fake(name, "exit 0");
    }
    fs::write(sandbox.path("cloud.img"), "a cloud image").unwrap();
    sandbox.configure(&json!({"image": {"url": "cloud.img"}}));
}

const FAILING: &str = "echo '1,,ui,message,    qemu.lab: [cyyber] Installing packages'; \
                       echo '1,,ui,error,==> qemu.lab: E: no such package: nmapp'; exit 1";

#[test]
fn quiet_leaves_errors_alone() {
    let sandbox = Sandbox::new();
    fake_builder(&sandbox, "1.6.6", FAILING);
    let stage = format!("{}: Installing packages", sandbox.lab);
    let run = sandbox.cyyber(["build"]);
    assert!(run.stderr.contains(&stage), "{run:#?}");
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
    fake_builder(&sandbox, "1.6.6", FAILING);
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
    fake_builder(&sandbox, "1.6.6", FAILING);
    sandbox.fake(
        "qemu-img",
        "echo '{\"format\": \"qcow2\", \"virtual-size\": 1, \"actual-size\": 1}'",
    );
    let link = sandbox.path(format!("storage/base-images/{}-base.qcow2", sandbox.lab));
    fs::write(&link, "made by hand").unwrap();
    let began = std::time::Instant::now();
    sandbox.cyyber(["build"]);
    assert!(began.elapsed() < common::PATIENCE, "it waited for itself");
    assert_eq!(fs::read(&link).unwrap(), b"made by hand");
    assert!(link.is_symlink(), "it was not adopted");
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
    assert_null(lab, &["image", "domain_xml", "metadata", "error"]);

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
    use std::os::unix::fs::PermissionsExt;
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
    fs::write(&image, "a cloud image").unwrap();
    sandbox.configure(&json!({"image": {"url": image}}));
    sandbox.cyyber(["build", "--dry-run"]).ok();
    assert_eq!(
        fs::read_link(build_directory(&sandbox).join("source.img")).unwrap(),
        image
    );
    let variables = &rendered(&sandbox)[Path::new("lab.auto.pkrvars.json")];
    assert!(!String::from_utf8_lossy(variables).contains("isotime"));
    let mut validate = tool("packer");
    validate
        .args(["validate", "."])
        .env("CHECKPOINT_DISABLE", "1")
        .current_dir(build_directory(&sandbox));
    run(&mut validate);
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
