//! The JSON Schema of the configuration: what the types say, and true of files that the program
//! takes and of files that it refuses.

use crate::common;

use std::path::{Path, PathBuf};

use common::{Sandbox, lab};
use cyyber::config::{Config, schema};
use jsonschema::Validator;
use serde_json::{Value, json};

/// Where the schema is committed, and from where it is installed.
const FILE: &str = "labs/labs-config.schema.json";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn validator() -> Validator {
    let schema = schema();
    assert!(jsonschema::meta::is_valid(&schema), "no schema itself");
    jsonschema::validator_for(&schema).unwrap()
}

/// All that is wrong with `document` by the schema.
fn complaints(validator: &Validator, document: &Value) -> String {
    let lines = validator.iter_errors(document);
    lines
        .map(|error| format!("{}: {error}\n", error.instance_path()))
        .collect()
}

fn load(text: &str) -> anyhow::Result<Config> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, text).unwrap();
    Config::load(Some(file.path()))
}

/// Every configuration in the repository: files, and examples in the documents.
fn shipped() -> Vec<(PathBuf, String)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(root().join("labs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|kind| kind == "json") && !path.ends_with(FILE) {
            let text = read(&path);
            all.push((path, text));
        }
    }
    let page = read("man/labs-config.json.5");
    let page = page.replace("\\-", "-").replace("\\(dq", "\"");
    for example in page.split("\n.EX\n").skip(1) {
        let example = example.split("\n.EE\n").next().unwrap();
        all.push(("man/labs-config.json.5".into(), example.to_owned()));
    }
    let manual = std::fs::read_dir(root().join("man")).unwrap();
    let documents = manual.map(|entry| entry.unwrap().path());
    let documents = documents.filter(|path| path.extension().is_some_and(|kind| kind == "md"));
    for path in documents.chain([root().join("README.md")]) {
        for example in read(&path).split("```json\n").skip(1) {
            let example = example.split("\n```").next().unwrap();
            if example.contains("\"labs\"") {
                all.push((path.clone(), example.to_owned()));
            }
        }
    }
    all
}

#[test]
fn every_configuration_in_the_repository_fits_it() {
    let (validator, shipped) = (validator(), shipped());
    assert!(shipped.len() >= 5, "{}", shipped.len());
    for (path, text) in shipped {
        let document = serde_json::from_str(&text).unwrap();
        let complaints = complaints(&validator, &document);
        assert_eq!(complaints, "", "{}", path.display());
        load(&text).unwrap();
    }
}

fn with(extra: Value) -> Value {
    json!({"labs": [lab("lab01", &extra)]})
}

const SUM: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

#[test]
fn what_the_program_takes_fits_it() {
    let validator = validator();
    for document in [
        with(json!({})),
        json!({"$schema": "labs-config.schema.json", "labs": [lab("a", &json!({}))]}),
        with(json!({"lab_name": "Netz — ünd «so»", "motd": "\u{1b}[31mrot\n\t", "packages": []})),
        with(json!({"image": {"url": "images/a b.qcow2"}})),
        with(json!({"image": {"url": "https://example.org/a.img?x=1", "checksum": SUM}})),
        with(json!({"image": {"url": "https://example.org/@a", "checksum": SUM}})),
        with(json!({"packages": ["g++", "libstdc++6", "7zip", "a.b"]})),
        with(
            json!({"policy": {"idle_after": "never", "destroy_after": "7d"}, "network": "isolated"}),
        ),
        with(json!({"limits": {"disk_iops": 1, "network_bytes_per_second": "10M"}})),
        json!({
            "labs": [lab("lab01", &json!({}))],
            "defaults": {"memory_mb": 512, "policy": {"boot_timeout": "9m"}, "image": {"url": "x"}},
            "host": {"vnc_listen": "::1", "accelerator": "tcg", "storage_dir": "/srv/x"},
        }),
    ] {
        load(&document.to_string()).unwrap();
        assert_eq!(complaints(&validator, &document), "", "{document}");
    }
}

#[test]
fn what_it_refuses_the_program_refuses() {
    let validator = validator();
    for document in [
        json!({}),
        json!([]),
        json!({"labs": []}),
        json!({"labs": {}}),
        json!({"labs": [{"lab_id": "a", "lab_name": "A", "packages": []}]}),
        json!({"labs": [lab("a", &json!({}))], "lbas": []}),
        json!({"labs": [lab("a", &json!({}))], "defaults": {"lab_id": "b"}}),
        json!({"labs": [lab("a", &json!({}))], "defaults": {"memroy_mb": 512}}),
        json!({"labs": [lab("a", &json!({}))], "host": {"acelerator": "kvm"}}),
        json!({"labs": [lab("a", &json!({}))], "host": {"accelerator": "warp"}}),
        with(json!({"lab_id": "Lab_01"})),
        with(json!({"lab_id": "../x"})),
        with(json!({"lab_id": "a".repeat(33)})),
        with(json!({"lab_id": "lab\n"})),
        with(json!({"lab_name": " "})),
        with(json!({"lab_name": "a\nb"})),
        with(json!({"memory_mb": "2G"})),
        with(json!({"memory_mb": 4.5})),
        with(json!({"memory_mb": 127})),
        with(json!({"memory_mb": 1 << 21})),
        with(json!({"vcpus": 0})),
        with(json!({"vcpus": 65})),
        with(json!({"disk_size": "20"})),
        with(json!({"disk_size": "-1G"})),
        with(json!({"packages": ["-o"]})),
        with(json!({"packages": ["nmap-"]})),
        with(json!({"packages": "nmap"})),
        with(json!({"motd": null})),
        with(json!({"network": "open"})),
        with(json!({"policy": {"idle_after": "soon"}})),
        with(json!({"policy": {"boot_timeout": "never"}})),
        with(json!({"limits": {"disk_iops": 0}})),
        with(json!({"image": {"url": "http://example.org/x"}})),
        with(json!({"image": {"url": "https://example.org/x"}})),
        with(json!({"image": {"url": "https://me:secret@example.org/x", "checksum": SUM}})),
        with(json!({"image": {"url": "https://example.org/{{ isotime }}", "checksum": SUM}})),
        with(json!({"image": {"url": "x", "checksum": "md5:0"}})),
        with(json!({"image": {}})),
    ] {
        assert!(load(&document.to_string()).is_err(), "{document}");
        assert!(!validator.is_valid(&document), "{document}");
    }
}

/// An editor shows the key's description: that is what the schema is for.
#[test]
fn every_key_is_described() {
    fn undescribed(value: &Value, place: &str, found: &mut Vec<String>) {
        let Some(object) = value.as_object() else {
            return;
        };
        for (key, below) in object {
            if key == "properties" {
                for (name, schema) in below.as_object().unwrap() {
                    if schema.get("description").is_none() {
                        found.push(format!("{place}.{name}"));
                    }
                    undescribed(schema, &format!("{place}.{name}"), found);
                }
            } else if !matches!(key.as_str(), "if" | "then") {
                undescribed(below, &format!("{place}.{key}"), found);
            }
        }
    }
    let mut found = Vec::new();
    undescribed(&schema(), "", &mut found);
    assert!(found.is_empty(), "{found:?}");
}

/// A configuration may name it, as editors want.
#[test]
fn the_program_takes_a_file_that_names_its_schema() {
    let sandbox = Sandbox::new();
    let named = json!({
        "$schema": "/usr/local/share/cyyber/labs/labs-config.schema.json",
        "labs": [lab(&sandbox.lab, &json!({}))],
    });
    sandbox.write_config(&named.to_string());
    sandbox.cyyber(["instance", "list"]).ok();
}
