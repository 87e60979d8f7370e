//! What one pass of the reaper records for the next.
//!
//! It is only a cache: a pass without it only observes, and an instance that was not seen stopped
//! for long enough is not destroyed. The size per instance is limited, whatever its guest says.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::lead_time::StartTimes;
use crate::clock::Moment;
use crate::files;
use crate::hypervisor::Trouble;
use crate::instance::record::{self, Run, StartedBy};
use crate::names::Rung;
use crate::state::coverage::LONGEST_GAP;

/// How far the clock may differ from the elapsed time before it counts as having been set.
const CLOCK_SLACK: SignedDuration = SignedDuration::from_secs(30);

/// The minimum period over which CPU time is measured: an idle guest has short busy moments.
const SHORTEST: SignedDuration = SignedDuration::from_secs(30);

/// On an overloaded host, a guest that used or waited for this much of one CPU, in percent, is
/// busy.
const WANTED: u8 = 50;

/// The maximum size of the file: enough for ten thousand instances with everything recorded, and
/// for a hundred thousand others.
const LARGEST: u64 = 96 << 20;

/// How often it is tried to bring an instance up for a lesson.
pub const MOST_FAILURES: u8 = 3;

/// How many doubts are recorded, and how many characters of each.
const MOST_DOUBTS: usize = 4;
const LONGEST_DOUBT: usize = 200;

/// The record of passes.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Passes {
    last: Option<Last>,
    /// The last reported problem of the host, so that it is reported once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub troubles: Vec<String>,
    /// How long the last pass took, in milliseconds.
    #[serde(default)]
    pub took_ms: Option<u64>,
    /// When the clock was last seen to have been set.
    pub trusted_from: Option<Timestamp>,
    /// The report that there was too little memory for lessons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub short_for_lessons: Option<String>,
    /// The instances that were prepared for a lesson, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ready: BTreeMap<String, Ready>,
    /// What starts for lessons took lately, by lab and by how they were to start.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub start_times: BTreeMap<String, BTreeMap<StartedBy, StartTimes>>,
    /// By name.
    #[serde(default)]
    seen: BTreeMap<String, Seen>,
}

/// The preparation of an instance for a lesson.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// When that was done or last attempted.
    pub at: Timestamp,
    /// How often it failed.
    #[serde(default)]
    pub failures: u8,
    /// It is done or was given up.
    pub done: bool,
    /// How it was started, as long as its guest is not known to be up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub booting: Option<StartedBy>,
    /// When its guest was up, if that took longer than to start it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<Timestamp>,
}

impl Ready {
    /// One of which something was tried at `at`.
    pub fn new(at: Timestamp) -> Ready {
        Ready {
            at,
            failures: 0,
            done: false,
            booting: None,
            up: None,
        }
    }

    /// Whether it is given up.
    pub fn is_given_up(&self) -> bool {
        self.done && self.failures >= MOST_FAILURES
    }

    /// Whether its guest was up at the time `bell`.
    pub fn was_up_at(&self, bell: Timestamp) -> bool {
        let is_up = self.done && !self.is_given_up() && self.booting.is_none();
        is_up && self.up.unwrap_or(self.at) <= bell
    }
}

/// When the last pass was, by the clock and by the time since boot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Last {
    at: Timestamp,
    host_boot: String,
    uptime: SignedDuration,
}

/// What passes saw of one instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Its domain.
    pub uuid: Uuid,
    /// Since when passes have seen it stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_since: Option<Timestamp>,
    /// The announcement that it will be destroyed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announced: Option<Announcement>,
    /// The step that people in its guest were warned of, or would have been.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warned: Option<Rung>,
    /// When its run was last used, and the name of the sign that said so, as judged by the last
    /// pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<(Timestamp, String)>,
    /// Its present run, and when that was first seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<(Run, Timestamp)>,
    /// The present or last client of its console.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console: Option<Connection>,
    /// Whether it was connected in the last pass that checked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    connected: bool,
    /// Input from its keyboard and pointer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Input>,
    /// The CPU use of its run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<Work>,
    /// When its guest was last asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Timestamp>,
    /// Why its guest did not give a valid answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Trouble>,
    /// The doubts that were last reported, so that they are reported once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    doubts: Vec<String>,
}

/// An announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// When it will be destroyed.
    pub at: Timestamp,
    /// The administrator's program was run for it.
    #[serde(default)]
    pub told: bool,
}

/// A client that has seen the console's picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// When it was first seen.
    pub since: Timestamp,
    /// When it was last seen.
    pub seen: Timestamp,
}

