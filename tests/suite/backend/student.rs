//! What a student meets: the page with noVNC in a real browser, connected to QEMU's own WebSocket.
//! The guest is a boot sector that draws and echoes, which takes a second where an operating system
//! takes a minute.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use serde_json::json;

use super::server::Backend;
use super::webdriver::Browser;
use crate::common::world::own_world;
use crate::common::{Sandbox, run, tool, virsh, wait_until};

/// Letters of both cases, digits, and what needs another key held down.
const TYPED: &str = "Hello, Cyyber 42! <|> {}@#~";

/// Pixels of a picture, row by row.
#[derive(PartialEq, Eq)]
pub struct Picture {
    width: u32,
    height: u32,
    pixels: Vec<[u8; 3]>,
}

impl Picture {
    /// Reads a PNG.
    pub fn of(png: &[u8]) -> Picture {
        let decoder = png::Decoder::new(std::io::Cursor::new(png));
        let mut reader = decoder.read_info().unwrap();
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut bytes).unwrap();
        assert_eq!(info.bit_depth, png::BitDepth::Eight);
        let pixels = bytes
            .chunks_exact(info.color_type.samples())
            .map(|pixel| [pixel[0], pixel[1], pixel[2]])
            .collect();
        Picture {
            width: info.width,
            height: info.height,
            pixels,
        }
    }

    fn colours(&self) -> usize {
        self.pixels.iter().collect::<BTreeSet<_>>().len()
    }
}

/// Makes the base image of the sandbox's lab one of the guest in echo.s.
pub fn echo_guest(sandbox: &Sandbox) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/backend/echo.s");
    let [object, sector] = ["echo.o", "echo"].map(|name| sandbox.path(name));
    run(tool("as").arg("--32").arg(source).arg("-o").arg(&object));
    run(tool("ld")
        .args(["-m", "elf_i386", "--oformat", "binary", "-Ttext", "0x7c00"])
        .arg(&object)
        .arg("-o")
        .arg(&sector));
    // As large as a disk that QEMU takes.
    let disk = File::options().write(true).open(&sector).unwrap();
    disk.set_len(1 << 20).unwrap();
    let base = sandbox.path(format!("storage/base-images/{}-base.qcow2", sandbox.lab));
    run(tool("qemu-img")
        .args(["convert", "-f", "raw", "-O", "qcow2"])
        .args([&sector, &base]));
}

/// The first line on the guest's screen, out of its own memory.
pub fn first_line(instance: &str) -> String {
    let dump = virsh([
        "qemu-monitor-command",
        "--hmp",
        "--",
        instance,
        "xp /80hx 0xb8000",
    ]);
    let words = dump.split_whitespace();
    let cells = words.filter_map(|word| u16::from_str_radix(word.strip_prefix("0x")?, 16).ok());
    let line: String = cells
        .map(|cell| char::from(cell.to_le_bytes()[0]))
        .collect();
    line.trim_end().to_owned()
}

/// What QEMU has on the guest's screen.
pub fn screen(sandbox: &Sandbox, instance: &str) -> Picture {
    let file = sandbox.path("screen.png");
    virsh(["screenshot", "--", instance, &file.to_string_lossy()]);
    Picture::of(&fs::read(file).unwrap())
}

#[test]
#[ignore = "needs libvirt, QEMU, FastAPI, noVNC and Chromium: run by `make test`"]
fn a_student_sees_the_lab_in_a_browser_and_types_into_it() {
    own_world!();
    let Some(browser) = Browser::start() else {
        // Past the test harness, which keeps the words of a passing test to itself.
        let _ = writeln!(std::io::stderr(), "skipped: chromedriver cannot be run");
        return;
    };
    let sandbox = Sandbox::with_guests(1);
    echo_guest(&sandbox);
    let backend = Backend::serve(&sandbox, &[]);
    let instance = sandbox.instance_name("anna");
    let page = |what: &str| browser.script(&format!("return {what}"));
    let reaches = |state: &str| browser.reaches(state);

    browser.open(&format!("{}/novnc/package.json", backend.url));
    let login = "fetch('/login?user=anna', {method: 'POST'}).then((answer) => answer.status)";
    assert_eq!(page(login), 204);
    browser.open(&format!("{}/lab/{}", backend.url, sandbox.lab));
    reaches("connected");

    // Nothing stands between the browser and QEMU.
    let port = sandbox.listed("anna")["novnc_port"].to_string();
    let ends = |which: &str| {
        let filter = format!("{which} = :{port}");
        run(tool("ss").args(["-Htnp", "state", "established", &filter]))
    };
    let qemu = format!("pid={},", sandbox.qemu_pid("anna").as_raw_pid());
    assert!(ends("sport").contains(&qemu), "{}", ends("sport"));
    assert!(ends("dport").contains("\"chrom"), "{}", ends("dport"));

    // Room for the screen as it is, so that every pixel can be compared.
    let seen = || Picture::of(&browser.screenshot_of("canvas"));
    let edges = browser.script(
        "const screen = document.getElementById('screen');
         return ['Width', 'Height'].map((of) => window[`outer${of}`] - screen[`client${of}`]);",
    );
    let [width, height] = [0, 1].map(|i| edges[i].as_i64().unwrap());
    browser.resize(720 + width, 400 + height);
    wait_until("the browser shows what QEMU shows", || {
        first_line(&instance) == "Type:" && seen() == screen(&sandbox, &instance)
    });
    let picture = seen();
    assert_eq!((picture.width, picture.height), (720, 400));
    assert_eq!(picture.colours(), 16, "the bar of all colours");

    browser.type_into("canvas", TYPED);
    let typed = format!("Type: {TYPED}");
    wait_until("the keys arrive", || first_line(&instance) == typed);
    wait_until("what they did is seen", || {
        let now = seen();
        now != picture && now == screen(&sandbox, &instance)
    });
    let shot = Path::new(env!("CARGO_TARGET_TMPDIR")).join("student.png");
    fs::write(&shot, browser.screenshot()).unwrap();

    // Paused under her hands, and back with a click, as it was.
    let before = seen();
    assert_eq!(page("document.getElementById('connect').hidden"), true);
    sandbox.instance("pause", "anna", &[]).ok();
    reaches("off");
    browser.click("#connect");
    reaches("connected");
    wait_until("it is as it was", || seen() == before);
    browser.type_into("canvas", "?");
    wait_until("it goes on", || {
        first_line(&instance) == typed.clone() + "?"
    });
    assert_eq!(
        page("document.getElementById('status').textContent"),
        json!(format!("{}: connected", sandbox.lab))
    );
    println!("see {}", shot.display());
}
