//! The committed reference is what the program says of itself: `man/*.1` and `completions/` are
//! made from the clap types, and `man/labs-config.json.5`, which is written by hand, has every key
//! that the configuration accepts. `make reference` writes the generated files anew.
//!
//! What a page says beyond its command line stands in `man/parts/`, one file a page.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};
use cyyber::cli::Cli;
use cyyber::cmd::complete;
use cyyber::config::{Config, Host};
use cyyber::error::Kind;
use cyyber::paths::Paths;
use cyyber::state::lock;
use cyyber::units::Patience;

/// The pages' date: fixed, so that they change only when their text does.
const DATE: &str = "2026-11-23";

/// Beside the generated pages and the documents in `man/`.
const BY_HAND: &str = "labs-config.json.5";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn the_committed_reference_is_what_the_program_says() {
    let mut wanted = completions();
    wanted.extend(pages());
    let there = files_in("man")
        .chain(files_in("completions"))
        .filter(|path| !path.ends_with(BY_HAND) && path.extension().is_none_or(|kind| kind != "md"))
        .collect::<BTreeSet<_>>();

    if std::env::var_os("CYYBER_UPDATE_REFERENCE").is_some_and(|value| value == "1") {
        for (path, content) in &wanted {
            std::fs::create_dir_all(root().join(path).parent().unwrap()).unwrap();
            std::fs::write(root().join(path), content).unwrap();
        }
        for stale in there.iter().filter(|path| !wanted.contains_key(*path)) {
            std::fs::remove_file(root().join(stale)).unwrap();
        }
        return;
    }
    let advice = "if that is meant: make reference";
    let names = wanted.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(there, names, "the set of files differs; {advice}");
    for (path, content) in &wanted {
        let committed = read(path.to_str().unwrap());
        let differs = (committed.lines().zip(content.lines()).enumerate())
            .find(|(_, (old, new))| old != new)
            .map_or_else(
                || "its length".to_owned(),
                |(n, (old, new))| format!("line {}\n  is     {old}\n  wanted {new}", n + 1),
            );
        assert!(
            committed == *content,
            "{} differs in {differs}\n{advice}",
            path.display()
        );
    }
}

#[test]
fn every_part_belongs_to_a_page() {
    let pages = pages();
    for part in files_in("man/parts") {
        let page = Path::new("man").join(part.with_extension("1").file_name().unwrap());
        assert!(pages.contains_key(&page), "{} has no page", part.display());
    }
}

/// The plain files in a directory of the repository, by their path from its root.
fn files_in(directory: &str) -> impl Iterator<Item = PathBuf> + use<> {
    let base = PathBuf::from(directory);
    std::fs::read_dir(root().join(directory))
        .into_iter()
        .flatten()
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().unwrap().is_file())
        .map(move |entry| base.join(entry.file_name()))
}

fn completions() -> BTreeMap<PathBuf, String> {
    // The names that these shells, and `make install`, know.
    [
        ("bash", "cyyber.bash"),
        ("zsh", "_cyyber"),
        ("fish", "cyyber.fish"),
    ]
    .into_iter()
    .map(|(shell, name)| {
        let script = complete::script(shell).unwrap();
        let path = Path::new("completions").join(name);
        (path, String::from_utf8(script).unwrap())
    })
    .collect()
}

fn pages() -> BTreeMap<PathBuf, String> {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let mut all = Vec::new();
    collect(&program, &mut all);
    all.iter()
        .map(|command| {
            (
                PathBuf::from(format!("man/{}.1", page_name(command))),
                page(command, &all),
            )
        })
        .collect()
}

/// `command` and all below it.
fn collect(command: &Command, all: &mut Vec<Command>) {
    all.push(command.clone());
    for sub in command.get_subcommands() {
        collect(sub, all);
    }
}

/// `cyyber-instance-create`
fn page_name(command: &Command) -> String {
    command
        .get_display_name()
        .unwrap_or_else(|| command.get_name())
        .to_owned()
}

