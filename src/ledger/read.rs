//! Reads the journal, including the files rotated by logrotate.

use std::borrow::Cow;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read as _};
use std::os::unix::fs::MetadataExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::thread;

use flate2::read::MultiGzDecoder;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::files::Directory;
use crate::names::State;

/// The maximum length of a line.
const LONGEST_LINE: u64 = 1 << 20;

/// How many bytes of its first line identify a file.
const TELLING: usize = 1 << 10;

/// Lines of commands that end at the same time may not be in the order of their times.
const DISORDER: SignedDuration = SignedDuration::from_hours(1);

/// How many lines of a journal are read ahead of those of other hosts.
const AHEAD: usize = 1 << 10;

/// How often the files are listed again if logrotate moves them in the meantime.
const TRIES: usize = 10;

/// A line of the journal. Fields that earlier versions did not write are `None`; unknown fields are
/// ignored.
#[derive(Debug, Clone, Deserialize)]
pub struct Event<'a> {
    /// The time of the event.
    pub time: Timestamp,
    /// The instance's name; `None` for a build.
    pub instance: Option<String>,
    /// The lab.
    #[serde(borrow)]
    pub lab_id: Cow<'a, str>,
    /// The verb.
    #[serde(borrow)]
    pub action: Cow<'a, str>,
    /// The state before.
    pub from: Option<State>,
    /// The state after.
    pub to: Option<State>,
    /// Whether it was done.
    pub ok: bool,
    /// Why, or why not.
    #[serde(borrow)]
    pub reason: Cow<'a, str>,
    /// Who did it.
    #[serde(borrow)]
    pub who: Cow<'a, str>,
    /// The kind of a failure.
    pub code: Option<String>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// The memory of the lab's instances.
    pub memory_mb: Option<u64>,
    /// Of a lesson that began: how many instances were ready,
    pub ready: Option<u64>,
    /// and how many were to be.
    pub wanted: Option<u64>,
}

impl Event<'_> {
    fn to_owned(&self) -> Event<'static> {
        let owned = |text: &Cow<str>| Cow::Owned(text.clone().into_owned());
        Event {
            lab_id: owned(&self.lab_id),
            action: owned(&self.action),
            reason: owned(&self.reason),
            who: owned(&self.who),
            instance: self.instance.clone(),
            code: self.code.clone(),
            ..*self
        }
    }
}

/// The position in the journal. A file keeps its first line when it is renamed and compressed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// The beginning of the file's first line.
    first: String,
    /// The offset in the uncompressed file.
    offset: u64,
    /// The time of the last line.
    last: Timestamp,
}

/// Which lines to read.
#[derive(Debug, Clone, Copy)]
pub enum Wanted<'a> {
    /// Those since this time, and earlier ones in the same file.
    Since(Timestamp),
    /// Those after this position.
    After(&'a Cursor),
}

/// The outcome of reading.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The new position; `None` if there was no line.
    pub cursor: Option<Cursor>,
    /// How many lines could not be understood.
    pub unreadable: u64,
    /// Which files could not be read, and why.
    pub troubles: Vec<String>,
}

/// One file of the journal, whose first line has been read.
struct Part {
    name: OsString,
    first: Vec<u8>,
    time: Timestamp,
    rest: Box<dyn BufRead>,
}

