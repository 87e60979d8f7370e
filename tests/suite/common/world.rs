//! Worlds: the hosts that tests have for themselves (`tests/world.sh`), and how many guests run in
//! all of them together.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use super::{Run, Sandbox, run, tool};

/// Set in a world, to the test that it was made for.
const MADE_FOR: &str = "CYYBER_TEST_WORLD";

/// What a test says at its end in a world of its own.
const PASSED: &str = "passed in a world of its own";

/// How many guests of a kind a small machine runs at once.
const FIRMWARE: usize = 6;
const BOOTED: usize = 3;

/// Runs the rest of the test in a world that no other test sees, with a libvirtd, a firewall and
/// directories that it may spoil: `own_world!()` as the first statement of a test.
macro_rules! own_world {
    () => {
        fn here() {}
        let Some(_world) = $crate::common::world::run_in_own(here) else {
            return;
        };
    };
}
pub(crate) use own_world;

/// The test that a world was made for. It has passed when this is dropped, and the process ends then:
/// at its usual end, handlers of libvirt's libraries may meet threads that still run.
#[derive(Debug)]
pub struct Test;

impl Drop for Test {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            println!("{PASSED}");
            signal_hook::low_level::exit(0);
        }
    }
}

/// The test that `here` is a function of, if this world was made for it. Elsewhere that test is run in
/// a world of its own, and has passed when this returns.
#[track_caller]
pub fn run_in_own<F: Fn()>(_here: F) -> Option<Test> {
    let path = std::any::type_name::<F>();
    let (_, test) = path.split_once("::").unwrap();
    let test = test.strip_suffix("::here").unwrap();
    if std::env::var(MADE_FOR).is_ok_and(|made_for| made_for == test) {
        return Some(Test);
    }
    let mut command = Command::new(script());
    command
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--include-ignored", "--nocapture"])
        .env(MADE_FOR, test);
    let run = Run::of(&mut command);
    print!("{}", run.stdout);
    eprint!("{}", run.stderr);
    assert_eq!(run.code, Some(0), "{test} failed in its world");
    assert!(run.stdout.contains(PASSED), "{test} was not run");
    None
}

/// Has everybody in this world see the memory that is available now, whatever others take and give
/// back meanwhile.
pub fn freeze_available_memory(sandbox: &Sandbox) {
    let now = sandbox.path("meminfo");
    fs::write(&now, fs::read_to_string("/proc/meminfo").unwrap()).unwrap();
    run(tool("mount")
        .arg("--bind")
        .args([&now, Path::new("/proc/meminfo")]));
}

fn script() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/world.sh")
}

/// Where the tests of all worlds keep what they share.
pub fn slots() -> PathBuf {
    match std::env::var_os("CYYBER_SLOTS") {
        Some(directory) => PathBuf::from(directory),
        None => std::env::temp_dir().join("cyyber-test-slots"),
    }
}

/// The command with the network of the real host, for what needs the package mirrors.
pub fn outside(command: &Command) -> Command {
    let mut outside = tool("nsenter");
    outside
        .arg("--net=/run/outside")
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir(command.get_current_dir().unwrap())
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for (name, value) in command.get_envs() {
        outside.env(name, value.unwrap());
    }
    outside
}

/// Leave to run some guests at once, in whatever world.
#[derive(Debug)]
pub struct Guests(
    #[expect(dead_code, reason = "a lock is held as long as its file is open")] Vec<File>,
);

impl Guests {
    /// Leave for guests that stay in their firmware.
    pub fn firmware(count: usize) -> Guests {
        Guests::take("firmware", count, FIRMWARE)
    }

    /// Leave for guests that boot, which takes a processor each: needed until they have booted.
    pub fn booted(count: usize) -> Guests {
        Guests::take("booted", count, BOOTED)
    }

    /// Waits for it: locks on files, because a test in a world of its own is another process. More than
    /// there is leave for is all of it.
    fn take(kind: &str, count: usize, of: usize) -> Guests {
        let count = count.min(of);
        if count == 0 {
            return Guests(Vec::new());
        }
        let directory = slots();
        fs::create_dir_all(&directory).unwrap();
        let file = |name: String| {
            let path = directory.join(name);
            File::options()
                .append(true)
                .create(true)
                .open(path)
                .unwrap()
        };
        // One at a time takes what it needs, so that two never wait for each other.
        let turn = file(kind.to_owned());
        turn.lock().unwrap();
        let mut free: Vec<File> = (0..of)
            .map(|number| file(format!("{kind}-{number}")))
            .collect();
        let mut taken = Vec::new();
        while taken.len() < count {
            match free.iter().position(|slot| slot.try_lock().is_ok()) {
                Some(slot) => taken.push(free.swap_remove(slot)),
                None => sleep(Duration::from_millis(50)),
            }
        }
        Guests(taken)
    }
}