/// One page. clap_mangen writes what comes from the command's types; synopsis, examples and what
/// types cannot say are laid out here.
fn page(command: &Command, all: &[Command]) -> String {
    let name = page_name(command);
    let is_root = name == "cyyber";
    let mut own = command.clone().mut_args(|arg| {
        // Described once, in cyyber(1).
        let hide = arg.is_global_set() && !is_root;
        arg.hide(hide)
    });
    // NAME has the first line already.
    let long = own.get_long_about().map(ToString::to_string);
    if let Some((_, rest)) = long.as_deref().and_then(|long| long.split_once("\n\n")) {
        own = own.long_about(rest.to_owned());
    }
    let man = Man::new(own.clone())
        .title(name.to_uppercase())
        .date(DATE)
        .source(format!("cyyber {}", env!("CARGO_PKG_VERSION")))
        .manual("Cyyber Manual");

    let mut text = Vec::new();
    man.render_title(&mut text).unwrap();
    man.render_name_section(&mut text).unwrap();
    synopsis(&own).to_writer(&mut text).unwrap();
    man.render_description_section(&mut text).unwrap();
    man.render_options_section(&mut text).unwrap();
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text).unwrap();
    }
    let mut text = tidy(&String::from_utf8(text).unwrap());
    if !is_root {
        text.push_str(
            ".PP\nThe options\n\
             .BR \\-\\-config ,\n.BR \\-\\-connect ,\n.BR \\-\\-output ,\n\
             .BR \\-\\-as\\-user ,\n.B \\-\\-quiet\n\
             and\n.B \\-\\-verbose\nare described in\n.BR cyyber (1).\n",
        );
    }
    let part = root().join(format!("man/parts/{name}.roff"));
    text.push_str(&std::fs::read_to_string(part).unwrap_or_default());
    text.push_str(&match is_root {
        true => exit_status(),
        false => ".SH EXIT STATUS\n0 when it is done or was already so. Other values and their \
                  meaning are in\n.BR cyyber (1).\n"
            .to_owned(),
    });
    text.push_str(&examples(command));
    text.push_str(&see_also(&name, all));
    if text.contains(".TS\n") {
        // Has the reader's program lay out tables.
        text.insert_str(0, "'\\\" t\n");
    }
    text
}

/// The command line with the values of its options, which clap_mangen leaves out.
fn synopsis(command: &Command) -> Roff {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    let mut line = vec![bold(name)];
    let shown = |arg: &&Arg| !arg.is_hide_set() && arg.get_id() != "help";
    let (positional, options): (Vec<_>, Vec<_>) = command
        .get_arguments()
        .filter(shown)
        .partition(|arg| arg.is_positional());
    for arg in positional.into_iter().chain(options) {
        let values = arg.get_value_names().unwrap_or_default().join(" ");
        let many = matches!(arg.get_action(), ArgAction::Append) && arg.is_positional();
        let (open, close) = match (arg.is_required_set(), many) {
            (true, _) => (" ", ""),
            (false, true) => (" [", "]..."),
            (false, false) => (" [", "]"),
        };
        line.push(roman(open));
        let may_be_bare = arg
            .get_num_args()
            .is_some_and(|count| count.min_values() == 0);
        if let Some(flag) = flag(arg) {
            line.push(bold(flag));
            if arg.get_action().takes_values() {
                line.push(roman(if may_be_bare { " [" } else { " " }));
            }
        }
        if arg.get_action().takes_values() {
            line.push(italic(values));
            line.push(roman(if may_be_bare { "]" } else { "" }));
        }
        line.push(roman(close));
    }
    if command.has_subcommands() {
        line.extend([roman(" "), italic("COMMAND"), roman(" ...")]);
    }
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    // Broken between words, never within an option.
    roff.control("nh", []);
    roff.control("ad", ["l"]);
    roff.text(line);
    roff.control("ad", []);
    roff.control("hy", []);
    roff
}

