//! The gateway beside websockify and beside QEMU's own WebSocket: `cargo bench --bench gateway`, as root
//! with libvirtd running and websockify installed; the exit status is 1 when a bound is exceeded.
//!
//! All three stand before the same consoles in one run, and take turns.

#[allow(dead_code, reason = "other benchmarks use the rest")]
mod shared;

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use des::cipher::{Array, BlockCipherEncrypt, KeyInit};
use serde_json::Value;
use shared::{Bench, done};
use tungstenite::{Message, WebSocket};

/// Instances: a user's may have sixteen sessions.
const USERS: usize = 7;

/// Sessions in which nothing happens.
const IDLE: usize = 100;

/// Sessions in which somebody works, and their round trips: a key and what it changes.
const BUSY: usize = 20;
const KEYS: usize = 1000;

/// Round trips of each.
const TRIPS: usize = 400;

/// How often a paused instance is woken, by each.
const WAKES: usize = 10;

/// Full screens of each.
const SCREENS: usize = 60;

fn main() -> ExitCode {
    shared::exit(run())
}

/// A lab with an empty disk.
fn set_up() -> Result<Bench> {
    let dir = tempfile::tempdir()?;
    let image = dir.path().join("empty.qcow2");
    let mut create = Command::new("qemu-img");
    create.args(["create", "-q", "-f", "qcow2"]).arg(&image);
    done(create.arg("1G"))?;
    Bench::set_up(&image, 128)
}

fn instance(bench: &Bench, verb: &str, user: usize, options: &[&str]) -> Result<Value> {
    let mut command = bench.cyyber();
    command
        .args(["-q", "-o", "json", "instance", verb, &bench.lab])
        .arg(user.to_string())
        .args(options);
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {said}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// A program that is gone with this.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A browser at a console.
struct Client {
    socket: WebSocket<TcpStream>,
    received: Vec<u8>,
    size: [u8; 4],
}

impl Client {
    /// Gets in at `url`, with a password where one is asked for.
    fn enter(port: u16, path: &str, password: Option<&str>) -> Result<Client> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let (socket, _) = tungstenite::client(format!("ws://127.0.0.1:{port}{path}"), stream)?;
        let mut client = Client {
            socket,
            received: Vec::new(),
            size: [0; 4],
        };
        client.read(12)?;
        client.send(b"RFB 003.008\n")?;
        let kinds = usize::from(client.read(1)?[0]);
        client.read(kinds)?;
        if let Some(password) = password {
            client.send(&[2])?;
            let mut key = [0; 8];
            for (key, byte) in key.iter_mut().zip(password.bytes()) {
                *key = byte.reverse_bits();
            }
            let des = des::Des::new(&Array(key));
            let mut answer = client.read(16)?;
            for block in answer.chunks_mut(8) {
                let mut cipher = Array([0; 8]);
                cipher.copy_from_slice(block);
                des.encrypt_block(&mut cipher);
                block.copy_from_slice(&cipher);
            }
            client.send(&answer)?;
        } else {
            client.send(&[1])?;
        }
        ensure!(client.read(4)? == [0; 4], "not let in");
        client.send(&[1])?;
        let greeting = client.read(24)?;
        client.size.copy_from_slice(&greeting[..4]);
        client.read(usize::from(greeting[23]))?;
        Ok(client)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.socket.send(Message::binary(bytes.to_vec()))?)
    }

    fn read(&mut self, length: usize) -> Result<Vec<u8>> {
        while self.received.len() < length {
            if let Message::Binary(bytes) = self.socket.read()? {
                self.received.extend_from_slice(&bytes);
            }
        }
        let rest = self.received.split_off(length);
        Ok(std::mem::replace(&mut self.received, rest))
    }

    /// Says that it knows QEMU's keys, which QEMU confirms at once.
    fn trip(&mut self) -> Result<Duration> {
        let began = Instant::now();
        self.send(&[2, 0, 0, 1, 0xFF, 0xFF, 0xFE, 0xFE])?;
        self.read(16)?;
        Ok(began.elapsed())
    }

    /// Gets the whole screen as it is, uncompressed.
    fn screen(&mut self) -> Result<usize> {
        let [w0, w1, h0, h1] = self.size;
        self.send(&[3, 0, 0, 0, 0, 0, w0, w1, h0, h1])?;
        let head = self.read(4)?;
        let mut all = 4;
        for _ in 0..u16::from_be_bytes([head[2], head[3]]) {
            let head = self.read(12)?;
            let [width, height] = [4, 6].map(|at| u16::from_be_bytes([head[at], head[at + 1]]));
            let pixels = usize::from(width) * usize::from(height) * 4;
            self.read(pixels)?;
            all += 12 + pixels;
        }
        Ok(all)
    }
}

