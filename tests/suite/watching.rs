//! `stats --watch`, on libvirt's test driver and on a real guest.

use crate::common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use common::shape::{STATS, assert_null, assert_shape};
use common::terminal::Terminal;
use common::{Run, Sandbox, wait_until, with_environment};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A sandbox and the URI of a test driver with running instances, user 1 to user `count`.
fn with_instances(count: u32) -> (Sandbox, String) {
    let sandbox = Sandbox::new();
    let uri = format!("test://{}", sandbox.path("node.xml").display());
    put_instances(&sandbox, count);
    (sandbox, uri)
}

/// The test driver reads its file anew for each connection, and with it for each refresh.
fn put_instances(sandbox: &Sandbox, count: u32) {
    let domains: String = (1..=count)
        .map(|user| {
            format!(
                "<domain type='test'><name>{}_user_{user}</name>\
                 <uuid>63797962-6572-8000-8000-{user:012x}</uuid>\
                 <memory unit='MiB'>128</memory><os><type>hvm</type></os></domain>",
                sandbox.lab
            )
        })
        .collect();
    let new = sandbox.path("new.xml");
    fs::write(&new, format!("<node>{domains}</node>")).unwrap();
    fs::rename(new, sandbox.path("node.xml")).unwrap();
}

fn watch(sandbox: &Sandbox, uri: &str, arguments: &[&str]) -> Command {
    let all = ["-c", uri, "instance", "stats", "--watch"];
    sandbox.command(all.iter().chain(arguments))
}

/// The next line that a program writes.
fn line(reader: &mut impl BufRead) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(line.ends_with('\n'), "{line:?}");
    line.pop();
    line
}

fn end(child: Child, signal: Signal) -> Run {
    let began = Instant::now();
    kill_process(Pid::from_child(&child), signal).unwrap();
    let run = Run::end_of(child).ok();
    assert_eq!(run.stderr, "", "{run:#?}");
    assert!(began.elapsed() < Duration::from_secs(5));
    run
}

#[test]
fn json_is_one_document_a_line_until_a_signal() {
    let (sandbox, uri) = with_instances(2);
    for signal in [Signal::INT, Signal::TERM] {
        let mut child = watch(&sandbox, &uri, &["1", "-o", "json"]).spawn().unwrap();
        let mut reader = BufReader::new(child.stdout.take().unwrap());
        for _ in 0..2 {
            let document: Value = serde_json::from_str(&line(&mut reader)).unwrap();
            let instances = document["instances"].as_array().unwrap();
            assert_eq!(instances.len(), 2, "{document:#}");
            instances.iter().for_each(|one| assert_shape(one, STATS));
        }
        end(child, signal);
    }
}

#[test]
fn without_a_number_it_is_every_two_seconds() {
    let (sandbox, uri) = with_instances(1);
    let mut child = watch(&sandbox, &uri, &["-o", "json"]).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    line(&mut reader);
    let began = Instant::now();
    line(&mut reader);
    line(&mut reader);
    let took = began.elapsed();
    assert!(took > Duration::from_millis(3500), "two took {took:?}");
    end(child, Signal::INT);
}

#[test]
fn tables_follow_one_another_where_there_is_no_terminal() {
    let (sandbox, uri) = with_instances(1);
    let lab = sandbox.lab.as_str();
    for arguments in [&["1"][..], &["1", lab, "1"]] {
        let mut child = watch(&sandbox, &uri, arguments).spawn().unwrap();
        let mut reader = BufReader::new(child.stdout.take().unwrap());
        let lines: Vec<_> = (0..5).map(|_| line(&mut reader)).collect();
        end(child, Signal::INT);
        for start in [0, 3] {
            assert!(lines[start].starts_with("INSTANCE"), "{lines:#?}");
            assert!(lines[start + 1].contains("_user_1  running"), "{lines:#?}");
        }
        assert_eq!(lines[2], "");
        assert!(!lines.concat().contains('\u{1b}'), "{lines:#?}");
    }
}