/// Passes the `wanted` lines of the journal at `path` to `each`, the oldest first. An incomplete
/// line is left for the next time.
///
/// # Errors
///
/// The directory cannot be read. Errors in single files are in the outcome.
pub fn events(path: &Path, wanted: Wanted, mut each: impl FnMut(&Event)) -> io::Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut parts = parts(path, &mut outcome.troubles)?;
    let (known, since) = match wanted {
        Wanted::Since(since) => (None, since),
        Wanted::After(cursor) => {
            let is_it = |part: &Part| telling(&part.first) == cursor.first;
            (parts.iter().position(is_it), cursor.last)
        }
    };
    // A file whose successor begins before that time is older.
    let needed = |next: &Part| next.time > since.saturating_sub(DISORDER).unwrap_or(since);
    let begin = known.unwrap_or_else(|| {
        let mut nexts = parts.iter().skip(1);
        nexts
            .position(needed)
            .unwrap_or(parts.len().saturating_sub(1))
    });
    for (n, part) in parts.iter_mut().enumerate().skip(begin) {
        let skipped = match wanted {
            Wanted::After(cursor) if known == Some(n) => cursor.offset,
            _ => 0,
        };
        let mut offset = 0;
        let mut last = since;
        let is_current = Some(&*part.name) == path.file_name();
        let read = part.lines(is_current, |line| {
            offset += line.len() as u64;
            if offset <= skipped {
                return;
            }
            match serde_json::from_slice::<Event>(line) {
                // Its file is gone: use its time.
                Ok(event)
                    if matches!(wanted, Wanted::After(_))
                        && known.is_none()
                        && event.time <= since => {}
                Ok(event) => {
                    last = last.max(event.time);
                    each(&event);
                }
                Err(_) => outcome.unreadable += 1,
            }
        });
        if let Err(error) = read {
            let name = part.name.display();
            outcome
                .troubles
                .push(format!("{name} is read in part: {error}"));
        }
        let last = outcome
            .cursor
            .as_ref()
            .map_or(last, |cursor| cursor.last.max(last));
        outcome.cursor = Some(Cursor {
            first: telling(&part.first),
            offset,
            last,
        });
    }
    Ok(outcome)
}

/// Passes the lines since `since` of several hosts' journals to `each`, in the order of their times: an
/// instance may have moved from one host to another. A journal that cannot be read is in the outcome.
pub fn merged(
    journals: &[(String, PathBuf)],
    since: Timestamp,
    mut each: impl FnMut(&Event),
) -> Outcome {
    thread::scope(|scope| {
        let (mut readers, mut all) = (Vec::new(), Vec::new());
        for (host, path) in journals {
            let (sender, lines) = sync_channel(AHEAD);
            // A receiver that is gone wants no more.
            let send = move |event: &Event| drop(sender.send(event.to_owned()));
            readers.push((
                host,
                scope.spawn(|| events(path, Wanted::Since(since), send)),
            ));
            all.push(lines.into_iter().peekable());
        }
        let time = |lines: &mut std::iter::Peekable<_>| lines.peek().map(|it: &Event| it.time);
        loop {
            let heads = all.iter_mut().filter_map(|it| Some((time(it)?, it)));
            let Some((_, lines)) = heads.min_by_key(|(time, _)| *time) else {
                break;
            };
            lines.next().iter().for_each(&mut each);
        }
        let mut outcome = Outcome::default();
        for (host, reader) in readers {
            let read = reader.join().unwrap_or_else(|panic| resume_unwind(panic));
            let read = read.unwrap_or_else(|error| Outcome {
                troubles: vec![format!("failed to read it: {error}")],
                ..Outcome::default()
            });
            outcome.unreadable += read.unreadable;
            let troubles = read.troubles.into_iter();
            let of_host = |trouble| format!("on {host}: {trouble}");
            outcome.troubles.extend(troubles.map(of_host));
        }
        outcome
    })
}

fn telling(line: &[u8]) -> String {
    String::from_utf8_lossy(&line[..line.len().min(TELLING)]).into_owned()
}

/// The files of the journal at `path` that have a line, the oldest first.
fn parts(path: &Path, troubles: &mut Vec<String>) -> io::Result<Vec<Part>> {
    let (directory, name) = match Directory::of(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened?,
    };
    let name = name.to_string_lossy();
    let named = || -> io::Result<Vec<(Option<u64>, OsString)>> {
        let all = directory.names()?;
        let is_part = |file: &OsString| {
            let rest = file.to_str().and_then(|file| file.strip_prefix(&*name));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '-']))
        };
        let mut named: Vec<_> = all.iter().filter(|file| is_part(file)).cloned().collect();
        // While a file is being compressed, both exist.
        named.retain(|file| {
            let plain = file.to_str().and_then(|file| file.strip_suffix(".gz"));
            plain.is_none_or(|plain| !all.iter().any(|other| other == plain))
        });
        named.sort();
        let inode = |file: &OsString| {
            let there = path.with_file_name(file).symlink_metadata();
            there.map(|there| there.ino()).ok()
        };
        Ok(named.into_iter().map(|file| (inode(&file), file)).collect())
    };
    for _ in 0..TRIES {
        let (mut parts, mut failed) = (Vec::new(), Vec::new());
        let before = named()?;
        for (_, file) in &before {
            match Part::open(&directory, file) {
                Ok(part) => parts.extend(part),
                Err(error) => failed.push(format!("{} is left out: {error}", file.display())),
            }
        }
        if before == named()? {
            parts.sort_by_key(|part| part.time);
            troubles.append(&mut failed);
            return Ok(parts);
        }
    }
    Err(io::Error::other("its files are being moved all the time"))
}