/// The number of keyboard and pointer events of a run, and when it last increased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Interrupts since the guest was booted.
    pub count: u64,
    /// When a pass first saw this count; `None` for the first count, which may be old.
    pub at: Option<Timestamp>,
}

/// The CPU time of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// The time that it had used and had waited for a CPU of the host, in nanoseconds.
    cpu_ns: [u64; 2],
    /// When that was measured, since boot.
    uptime: SignedDuration,
    /// It was compared with an earlier figure of this run.
    #[serde(default)]
    pub measured: bool,
    /// When a pass last found it busy, or could not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy: Option<Timestamp>,
}

/// The circumstances of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Circumstances {
    /// The last one was a moment ago.
    Usual,
    /// There was none for so long that this one only observes.
    AfterOutage,
    /// The clock was set in the meantime.
    ClockSet,
}

impl Passes {
    /// The record at `path`; empty if it cannot be read.
    pub fn read(path: &Path) -> Passes {
        files::read_up_to(path, LARGEST)
            .ok()
            .and_then(|content| serde_json::from_slice(&content).ok())
            .unwrap_or_default()
    }

    /// When the last pass was.
    pub fn last(&self) -> Option<Timestamp> {
        self.last.as_ref().map(|last| last.at)
    }

    /// Begins a pass.
    pub fn begin(&mut self, now: &Moment) -> Circumstances {
        let this = Last::at(now);
        let circumstances = match &self.last {
            None => Circumstances::AfterOutage,
            Some(last) => last.until(&this),
        };
        if circumstances != Circumstances::Usual {
            for seen in self.seen.values_mut() {
                // Nobody could see the announcement.
                (seen.stopped_since, seen.announced) = (None, None);
            }
        }
        // Guests that ran then no longer run.
        if self
            .last
            .as_ref()
            .is_none_or(|it| it.host_boot != this.host_boot)
        {
            self.ready.clear();
        }
        if circumstances == Circumstances::ClockSet {
            self.trusted_from = Some(now.time);
        }
        // A time in the future becomes valid at some time, or is removed here.
        self.trusted_from = self.trusted_from.map(|from| from.min(now.time));
        self.last = Some(this);
        circumstances
    }

    /// Ends a pass, which may have taken a while.
    pub fn end(&mut self, now: &Moment) {
        self.last = Some(Last::at(now));
    }

    /// What was seen of the instance `name` whose domain is `uuid`; removes it from the record.
    pub fn take(&mut self, name: &str, uuid: Uuid) -> Seen {
        let seen = self.seen.remove(name).filter(|seen| seen.uuid == uuid);
        seen.unwrap_or_else(|| Seen::new(uuid))
    }

    /// What was seen of it, if anything was.
    pub fn get(&self, name: &str, uuid: Uuid) -> Option<&Seen> {
        self.seen.get(name).filter(|seen| seen.uuid == uuid)
    }

    /// Like [`Passes::take`], but keeps it in the record.
    pub fn seen(&self, name: &str, uuid: Uuid) -> Seen {
        self.get(name, uuid)
            .cloned()
            .unwrap_or_else(|| Seen::new(uuid))
    }

    /// Records these, and no others.
    pub fn put<'a>(&mut self, seen: impl Iterator<Item = (&'a str, &'a Seen)>) {
        self.seen = seen
            .map(|(name, seen)| (name.to_owned(), seen.clone()))
            .collect();
    }

    /// Keeps this for the next pass.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        files::make_directory_of(path)?;
        files::replace_soon(path, &serde_json::to_vec(self)?, files::SHARED)
    }
}

/// The recorded part of a doubt.
pub fn bounded(text: &str) -> String {
    text.chars().take(LONGEST_DOUBT).collect()
}

impl Last {
    fn at(now: &Moment) -> Last {
        Last {
            at: now.time,
            host_boot: record::host_boot().to_owned(),
            uptime: now.uptime,
        }
    }

    fn until(&self, this: &Last) -> Circumstances {
        let by_clock = this.at.duration_since(self.at);
        let went_by = this.uptime.saturating_sub(self.uptime);
        let differs = by_clock.saturating_sub(went_by).unsigned_abs();
        if self.host_boot == this.host_boot && differs > CLOCK_SLACK.unsigned_abs()
            || by_clock.saturating_add(CLOCK_SLACK) < SignedDuration::ZERO
        {
            return Circumstances::ClockSet;
        }
        if self.host_boot != this.host_boot || by_clock > LONGEST_GAP {
            Circumstances::AfterOutage
        } else {
            Circumstances::Usual
        }
    }
}

