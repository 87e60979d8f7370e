//! A terminal, as far as what a program draws on it goes.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::PATIENCE;

/// A pseudo terminal with a program's standard output on it.
pub struct Terminal {
    master: File,
    read: Receiver<Vec<u8>>,
    /// Everything that the program wrote.
    pub written: String,
    /// What can be seen, without empty lines at the end.
    pub screen: Vec<String>,
    row: usize,
    /// What of `written` is on the screen.
    drawn: usize,
}

impl Terminal {
    /// Starts `command` on a terminal of this size.
    pub fn start(command: &mut Command, rows: u16, columns: u16) -> (Terminal, Child) {
        Terminal::on(command, rows, columns, false)
    }

    /// The same with its standard error, and so its progress, on the terminal as well.
    pub fn with_progress(command: &mut Command, rows: u16, columns: u16) -> (Terminal, Child) {
        Terminal::on(command, rows, columns, true)
    }

    fn on(command: &mut Command, rows: u16, columns: u16, progress: bool) -> (Terminal, Child) {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave: OwnedFd = rustix::fs::open(name, flags, Mode::empty()).unwrap();
        let mut reader = File::from(master.try_clone().unwrap());
        let (sender, read) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Fails when the program's end is closed.
            while let Ok(count) = reader.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        let terminal = Terminal {
            master: master.into(),
            read,
            written: String::new(),
            screen: Vec::new(),
            row: 0,
            drawn: 0,
        };
        terminal.resize(rows, columns);
        if progress {
            command.stderr(slave.try_clone().unwrap());
        }
        let child = command.env("TERM", "xterm").stdout(slave).spawn().unwrap();
        // The command holds the program's end open.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        (terminal, child)
    }

    /// Makes it smaller or larger.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.master, size).unwrap();
    }

    /// Takes in what the program writes until `done` holds.
    #[track_caller]
    pub fn wait_until(&mut self, what: &str, done: impl Fn(&Terminal) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.read.recv_timeout(left) {
                Ok(bytes) => self.take(&bytes),
                Err(_) => panic!("waited in vain until {what}: {:?}", self.written),
            }
        }
    }

    /// Takes in what the program wrote to its end.
    pub fn finish(&mut self) {
        while let Ok(bytes) = self.read.recv_timeout(Duration::from_secs(5)) {
            self.take(&bytes);
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        // A character may come in two pieces; what is drawn by the tests comes in one.
        self.written.push_str(&String::from_utf8_lossy(bytes));
        let text = self.written[self.drawn..].to_owned();
        self.drawn = self.written.len();
        let mut rest = text.as_str();
        while let Some(c) = rest.chars().next() {
            rest = &rest[c.len_utf8()..];
            match c {
                '\r' => {}
                '\n' => self.row += 1,
                '\u{1b}' => {
                    let end = rest.find(|c: char| c.is_ascii_alphabetic()).unwrap();
                    self.act(&rest[..=end]);
                    rest = &rest[end + 1..];
                }
                c => self.line().push(c),
            }
        }
        while self.screen.last().is_some_and(String::is_empty) {
            self.screen.pop();
        }
    }

    fn line(&mut self) -> &mut String {
        let row = self.row;
        self.screen
            .resize(self.screen.len().max(row + 1), String::new());
        &mut self.screen[row]
    }

    /// Does what an escape sequence says.
    fn act(&mut self, sequence: &str) {
        match sequence {
            // What it looks like is in `written`.
            colour if colour.ends_with('m') => {}
            "[2K" => self.line().clear(),
            "[0J" => self.screen.truncate(self.row),
            "[2J" => self.screen.clear(),
            "[H" => self.row = 0,
            up if up.ends_with('A') => {
                let lines: usize = up[1..up.len() - 1].parse().unwrap();
                self.row = self.row.checked_sub(lines).unwrap();
            }
            other => panic!("what is {other:?}?"),
        }
    }
}