/// The memory of a process and its children that is theirs, and the CPU time they have used.
fn cost(pid: u32) -> Result<(u64, Duration)> {
    let mut all = (0, Duration::ZERO);
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let pss = pss
        .and_then(|pss| pss.trim().strip_suffix(" kB"))
        .context("no Pss")?;
    all.0 = pss.trim().parse::<u64>()?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("no stat")?;
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|it| it.parse::<u64>().ok())
        .sum();
    all.1 = Duration::from_millis(ticks * 10);
    for child in children(pid)? {
        let (memory, time) = cost(child)?;
        all.0 += memory;
        all.1 += time;
    }
    Ok(all)
}

fn children(pid: u32) -> Result<Vec<u32>> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let children = children.split_whitespace().map(str::parse);
    Ok(children.collect::<Result<_, _>>()?)
}

/// The CPU time that the process takes while some of the sessions are at work.
fn busy(sessions: &mut [Client], pid: u32) -> Result<Duration> {
    let before = cost(pid)?.1;
    for _ in 0..KEYS {
        for session in sessions.iter_mut().take(BUSY) {
            session.trip()?;
        }
    }
    Ok(cost(pid)?.1 - before)
}

fn quantile(times: &mut [Duration], part: usize) -> Duration {
    times.sort_unstable();
    times[times.len() * part / 100]
}