impl Seen {
    /// For an instance that no pass has seen.
    pub fn new(uuid: Uuid) -> Seen {
        Seen {
            uuid,
            ..Seen::default()
        }
    }

    /// Records whether it is stopped at `now`.
    pub fn stopped(&mut self, stopped: bool, now: Timestamp) {
        self.stopped_since = stopped.then(|| self.stopped_since.unwrap_or(now));
    }

    /// Records its present run.
    pub fn running(&mut self, run: Option<Run>, now: Timestamp) {
        let same = self.run.as_ref().map(|(run, _)| run) == run.as_ref();
        if !same {
            self.run = run.map(|run| (run, now));
            self.console = None;
            self.input = None;
            self.work = None;
            self.used = None;
            self.asked = None;
            self.trouble = None;
            self.warned = None;
            self.doubts.clear();
        }
    }

    /// Records whether there is a client at `now`.
    pub fn connected(&mut self, connected: bool, now: Timestamp) {
        if connected {
            let known = self.console.filter(|_| self.connected);
            let since = known.map_or(now, |known| known.since);
            self.console = Some(Connection { since, seen: now });
        }
        self.connected = connected;
    }

    /// Whether somebody was watching its console when that was last checked.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// Records its doubts; returns those that were not reported before. Doubts that its guest
    /// causes are reported once while the guest runs; otherwise a guest could cause a report in
    /// each pass.
    pub fn doubted(
        &mut self,
        doubts: &[String],
        is_of_guest: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        let doubts = doubts.iter().map(|doubt| bounded(doubt));
        let doubts: Vec<_> = doubts.take(MOST_DOUBTS).collect();
        let is_new = |doubt: &&String| !self.doubts.contains(doubt);
        let new = doubts.iter().filter(is_new).cloned().collect();
        self.doubts
            .retain(|doubt| is_of_guest(doubt) && !doubts.contains(doubt));
        self.doubts.splice(0..0, doubts);
        self.doubts.truncate(MOST_DOUBTS);
        new
    }

    /// Records the CPU time that its run has used and waited for, in nanoseconds. It is busy if the
    /// first has grown by `least` percent of one CPU, or both together by half of one; if that is
    /// unknown, it counts as busy.
    pub fn worked(&mut self, cpu_ns: [u64; 2], now: &Moment, least: u8) {
        let begun_now = self.run.as_ref().is_some_and(|(_, at)| *at == now.time);
        let busy = match &self.work {
            // Its CPU time so far comes from its start.
            None => !begun_now,
            Some(work) => {
                let elapsed = now.uptime.saturating_sub(work.uptime);
                if (SignedDuration::ZERO..SHORTEST).contains(&elapsed) {
                    return;
                }
                let [used, waited] = [0, 1].map(|n: usize| {
                    let grown = cpu_ns[n].checked_sub(work.cpu_ns[n]);
                    grown.map(u128::from)
                });
                let time = elapsed.as_nanos().unsigned_abs();
                let is_share =
                    |ns: u128, of: u8| ns.saturating_mul(100) >= time.saturating_mul(of.into());
                !(SHORTEST..=LONGEST_GAP).contains(&elapsed)
                    || used.zip(waited).is_none_or(|(used, waited)| {
                        is_share(used, least) || is_share(used.saturating_add(waited), WANTED)
                    })
            }
        };
        let known = self.work.as_ref();
        self.work = Some(Work {
            cpu_ns,
            uptime: now.uptime,
            measured: known.is_some(),
            busy: match busy {
                true => Some(now.time),
                false => known.and_then(|work| work.busy),
            },
        });
    }