impl Part {
    /// Opens the file `name`; `None` if it has no line.
    fn open(directory: &Directory, name: &OsString) -> io::Result<Option<Part>> {
        let file = directory.open_large(name)?;
        let ends = |ending: &str| name.to_string_lossy().ends_with(ending);
        if [".xz", ".zst", ".bz2", ".Z"].into_iter().any(ends) {
            return Err(io::Error::other("only gzip is supported"));
        }
        let mut rest: Box<dyn BufRead> = if ends(".gz") {
            Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(file)))
        } else {
            Box::new(BufReader::with_capacity(1 << 16, file))
        };
        let mut first = Vec::new();
        read_line(&mut rest, &mut first)?;
        if !first.ends_with(b"\n") {
            return Ok(None);
        }
        let time = serde_json::from_slice(&first).map(|event: Event| event.time);
        Ok(Some(Part {
            name: name.clone(),
            // A file that begins with an invalid line is read, whatever its age.
            time: time.unwrap_or_default(),
            first,
            rest,
        }))
    }

    /// Passes each line to `each`; an incomplete last line only if nobody writes to the file any
    /// more.
    fn lines(&mut self, is_current: bool, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        each(&self.first);
        let mut line = Vec::new();
        loop {
            line.clear();
            if read_line(&mut self.rest, &mut line)? == 0 || is_current && !line.ends_with(b"\n") {
                return Ok(());
            }
            each(&line);
        }
    }
}

