//! A browser, by way of its own remote control (the W3C's WebDriver). As much of it as a student's
//! hands and eyes need.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tempfile::{NamedTempFile, TempDir};

use crate::common::{wait_until, waits};

/// The key under which an element's id travels.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Longer than the browser takes for anything, in seconds.
const LONGEST: u64 = 60;

/// A headless Chromium with an empty profile. Gone with this.
#[derive(Debug)]
pub struct Browser {
    driver: Child,
    session: String,
    profile: TempDir,
}

impl Browser {
    /// Starts one; `None` where there is none to start. The test has a world of its own: Chromium
    /// drops what it is loading when an address comes or goes on its host, and here each VM's card
    /// has one. Now those that come do without.
    pub fn start() -> Option<Browser> {
        fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let profile = tempfile::tempdir().unwrap();
        let log = NamedTempFile::new().unwrap();
        let driver = Command::new("chromedriver")
            .arg("--port=0")
            .env_clear()
            .env("PATH", path)
            .env("HOME", profile.path())
            .stdin(Stdio::null())
            .stdout(log.reopen().unwrap())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .ok()?;
        let mut browser = Browser {
            driver,
            session: String::new(),
            profile,
        };
        let mut url = String::new();
        wait_until("chromedriver listens", || {
            let log = fs::read_to_string(&log).unwrap();
            let Some((_, rest)) = log.split_once("successfully on port ") else {
                return false;
            };
            let Some((port, _)) = rest.split_once('.') else {
                return false;
            };
            url = format!("http://127.0.0.1:{port}/session");
            true
        });
        let profile = browser.profile.path().join("profile");
        let options = json!({"args": arguments(&profile)});
        let wanted = json!({"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}});
        let session = browser.command("POST", &url, &wanted);
        browser.session = format!("{url}/{}", session["sessionId"].as_str().unwrap());
        Some(browser)
    }

    /// Goes to a page.
    pub fn open(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    /// What a script in the page returns.
    #[track_caller]
    pub fn script(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({"script": script, "args": []}))
    }

    /// Waits until the page says that it is in this state. Fails with the page's own words.
    #[track_caller]
    pub fn reaches(&self, state: &str) {
        let [mut now, mut told] = [Value::Null, Value::Null];
        let arrives = waits(|| {
            now = self.script("return document.body.dataset.state");
            told = self.script("return document.getElementById('status')?.textContent");
            now == state
        });
        assert!(arrives, "the page is {now}, not {state}: {told}");
    }

    /// Makes the window so large.
    pub fn resize(&self, width: i64, height: i64) {
        self.post("/window/rect", &json!({"width": width, "height": height}));
    }

    /// Presses the keys of `text` on the element that `selector` finds.
    pub fn type_into(&self, selector: &str, text: &str) {
        let element = self.find(selector);
        self.post(&format!("/element/{element}/value"), &json!({"text": text}));
    }

    /// Clicks on the element that `selector` finds.
    pub fn click(&self, selector: &str) {
        let element = self.find(selector);
        self.post(&format!("/element/{element}/click"), &json!({}));
    }

    /// What the window shows, as PNG.
    pub fn screenshot(&self) -> Vec<u8> {
        self.picture("/screenshot")
    }

    /// What it shows of the element that `selector` finds, as PNG.
    pub fn screenshot_of(&self, selector: &str) -> Vec<u8> {
        self.picture(&format!("/element/{}/screenshot", self.find(selector)))
    }

    fn picture(&self, path: &str) -> Vec<u8> {
        let url = format!("{}{path}", self.session);
        let png = self.command("GET", &url, &Value::Null);
        STANDARD.decode(png.as_str().unwrap()).unwrap()
    }

    fn find(&self, selector: &str) -> String {
        let by = json!({"using": "css selector", "value": selector});
        let element = self.post("/element", &by);
        element[ELEMENT].as_str().unwrap().to_owned()
    }

    #[track_caller]
    fn post(&self, path: &str, body: &Value) -> Value {
        self.command("POST", &format!("{}{path}", self.session), body)
    }

    #[track_caller]
    fn command(&self, method: &str, url: &str, body: &Value) -> Value {
        let request = match method {
            "GET" => minreq::get(url),
            _ => minreq::post(url).with_body(body.to_string()),
        };
        let response = request.with_timeout(LONGEST).send().unwrap();
        let mut answer: Value = serde_json::from_slice(response.as_bytes()).unwrap();
        assert_eq!(response.status_code, 200, "{url} {body}: {answer:#}");
        answer["value"].take()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends the browser, which the driver started.
        let _ = minreq::delete(&self.session).with_timeout(LONGEST).send();
        let _ = kill_process_group(Pid::from_child(&self.driver), Signal::KILL);
        let _ = self.driver.wait();
    }
}

/// Root has no sandbox, and nothing is to be fetched or kept.
fn arguments(profile: &Path) -> Vec<String> {
    let mut arguments: Vec<String> = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    .map(str::to_owned)
    .into();
    arguments.push(format!("--user-data-dir={}", profile.display()));
    arguments
}
