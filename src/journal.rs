//! The journal: one line for every state change, build and failure.
//!
//! Lines are appended atomically, by any number of processes at once. If it was rotated, a new file
//! is created.

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;

use crate::context::Context;
use crate::error::{Kind, kind_of};
use crate::files;
use crate::names::{InstanceName, LabId, State, UserId};

/// Records that `action` on something, which began at `began`, was done: the states before and
/// after, where `None` is a missing instance, and the reason. Returns whether that succeeded.
pub fn done<'a>(
    context: &Context,
    action: &str,
    subject: impl Into<Subject<'a>>,
    began: Instant,
    from: Option<State>,
    to: Option<State>,
    reason: &str,
) -> bool {
    write(context, action, subject, began, (from, to), Ok(reason))
}

/// Writes down that a lesson in `lab` has begun, and that so many of the instances that were `wanted` for it
/// were `ready`.
pub fn lesson(context: &Context, lab: &LabId, ready: u64, wanted: u64, reason: &str) {
    let line = Line {
        ok: ready >= wanted,
        reason,
        lesson: Some(Lesson { ready, wanted }),
        ..Line::new(context, "lesson", lab.into())
    };
    keep(context, &line);
}

/// Records that `action` failed. Usage errors are not recorded.
pub fn failure<'a>(
    context: &Context,
    action: &str,
    subject: impl Into<Subject<'a>>,
    began: Instant,
    from: Option<State>,
    error: &anyhow::Error,
) {
    let kind = kind_of(error);
    match kind {
        Kind::Usage | Kind::Config | Kind::NotFound | Kind::Conflict => return,
        Kind::Failed | Kind::Busy | Kind::Capacity | Kind::Unavailable => {}
    }
    let why = format!("{error:#}");
    let reason = Err((kind, &*why));
    write(context, action, subject, began, (from, None), reason);
}

/// Commands work even if the journal cannot be written. After a failure, which often has the same
/// cause, this is not reported.
fn write<'a>(
    context: &Context,
    action: &str,
    subject: impl Into<Subject<'a>>,
    began: Instant,
    (from, to): (Option<State>, Option<State>),
    reason: Result<&str, (Kind, &str)>,
) -> bool {
    let line = Line {
        from,
        to,
        ok: reason.is_ok(),
        reason: reason.unwrap_or_else(|(_, why)| why),
        code: reason.err().map(|(kind, _)| kind),
        duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        ..Line::new(context, action, subject.into())
    };
    keep(context, &line)
}

fn keep(context: &Context, line: &Line) -> bool {
    let written = append(PATIENCE, &context.paths.journal(), line);
    if let Err(error) = &written {
        let text = format!("failed to write the journal: {error}");
        match line.ok {
            true => context.output.warn(&text),
            false => context.output.detail(&text),
        }
    }
    written.is_ok()
}

/// One line.
#[derive(Debug, Clone, Serialize)]
struct Line<'a> {
    /// The time of the event.
    time: Timestamp,
    #[serde(flatten)]
    subject: Subject<'a>,
    /// The verb.
    action: &'a str,
    /// The state before; `None` where there was no instance.
    from: Option<State>,
    /// The state after; `None` if there is no instance any more, or if it failed.
    to: Option<State>,
    /// Whether it was done.
    ok: bool,
    /// Why, or why not.
    reason: &'a str,
    /// The kind of a failure, as in the JSON of errors.
    code: Option<Kind>,
    /// The actor: a numeric user id, `reap` or `gateway`.
    who: &'a str,
    /// The user of `--as-user`, if used.
    as_user: Option<&'a UserId>,
    /// How long it took.
    duration_ms: u64,
    /// The memory of the lab's instances, according to the configuration.
    memory_mb: Option<u32>,
    /// Of a lesson that began.
    #[serde(flatten)]
    lesson: Option<Lesson>,
}

/// What a lesson found when it began.
#[derive(Debug, Clone, Copy, Serialize)]
struct Lesson {
    /// How many instances were ready.
    ready: u64,
    /// How many were to be.
    wanted: u64,
}

impl<'a> Line<'a> {
    /// That `action` is done to `subject` now, as far as that is known.
    fn new(context: &'a Context, action: &'a str, subject: Subject<'a>) -> Line<'a> {
        let lab = context.config.lab(subject.lab_id).ok();
        Line {
            time: context.time(),
            memory_mb: lab.map(|lab| lab.memory_mb),
            subject,
            action,
            from: None,
            to: None,
            ok: true,
            reason: "",
            code: None,
            who: context.who(),
            as_user: context.scope().only(),
            duration_ms: 0,
            lesson: None,
        }
    }
}

/// The subject of an event.
#[derive(Debug, Clone, Serialize)]
pub struct Subject<'a> {
    /// The instance's name; `None` for a build.
    instance: Option<String>,
    lab_id: &'a LabId,
    user_id: Option<&'a UserId>,
}

