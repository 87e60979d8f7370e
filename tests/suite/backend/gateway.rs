//! The same page through the gateway: a paused lab wakes by connecting, and a teacher watches.

use std::fs;
use std::io::Write;
use std::time::SystemTime;

use serde_json::json;

use super::server::Backend;
use super::student::{Picture, echo_guest, first_line, screen};
use super::webdriver::Browser;
use crate::common::world::own_world;
use crate::common::{Sandbox, text, wait_until};
use crate::gateway::Gateway;

#[test]
#[ignore = "needs libvirt, QEMU, FastAPI, noVNC and Chromium: run by `make test`"]
fn a_student_wakes_a_lab_by_connecting_and_a_teacher_watches() {
    own_world!();
    let Some(browser) = Browser::start() else {
        // Past the test harness, which keeps the words of a passing test to itself.
        let _ = writeln!(std::io::stderr(), "skipped: chromedriver cannot be run");
        return;
    };
    let sandbox = Sandbox::with_guests(1);
    echo_guest(&sandbox);
    let gateway = Gateway::start(&sandbox, &[]);
    let url = format!("ws://{}", gateway.address);
    let backend = Backend::serve(&sandbox, &[("BACKEND_GATEWAY", &url)]);
    let instance = sandbox.instance_name("anna");
    let page = |what: &str| browser.script(&format!("return {what}"));
    let reaches = |state: &str| browser.reaches(state);
    let seen = || Picture::of(&browser.screenshot_of("canvas"));
    let used = || -> SystemTime {
        let file = sandbox.path("state/activity").join(&instance);
        fs::metadata(file).unwrap().modified().unwrap()
    };

    browser.open(&format!("{}/novnc/package.json", backend.url));
    let login = "fetch('/login?user=anna', {method: 'POST'}).then((answer) => answer.status)";
    assert_eq!(page(login), 204);
    browser.open(&format!("{}/lab/{}", backend.url, sandbox.lab));
    reaches("connected");
    let edges = browser.script(
        "const screen = document.getElementById('screen');
         return ['Width', 'Height'].map((of) => window[`outer${of}`] - screen[`client${of}`]);",
    );
    let [width, height] = [0, 1].map(|i| edges[i].as_i64().unwrap());
    browser.resize(720 + width, 400 + height);
    wait_until("the browser shows what QEMU shows", || {
        first_line(&instance) == "Type:" && seen() == screen(&sandbox, &instance)
    });
    let before = used();
    browser.type_into("canvas", "Hi {}@");
    wait_until("the keys arrive", || {
        first_line(&instance) == "Type: Hi {}@"
    });
    wait_until("typing is use", || used() > before);

    // Paused under her hands, and not woken by the page itself.
    sandbox.instance("pause", "anna", &[]).ok();
    reaches("off");
    let told = text(&page("document.getElementById('status').textContent"));
    assert!(told.contains("was paused"), "{told}");
    assert_eq!(sandbox.state("anna"), "paused");
    browser.click("#connect");
    reaches("connected");
    wait_until("it is as it was", || seen() == screen(&sandbox, &instance));
    browser.type_into("canvas", "?");
    wait_until("it goes on", || first_line(&instance) == "Type: Hi {}@?");

    // A second one, on the same screen, who sees it and cannot touch it.
    let answer = sandbox.instance("console", "anna", &["--view"]).json();
    let path = json!(format!("{url}{}", text(&answer["console_path"])));
    browser.open(&format!("{}/novnc/package.json", backend.url));
    let watch = format!(
        "return import('/novnc/core/rfb.js').then(({{default: RFB}}) => {{
             document.body.style.margin = 0;
             document.body.replaceChildren();
             window.rfb = new RFB(document.body, {path});
             return new Promise((done) => rfb.addEventListener('connect', () => done('in')));
         }});"
    );
    assert_eq!(browser.script(&watch), "in");
    wait_until("the teacher sees it", || {
        seen() == screen(&sandbox, &instance)
    });
    let before = used();
    let send = "for (let i = 0; i < 334; i++) {
                    rfb.sendKey(120, 'KeyX');
                    rfb.clipboardPasteFrom('x' + i);
                }
                return 'sent';";
    assert_eq!(browser.script(send), "sent");
    browser.type_into("canvas", "touched");
    wait_until("the teacher sees it still", || {
        seen() == screen(&sandbox, &instance)
    });
    assert_eq!(first_line(&instance), "Type: Hi {}@?");
    assert_eq!(used(), before);
}