    /// Records the number of keyboard and pointer events; returns when they were last used, if
    /// known. For the first count it is unknown: anything typed before came through a console whose
    /// client passes have seen.
    pub fn heard(&mut self, count: u64, now: Timestamp) -> Option<Timestamp> {
        let at = match self.input {
            Some(input) if input.count == count => input.at,
            Some(_) => Some(now),
            None => None,
        };
        self.input = Some(Input { count, at });
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::xml::domain::new_uuid;

    fn moment(seconds: i64, uptime: i64) -> Moment {
        Moment {
            time: Timestamp::from_second(1_800_000_000 + seconds).unwrap(),
            uptime: SignedDuration::from_secs(uptime),
        }
    }

    #[test]
    fn an_outage_and_a_clock_that_was_set_are_told_from_the_usual() {
        use Circumstances::{AfterOutage, ClockSet, Usual};
        for (clock, uptime, wanted) in [
            (60, 60, Usual),
            (65, 60, Usual),
            (600, 600, Usual),
            (700, 700, AfterOutage),
            (3 * 86_400, 3 * 86_400, AfterOutage),
            (3600, 60, ClockSet),
            (-3600, 60, ClockSet),
            (60, 3600, ClockSet),
        ] {
            let mut passes = Passes::default();
            let uuid = new_uuid();
            assert_eq!(passes.begin(&moment(0, 1000)), AfterOutage, "the first");
            let mut seen = passes.take("a", uuid);
            seen.stopped(true, moment(0, 0).time);
            passes.put([("a", &seen)].into_iter());
            let now = moment(clock, 1000 + uptime);
            assert_eq!(passes.begin(&now), wanted, "{clock} {uptime}");
            let kept = passes.take("a", uuid).stopped_since.is_some();
            assert_eq!(kept, wanted == Usual);
            let trusted = (wanted == ClockSet).then_some(now.time);
            assert_eq!(passes.trusted_from, trusted);
        }
    }

    #[test]
    fn it_is_read_back_and_nothing_is_made_of_garbage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/passes.json");
        let mut passes = Passes::default();
        passes.begin(&moment(0, 0));
        let uuid = new_uuid();
        let now = moment(0, 0).time;
        let mut seen = passes.take("lab01_user_7", uuid);
        seen.stopped(true, now);
        seen.running(Some(Run::current(3)), now);
        seen.connected(true, now);
        seen.heard(17, now);
        passes.put([("lab01_user_7", &seen)].into_iter());
        passes.write(&path).unwrap();
        let mut back = Passes::read(&path);
        assert_eq!(back.begin(&moment(60, 60)), Circumstances::Usual);
        assert_eq!(back.take("lab01_user_7", uuid), seen);
        let other = Passes::read(&path).take("lab01_user_7", new_uuid());
        assert_eq!(other.stopped_since, None, "another VM of that name");

        let many: Vec<_> = (0..20_000).map(|n| format!("lab01_user_{n}")).collect();
        passes.put(many.iter().map(|name| (&**name, &seen)));
        passes.write(&path).unwrap();
        assert!(path.metadata().unwrap().len() > 1 << 20);
        assert_eq!(Passes::read(&path).take("lab01_user_19999", uuid), seen);
        std::fs::write(&path, "{").unwrap();
        assert!(Passes::read(&path).last.is_none());
    }

    #[test]
    fn a_client_counts_from_when_it_came() {
        let at = |seconds| moment(seconds, 0).time;
        let mut seen = Seen::new(new_uuid());
        seen.connected(true, at(0));
        seen.connected(true, at(60));
        let console = seen.console.unwrap();
        assert_eq!((console.since, console.seen), (at(0), at(60)));
        seen.connected(false, at(120));
        assert_eq!(seen.console.unwrap().seen, at(60));
        seen.connected(true, at(150));
        assert_eq!(seen.console.unwrap().since, at(150), "it came back");
        seen.running(Some(Run::current(1)), at(180));
        assert_eq!(seen.console, None, "of another run");
    }

    #[test]
    fn input_counts_from_when_it_was_heard() {
        let at = |seconds| moment(seconds, 0).time;
        let mut seen = Seen::new(new_uuid());
        assert_eq!(seen.heard(5, at(0)), None, "nobody knows");
        assert_eq!(seen.heard(5, at(60)), None);
        assert_eq!(seen.heard(6, at(120)), Some(at(120)));
        assert_eq!(seen.heard(6, at(180)), Some(at(120)));
        assert_eq!(seen.heard(2, at(240)), Some(at(240)), "it was rebooted");
    }