impl<'a> From<&'a InstanceName> for Subject<'a> {
    fn from(name: &'a InstanceName) -> Self {
        Subject {
            instance: Some(name.to_string()),
            lab_id: &name.lab,
            user_id: Some(&name.user),
        }
    }
}

impl<'a> From<&'a LabId> for Subject<'a> {
    fn from(lab_id: &'a LabId) -> Self {
        Subject {
            instance: None,
            lab_id,
            user_id: None,
        }
    }
}

/// How long a line waits for others. Writing one takes far less than a millisecond; a process that
/// holds the journal longer hangs, and must not delay everyone.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often to try again.
const INTERVAL: Duration = Duration::from_millis(2);

/// Appends `event` to the journal at `path`, if that is free within `patience`.
fn append(patience: Duration, path: &Path, event: &Line) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    let deadline = Instant::now() + patience;
    loop {
        let file = files::open_or_make(path)?;
        match file.try_lock() {
            // It may just have been rotated.
            Ok(()) if is_at(&file, path)? => return append_whole(&file, &line),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => sleep(INTERVAL),
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::other("another process holds it"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Appends `line` completely or not at all: on a full disk, half of it would damage the next line
/// as well.
fn append_whole(mut file: &File, line: &[u8]) -> io::Result<()> {
    let end = file.metadata()?.len();
    rustix::fs::seek(file, rustix::fs::SeekFrom::Start(end))?;
    file.write_all(line).inspect_err(|_| {
        let _ = file.set_len(end);
    })
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let here = file.metadata()?;
    match path.symlink_metadata() {
        Ok(there) => Ok((here.dev(), here.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_writers_make_whole_lines_and_a_rotation_loses_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/events.jsonl");
        let name: InstanceName = "lab01_user_7".parse().unwrap();
        let reason = "x".repeat(5000);
        let event = |n: usize| Line {
            time: Timestamp::UNIX_EPOCH,
            subject: Subject::from(&name),
            action: "pause",
            from: Some(State::Running),
            to: Some(State::Paused),
            ok: true,
            reason: &reason[..n * 400],
            who: "reap",
            as_user: None,
            duration_ms: 7,
            code: None,
            memory_mb: Some(2048),
            lesson: None,
        };
        let rotated = dir.path().join("state/events.jsonl.1");
        std::thread::scope(|scope| {
            for n in 0..10 {
                let (path, event) = (&path, &event);
                scope.spawn(move || {
                    for _ in 0..50 {
                        append(PATIENCE, path, &event(n)).unwrap();
                    }
                });
            }
            scope.spawn(|| while std::fs::rename(&path, &rotated).is_err() {});
        });
        let mut lines = 0;
        for file in [&path, &rotated] {
            for line in std::fs::read_to_string(file).unwrap_or_default().lines() {
                let event: serde_json::Value = serde_json::from_str(line).unwrap();
                assert_eq!(event["instance"], "lab01_user_7");
                assert!(event.get("ready").is_none());
                assert_eq!(
                    (&event["from"], &event["to"]),
                    (&"running".into(), &"paused".into())
                );
                lines += 1;
            }
        }
        assert_eq!(lines, 500);
    }

    #[test]
    fn a_journal_that_somebody_holds_is_not_waited_for_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let name: InstanceName = "lab01_user_7".parse().unwrap();
        let event = Line {
            time: Timestamp::UNIX_EPOCH,
            subject: Subject::from(&name),
            action: "pause",
            from: None,
            to: None,
            ok: false,
            reason: "",
            who: "0",
            as_user: None,
            duration_ms: 0,
            code: None,
            memory_mb: None,
            lesson: Some(Lesson {
                ready: 3,
                wanted: 4,
            }),
        };
        let holder = files::open_or_make(&path).unwrap();
        holder.lock().unwrap();
        assert!(append(Duration::from_millis(20), &path, &event).is_err());
        drop(holder);
        append(PATIENCE, &path, &event).unwrap();
        let written = std::fs::read_to_string(&path).unwrap();
        let line: serde_json::Value = serde_json::from_str(&written).unwrap();
        assert_eq!((&line["ready"], &line["wanted"]), (&3.into(), &4.into()));
    }

    #[test]
    fn a_line_that_does_not_fit_leaves_no_half() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("full")).unwrap();
        append_whole(&file, b"one\n").unwrap();
        // Later writes to it fail.
        let reader = File::open(dir.path().join("full")).unwrap();
        assert!(append_whole(&reader, b"two\n").is_err());
        assert_eq!(std::fs::read(dir.path().join("full")).unwrap(), b"one\n");
    }
}
