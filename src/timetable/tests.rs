use jiff::civil::Date;
use jiff::tz::TimeZone;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::calendar::Wanted;
use super::*;
use crate::config::Course;
use crate::units::Duration;

impl Class {
    /// Whether the timetable says nothing of it.
    fn is_none(&self) -> bool {
        *self == Class::default()
    }
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn berlin() -> TimeZone {
    TimeZone::get("Europe/Berlin").unwrap()
}

fn course(rules: &Value) -> Course {
    let mut course = json!({"lab": "lab01", "roster": "7b.txt", "from": "09:00", "to": "10:30"});
    course
        .as_object_mut()
        .unwrap()
        .extend(rules.as_object().unwrap().clone());
    serde_json::from_value(course).unwrap()
}

/// The lessons from one day's midnight in UTC to another's, as text.
fn weekly_lessons(rules: &Value, begin: &str, end: &str) -> Vec<String> {
    let day = |text: &str| at(&format!("{text}T00:00:00Z"));
    let found = weekly::lessons(&course(rules), &berlin(), day(begin), day(end));
    told(&found.unwrap())
}

fn told(lessons: &[Lesson]) -> Vec<String> {
    let told = lessons.iter().map(|it| format!("{}/{}", it.from, it.to));
    told.map(|it| it.replace(":00Z", "Z")).collect()
}

#[test]
fn weekly_rules_with_holidays_and_every_other_week() {
    let rules = json!({"days": ["mon", "thu"], "except": ["2027-01-14", "2027-01-18/2027-01-20"]});
    assert_eq!(
        weekly_lessons(&rules, "2027-01-11", "2027-01-23"),
        [
            "2027-01-11T08:00Z/2027-01-11T09:30Z",
            "2027-01-21T08:00Z/2027-01-21T09:30Z"
        ]
    );
    // Begun on a Wednesday: the week of that, the third one, and so on.
    let rules = json!({"days": ["mon", "fri"], "every": 2, "starting": "2027-01-13", "until": "2027-02-12"});
    let dates: Vec<_> = weekly_lessons(&rules, "2027-01-01", "2027-03-01")
        .iter()
        .map(|it| it[..10].to_owned())
        .collect();
    assert_eq!(
        dates,
        [
            "2027-01-15",
            "2027-01-25",
            "2027-01-29",
            "2027-02-08",
            "2027-02-12"
        ]
    );
    let rules = json!({"dates": ["2027-01-12"]});
    assert_eq!(weekly_lessons(&rules, "2027-01-01", "2027-03-01").len(), 1);
}

#[test]
fn across_midnight_and_changes_of_the_clocks() {
    let night = |day: &str, from: &str, to: &str| {
        let rules = json!({"dates": [day], "from": from, "to": to});
        let found = weekly::lessons(
            &course(&rules),
            &berlin(),
            at("2027-01-01T00:00:00Z"),
            at("2028-01-01T00:00:00Z"),
        );
        told(&found.unwrap())
    };
    assert_eq!(
        night("2027-01-12", "23:00", "01:00"),
        ["2027-01-12T22:00Z/2027-01-13T00:00Z"]
    );
    // By the clocks: an hour less in spring, an hour more in autumn.
    assert_eq!(
        night("2027-03-27", "23:00", "04:00"),
        ["2027-03-27T22:00Z/2027-03-28T02:00Z"]
    );
    assert_eq!(
        night("2027-10-30", "23:00", "04:00"),
        ["2027-10-30T21:00Z/2027-10-31T03:00Z"]
    );
    // Of times that come twice it has both.
    assert_eq!(
        night("2027-10-31", "02:15", "02:45"),
        ["2027-10-31T00:15Z/2027-10-31T01:45Z"]
    );
    // Of times that are left out it has its length.
    assert_eq!(
        night("2027-03-28", "02:15", "02:45"),
        ["2027-03-28T01:15Z/2027-03-28T01:45Z"]
    );
    // One that began yesterday is seen today.
    let rules = json!({"days": ["tue"], "from": "23:00", "to": "01:00"});
    let found = weekly::lessons(
        &course(&rules),
        &berlin(),
        at("2027-01-12T23:30:00Z"),
        at("2027-01-13T12:00:00Z"),
    );
    assert_eq!(
        told(&found.unwrap()),
        ["2027-01-12T22:00Z/2027-01-13T00:00Z"]
    );
}

fn calendar_of(events: &str) -> String {
    let text =
        format!("BEGIN:VCALENDAR\nVERSION:2.0\nPRODID:-//school//EN\n{events}\nEND:VCALENDAR\n");
    text.replace('\n', "\r\n")
}

fn read_calendar(text: &str, summary: Option<&str>) -> Result<Vec<String>, String> {
    let zone = berlin();
    let wanted = Wanted {
        summary,
        own_zone: None,
        host_zone: &zone,
        begin: at("2027-01-01T00:00:00Z"),
        end: at("2027-12-31T00:00:00Z"),
    };
    calendar::lessons(text, &wanted).map(|found| told(&found))
}

fn event(lines: &str) -> String {
    format!("BEGIN:VEVENT\nUID:1\nDTSTAMP:20260101T000000Z\n{lines}\nEND:VEVENT")
}

#[test]
fn a_series_with_exceptions_a_moved_and_a_cancelled_lesson() {
    let series = event(
        "SUMMARY:Networks\n  7b\nDTSTART;TZID=Europe/Berlin:20270322T090000\nDTEND;TZID=Europe/Berlin:20270322T103000\n\
         RRULE:FREQ=WEEKLY;BYDAY=MO,TH;UNTIL=20270408T220000Z\nEXDATE;TZID=Europe/Berlin:20270325T090000",
    );
    let moved = event(
        "SUMMARY:Networks 7b\nRECURRENCE-ID;TZID=Europe/Berlin:20270329T090000\n\
         DTSTART;TZID=Europe/Berlin:20270330T110000\nDTEND;TZID=Europe/Berlin:20270330T120000",
    );
    let cancelled = event(
        "SUMMARY:Networks 7b\nRECURRENCE-ID;TZID=Europe/Berlin:20270401T090000\nSTATUS:CANCELLED\n\
         DTSTART;TZID=Europe/Berlin:20270401T090000\nDTEND;TZID=Europe/Berlin:20270401T103000",
    );
    let holiday =
        event("SUMMARY:Holiday of 7b\nDTSTART;VALUE=DATE:20270405\nDTEND;VALUE=DATE:20270406");
    let monthly = event(
        "SUMMARY:Staff\nDTSTART:20270105T150000Z\nDTEND:20270105T160000Z\nRRULE:FREQ=MONTHLY",
    );
    let all = [series, moved, cancelled, holiday, monthly].join("\n");
    let text = calendar_of(&all);
    // Summer time begins on 28 March.
    assert_eq!(
        read_calendar(&text, Some("networks 7B")).unwrap(),
        [
            "2027-03-22T08:00Z/2027-03-22T09:30Z",
            "2027-03-30T09:00Z/2027-03-30T10:00Z",
            "2027-04-05T07:00Z/2027-04-05T08:30Z",
            "2027-04-08T07:00Z/2027-04-08T08:30Z"
        ]
    );
    let error = read_calendar(&text, None).unwrap_err();
    let line = text
        .lines()
        .position(|it| it == "RRULE:FREQ=MONTHLY")
        .unwrap()
        + 1;
    assert_eq!(
        error,
        format!("line {line}: RRULE: 'FREQ=MONTHLY' is not understood: only DAILY and WEEKLY are")
    );
}

#[test]
fn rules_of_every_kind_that_is_understood() {
    let of = |rule: &str| {
        let lines = format!("DTSTART:20270104T080000Z\nDURATION:PT1H30M\nRRULE:{rule}");
        let found = read_calendar(&calendar_of(&event(&lines)), None).unwrap();
        found
            .iter()
            .map(|it| it[5..10].to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        of("FREQ=WEEKLY;INTERVAL=2;COUNT=3"),
        ["01-04", "01-18", "02-01"]
    );
    assert_eq!(
        of("FREQ=DAILY;COUNT=3;BYDAY=MO,TU"),
        ["01-04", "01-05", "01-11"]
    );
    assert_eq!(
        of("FREQ=DAILY;INTERVAL=10;UNTIL=20270125"),
        ["01-04", "01-14", "01-24"]
    );
    // RFC 5545 has this pair: the week begins with it.
    assert_eq!(
        of("FREQ=WEEKLY;INTERVAL=2;COUNT=4;BYDAY=TU,SU;WKST=MO"),
        ["01-04", "01-05", "01-10", "01-19"]
    );
    assert_eq!(
        of("FREQ=WEEKLY;INTERVAL=2;COUNT=4;BYDAY=TU,SU;WKST=SU"),
        ["01-04", "01-05", "01-17", "01-19"]
    );
    let lines =
        "DTSTART:20270104T080000Z\nDTEND:20270104T093000Z\nRDATE:20270107T080000Z,20270108T080000Z";
    assert_eq!(
        read_calendar(&calendar_of(&event(lines)), None)
            .unwrap()
            .len(),
        3
    );
}

#[test]
fn what_is_not_understood_is_an_error_with_its_line() {
    let start = "DTSTART:20270104T080000Z\nDTEND:20270104T093000Z";
    for (lines, wanted) in [
        (
            format!("{start}\nRRULE:FREQ=WEEKLY;BYSETPOS=1"),
            "line 9: RRULE: 'BYSETPOS=1' is not understood",
        ),
        (
            format!("{start}\nRRULE:FREQ=WEEKLY;BYDAY=2MO"),
            "line 9: RRULE: 'BYDAY=2MO' is",
        ),
        (
            format!("{start}\nRRULE:COUNT=3"),
            "line 9: RRULE: a rule without FREQ",
        ),
        (
            format!("{start}\nEXDATE:tomorrow"),
            "line 9: EXDATE: 'tomorrow' is not understood",
        ),
        (
            format!("{start}\nEXRULE:FREQ=DAILY"),
            "RRULE: more than one rule",
        ),
        (
            "DTSTART:2027-01-04\nDTEND:20270104T093000Z".into(),
            "line 7: DTSTART: '2027-01-04' is",
        ),
        (
            "DTSTART:20270104T080000Z".into(),
            "line 7: DTSTART: an event without an end",
        ),
        (
            "SUMMARY:x".into(),
            "line 4: BEGIN: an event without DTSTART",
        ),
        (
            "DTSTART:20270104T080000Z\nDTEND:20270104T070000Z".into(),
            "line 8: DTEND: a lesson must end",
        ),
        (
            "DTSTART:20270104T080000Z\nDURATION:PT25H".into(),
            "line 8: DURATION: a lesson must",
        ),
        (
            "DTSTART;TZID=W. Europe Standard Time:20270104T080000\nDURATION:PT1H".into(),
            "line 7: DTSTART: the time zone 'W. Europe Standard Time' is not known here",
        ),
        (
            format!("{start}\nRECURRENCE-ID;RANGE=THISANDFUTURE:20270104T080000Z"),
            "line 9: RECURRENCE-ID: changing",
        ),
    ] {
        let error = read_calendar(&calendar_of(&event(&lines)), None).unwrap_err();
        assert!(error.contains(wanted), "{lines}: {error}");
    }
    let whole = calendar_of(&event(start));
    for text in [
        "",
        "hello",
        &whole[..whole.len() / 2],
        &whole.replace("END:VEVENT", ""),
    ] {
        let error = read_calendar(text, None).unwrap_err();
        assert!(error.contains("it is not"), "{error}");
    }
}

#[test]
fn a_zone_of_its_own_is_for_times_that_have_none_that_is_known() {
    let lines = "DTSTART;TZID=W. Europe Standard Time:20270104T080000\nDURATION:PT1H";
    let (own, host) = (berlin(), TimeZone::UTC);
    let wanted = Wanted {
        summary: None,
        own_zone: Some(&own),
        host_zone: &host,
        begin: at("2027-01-01T00:00:00Z"),
        end: at("2027-12-31T00:00:00Z"),
    };
    let found = calendar::lessons(&calendar_of(&event(lines)), &wanted).unwrap();
    assert_eq!(told(&found), ["2027-01-04T07:00Z/2027-01-04T08:00Z"]);
}

fn minutes(n: i64) -> Timestamp {
    at("2027-01-11T00:00:00Z") + SignedDuration::from_mins(n)
}

fn of_minutes(pairs: &[(i64, i64)]) -> Vec<Lesson> {
    let lesson = |(from, to): &(i64, i64)| Lesson {
        from: minutes(*from),
        to: minutes(*to),
    };
    pairs.iter().map(lesson).collect()
}

const PREWARM: Patience = Patience::After(Duration(SignedDuration::from_mins(10)));

fn taught(lab: &str, lessons: &[(i64, i64)], users: &[&str]) -> Taught {
    let users = users.iter().map(|user| user.parse().unwrap());
    Taught::new(
        lab.parse().unwrap(),
        Ok(of_minutes(lessons)),
        Ok(users.collect()),
    )
}

fn class(courses: Vec<Taught>, name: &str, now: i64) -> Class {
    Timetable { courses }.class(&name.parse().unwrap(), minutes(now), PREWARM)
}

#[test]
fn lessons_back_to_back_are_one_for_whoever_is_in_both() {
    let courses = || {
        vec![
            taught("lab01", &[(60, 100)], &["anna", "ben"]),
            taught("lab01", &[(105, 150)], &["anna"]),
            taught("lab02", &[(105, 150)], &["ben"]),
        ]
    };
    let of = |name, now| class(courses(), name, now);
    let anna = of("lab01_user_anna", 101).now.unwrap();
    assert_eq!((anna.prepare, anna.to), (minutes(50), minutes(150)));
    let ben = of("lab01_user_ben", 101);
    assert_eq!((ben.now, ben.over), (None, Some(minutes(100))));
    assert!(
        of("lab02_user_ben", 101).is_in(),
        "another lab is another instance"
    );
    assert!(of("lab01_user_carl", 70).is_none());
    assert_eq!(of("lab01_user_ben", 49).next, Some(minutes(50)));
    assert_eq!(of("lab01_user_ben", 100 + 119).over, Some(minutes(100)));
    assert!(of("lab01_user_ben", 100 + 120).is_none());
}

#[test]
fn what_cannot_be_read_counts_as_in_class() {
    let lab = || "lab01".parse().unwrap();
    let anna: UserId = "anna".parse().unwrap();
    let no_roster = Taught::new(lab(), Ok(of_minutes(&[(60, 100)])), Err("no roster".into()));
    let of = |courses: &[&Taught], name, now| {
        class(courses.iter().map(|it| (*it).clone()).collect(), name, now)
    };
    assert_eq!(
        of(&[&no_roster], "lab01_user_x", 55).uncertain.unwrap(),
        "no roster"
    );
    assert!(
        of(&[&no_roster], "lab01_user_x", 49).is_none(),
        "there is no lesson"
    );
    assert!(of(&[&no_roster], "lab01_user_x", 101).is_none());
    assert!(of(&[&no_roster], "lab02_user_x", 55).is_none());
    let no_calendar = Taught::new(lab(), Err("no calendar".into()), Ok(vec![anna]));
    assert!(of(&[&no_calendar], "lab01_user_anna", 0).is_in());
    assert!(
        of(&[&no_calendar], "lab01_user_ben", 0).is_none(),
        "not on the roster"
    );
    let neither = Taught::new(lab(), Err("no calendar".into()), Err("no roster".into()));
    assert!(of(&[&neither], "lab01_user_ben", 0).is_in());
}

proptest! {
    #[test]
    fn attendances_are_apart_and_have_every_lesson(
        pairs in prop::collection::vec((0..500_i64, 1..200_i64), 0..12),
        prewarm in prop::option::of(0..90_i64),
    ) {
        let pairs: Vec<_> = pairs.iter().map(|(from, length)| (*from, from + length)).collect();
        let mut lessons = of_minutes(&pairs);
        lessons.sort();
        let before = prewarm.map_or(Patience::Never, |it| {
            Patience::After(Duration(SignedDuration::from_mins(it)))
        });
        let found = attendances(lessons.clone(), before);
        for both in found.windows(2) {
            prop_assert!(both[0].to < both[1].prepare, "no pause in between");
        }
        for lesson in lessons {
            let within = found.iter().filter(|it| it.from <= lesson.from && lesson.to <= it.to);
            prop_assert_eq!(within.count(), 1);
        }
    }

    #[test]
    fn a_minute_is_in_class_exactly_when_some_lesson_or_its_preparation_has_it(
        pairs in prop::collection::vec((0..500_i64, 1..200_i64), 0..8),
        now in 0..800_i64,
    ) {
        let pairs: Vec<_> = pairs.iter().map(|(from, length)| (*from, from + length)).collect();
        let found = class(vec![taught("lab01", &pairs, &["anna"])], "lab01_user_anna", now);
        // Where a break is no longer than the preparation, the lesson before lasts through it.
        let held = |minute: i64| pairs.iter().any(|(from, to)| (from - 10..*to).contains(&minute));
        prop_assert_eq!(found.is_in(), held(now));
        if let Some(over) = found.over {
            prop_assert!(pairs.iter().any(|(_, to)| minutes(*to) == over));
        }
        if let Some(next) = found.next {
            prop_assert!(next > minutes(now));
        }
    }

    #[test]
    fn every_weekly_lesson_is_on_its_day_at_its_hour_by_the_clock(
        day in 0..700_i64,
        hour in 4..22_i8,
    ) {
        let begin = at("2027-01-01T00:00:00Z") + SignedDuration::from_hours(24 * day);
        let end = begin + SignedDuration::from_hours(24 * 14);
        let from = format!("{hour:02}:00");
        let rules = json!({"days": ["wed"], "from": from, "to": "23:00"});
        let zone = berlin();
        let found = weekly::lessons(&course(&rules), &zone, begin, end).unwrap();
        prop_assert!((2..=3).contains(&found.len()), "{found:?}");
        for lesson in found {
            let local = zone.to_datetime(lesson.from);
            let date: Date = local.date();
            prop_assert_eq!(date.weekday(), jiff::civil::Weekday::Wednesday);
            prop_assert_eq!(local.hour(), hour);
        }
    }

    #[test]
    fn no_calendar_breaks_it(text in "(BEGIN:VEVENT|END:VEVENT|DTSTART|RRULE|[:;=,A-Z0-9 \r\n]){0,40}") {
        let _ = read_calendar(&format!("BEGIN:VCALENDAR\r\n{text}\r\nEND:VCALENDAR"), None);
    }
}