#[test]
fn a_reader_that_goes_away_ends_it_at_once() {
    let (sandbox, uri) = with_instances(1);
    let mut child = watch(&sandbox, &uri, &["3600"]).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    line(&mut reader);
    drop(reader);
    wait_until("the program has ended", || {
        child.try_wait().unwrap().is_some()
    });
    let run = Run::end_of(child).ok();
    assert_eq!(run.stderr, "", "{run:#?}");
}

#[test]
fn an_instance_that_vanishes_is_not_found() {
    let (sandbox, uri) = with_instances(2);
    let lab = sandbox.lab.as_str();
    let mut child = watch(&sandbox, &uri, &["1", lab, "2"]).spawn().unwrap();
    let mut all = watch(&sandbox, &uri, &["1"]).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut reader_of_all = BufReader::new(all.stdout.take().unwrap());
    line(&mut reader);
    line(&mut reader_of_all);
    put_instances(&sandbox, 1);
    Run::end_of(child).says(4, "no instance");
    // Of all, one less are shown.
    wait_until("one is shown", || {
        line(&mut reader_of_all).is_empty() && {
            line(&mut reader_of_all);
            line(&mut reader_of_all);
            line(&mut reader_of_all).is_empty()
        }
    });
    end(all, Signal::INT);
}

#[test]
fn a_terminal_shows_one_refresh_at_a_time() {
    let (sandbox, uri) = with_instances(12);
    let mut command = watch(&sandbox, &uri, &["1"]);
    let (mut terminal, child) = Terminal::start(&mut command, 12, 60);
    terminal.wait_until("the third refresh", |terminal| {
        terminal.written.matches("INSTANCE").count() == 3 && terminal.written.ends_with("[0J")
    });
    let screen = &terminal.screen;
    let head = screen[..6].join(" ");
    for part in [
        "Host       ",
        " memory used, ",
        " available, ",
        "CPU ",
        "Instances  12 in all, 12 running ",
        &format!("Next       {}_user_1 idle in ", sandbox.lab),
    ] {
        assert!(head.contains(part), "{part}: {screen:#?}");
    }
    // What there is no room for is left out, and nothing is cut.
    assert!(
        screen[6].starts_with("INSTANCE") && !screen[6].contains("VCPUS"),
        "{screen:#?}"
    );
    // A line is left for the cursor.
    assert_eq!((screen.len(), screen[10].as_str()), (11, "… and 9 more"));
    assert!(
        screen.iter().all(|line| line.chars().count() <= 60),
        "{screen:#?}"
    );

    terminal.resize(30, 200);
    terminal.wait_until("all is shown", |terminal| terminal.screen.len() == 18);
    assert!(
        terminal.screen[5].contains("VCPUS"),
        "{:#?}",
        terminal.screen
    );

    put_instances(&sandbox, 1);
    terminal.wait_until("one is shown", |terminal| terminal.screen.len() == 7);
    assert_eq!(terminal.screen[1], "Instances  1 in all, 1 running");

    end(child, Signal::INT);
    terminal.finish();
    assert_eq!(terminal.screen.len(), 7, "{:#?}", terminal.screen);
    assert!(
        terminal.written.ends_with("\r\u{1b}[2K"),
        "{:?}",
        terminal.written
    );
}

