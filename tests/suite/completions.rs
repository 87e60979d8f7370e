//! Completion as a person at a shell gets it: each script is loaded by its real shell, which is
//! asked for what it would offer.

use crate::common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{Run, Sandbox, lab, tool};
use serde_json::json;

const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

/// Stands between what is offered for one line and for the next.
const BREAK: &str = "#";

/// Calls the function that the script registers, with what readline would set.
const BASH: &str = r#"
source "$1"
shift 2
registered=$(complete -p cyyber)
[[ $registered =~ ' -F '([^ ]+) ]]
for line; do
    read -ra COMP_WORDS <<<"$line"
    [[ $line != *' ' ]] || COMP_WORDS+=('')
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_LINE=$line COMP_POINT=${#line} COMP_TYPE=9
    COMPREPLY=()
    "${BASH_REMATCH[1]}" cyyber "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
    ((${#COMPREPLY[@]} == 0)) || printf '%s\n' "${COMPREPLY[@]}"
    echo '#'
done
"#;

/// Types each line and a Tab at a zsh on a terminal of its own, in which `compadd` tells what it is
/// given.
const ZSH: &str = r#"
zmodload zsh/zpty
zpty shell zsh -f -i
setup=$2/setup.zsh
cat >$setup <<'EOF'
unsetopt prompt_cr prompt_sp beep
PROMPT= fpath=($folder $fpath)
autoload -U compinit
compinit -u -D
compadd() {
    local -a hits
    if [[ ${@[1,(i)(-|--)]} != *-(O|A|D)\ * ]]; then
        builtin compadd -A hits "$@"
        ((${#hits})) && print -rl -- '<'$^hits'>'
    fi
    builtin compadd "$@"
}
before() { print '<<' }
after() { print '>>' }
ask() {
    compprefuncs=(before) comppostfuncs=(after)
    zle complete-word
    zle kill-whole-line
}
zle -N ask
bindkey '^I' ask
print READY
EOF
zpty -w shell "folder=${1:h} source $setup"
shift 2
seen=
until [[ $seen = *READY* ]]; do zpty -r shell part || exit 1; seen+=$part; done
for line; do
    zpty -w -n shell $line$'\t'
    seen=
    until [[ $seen = *'>>'* ]]; do zpty -r shell part || exit 1; seen+=$part; done
    # Only what is between the marks is an answer.
    seen=${${seen#*'<<'}%'>>'*}
    print -r -- $seen | sed -n 's/^<\(.*\)>.\{0,1\}$/\1/p'
    print -r '#'
done
zpty -d shell
"#;

const FISH: &str = r#"
source $argv[1]
for line in $argv[3..]
    complete -C $line | string split -f 1 \t
    echo '#'
end
"#;

/// What `shell` offers for each of the lines, which end at the cursor.
fn offered(sandbox: &Sandbox, shell: &str, lines: &[&str]) -> Vec<BTreeSet<String>> {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("completions");
    let (script, arguments): (_, &[&str]) = match shell {
        "bash" => ("cyyber.bash", &["-c", BASH, "bash"]),
        "zsh" => ("_cyyber", &["-f", "-c", ZSH, "zsh"]),
        _ => ("cyyber.fish", &["-c", FISH]),
    };
    // The program's own environment, with the program in the path.
    let cyyber = sandbox.command([] as [&str; 0]);
    let folder = Path::new(cyyber.get_program()).parent().unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let mut command = tool(shell);
    for (name, value) in cyyber.get_envs() {
        command.env(name, value.unwrap());
    }
    let output = command
        .args(arguments)
        .arg(scripts.join(script))
        .arg(sandbox.path(""))
        .args(lines)
        .env("PATH", path)
        .env("TERM", "xterm")
        .current_dir(sandbox.path(""))
        .output()
        .unwrap_or_else(|error| panic!("{shell} cannot be run: {error}"));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr, "", "{shell}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    let said: Vec<_> = stdout.lines().map(str::trim).collect();
    // After the last break there is nothing more.
    let answers: Vec<_> = said
        .split(|line| *line == BREAK)
        .map(|answer| answer.iter().map(ToString::to_string).collect())
        .collect();
    assert_eq!(answers.len(), lines.len() + 1, "{shell}: {stdout}");
    answers
}

/// A class in two labs, and an instance of a lab that is no longer configured.
fn class() -> Sandbox {
    let sandbox = Sandbox::new();
    let labs = ["lab01", "lab02", "web"].map(|id| lab(id, &json!({"lab_name": "Of: colons"})));
    sandbox.write_config(&json!({ "labs": labs }).to_string());
    for name in [
        "lab01_user_anna",
        "lab01_user_anton",
        "lab02_user_bob",
        "old_user_x",
    ] {
        let disk = format!("storage/user-instances/{name}.qcow2");
        fs::write(sandbox.path(disk), "").unwrap();
    }
    fs::write(sandbox.path("class.txt"), "").unwrap();
    sandbox
}

#[test]
#[ignore = "needs zsh and fish: run by `make test`"]
fn labs_and_users_are_offered_in_every_shell() {
    let sandbox = class();
    let everybody = &["anna", "anton", "bob", "x"][..];
    let cases = [
        ("cyyber inst", &["instance"][..]),
        ("cyyber instance sta", &["start", "stats"]),
        ("cyyber instance start ", &["lab01", "lab02", "old", "web"]),
        ("cyyber build lab01 ", &["lab01", "lab02", "web"]),
        ("cyyber instance stop lab01 ", &["anna", "anton"]),
        ("cyyber -o json instance stop lab02 ", &["bob"]),
        ("cyyber instance stop --timeout 2m lab01 ant", &["anton"]),
        // Who has no instance of this lab may get one.
        ("cyyber instance start lab02 ", everybody),
        ("cyyber instance list --lab l", &["lab01", "lab02"]),
        ("cyyber instance list --lab lab02 --user ", &["bob"]),
        ("cyyber instance list --state p", &["paused"]),
        ("cyyber instance stop lab01 anna --ti", &["--timeout"]),
        ("cyyber instance stop lab01 --users-from cl", &["class.txt"]),
        ("cyyber completions f", &["fish"]),
        // Of nobody else anything is told.
        ("cyyber --as-user bob instance start lab01 ", &["bob"]),
        ("cyyber --as-user bob instance stop lab01 a", &[]),
        ("cyyber --as-user bob instance start o", &[]),
        ("cyyber instance stop lab01 nobody", &[]),
    ];
    for shell in SHELLS {
        let answers = offered(&sandbox, shell, &cases.map(|(line, _)| line));
        for ((line, wanted), answer) in cases.iter().zip(answers) {
            let wanted = wanted.iter().map(ToString::to_string).collect();
            assert_eq!(answer, wanted, "{shell}: {line}");
        }
    }
}

#[test]
#[ignore = "needs zsh and fish: run by `make test`"]
fn what_is_wrong_is_passed_over_in_silence() {
    let sandbox = class();
    sandbox.write_config("{");
    for shell in SHELLS {
        let lines = ["cyyber instance start l", "cyyber instance sto"];
        let answers = offered(&sandbox, shell, &lines);
        assert_eq!(answers[0], BTreeSet::new(), "{shell}");
        assert_eq!(answers[1], BTreeSet::from(["stop".to_owned()]), "{shell}");
    }
}

/// Asks as the scripts do, without the time that a shell takes.
fn ask(sandbox: &Sandbox, words: &[&str]) -> Command {
    let mut command = sandbox.command(["--", "cyyber"].iter().chain(words));
    command.env("CYYBER_COMPLETE", "fish");
    command
}

#[test]
fn nothing_is_waited_for() {
    let sandbox = class();
    // Takes connections and never answers.
    let _libvirt = UnixListener::bind(sandbox.path("socket")).unwrap();
    let socket = sandbox.path("socket");
    let uri = format!("qemu+unix:///system?socket={}", socket.display());
    let mut command = ask(&sandbox, &["instance", "stop", "lab02", ""]);
    let run = Run::within(Duration::from_secs(5), command.env("CYYBER_CONNECT", uri));
    assert_eq!(run.ok().stdout, "bob\n");

    // A configuration that never comes to its end.
    let pipe = sandbox.path("pipe");
    common::run(tool("mkfifo").arg(&pipe));
    let mut command = ask(&sandbox, &["instance", "stop", "lab02", "b"]);
    let run = Run::within(Duration::from_secs(5), command.env("CYYBER_CONFIG", pipe)).ok();
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""));
}