    #[test]
    fn work_is_measured_between_passes_and_what_cannot_be_told_is_work() {
        const SECOND: u64 = 1_000_000_000;
        let now = |seconds: i64| moment(seconds, 1000 + seconds);
        let mut seen = Seen::new(new_uuid());
        let mut after = |cpu: u64, at: i64| {
            seen.running(Some(Run::current(1)), now(0).time);
            seen.worked([cpu, 0], &now(at), 20);
            seen.work.unwrap().busy
        };
        assert_eq!(after(90 * SECOND, 0), None, "its start");
        assert_eq!(
            after(102 * SECOND - 1, 60),
            None,
            "a little less than a fifth"
        );
        assert_eq!(after(114 * SECOND, 120), Some(now(120).time));
        assert_eq!(after(114 * SECOND, 180), Some(now(120).time), "no more");
        assert_eq!(
            after(120 * SECOND, 209),
            Some(now(120).time),
            "too soon to tell"
        );
        assert_eq!(
            after(120 * SECOND, 210),
            Some(now(210).time),
            "since the 180th second"
        );
        assert_eq!(after(10 * SECOND, 270), Some(now(270).time), "it went back");
        assert_eq!(after(10 * SECOND, 330), Some(now(270).time));
        assert_eq!(
            after(11 * SECOND, 931),
            Some(now(931).time),
            "who knows since when"
        );
        assert_eq!(
            after(12 * SECOND, 900),
            Some(now(900).time),
            "no clock runs back"
        );
        assert_eq!(after(u64::MAX, 960), Some(now(960).time));
        // Setting the clock does not change the duration.
        let jumped = moment(1_000_000, 1000 + 1020);
        seen.worked([u64::MAX, 0], &jumped, 20);
        assert_eq!(seen.work.unwrap().busy, Some(now(960).time));
        // Known for longer, but never measured.
        let mut seen = Seen::new(new_uuid());
        seen.running(Some(Run::current(1)), now(0).time);
        seen.worked([SECOND, 0], &now(60), 20);
        assert_eq!(seen.work.unwrap().busy, Some(now(60).time));
        // An overloaded host.
        seen.worked([2 * SECOND, 29 * SECOND - 1], &now(120), 20);
        assert_eq!(seen.work.unwrap().busy, Some(now(60).time));
        seen.worked([4 * SECOND, 57 * SECOND], &now(180), 20);
        assert_eq!(seen.work.unwrap().busy, Some(now(180).time));
        seen.running(Some(Run::current(2)), now(240).time);
        assert_eq!(seen.work, None, "of another run");
    }

    #[test]
    fn what_a_guest_brings_about_is_told_once_in_a_run_and_the_rest_once_each_time() {
        let mut seen = Seen::new(new_uuid());
        let doubts =
            |texts: &[&str]| -> Vec<String> { texts.iter().map(ToString::to_string).collect() };
        let mut new = |texts: &[&str]| {
            let new = seen.doubted(&doubts(texts), |doubt| doubt.starts_with("guest"));
            new.len()
        };
        assert_eq!(new(&["guest mute", "file"]), 2);
        assert_eq!(new(&["guest mute", "file"]), 0);
        assert_eq!(new(&["guest liar"]), 1);
        for _ in 0..3 {
            assert_eq!(new(&["guest mute"]), 0, "as before");
            assert_eq!(new(&["guest liar"]), 0);
            assert_eq!(new(&[]), 0);
        }
        assert_eq!(new(&["file"]), 1, "it was mended meanwhile");
        seen.running(Some(Run::current(2)), moment(0, 0).time);
        assert_eq!(seen.doubted(&doubts(&["guest mute"]), |_| true).len(), 1);
    }

    #[test]
    fn what_is_remembered_of_one_is_bounded() {
        let now = moment(0, 0).time;
        let mut seen = Seen::new(new_uuid());
        seen.running(Some(Run::current(u32::MAX - 1)), now);
        seen.connected(true, now);
        seen.heard(u64::MAX, now);
        seen.heard(0, now);
        for n in 0..2 {
            seen.worked([u64::MAX - n; 2], &moment(600, i64::MAX - 600), 20);
        }
        (seen.asked, seen.trouble) = (Some(now), Some(Trouble::Nonsense));
        seen.announced = Some(Announcement {
            at: now,
            told: true,
        });
        seen.used = Some((now, "touched".to_owned()));
        seen.warned = Some(Rung::Destroyed);
        for flood in 0..100 {
            let doubts: Vec<_> = (0..100)
                .map(|n| format!("{flood} {n}") + &"\u{1}".repeat(1 << 16))
                .collect();
            seen.doubted(&doubts, |_| true);
        }
        let size = serde_json::to_vec(&seen).unwrap().len() as u64;
        assert!(size < LARGEST / 10_000, "{size}");
        seen.doubts.clear();
        let size = serde_json::to_vec(&seen).unwrap().len() as u64;
        assert!(size + 128 < LARGEST / 100_000, "{size}");
    }

    #[test]
    fn a_pass_that_took_long_is_no_outage() {
        let mut passes = Passes::default();
        passes.begin(&moment(0, 0));
        passes.end(&moment(900, 900));
        assert_eq!(passes.begin(&moment(960, 960)), Circumstances::Usual);
    }
}
