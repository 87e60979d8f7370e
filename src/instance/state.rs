//! Derives the state of an instance, and the reason, from the hypervisor's facts and the record.
//! Pure.

use jiff::Timestamp;

use super::record::{Boot, ReadyBy};
use crate::hypervisor::{Facts, Power};
use crate::names::State;
use crate::units::{Duration, age};

/// The state of an instance and the reason for it.
///
/// `boot` is the note about the domain's present run, if there is one. A guest that something else
/// powered on has none; its power-on time is unknown, and it counts as running.
pub fn observe(
    facts: &Facts,
    boot: Option<&Boot>,
    boot_timeout: Duration,
    now: Timestamp,
) -> (State, String) {
    let (state, reason) = match facts.power {
        Power::Off if facts.saved => (State::Paused, "memory saved to disk"),
        Power::Off => (State::Stopped, "not running"),
        Power::Crashed => (State::Crashed, "the hypervisor reports a crash"),
        Power::Frozen => (State::Paused, "frozen in RAM"),
        Power::StuckOnDisk => {
            let reason = "the host's disk is full or faulty: make space, then start it";
            (State::Paused, reason)
        }
        Power::Busy => (State::Running, "libvirt is starting, saving or stopping it"),
        Power::On => match boot {
            None => (State::Running, up(ReadyBy::Found)),
            Some(boot) => return running(boot, boot_timeout, now),
        },
    };
    (state, reason.to_owned())
}

/// The same for a running guest, with the note about its present run.
fn running(boot: &Boot, boot_timeout: Duration, now: Timestamp) -> (State, String) {
    if let Some(idle) = &boot.idle {
        let since = age(now.duration_since(idle.since));
        let cpu = if idle.capped {
            "its CPU time is limited to half"
        } else {
            "this hypervisor cannot limit its CPU"
        };
        return (State::Idle, format!("idle for {since}: {cpu}"));
    }
    if boot.ready.is_some() {
        return (State::Running, up(boot.ready_by).to_owned());
    }
    let (since, limit) = (now.duration_since(boot.powered_on), age(boot_timeout.0));
    if since < boot_timeout.0 {
        let since = age(since);
        let reason = format!("powered on {since} ago, no answer from the guest agent yet");
        return (State::Starting, reason);
    }
    let reason = format!("no answer from the guest agent within the boot timeout of {limit}");
    (State::Running, reason)
}

/// The reason that a guest is up, by how that became known.
fn up(by: ReadyBy) -> &'static str {
    match by {
        ReadyBy::Agent => "the guest agent answered",
        ReadyBy::Pause => "it was resumed from a pause; its power-on time is unknown",
        ReadyBy::Found => "powered on by something other than cyyber, or its record was lost",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::record::Run;

    fn facts(power: Power, saved: bool) -> Facts {
        Facts {
            name: "lab01_user_7".to_owned(),
            uuid: crate::hypervisor::xml::domain::new_uuid(),
            id: Some(1),
            power,
            saved,
            restored: false,
            usage: None,
        }
    }

    fn boot(ready: bool) -> Boot {
        Boot {
            run: Run::current(1),
            powered_on: Timestamp::UNIX_EPOCH,
            ready: ready.then_some(Timestamp::UNIX_EPOCH),
            ready_by: ReadyBy::Agent,
            started_by: None,
            console: None,
            idle: None,
        }
    }

    fn state(power: Power, saved: bool, ready: Option<bool>, seconds: i64) -> State {
        let boot = ready.map(boot);
        let now = Timestamp::from_second(seconds).unwrap();
        let timeout = "5m".parse().unwrap();
        observe(&facts(power, saved), boot.as_ref(), timeout, now).0
    }

    #[test]
    fn a_saved_guest_is_paused_and_a_plain_one_stopped() {
        assert_eq!(state(Power::Off, true, None, 0), State::Paused);
        assert_eq!(state(Power::Off, false, None, 0), State::Stopped);
    }

    #[test]
    fn starting_ends_with_the_agents_answer_or_the_boot_timeout() {
        assert_eq!(state(Power::On, false, Some(false), 299), State::Starting);
        assert_eq!(state(Power::On, false, Some(false), 300), State::Running);
        assert_eq!(state(Power::On, false, Some(true), 1), State::Running);
        assert_eq!(state(Power::On, false, None, 1), State::Running);
    }

    #[test]
    fn nobody_is_said_to_have_answered_who_did_not() {
        let old = r#"{"run":{"host_boot":"x","domain_id":1},"powered_on":"1970-01-01T00:00:00Z",
            "ready":"1970-01-01T00:00:00Z","console":null}"#;
        let old: Boot = serde_json::from_str(old).unwrap();
        let reason = |boot: &Boot| {
            let facts = facts(Power::On, false);
            let now = Timestamp::UNIX_EPOCH;
            let (state, reason) = observe(&facts, Some(boot), "5m".parse().unwrap(), now);
            assert_eq!(state, State::Running);
            reason
        };
        assert_eq!(reason(&old), "the guest agent answered");
        for ready_by in [ReadyBy::Pause, ReadyBy::Found] {
            let boot = Boot {
                ready_by,
                ..old.clone()
            };
            assert!(!reason(&boot).contains("agent"), "{ready_by:?}");
        }
    }

    #[test]
    fn an_idle_guest_is_idle_while_it_runs() {
        let boot = Boot {
            idle: Some(crate::instance::record::Idle {
                since: Timestamp::UNIX_EPOCH,
                capped: true,
            }),
            ..boot(true)
        };
        let now = Timestamp::from_second(90).unwrap();
        let seen = |power| {
            observe(
                &facts(power, false),
                Some(&boot),
                "5m".parse().unwrap(),
                now,
            )
        };
        let (state, reason) = seen(Power::On);
        assert_eq!(state, State::Idle);
        assert_eq!(reason, "idle for 1m: its CPU time is limited to half");
        assert_eq!(seen(Power::Frozen).0, State::Paused);
    }

    #[test]
    fn a_moment_in_which_libvirt_holds_the_guest_is_not_a_pause() {
        assert_eq!(state(Power::Busy, false, Some(true), 1), State::Running);
        assert_eq!(state(Power::Frozen, false, Some(true), 1), State::Paused);
    }
}
