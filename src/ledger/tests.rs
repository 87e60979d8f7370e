use super::*;

/// Monday, midnight, in UTC.
const MONDAY: i64 = 1_799_625_600 - 1_799_625_600 % 604_800 + 4 * 86_400;

fn at(minutes: i64) -> Timestamp {
    Timestamp::from_second(MONDAY + minutes * 60).unwrap()
}

/// Lines of a journal: minute, action, who, from, to, milliseconds.
fn add(ledger: &mut Ledger, lines: &[(i64, &str, &str, &str, &str, u64)]) {
    for (minute, action, who, from, to, ms) in lines {
        let quoted = |state: &str| match state {
            "" => "null".to_owned(),
            state => format!("\"{state}\""),
        };
        let (ok, from, to) = (*to != "failed", quoted(from), quoted(to));
        let to = if ok { to } else { "null".to_owned() };
        let line = format!(
            r#"{{"time":"{}","instance":"lab01_user_7","lab_id":"lab01","user_id":"7",
            "action":"{action}","from":{from},"to":{to},"ok":{ok},"reason":"why","code":null,
            "who":"{who}","as_user":null,"duration_ms":{ms},"memory_mb":null,"more":[1]}}"#,
            at(*minute)
        );
        let event: Event = serde_json::from_str(&line).unwrap();
        ledger.add(&event, 1024, &TimeZone::UTC);
    }
}

const HOUR: u64 = 3_600_000;

#[test]
fn a_day_of_one_instance() {
    let mut ledger = Ledger::new(at(0));
    add(
        &mut ledger,
        &[
            (480, "start", "0", "", "starting", 4000),
            (540, "reap", "reap", "running", "idle", 5),
            (570, "reap", "reap", "idle", "paused", 900),
            (630, "start", "0", "paused", "running", 700),
            (690, "reap", "reap", "running", "idle", 5),
            (720, "reap", "reap", "idle", "paused", 900),
            (723, "resume", "0", "paused", "running", 1100),
            (730, "reap", "reap", "running", "paused", 900),
            (760, "reap", "reap", "paused", "stopped", 3000),
            (880, "start", "0", "stopped", "failed", 10),
        ],
    );
    ledger.close(None, at(1000), &TimeZone::UTC);
    let account = &ledger.labs["lab01"];
    let of = |state| account.ms.get(&state).copied().unwrap_or(0);
    assert_eq!(of(State::Starting), HOUR);
    assert_eq!(of(State::Running), HOUR + 7 * HOUR / 60);
    assert_eq!(of(State::Idle), HOUR);
    assert_eq!(of(State::Paused), (60 + 3 + 30) * HOUR / 60);
    assert_eq!(of(State::Stopped), 4 * HOUR);
    assert_eq!(account.used, 1024 * (3 * HOUR + 7 * HOUR / 60));
    assert_eq!(account.freed[&State::Paused], 1024 * of(State::Paused));
    assert_eq!(account.freed[&State::Stopped], 1024 * of(State::Stopped));
    assert_eq!(
        account.steps,
        [(Rung::Idle, 2), (Rung::Paused, 3), (Rung::Stopped, 1)].into()
    );
    assert_eq!((account.pauses, account.too_soon), (3, 1));
    assert_eq!((account.starts.count, account.resumes.count), (1, 2));
    assert_eq!(account.resumes.quantile(0.5), Some(0.7));
    assert_eq!(account.failed_starts["failed"], (1, "why".to_owned()));
    // From eight to nine, half past ten to half past eleven, and seven minutes after noon.
    let week: Vec<_> = account
        .week
        .iter()
        .enumerate()
        .filter(|(_, ms)| **ms > 0)
        .collect();
    let wanted = [
        (8, &HOUR),
        (10, &(HOUR / 2)),
        (11, &(HOUR / 2)),
        (12, &(7 * HOUR / 60)),
    ];
    assert_eq!(week, wanted);
    let total = ledger.total();
    assert_eq!((total.used, &total.ms), (account.used, &account.ms));
}

#[test]
fn what_the_user_did_is_not_the_policys() {
    let mut ledger = Ledger::new(at(0));
    add(
        &mut ledger,
        &[
            (0, "start", "0", "", "starting", 4000),
            (10, "pause", "0", "running", "paused", 900),
            (20, "reap", "reap", "paused", "stopped", 900),
            (30, "cleanup", "0", "stopped", "", 900),
        ],
    );
    ledger.close(None, at(1000), &TimeZone::UTC);
    let account = &ledger.labs["lab01"];
    assert_eq!((account.all_freed(), account.used), (0, 1024 * HOUR / 6));
    assert_eq!(
        account.ms.values().sum::<u64>(),
        HOUR / 2,
        "nothing after its end"
    );
}

#[test]
fn a_window_begins_with_what_was_before_it() {
    let lines = [
        (-600, "start", "0", "", "starting", 4000),
        (-500, "reap", "reap", "running", "paused", 900),
        (60, "start", "0", "paused", "running", 700),
    ];
    for (lines, freed) in [(&lines[..], 1024 * HOUR), (&lines[2..], 0)] {
        let mut ledger = Ledger::new(at(0));
        add(&mut ledger, lines);
        ledger.close(None, at(120), &TimeZone::UTC);
        let account = &ledger.labs["lab01"];
        assert_eq!((account.all_freed(), account.used), (freed, 1024 * HOUR));
        assert_eq!(
            (account.pauses, account.resumes.count, account.starts.count),
            (0, 1, 0)
        );
    }
}