fn flag(arg: &Arg) -> Option<String> {
    match (arg.get_long(), arg.get_short()) {
        (Some(long), _) => Some(format!("--{long}")),
        (None, Some(short)) => Some(format!("-{short}")),
        (None, None) => None,
    }
}

/// clap_mangen's text as `mandoc -Tlint` and a reader want it.
fn tidy(text: &str) -> String {
    // Begins every section that was rendered by itself; once is enough.
    let preamble = ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n";
    let mut text = format!("{preamble}{}", text.replace(preamble, ""));
    for (old, new) in [
        // A break beside a blank line does nothing.
        (".br\n\n.br\n", ".sp\n"),
        // Placeholders are set in italics; brackets are for what may be left out.
        ("\\fI<", "\\fI"),
        (">\\fR", "\\fR"),
        ("<\\fI", "\\fI"),
        ("\\fR>", "\\fR"),
        (".SH SUBCOMMANDS\n", ".SH COMMANDS\n"),
    ] {
        text = text.replace(old, new);
    }
    text
}

/// From the kinds of failure.
fn exit_status() -> String {
    let mut text = ".SH EXIT STATUS\nThe word is the value of\n.I error.code\nin JSON.\n\
                    .TP\n.B 0\nDone, or already so.\n"
        .to_owned();
    for kind in Kind::ALL {
        let (code, word) = (kind.exit_code(), kind.code());
        text.push_str(&format!(
            ".TP\n.BR {code} \" ({word})\"\n{}\n",
            kind.meaning()
        ));
    }
    text
}

