//! The committed reference is what the program says of itself: `man/*.1`, `completions/` and the schema
//! are made from its types by `man/reference`, and `man/labs-config.json.5`, which is written by
//! hand, has every key that the configuration accepts. `make reference` writes the generated files anew.

#[path = "../../man/reference/files.rs"]
mod files;

use std::collections::BTreeSet;
use std::path::Path;

use cyyber::config::{Config, Host};
use cyyber::paths::Paths;
use cyyber::state::lock;
use cyyber::units::Patience;

use files::{commands, files_in, page_name, pages, root};

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn the_committed_reference_is_what_the_program_says() {
    let (there, wanted) = (files::committed().unwrap(), files::wanted().unwrap());
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
    let pages = pages().unwrap();
    for part in files_in("man/parts").unwrap() {
        let page = Path::new("man").join(part.with_extension("1").file_name().unwrap());
        assert!(pages.contains_key(&page), "{} has no page", part.display());
    }
}

#[test]
fn every_page_has_what_a_reader_looks_for() {
    for (path, page) in pages().unwrap() {
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
    for mut command in commands() {
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
    let page = words(&pages().unwrap()[Path::new("man/cyyber.1")]);
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
const KEYS: [(&str, &str); 11] = [
    ("The file", r##"{"labs": [LAB], #}"##),
    ("A lab", r##"{"labs": [{LAB, #}]}"##),
    ("image", r##"{"labs": [{LAB, "image": {"url": "x", #}}]}"##),
    ("branding", r##"{"labs": [{LAB, "branding": {#}}]}"##),
    ("provision", r##"{"labs": [{LAB, "provision": {#}}]}"##),
    ("policy", r##"{"labs": [{LAB, "policy": {#}}]}"##),
    (
        "in_class",
        r##"{"labs": [{LAB, "policy": {"in_class": {#}}}]}"##,
    ),
    ("limits", r##"{"labs": [{LAB, "limits": {#}}]}"##),
    (
        "timetable",
        r##"{"labs": [LAB], "timetable": [{"lab": "a", "roster": "x", #}]}"##,
    ),
    ("host", r##"{"labs": [LAB], "host": {#}}"##),
    ("cluster", r##"{"labs": [LAB], "cluster": {#}}"##),
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
        (
            "destroy_notice",
            minutes(&Patience::After(lab.policy.destroy_notice)),
        ),
        ("max_connected", minutes(&lab.policy.max_connected)),
        ("busy_cpu", lab.policy.busy_cpu.to_string()),
        ("max_busy", minutes(&lab.policy.max_busy)),
        ("max_runtime", minutes(&lab.policy.max_runtime)),
        (
            "boot_timeout",
            minutes(&Patience::After(lab.policy.boot_timeout)),
        ),
        ("announce", lab.policy.announce.to_string()),
        ("prewarm", minutes(&lab.policy.prewarm)),
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