fn read_line(from: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<usize> {
    let read = from.take(LONGEST_LINE).read_until(b'\n', line)?;
    if read as u64 == LONGEST_LINE && !line.ends_with(b"\n") {
        return Err(io::Error::other("a line is too long"));
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn line(n: i64) -> String {
        let time = Timestamp::from_second(1_800_000_000 + n * 7200).unwrap();
        format!(
            "{{\"time\":\"{time}\",\"instance\":null,\"lab_id\":\"lab01\",\"user_id\":null,\
             \"action\":\"build\",\"from\":null,\"to\":null,\"ok\":true,\"reason\":\"{n}\",\
             \"who\":\"0\",\"duration_ms\":7}}\n"
        )
    }

    fn lines(numbers: std::ops::Range<i64>) -> String {
        numbers.map(line).collect()
    }

    struct Files(tempfile::TempDir);

    impl Files {
        fn read(&self, wanted: Wanted) -> (Vec<i64>, Outcome) {
            let mut seen = Vec::new();
            let each = |event: &Event| seen.push(event.reason.parse().unwrap());
            let outcome = events(&self.0.path().join("events.jsonl"), wanted, each).unwrap();
            (seen, outcome)
        }

        fn write(&self, name: &str, content: &str) {
            fs::write(self.0.path().join(name), content).unwrap();
        }

        fn pack(&self, name: &str) {
            let packed = fs::File::create(self.0.path().join(format!("{name}.gz"))).unwrap();
            let mut packer = GzEncoder::new(packed, Compression::default());
            let path = self.0.path().join(name);
            packer.write_all(&fs::read(&path).unwrap()).unwrap();
            packer.finish().unwrap();
            fs::remove_file(path).unwrap();
        }

        fn rename(&self, from: &str, to: &str) {
            fs::rename(self.0.path().join(from), self.0.path().join(to)).unwrap();
        }
    }

    fn rotated() -> Files {
        let files = Files(tempfile::tempdir().unwrap());
        files.write("events.jsonl.3", &lines(0..100));
        files.pack("events.jsonl.3");
        files.write("events.jsonl-20270120", &lines(100..200));
        files.write("events.jsonl.1", &lines(200..300));
        files.write("events.jsonl", &(lines(300..310) + "{\"time\":"));
        files.write("events.jsonlike", "x");
        files
    }

    fn all() -> Wanted<'static> {
        Wanted::Since(Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn files_of_logrotate_are_one_journal() {
        let files = rotated();
        let (seen, outcome) = files.read(all());
        assert_eq!(seen, Vec::from_iter(0..310));
        assert_eq!((outcome.unreadable, outcome.troubles.len()), (0, 0));
        // Older files are not read.
        let since = Timestamp::from_second(1_800_000_000 + 250 * 7200).unwrap();
        assert_eq!(files.read(Wanted::Since(since)).0, Vec::from_iter(200..310));
        assert!(Files(tempfile::tempdir().unwrap()).read(all()).0.is_empty());
    }

    #[test]
    fn journals_of_hosts_are_merged_by_time() {
        let [one, other] = [(); 2].map(|()| Files(tempfile::tempdir().unwrap()));
        let of = |parity: i64| (0..4000).filter(move |n| n % 2 == parity).map(line);
        one.write("events.jsonl", &of(0).collect::<String>());
        other.write("events.jsonl", &(of(1).collect::<String>() + "{}\n"));
        let journal =
            |name: &str, files: &Files| (name.to_owned(), files.0.path().join("events.jsonl"));
        let unreadable = (
            "h3".to_owned(),
            one.0.path().join("events.jsonl/events.jsonl"),
        );
        let journals = [journal("h1", &one), journal("h2", &other), unreadable];
        let mut seen: Vec<i64> = Vec::new();
        let each = |event: &Event| seen.push(event.reason.parse().unwrap());
        let outcome = merged(&journals, Timestamp::UNIX_EPOCH, each);
        assert_eq!(seen, Vec::from_iter(0..4000));
        assert_eq!(outcome.unreadable, 1);
        assert_eq!(outcome.troubles.len(), 1);
        let trouble = &outcome.troubles[0];
        assert!(
            trouble.starts_with("on h3: failed to read it: "),
            "{trouble}"
        );
    }

    #[test]
    fn each_line_is_read_once_over_every_rotation() {
        let files = rotated();
        let mut cursor = files.read(all()).1.cursor.unwrap();
        assert_eq!(
            files.read(Wanted::After(&cursor)).0,
            [] as [i64; 0],
            "half a line"
        );
        let mut next = 310;
        for step in 0..6 {
            match step {
                0 => files.write("events.jsonl", &lines(300..320)),
                // A command that opened it before it was renamed may still write to it.
                1 => {
                    files.rename("events.jsonl", "events.jsonl.0");
                    files.write("events.jsonl.0", &lines(300..325));
                    files.write("events.jsonl", &lines(325..330));
                }
                2 => files.write("events.jsonl", &lines(325..340)),
                3 => files.pack("events.jsonl.0"),
                4 => {
                    files.pack("events.jsonl");
                    files.rename("events.jsonl.gz", "events.jsonl-20270201.gz");
                    files.write("events.jsonl", &lines(340..350));
                }
                _ => {}
            }
            let (seen, outcome) = files.read(Wanted::After(&cursor));
            let end = next + seen.len() as i64;
            assert_eq!(seen, Vec::from_iter(next..end), "{step}");
            (next, cursor) = (end, outcome.cursor.unwrap_or(cursor));
        }
        assert_eq!(next, 350);
        // The file of this position is gone: use the time.
        fs::remove_file(files.0.path().join("events.jsonl")).unwrap();
        files.write("events.jsonl", &lines(345..360));
        assert_eq!(
            files.read(Wanted::After(&cursor)).0,
            Vec::from_iter(350..360)
        );
    }

    #[test]
    fn what_cannot_be_read_is_counted_and_named() {
        let files = rotated();
        files.write(
            "events.jsonl.1",
            &format!("{}nonsense\n{}", lines(200..250), lines(250..300)),
        );
        files.write("events.jsonl.9.xz", "x");
        files.write("events.jsonl.8.gz", "no gzip");
        let (seen, outcome) = files.read(all());
        assert_eq!(seen, Vec::from_iter(0..310));
        assert_eq!(outcome.unreadable, 1);
        assert_eq!(outcome.troubles.len(), 2, "{:?}", outcome.troubles);
    }
}