/// The examples at the end of the help, of the form `  command   what it does`.
fn examples(command: &Command) -> String {
    let help = command
        .get_after_help()
        .unwrap_or_else(|| panic!("{} has no examples", page_name(command)))
        .to_string();
    let mut text = ".SH EXAMPLES\n".to_owned();
    // A command without a comment may follow one that has one, which is then another paragraph.
    let mut bare = None;
    for line in help
        .strip_prefix("Examples:\n")
        .expect("the text after the options is examples")
        .lines()
        .take_while(|line| !line.is_empty())
    {
        let (command, comment) = line.trim().split_once("  ").unwrap_or((line.trim(), ""));
        let command = escape(command);
        text.push_str(&match comment.trim() {
            "" if bare == Some(true) => format!(".br\n.B {command}\n"),
            "" if bare == Some(false) => format!(".PP\n.B {command}\n"),
            "" => format!(".B {command}\n"),
            comment => format!(".TP\n.B {command}\n{}\n", escape(comment)),
        });
        bare = Some(comment.is_empty());
    }
    text
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

/// The pages above and below this one, the program's, and the configuration's.
fn see_also(name: &str, all: &[Command]) -> String {
    let related = |other: &String| {
        other != name && (other == "cyyber" || parent(other) == name || parent(name) == *other)
    };
    let mut pages: Vec<_> = all
        .iter()
        .map(page_name)
        .filter(related)
        .map(|page| (page, 1))
        .chain([("labs-config.json".to_owned(), 5)])
        .collect();
    pages.sort_by_key(|(page, section)| (*section, page.clone()));
    let lines: Vec<_> = pages
        .iter()
        .map(|(page, section)| format!(".BR {} ({section})", escape(page)))
        .collect();
    format!(".SH SEE ALSO\n{}\n", lines.join(",\n"))
}

fn parent(name: &str) -> &str {
    name.rsplit_once('-').map_or("", |(parent, _)| parent)
}

#[test]
fn every_page_has_what_a_reader_looks_for() {
    for (path, page) in pages() {
        let sections: Vec<_> = page
            .lines()
            .filter_map(|line| line.strip_prefix(".SH "))
            .collect();
        let mut wanted = vec![
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "OPTIONS",
            "EXIT STATUS",
            "EXAMPLES",
            "SEE ALSO",
        ];
        if path.ends_with("cyyber.1") {
            wanted.extend(["COMMANDS", "ENVIRONMENT", "FILES"]);
        }
        for section in wanted {
            let count = sections.iter().filter(|other| **other == section).count();
            assert_eq!(count, 1, "{section} in {}: {sections:?}", path.display());
        }
    }
}

#[test]
fn every_command_has_a_short_and_a_long_help_with_examples() {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let mut all = Vec::new();
    collect(&program, &mut all);
    for mut command in all {
        let name = page_name(&command);
        let short = command.render_help().to_string();
        let long = command.render_long_help().to_string();
        for help in [&short, &long] {
            let (_, examples) = help.split_once("Examples:\n").expect(&name);
            assert!(examples.contains("  cyyber "), "{help}");
            let wide = help.lines().find(|line| line.chars().count() > 100);
            assert_eq!(wide, None, "{name}");
        }
        // The long one has more to say, by a paragraph at least.
        assert!(long.lines().count() > short.lines().count() + 1, "{name}");
    }
}

/// A page's words, without what only roff needs.
fn words(page: &str) -> String {
    page.replace("\\-", "-").replace("\\(dq", "\"")
}

#[test]
fn the_manual_has_every_variable_and_path() {
    let page = words(&pages()[Path::new("man/cyyber.1")]);
    let source = read("src/env.rs");
    for name in source.split('"').filter(|word| word.starts_with("CYYBER_")) {
        assert!(page.contains(&format!(".B {name}\n")), "{name}");
    }

    let host = Host::default();
    let paths = Paths::new(&host.storage_dir, &host.state_dir, Path::new("/OUTPUT")).unwrap();
    let (lab, name) = ("lab01".parse().unwrap(), "lab01_user_7".parse().unwrap());
    for path in [
        paths.base_link(&lab),
        paths.base_build(&lab, "BUILD"),
        paths.stage("STAGE"),
        paths.stage_dir("STAGE"),
        paths.stage_log("STAGE"),
        paths.overlay(&name),
        paths.activity(&name),
        paths.record(&name),
        paths.keep(&name),
        paths.journal(),
        paths.passes(),
        paths.instance_lock(&name).parent().unwrap().to_owned(),
        paths.download_cache(0).parent().unwrap().to_owned(),
        paths.build_log(&lab),
        paths.build_dir(&lab),
        paths.built_image(&lab),
        paths.built_domain(&lab),
        paths.built_metadata(&lab),
    ] {
        let path = path
            .to_str()
            .unwrap()
            .replace("/OUTPUT/", "cyyber-labs-output/");
        assert!(page.contains(&format!(".I {path}\n")), "{path}");
    }
    let patience = format!("{} seconds", lock::PATIENCE.as_secs());
    assert!(page.contains(&patience), "{patience}");
}

/// The headings of the configuration's page, and where in a file their keys are. `#` is where an
/// unknown key is put to be told the known ones.
const KEYS: [(&str, &str); 8] = [
    ("The file", r##"{"labs": [LAB], #}"##),
    ("A lab", r##"{"labs": [{LAB, #}]}"##),
    ("image", r##"{"labs": [{LAB, "image": {"url": "x", #}}]}"##),
    ("branding", r##"{"labs": [{LAB, "branding": {#}}]}"##),
    ("provision", r##"{"labs": [{LAB, "provision": {#}}]}"##),
    ("policy", r##"{"labs": [{LAB, "policy": {#}}]}"##),
    ("limits", r##"{"labs": [{LAB, "limits": {#}}]}"##),
    ("host", r##"{"labs": [LAB], "host": {#}}"##),
];

#[test]
fn the_configurations_page_has_the_keys_that_the_program_accepts() {
    let page = words(&read("man/labs-config.json.5"));
    for (heading, place) in KEYS {
        let section = page
            .split("\n.SS ")
            .find_map(|section| section.strip_prefix(heading)?.strip_prefix('\n'))
            .unwrap_or_else(|| panic!("no section {heading}"));
        let section = section.split("\n.SH ").next().unwrap();
        let documented = section
            .split(".TP\n")
            .skip(1)
            .map(|item| item.split(' ').nth(1).unwrap().trim().to_owned())
            .collect::<BTreeSet<_>>();
        assert_eq!(documented, accepted_keys(place), "keys of {heading}");
    }
}

/// From what the program says of a key that it does not know.
fn accepted_keys(place: &str) -> BTreeSet<String> {
    let keys = r#""lab_id": "a", "lab_name": "A", "packages": [], "motd": """#;
    let text = place
        .replace("[LAB]", &format!("[{{{keys}}}]"))
        .replace("LAB", keys)
        .replace('#', r#""no such key": 1"#);
    let said = format!("{:#}", load(&text).expect_err(&text));
    let (_, list) = said
        .split_once("unknown field `no such key`, expected ")
        .unwrap_or_else(|| panic!("{text}: {said}"));
    list.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

fn load(text: &str) -> anyhow::Result<Config> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, text).unwrap();
    Config::load(Some(file.path()))
}

#[test]
fn the_configurations_page_has_the_defaults_that_the_program_uses() {
    let keys = r#"{"labs": [{"lab_id": "a", "lab_name": "A", "packages": [], "motd": ""}]}"#;
    let config = load(keys).unwrap();
    let (lab, host) = (&config.labs[0], &config.host);
    let minutes = |patience: &Patience| match patience {
        Patience::After(duration) => match duration.0.as_mins() {
            minutes if minutes % 60 == 0 => format!("{}h", minutes / 60),
            minutes => format!("{minutes}m"),
        },
        Patience::Never => "never".to_owned(),
    };
    let page = words(&read("man/labs-config.json.5"));
    for (key, default) in [
        ("disk_size", lab.disk_size.to_string()),
        ("memory_mb", lab.memory_mb.to_string()),
        ("vcpus", lab.vcpus.to_string()),
        ("desktop", format!("{:?}", lab.desktop).to_lowercase()),
        ("network", format!("{:?}", lab.network).to_lowercase()),
        ("idle_after", minutes(&lab.policy.idle_after)),
        ("pause_after", minutes(&lab.policy.pause_after)),
        ("stop_after", minutes(&lab.policy.stop_after)),
        ("destroy_after", minutes(&lab.policy.destroy_after)),
        (
            "destroy_grace",
            minutes(&Patience::After(lab.policy.destroy_grace)),
        ),
        ("max_connected", minutes(&lab.policy.max_connected)),
        ("max_runtime", minutes(&lab.policy.max_runtime)),
        (
            "boot_timeout",
            minutes(&Patience::After(lab.policy.boot_timeout)),
        ),
        ("connect", host.connect.to_string()),
        ("storage_dir", host.storage_dir.display().to_string()),
        ("state_dir", host.state_dir.display().to_string()),
        ("output_dir", host.output_dir.display().to_string()),
        (
            "accelerator",
            format!("{:?}", host.accelerator).to_lowercase(),
        ),
        ("vnc_listen", host.vnc_listen.to_string()),
    ] {
        let line = page
            .lines()
            .find(|line| line.starts_with(&format!(".BR {key} ")))
            .unwrap_or_else(|| panic!("{key}"));
        let says = format!("default {default})\"");
        assert!(line.ends_with(&says), "{line}\nwanted: {says}");
    }
    assert!(page.contains(&format!(".I {}\n", lab.image.url)));
}

#[test]
fn the_configurations_examples_are_valid() {
    let page = words(&read("man/labs-config.json.5"));
    let examples: Vec<_> = page
        .split("\n.EX\n")
        .skip(1)
        .filter_map(|rest| rest.split("\n.EE\n").next())
        .collect();
    assert!(examples.len() >= 2);
    for example in examples {
        if let Err(error) = load(example) {
            panic!("{error:#}\n{example}");
        }
    }
}
