//! What is in `templates/monitoring`: rules and a dashboard, looked at by Prometheus itself where it is
//! installed.

use crate::common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{sleep, spawn};
use std::time::Duration;

use common::{Sandbox, run, tool, wait_until};
use serde_json::Value;

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("templates/monitoring")
}

fn read(name: &str) -> String {
    fs::read_to_string(here().join(name)).unwrap()
}

fn has(program: &str) -> bool {
    let there = which::which(program).is_ok();
    if !there {
        println!("skipped: there is no {program}");
    }
    there
}

/// What the dashboard asks, with the variables that Grafana would fill in.
fn queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read("cyyber.dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap());
    let queries = targets.map(|target| target["expr"].as_str().unwrap());
    queries
        .map(|query| {
            let query = query.replace("$__range", "5m");
            query.replace("$__rate_interval", "1m")
        })
        .collect()
}

/// The words that begin with `cyyber_`.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
    words.filter(|word| word.starts_with("cyyber_")).collect()
}

#[test]
fn rules_and_dashboard_ask_for_what_there_is() {
    let sandbox = Sandbox::new();
    sandbox.base(&sandbox.lab);
    // Its base is a build from here on. The journal is another one.
    sandbox.instance("create", "7", &[]).ok();
    fs::remove_file(sandbox.path("state/events.jsonl")).unwrap();
    sandbox.cyyber(["reap"]).ok();
    let metrics = sandbox.cyyber(["metrics"]).ok().stdout;
    fs::create_dir_all(sandbox.path("state")).unwrap();
    let visit = crate::report::visit(&sandbox.lab, "7", 600);
    fs::write(sandbox.path("state/events.jsonl"), visit).unwrap();
    let metrics = metrics + &sandbox.cyyber(["metrics"]).ok().stdout;
    let there = metrics_in(&metrics);
    for file in [
        "cyyber.rules.yml",
        "cyyber.rules.test.yml",
        "cyyber.dashboard.json",
    ] {
        let text = read(file);
        let asked = metrics_in(&text);
        assert!(asked.len() > 5, "{asked:?}");
        let missing: Vec<_> = asked.difference(&there).collect();
        assert!(missing.is_empty(), "{file}: {missing:?}");
    }
    // Every metric is in its manual page.
    let page = fs::read_to_string(here().join("../../man/parts/cyyber-metrics.roff")).unwrap();
    for metric in there {
        let name = metric.trim_start_matches("cyyber_");
        let name = ["_bucket", "_sum", "_count"]
            .into_iter()
            .find_map(|part| name.strip_suffix(part))
            .unwrap_or(name);
        assert!(page.contains(name), "{metric} is in no manual page");
    }
}

#[test]
#[ignore = "needs Prometheus: run by `make test`"]
fn prometheus_takes_the_rules_and_they_fire_when_they_should() {
    if has("promtool") {
        let check = |words: &[&str]| run(tool("promtool").args(words).current_dir(here()));
        check(&["check", "rules", "cyyber.rules.yml"]);
        check(&["test", "rules", "cyyber.rules.test.yml"]);
    }
}

/// Ends with the test.
struct Prometheus(Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Answers everybody with the present text; the port.
fn serve(text: Arc<Mutex<String>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let text = text.lock().unwrap().clone();
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n\
                 Content-Length: {}\r\nConnection: close\r\n\r\n{text}",
                text.len()
            );
        }
    });
    port
}

#[test]
#[ignore = "needs Prometheus: run by `make test`"]
fn every_query_of_the_dashboard_has_an_answer() {
    if !has("prometheus") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.base(&sandbox.lab);
    // Its base is a build from here on. The journal is another one.
    sandbox.instance("create", "7", &[]).ok();
    fs::remove_file(sandbox.path("state/events.jsonl")).unwrap();
    sandbox.cyyber(["reap"]).ok();
    fs::create_dir_all(sandbox.path("state")).unwrap();
    let text = Arc::new(Mutex::new(sandbox.cyyber(["metrics"]).ok().stdout));
    let (port, web) = (serve(Arc::clone(&text)), free_port());
    let config = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
         rule_files: [{}]\n\
         scrape_configs:\n- job_name: cyyber\n  static_configs: [{{targets: ['127.0.0.1:{port}']}}]\n",
        here().join("cyyber.rules.yml").display()
    );
    fs::write(sandbox.path("prometheus.yml"), config).unwrap();
    let mut command = Command::new("prometheus");
    command
        .arg("--config.file=prometheus.yml")
        .arg("--storage.tsdb.path=tsdb")
        .arg(format!("--web.listen-address=127.0.0.1:{web}"))
        .current_dir(sandbox.path(""))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let _prometheus = Prometheus(command.spawn().unwrap());
    let ask = |query: &str| -> Option<Value> {
        let query: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let url = format!("http://127.0.0.1:{web}/api/v1/query?query={query}");
        let answer = minreq::get(url).send().ok()?;
        let answer: Value = serde_json::from_str(answer.as_str().ok()?).ok()?;
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        Some(answer["data"]["result"].clone())
    };
    let is_there = |query: &str| {
        let results = ask(query)?.as_array()?.clone();
        let values = results
            .iter()
            .map(|it| it["value"][1].as_str().unwrap().to_owned());
        Some(values.collect::<Vec<_>>()).filter(|values| !values.is_empty())
    };
    wait_until("Prometheus scrapes", || {
        is_there("cyyber_build_info").is_some()
    });
    // A day: each time somebody comes, waits, leaves and is paused.
    let mut journal = String::new();
    for n in 0..6 {
        journal += &crate::report::visit(&sandbox.lab, &format!("s{n}"), 1400 - 100 * n);
        journal += &crate::report::line(&sandbox.lab, "", 1, "build", "", "", 90_000);
        fs::write(sandbox.path("state/events.jsonl"), &journal).unwrap();
        *text.lock().unwrap() = sandbox.cyyber(["metrics"]).ok().stdout;
        sleep(Duration::from_millis(1500));
    }
    let queries = queries();
    assert!(queries.len() > 20, "{}", queries.len());
    for query in queries {
        let values = is_there(&query).unwrap_or_else(|| panic!("empty: {query}"));
        assert!(
            !values.iter().all(|value| value == "NaN"),
            "{query}: {values:?}"
        );
    }
}
