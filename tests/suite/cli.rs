//! The command line without a hypervisor: options, configuration, errors and exit codes.

use crate::common;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::process::{Command, Stdio};

use common::shape::{BUILT, assert_shape};
use common::{Run, Sandbox, UNREACHABLE, files_below, lab, text};
use cyyber::state::lock::Lock;
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
            with(json!({"packages": ["libc6:i386"]})),
            "'libc6:i386': packages are always of the image's architecture",
        ),
        (
            with(json!({"packages": ["nmap=7.93*"]})),
            "'nmap=7.93*': packages are always of the archive's version",
        ),
        (
            with(json!({"packages": ["nmap/bookworm-backports"]})),
            "packages are always of the archive's version",
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
        (
            host(json!({"connect": "qemu+ext:///system?command=/tmp/evil"})),
            "host.connect: bad libvirt connection",
        ),
        ("[".repeat(100_000), "recursion limit"),
        (
            with(json!({})).replace(r#""motd""#, r#""lab_id""#),
            r#"duplicate key "lab_id" at line 1"#,
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
    assert_eq!(run.stderr.lines().count(), 2, "{run:#?}");
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
}

/// A failure for each row of the table of exit codes, for people and for programs. All are real: more
/// memory than the host has, a lock that is held, an instance that is stopped.
#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn each_exit_code_has_its_error() {
    let sandbox = Sandbox::with_guests(0);
    sandbox.base(&sandbox.lab);
    let lab = sandbox.lab.as_str();
    // Done, and already so: 0.
    for changed in [true, false] {
        let created = sandbox.instance("create", "off", &[]).json();
        assert_eq!(created["changed"], changed);
    }
    let large = json!({"labs": [common::lab(lab, &json!({"memory_mb": 1 << 20}))]});
    fs::write(sandbox.path("large.json"), large.to_string()).unwrap();
    fs::write(sandbox.path("file"), "").unwrap();
    let lock = sandbox.path(format!("state/locks/{lab}_user_held.lock"));
    let _held = Lock::try_take(&lock).unwrap();

    let failures: [(&[&str], &str); 8] = [
        (&["instance", "create", lab, "7"], "failed to lock"),
        (&["instance", "create", "LAB", "7"], "bad lab id 'LAB'"),
        (&["--config", "missing.json", "build"], "missing.json"),
        (&["instance", "stop", lab, "7"], "no instance"),
        (&["instance", "resume", lab, "off"], "is not paused"),
        (&["instance", "start", lab, "held"], "in use by another"),
        (
            &["--config", "large.json", "instance", "start", lab, "7"],
            "not enough memory",
        ),
        (
            &["-c", UNREACHABLE, "instance", "list"],
            "failed to connect",
        ),
    ];
    // At once: a command waits long for a lock.
    let failing = failures.map(|(arguments, wanted)| {
        ["table", "json"].map(|format| {
            let mut command = sandbox.command(arguments);
            if wanted == "failed to lock" {
                command.env("CYYBER_STATE_DIR", sandbox.path("file"));
            }
            command.env("CYYBER_OUTPUT", format).spawn().unwrap()
        })
    });
    let document = include_str!("../../man/backend.md");
    for (code, (failing, (_, wanted))) in (1..).zip(failing.into_iter().zip(failures)) {
        let [table, json] = failing.map(Run::end_of);
        let said = table.says(code, wanted).stderr;
        let error = json.error_json(code);
        let message = format!("error: {}\n", text(&error["message"]));
        // What memory is free is another figure a moment later.
        let words = |text: &str| text.replace(|letter: char| letter.is_ascii_digit(), "");
        assert!(
            words(&said).starts_with(&words(&message)),
            "{said}{error:#}"
        );
        let row = format!("| {code} | `{}` | ", common::CODES[code]);
        assert!(document.contains(&row), "{row}");
    }
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

/// The program in the directory `below` of the sandbox, which has the only configuration that there
/// is. Its connection would run a program of an attacker's.
fn beside_its_configuration(sandbox: &Sandbox, below: &str) -> Command {
    let directory = sandbox.path(below);
    let ran = sandbox.path("ran");
    sandbox.fake("evil", &format!("touch '{}'", ran.display()));
    let evil = sandbox.path("bin/evil");
    let connect = format!("qemu+ext:///system?command={}", evil.display());
    let document = json!({
        "labs": [lab(&sandbox.lab, &json!({}))],
        "host": {"connect": connect},
    });
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("labs-config.json"), document.to_string()).unwrap();
    let mut command = sandbox.command(["instance", "list"]);
    command.env_remove("CYYBER_CONFIG").current_dir(directory);
    command
}

#[test]
fn a_connection_that_would_run_a_program_is_none() {
    let sandbox = Sandbox::new();
    let mut command = beside_its_configuration(&sandbox, "own");
    Run::of(command.env_remove("CYYBER_CONNECT")).says(3, "host.connect: bad libvirt connection");
    assert!(!sandbox.path("ran").exists());
    for evil in [
        "qemu+ext:///system?command=/bin/false",
        "qemu+ssh://localhost/system?command=/bin/false",
        "no-such-driver:///",
    ] {
        fails(
            || sandbox.command(["-c", evil, "instance", "list"]),
            2,
            "bad libvirt connection",
        );
        let by_environment = || {
            let mut command = sandbox.command(["instance", "list"]);
            command.env("CYYBER_CONNECT", evil);
            command
        };
        fails(by_environment, 2, "CYYBER_CONNECT");
    }
}

#[test]
fn a_configuration_that_others_can_write_is_not_trusted() {
    let sandbox = Sandbox::new();
    let mode = |path: &str, mode| {
        fs::set_permissions(sandbox.path(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    let list = || sandbox.command(["instance", "list"]);
    mode("labs-config.json", 0o646);
    fails(list, 3, "labs-config.json cannot be trusted: ");
    fails(list, 3, "can be written by anybody");
    mode("labs-config.json", 0o644);
    mode("", 0o777);
    fails(list, 3, "can be written by anybody");
    mode("", 0o1777);
    Run::of(&mut list()).ok();
    mode("", 0o711);

    // What is built by is no less.
    let templates = sandbox.path("mine/guest");
    fs::create_dir_all(&templates).unwrap();
    fs::write(templates.join("extra"), "x").unwrap();
    let document = json!({
        "labs": [lab(&sandbox.lab, &json!({}))], "host": {"templates_dir": "mine"},
    });
    sandbox.write_config(&document.to_string());
    let build = || sandbox.command(["build", "--dry-run"]);
    Run::of(&mut build()).ok();
    mode("mine/guest/extra", 0o666);
    fails(build, 3, "mine cannot be trusted: ");
    mode("mine/guest/extra", 0o644);
    mode("mine/guest", 0o777);
    fails(build, 3, "mine cannot be trusted: ");
}

#[test]
#[ignore = "needs root: run by `make test`"]
fn a_configuration_of_another_user_is_not_trusted() {
    let sandbox = Sandbox::new();
    let mut here = beside_its_configuration(&sandbox, "theirs");
    here.env_remove("CYYBER_CONNECT");
    let (directory, file) = ("theirs", "theirs/labs-config.json");
    let own = |path: &str, user| chown(sandbox.path(path), Some(user), Some(user)).unwrap();
    // Whose words they are comes before what they say.
    own(file, 65_534);
    Run::of(&mut here).says(3, "belongs to user 65534, not to root or to you");
    own(file, 0);
    own(directory, 65_534);
    Run::of(&mut here).says(3, "theirs belongs to user 65534");
    own(file, 65_534);
    Run::of(here.env("SUDO_UID", "1")).says(3, "belongs to user 65534");
    // As git takes those of whoever is behind sudo.
    Run::of(here.env("SUDO_UID", "65534")).says(3, "host.connect");

    // A link of theirs to a file of root's, and a way through a directory of theirs.
    own(file, 0);
    own(directory, 0);
    symlink(
        sandbox.path("labs-config.json"),
        sandbox.path("theirs/link"),
    )
    .unwrap();
    let with = |path: &str| {
        let path = sandbox.path(path);
        sandbox.command(["--config", path.to_str().unwrap(), "instance", "list"])
    };
    Run::of(&mut with("theirs/link")).ok();
    std::os::unix::fs::lchown(sandbox.path("theirs/link"), Some(65_534), None).unwrap();
    fails(|| with("theirs/link"), 3, "link belongs to user 65534");
    own(directory, 65_534);
    fails(
        || with("theirs/../labs-config.json"),
        3,
        "theirs belongs to",
    );

    // Members of the group libvirt may do all that root may; those of others may not.
    let group = |name: &str| {
        let entry = common::run(common::tool("getent").args(["group", name]));
        let id = entry.split(':').nth(2).unwrap().parse().unwrap();
        let config = sandbox.path("labs-config.json");
        chown(&config, Some(0), Some(id)).unwrap();
        fs::set_permissions(config, fs::Permissions::from_mode(0o664)).unwrap();
    };
    let list = || sandbox.command(["instance", "list"]);
    for trusted in ["libvirt", "root"] {
        group(trusted);
        Run::of(&mut list()).ok();
    }
    group("users");
    fails(list, 3, "can be written by the members of group");
    assert!(!sandbox.path("ran").exists());
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
fn a_short_option_is_a_long_one() {
    let sandbox = Sandbox::new();
    let run = |arguments: &[&str]| {
        let run = sandbox.cyyber(arguments);
        (run.code, run.stdout, run.stderr)
    };
    // A pass that looks for the first time has a thing to say that is not a failure.
    let look = |option: &str| {
        let _ = fs::remove_file(sandbox.path("state/reaper.json"));
        run(&[option, "reap"])
    };
    for (short, long) in [("-q", "--quiet"), ("-v", "--verbose")] {
        assert_eq!(look(short), look(long));
    }
    let (quiet, verbose) = (look("-q").2, look("-v").2);
    assert_eq!(quiet, "");
    assert!(!verbose.is_empty(), "nothing more is told");

    assert_eq!(run(&["-V"]), run(&["--version"]));
    let version = format!("cyyber {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(run(&["-V"]).1, version);
    for command in [&[][..], &["instance"], &["instance", "stop"]] {
        let help = |option| run(&[command, &[option]].concat()).1;
        let (short, long) = (help("-h"), help("--help"));
        assert!(short.contains("Usage: cyyber"), "{short}");
        assert!(long.len() > short.len(), "{long}");
    }
    let list = ["instance", "list"];
    assert_eq!(
        run(&[&["-o", "json", "-c", UNREACHABLE][..], &list].concat()),
        run(&[&["--output", "json", "--connect", UNREACHABLE][..], &list].concat()),
    );
}

#[test]
fn a_reader_that_left_is_no_failure_and_a_full_disk_is_one() {
    let sandbox = Sandbox::new();
    for words in [&["completions", "bash"][..], &["doctor", "--help"]] {
        let mut child = sandbox.command(words).spawn().unwrap();
        drop(child.stdout.take());
        let left = Run::end_of(child);
        assert_eq!(
            (left.code, left.stderr.as_str()),
            (Some(0), ""),
            "{words:?}"
        );
    }

    for words in [
        &["instance", "list"][..],
        &["--help"],
        &["--version"],
        &["instance", "--help"],
    ] {
        let full = Stdio::from(File::options().write(true).open("/dev/full").unwrap());
        let run = Run::end_of(sandbox.command(words).stdout(full).spawn().unwrap());
        assert_eq!(run.code, Some(1), "{words:?}");
        assert!(
            run.stderr.contains("failed to write to standard output"),
            "{run:#?}"
        );
    }
}

#[test]
fn files_of_other_editors_are_read_or_named() {
    let sandbox = Sandbox::new();
    let config = fs::read_to_string(sandbox.path("labs-config.json")).unwrap();
    sandbox.write_config(&format!("\u{feff}{config}"));
    sandbox.cyyber(["instance", "list"]).ok();

    let utf16: Vec<u8> = config.encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(
        sandbox.path("labs-config.json"),
        [b"\xff\xfe", &utf16[..]].concat(),
    )
    .unwrap();
    sandbox
        .cyyber(["instance", "list"])
        .says(3, "it is UTF-16 text: save it as UTF-8");
    sandbox.write_config(&config);

    for (name, content, wanted) in [
        (
            "utf16",
            &b"\xff\xfea\0\n\0"[..],
            "it is UTF-16 text: save it as UTF-8",
        ),
        ("latin1", b"anna\nzo\xeb\n", "line 2 is not UTF-8"),
    ] {
        fs::write(sandbox.path(name), content).unwrap();
        let words = ["instance", "create", &sandbox.lab, "--users-from", name];
        sandbox.cyyber(words).says(2, wanted);
    }
}

#[test]
fn what_was_typed_reaches_the_terminal_without_its_escape_sequences() {
    let sandbox = Sandbox::new();
    for words in [
        &["instance", "start", "lab01", "\x1b[2Jx"][..],
        &["instance", "start", "\u{9b}2J", "7"],
        &["\x1b]0;title\x07"],
        &["instance", "list", "--state", "\x1b[31m"],
        &["--config", "\x1b[2J", "instance", "list"],
    ] {
        let run = sandbox.cyyber(words);
        assert_ne!(run.code, Some(0), "{run:#?}");
        let harmful = |c: char| c.is_control() && c != '\n';
        assert!(!run.stderr.contains(harmful), "{run:#?}");
    }
}