fn run() -> Result<bool> {
    let bench = set_up()?;
    let instance =
        |verb: &str, user: usize, options: &[&str]| instance(&bench, verb, user, options);
    let mut gateway = bench.cyyber();
    gateway
        .args(["-q", "gateway", "--listen", "127.0.0.1:0"])
        .stdout(Stdio::null());
    let gateway = Server(gateway.spawn()?);
    let status = bench.path("state/gateway.json");
    let gateway_port = wait_for_port(&status)?;
    for user in 0..USERS {
        instance("start", user, &[])?;
    }
    // The firmware looks for something to boot.
    sleep(Duration::from_secs(20));
    let consoles = (0..USERS).map(|user| instance("console", user, &[]));
    let consoles = consoles.collect::<Result<Vec<_>>>()?;
    let port = |of: usize, name: &str| u16::try_from(consoles[of][name].as_u64().unwrap_or(0));
    let password = |of: usize| consoles[of]["vnc_password"].as_str();
    // QEMU takes 32 connections at a console.
    let tokens = bench.path("tokens");
    let lines =
        (0..USERS).map(|user| Ok(format!("u{user}: 127.0.0.1:{}\n", port(user, "vnc_port")?)));
    std::fs::write(&tokens, lines.collect::<Result<String>>()?)?;
    let proxy_port = std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port();
    let mut websockify = Command::new("websockify");
    websockify
        .args(["--token-plugin", "TokenFile", "--token-source"])
        .arg(&tokens)
        .arg(format!("127.0.0.1:{proxy_port}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let websockify = Server(websockify.spawn().context("websockify cannot be run")?);
    for _ in 0..100 {
        if TcpStream::connect(("127.0.0.1", proxy_port)).is_ok() {
            break;
        }
        sleep(Duration::from_millis(50));
    }
    let by_proxy =
        |user: usize| Client::enter(proxy_port, &format!("/?token=u{user}"), password(user));

    // All idle sessions of websockify first: the password is good for a minute.
    let before = cost(websockify.0.id())?;
    let mut idle = (0..IDLE)
        .map(|number| by_proxy(number % USERS))
        .collect::<Result<Vec<_>>>()?;
    sleep(Duration::from_secs(1));
    let proxy_idle = cost(websockify.0.id())?.0 - before.0;
    let proxy_busy = busy(&mut idle, websockify.0.id())?;
    drop(idle);
    let direct = Client::enter(port(0, "novnc_port")?, "/", password(0))?;
    let proxied = by_proxy(0)?;
    let path = |user: usize, option: &str| -> Result<String> {
        let answer = instance("console", user, &[option])?;
        Ok(answer["console_path"]
            .as_str()
            .context("no path")?
            .to_owned())
    };
    let before = cost(gateway.0.id())?;
    let mut idle = (0..IDLE)
        .map(|number| {
            let option = ["--path-only", "--view"][number / USERS % 2];
            Client::enter(gateway_port, &path(number % USERS, option)?, None)
        })
        .collect::<Result<Vec<_>>>()?;
    sleep(Duration::from_secs(1));
    let all_of_gateway = cost(gateway.0.id())?.0;
    let gateway_idle = all_of_gateway - before.0;
    let gateway_busy = busy(&mut idle, gateway.0.id())?;
    drop(idle);
    let ours = Client::enter(gateway_port, &path(0, "--path-only")?, None)?;

    let mut clients = [direct, proxied, ours];
    let mut trips = [const { Vec::new() }; 3];
    for _ in 0..TRIPS {
        for (client, trips) in clients.iter_mut().zip(&mut trips) {
            trips.push(client.trip()?);
        }
    }
    // websockify has a process for each session, and those that have ended disappear at some time.
    let proxying = children(websockify.0.id())?.into_iter().max();
    let proxying = proxying.context("websockify has no session")?;
    let cpu = || -> Result<[Duration; 2]> { Ok([cost(proxying)?.1, cost(gateway.0.id())?.1]) };
    let before = cpu()?;
    let (mut taken, mut bytes) = ([Duration::ZERO; 3], 0);
    for _ in 0..SCREENS {
        for (client, taken) in clients.iter_mut().zip(&mut taken) {
            let began = Instant::now();
            bytes = client.screen()?;
            *taken += began.elapsed();
        }
    }
    let after = cpu()?;

    let names = ["QEMU's own WebSocket", "websockify", "gateway"];
    for ((name, trips), taken) in names.iter().zip(&mut trips).zip(taken) {
        println!(
            "{name}: round trip p50 {:?}, p95 {:?}; full screen of {bytes} bytes: {:.1} a second",
            quantile(trips, 50),
            quantile(trips, 95),
            SCREENS as f64 / taken.as_secs_f64(),
        );
    }
    let spent = [0, 1].map(|which| after[which] - before[which]);
    println!(
        "CPU time of {SCREENS} full screens: websockify {:?}, gateway {:?}",
        spent[0], spent[1]
    );
    println!(
        "memory of {IDLE} idle sessions: websockify {proxy_idle} kB, gateway {gateway_idle} kB \
         ({all_of_gateway} kB with the program itself)"
    );
    println!(
        "CPU time of {BUSY} busy sessions with {KEYS} keys each: websockify {proxy_busy:?}, gateway \
         {gateway_busy:?}, ratio {:.2}",
        gateway_busy.div_duration_f64(proxy_busy)
    );
    let added = quantile(&mut trips[2], 50).saturating_sub(quantile(&mut trips[0], 50));
    drop(clients);
    let [mut alone, mut by_qemu, mut by_connecting] = [const { Vec::new() }; 3];
    let mut resume = || -> Result<()> {
        instance("pause", 0, &[])?;
        let began = Instant::now();
        let resumed = instance("resume", 0, &[])?;
        alone.push(began.elapsed());
        let port = u16::try_from(resumed["novnc_port"].as_u64().unwrap_or(0))?;
        Client::enter(port, "/", resumed["vnc_password"].as_str())?.screen()?;
        by_qemu.push(began.elapsed());
        Ok(())
    };
    let mut connect = || -> Result<()> {
        instance("pause", 0, &[])?;
        let path = path(0, "--path-only")?;
        let began = Instant::now();
        Client::enter(gateway_port, &path, None)?.screen()?;
        by_connecting.push(began.elapsed());
        Ok(())
    };
    for turn in 0..WAKES {
        if turn % 2 == 0 {
            resume()?;
            connect()?;
        } else {
            connect()?;
            resume()?;
        }
    }
    for (name, times) in [
        ("resume alone", &mut alone),
        (
            "resume, then QEMU's own WebSocket to the first picture",
            &mut by_qemu,
        ),
        ("connecting, to the first picture", &mut by_connecting),
    ] {
        println!(
            "{name}: p50 {:?}, p95 {:?}",
            quantile(times, 50),
            quantile(times, 95)
        );
    }
    let bounds = [
        (
            "the first picture is there after 1.2 times what resume alone takes at most",
            quantile(&mut by_connecting, 50) <= quantile(&mut alone, 50).mul_f64(1.2),
        ),
        (
            "a round trip takes at most 1 ms more than with QEMU",
            added <= Duration::from_millis(1),
        ),
        (
            "full screens come at 0.9 times QEMU's speed at least",
            taken[2].as_secs_f64() * 0.9 <= taken[0].as_secs_f64(),
        ),
        (
            "idle sessions take a quarter of websockify's memory at most",
            gateway_idle * 4 <= proxy_idle,
        ),
        (
            "busy sessions take a quarter of websockify's CPU time at most",
            gateway_busy * 4 <= proxy_busy,
        ),
    ];
    for (what, holds) in bounds {
        println!("{}: {what}", if holds { "ok" } else { "EXCEEDED" });
    }
    Ok(bounds.iter().all(|(_, holds)| *holds))
}

fn wait_for_port(status: &Path) -> Result<u16> {
    for _ in 0..200 {
        if let Ok(text) = std::fs::read(status) {
            let status: Value = serde_json::from_slice(&text)?;
            let port = status["listen"]
                .as_str()
                .and_then(|it| it.rsplit(':').next()?.parse().ok());
            return port.context("it listens nowhere");
        }
        sleep(Duration::from_millis(50));
    }
    anyhow::bail!("the gateway does not listen")
}