#[test]
fn what_libvirt_or_the_next_line_contradicts_counts_as_nothing() {
    let mut ledger = Ledger::new(at(0));
    add(
        &mut ledger,
        &[
            (0, "start", "0", "", "starting", 1),
            // It had shut itself down.
            (60, "start", "0", "stopped", "starting", 1),
        ],
    );
    assert_eq!(ledger.total().used, 0);
    let live = |state| {
        let live = Live {
            lab: "lab01".to_owned(),
            state,
            memory_mb: 1024,
            created: Some(at(-9)),
        };
        Some(BTreeMap::from([("lab01_user_7".to_owned(), live)]))
    };
    ledger.close(live(State::Running), at(120), &TimeZone::UTC);
    assert_eq!(ledger.total().used, 1024 * HOUR);
    ledger.close(live(State::Stopped), at(180), &TimeZone::UTC);
    ledger.close(live(State::Stopped), at(240), &TimeZone::UTC);
    let total = ledger.total();
    assert_eq!((total.used, total.ms[&State::Stopped]), (1024 * HOUR, HOUR));
    ledger.close(Some(BTreeMap::new()), at(300), &TimeZone::UTC);
    assert_eq!(ledger.total(), total, "it is gone");
    add(
        &mut ledger,
        &[(310, "reap", "reap", "running", "paused", 1)],
    );
    let back = ledger.total().used - total.used;
    assert_eq!(
        back,
        1024 * HOUR / 6,
        "of one that is back, no more than since then"
    );
}

#[test]
fn it_is_the_same_when_it_is_kept_and_read_back_at_every_line() {
    let lines = [
        (480, "start", "0", "", "starting", 4000),
        (540, "reap", "reap", "running", "idle", 5),
        (570, "reap", "reap", "idle", "paused", 900),
        (572, "start", "0", "paused", "running", 700),
    ];
    let mut once = Ledger::new(at(0));
    add(&mut once, &lines);
    let mut kept = Ledger::new(at(0));
    for line in lines {
        kept.close(None, at(line.0 - 1), &TimeZone::UTC);
        add(&mut kept, &[line]);
        let json = serde_json::to_vec(&kept).unwrap();
        kept = serde_json::from_slice(&json).unwrap();
    }
    once.close(None, at(600), &TimeZone::UTC);
    kept.close(None, at(600), &TimeZone::UTC);
    let (once, kept) = (once.total(), kept.total());
    assert_eq!(
        (once.used, once.all_freed(), once.too_soon),
        (kept.used, kept.all_freed(), 1)
    );
    assert_eq!((once.ms, once.week), (kept.ms, kept.week));
    assert_eq!(once.resumes.histogram(), kept.resumes.histogram());
}

#[test]
fn hours_are_those_of_the_clock_on_the_wall() {
    let zone = TimeZone::get("Europe/Berlin").unwrap();
    // The night in which clocks go from two to three.
    let from: Timestamp = "2027-03-28T00:30:00Z".parse().unwrap();
    let until: Timestamp = "2027-03-28T01:30:00Z".parse().unwrap();
    let mut hours = Vec::new();
    course::by_hour_of_week(from, until, &zone, |hour, ms| hours.push((hour, ms)));
    assert_eq!(hours, [(6 * 24 + 1, HOUR / 2), (6 * 24 + 3, HOUR / 2)]);
}

#[test]
fn the_course_of_time_adds_up_to_the_same() {
    let mut ledger = Ledger::new(at(0));
    ledger.course = Some(Course::new(at(0), at(600), 7));
    add(
        &mut ledger,
        &[
            (13, "start", "0", "", "starting", 4000),
            (200, "reap", "reap", "running", "paused", 900),
        ],
    );
    ledger.close(None, at(600), &TimeZone::UTC);
    let total = ledger.total();
    let course = ledger.course.unwrap();
    let sum = |of: fn(&Moment) -> u64| course.moments.iter().map(of).sum::<u64>();
    assert_eq!(sum(|moment| moment.used), total.used);
    assert_eq!(sum(|moment| moment.freed), total.all_freed());
    assert!(total.used > 0 && total.all_freed() > 0);
    assert!(course.time(7) >= at(600));
}

#[test]
fn what_lessons_found_and_what_was_brought_up_for_them() {
    let mut ledger = Ledger::new(at(0));
    add(
        &mut ledger,
        &[
            (530, "start", "reap", "", "failed", 10),
            (531, "start", "reap", "", "starting", 900),
            (532, "start", "7", "", "failed", 10),
        ],
    );
    for (minute, ready) in [(540, 30), (640, 28)] {
        let line = format!(
            r#"{{"time":"{}","instance":null,"lab_id":"lab01","user_id":null,"action":"lesson",
            "from":null,"to":null,"ok":{},"reason":"why","code":null,"who":"reap","as_user":null,
            "duration_ms":0,"memory_mb":1024,"ready":{ready},"wanted":30}}"#,
            at(minute),
            ready == 30
        );
        let event: Event = serde_json::from_str(&line).unwrap();
        ledger.add(&event, 1024, &TimeZone::UTC);
    }
    let account = ledger.total();
    let wanted = Lessons {
        begun: 2,
        all_ready: 1,
        ready: 58,
        late: 2,
    };
    assert_eq!(account.lessons, wanted);
    assert_eq!((account.for_lessons, account.failed_for_lessons), (1, 1));
    assert_eq!(account.failed_starts["failed"].0, 2);
    // One that was kept before there were any.
    let mut kept = serde_json::to_value(account).unwrap();
    kept.as_object_mut().unwrap().remove("lessons").unwrap();
    let read: Account = serde_json::from_value(kept).unwrap();
    assert_eq!(read.lessons, Lessons::default());
}
