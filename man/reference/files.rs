//! The generated files of the repository: what the program's types say, as `man/*.1`, `completions/`
//! and the configuration's schema. What a page says beyond its command line stands in `man/parts/`, one
//! file a page.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Arg, ArgAction, Command, CommandFactory, ValueEnum};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};
use cyyber::cli::Cli;
use cyyber::cmd::complete;
use cyyber::config;
use cyyber::error::Kind;

/// Contents by their paths in the repository.
pub type Files = BTreeMap<PathBuf, String>;

/// The pages' date: fixed, so that they change only when their text does.
const DATE: &str = "2026-11-23";

/// Beside the generated pages and the documents in `man/`.
pub const BY_HAND: &str = "labs-config.json.5";

/// Where the schema is committed, and from where it is installed.
const SCHEMA: &str = "labs/labs-config.schema.json";

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All of them as they should be.
pub fn wanted() -> Result<Files> {
    let mut all = completions()?;
    all.extend(pages()?);
    all.insert(SCHEMA.into(), format!("{:#}\n", config::schema()));
    Ok(all)
}

/// Those that are there.
pub fn committed() -> Result<BTreeSet<PathBuf>> {
    let mut all = BTreeSet::from([PathBuf::from(SCHEMA)]);
    for directory in ["man", "completions"] {
        let there = files_in(directory)?;
        let by_hand = |path: &PathBuf| {
            path.ends_with(BY_HAND) || path.extension().is_some_and(|kind| kind == "md")
        };
        all.extend(there.into_iter().filter(|path| !by_hand(path)));
    }
    Ok(all)
}

/// The plain files in a directory of the repository, by their path from its root.
pub fn files_in(directory: &str) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(root().join(directory))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.push(Path::new(directory).join(entry.file_name()));
        }
    }
    Ok(files)
}

fn completions() -> Result<Files> {
    // The names that these shells, and `make install`, know.
    [
        ("bash", "cyyber.bash"),
        ("zsh", "_cyyber"),
        ("fish", "cyyber.fish"),
    ]
    .into_iter()
    .map(|(shell, name)| {
        let path = Path::new("completions").join(name);
        Ok((path, String::from_utf8(complete::script(shell)?)?))
    })
    .collect()
}

/// The manual's pages but for the one that is written by hand.
pub fn pages() -> Result<Files> {
    let all = commands();
    all.iter()
        .map(|command| {
            let path = format!("man/{}.1", page_name(command));
            Ok((path.into(), page(command, &all)?))
        })
        .collect()
}

/// The program and all its commands.
pub fn commands() -> Vec<Command> {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let mut all = Vec::new();
    collect(&program, &mut all);
    all
}

/// `command` and all below it.
fn collect(command: &Command, all: &mut Vec<Command>) {
    all.push(command.clone());
    // What the program runs by itself on another host has no page.
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        collect(sub, all);
    }
}

/// `cyyber-instance-create`
pub fn page_name(command: &Command) -> String {
    command
        .get_display_name()
        .unwrap_or_else(|| command.get_name())
        .to_owned()
}

/// One page. clap_mangen writes what comes from the command's types; synopsis, examples and what
/// types cannot say are laid out here.
fn page(command: &Command, all: &[Command]) -> Result<String> {
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
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    synopsis(&own).to_writer(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text)?;
    }
    let mut text = tidy(&String::from_utf8(text)?);
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
    if is_root {
        text.push_str(&exit_status());
    } else {
        text.push_str(
            ".SH EXIT STATUS\n0 when it is done or was already so. Other values and their meaning \
             are in\n.BR cyyber (1).\n",
        );
    }
    text.push_str(&examples(command)?);
    text.push_str(&see_also(&name, all));
    if text.contains(".TS\n") {
        // Has the reader's program lay out tables.
        text.insert_str(0, "'\\\" t\n");
    }
    Ok(text)
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
    for kind in Kind::value_variants() {
        let code = kind.exit_code();
        let word = serde_json::to_string(&kind).unwrap_or_default();
        let word = word.trim_matches('"');
        text.push_str(&format!(
            ".TP\n.BR {code} \" ({word})\"\n{}\n",
            kind.meaning()
        ));
    }
    text
}

/// The examples at the end of the help, of the form `  command   what it does`.
fn examples(command: &Command) -> Result<String> {
    let help = command.get_after_help().map(ToString::to_string);
    let help = help
        .as_deref()
        .and_then(|help| help.strip_prefix("Examples:\n"))
        .with_context(|| format!("{} has no examples", page_name(command)))?;
    let mut text = ".SH EXAMPLES\n".to_owned();
    // A command without a comment may follow one that has one, which is then another paragraph.
    let mut bare = None;
    for line in help.lines().take_while(|line| !line.is_empty()) {
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
    Ok(text)
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