#[test]
fn json_is_not_drawn_and_a_dumb_terminal_is_not_drawn_on() {
    let (sandbox, uri) = with_instances(1);
    for (arguments, term) in [(&["1", "-o", "json"][..], "xterm"), (&["1"], "dumb")] {
        let mut command = with_environment(&watch(&sandbox, &uri, arguments), "TERM", term);
        let (mut terminal, child) = Terminal::start(&mut command, 24, 80);
        terminal.wait_until("the second refresh", |terminal| {
            terminal.written.matches("cpu_count").count() == 2
                || terminal.written.matches("INSTANCE").count() == 2
        });
        end(child, Signal::INT);
        assert!(
            !terminal.written.contains('\u{1b}'),
            "{:?}",
            terminal.written
        );
    }
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_real_guest_is_watched_while_it_runs() {
    let sandbox = Sandbox::with_guests(1);
    sandbox.base(&sandbox.lab);
    sandbox.instance("start", "7", &[]).ok();
    let mut child = sandbox
        .instance_command("stats", "7", &["--watch", "1"])
        .spawn()
        .unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut next = || serde_json::from_str::<Value>(&line(&mut reader)).unwrap();
    let mut before = None;
    for _ in 0..3 {
        let stats = next();
        assert_shape(&stats, STATS);
        // Its firmware has no driver for the balloon.
        assert_null(&stats, &["memory_guest_used_mb"]);
        let percent = stats["cpu_percent"].as_f64().unwrap();
        let total = stats["cpu_time_ns"].as_f64().unwrap();
        if let Some(before) = before.replace(total) {
            // A tenth of a percent more or less is rounding; on a busy machine a second is longer
            // for one refresh, and so shorter for the next one.
            let of_a_second = (total - before) / 1e7;
            assert!(
                (0.3 * of_a_second - 0.1..=3.0 * of_a_second + 0.1).contains(&percent),
                "{before}: {stats:#}"
            );
        }
    }
    // Powered off and on between two refreshes, it has no time to be measured from.
    sandbox.instance("stop", "7", &["--force"]).ok();
    while next()["state"] != "stopped" {}
    sandbox.instance("start", "7", &[]).ok();
    while next()["state"] == "stopped" {}
    assert!(next()["cpu_percent"].is_number());
    end(child, Signal::INT);
}

#[test]
#[ignore = "needs libvirt: run by `make test`"]
fn a_libvirtd_that_goes_away_ends_it() {
    let sandbox = Sandbox::new();
    let socket = sandbox.path("socket");
    let relay = Relay::start(&socket);
    let uri = format!("qemu+unix:///system?socket={}", socket.display());
    let mut child = watch(&sandbox, &uri, &["1", "-o", "json"]).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    line(&mut reader);
    line(&mut reader);
    relay.cut(&socket);
    let run = Run::end_of(child);
    run.error_json(8);
}

/// A socket whose other end is libvirtd's.
struct Relay(std::sync::mpsc::Receiver<[UnixStream; 2]>);

impl Relay {
    fn start(socket: &std::path::Path) -> Relay {
        let listener = UnixListener::bind(socket).unwrap();
        let (sender, streams) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let server = UnixStream::connect("/run/libvirt/libvirt-sock").unwrap();
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
                if sender.send([client, server]).is_err() {
                    return;
                }
            }
        });
        Relay(streams)
    }

    /// Ends every connection and takes no more.
    fn cut(self, socket: &std::path::Path) {
        fs::remove_file(socket).unwrap();
        for stream in self.0.try_iter().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

#[test]
fn what_the_policy_did_in_the_last_day_is_above_it() {
    let (sandbox, uri) = with_instances(2);
    std::fs::create_dir_all(sandbox.path("state")).unwrap();
    let visit = crate::report::visit(&sandbox.lab, "x", 600);
    std::fs::write(sandbox.path("state/events.jsonl"), visit).unwrap();
    let mut command = watch(&sandbox, &uri, &["1"]);
    let (mut terminal, child) = Terminal::start(&mut command, 20, 100);
    terminal.wait_until("the second refresh", |terminal| {
        terminal.written.matches("INSTANCE").count() == 2 && terminal.written.ends_with("[0J")
    });
    let screen = terminal.screen.join(" ");
    for part in [
        "Policy     last 10h",
        "4.0 GiB hours used, 6.1 freed",
        "2 pauses",
        "1 failed starts",
    ] {
        assert!(screen.contains(part), "{part}: {:#?}", terminal.screen);
    }
    end(child, Signal::INT);
    terminal.finish();
}
