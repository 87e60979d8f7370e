//! Directory trees as tar archives: packed without following links, and unpacked without trusting
//! the content.

use std::borrow::{Borrow, Cow};
use std::ffi::OsStr;
use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use tar::{Archive, Builder, Entry, EntryType, Header, HeaderMode};

use super::{Directory, PRIVATE, PRIVATE_DIRECTORY};
use crate::error::{Fault, Kind};
use crate::units::ByteSize;

/// The maximum number of files, directories and links in a tree.
pub const MOST_ENTRIES: u64 = 100_000;

/// The maximum depth of a tree, and the maximum length of a path in it, in bytes: `PATH_MAX` is
/// 4096.
const DEEPEST: usize = 100;
const LONGEST_PATH: usize = 3000;
const LONGEST_NAME: usize = 255;

/// The maximum size of an entry that describes the next one, for example its long name; it is read
/// into memory.
const LARGEST_NOTE: u64 = 64 << 10;

/// How many of the omitted entries are listed.
const MOST_NAMED: usize = 20;

/// The size of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Amount {
    /// Files, directories and links.
    pub files: u64,
    /// Total bytes of its files.
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64, most: ByteSize) -> Result<()> {
        self.files += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        ensure!(
            self.files <= MOST_ENTRIES,
            "there are more than {MOST_ENTRIES} files"
        );
        ensure!(
            self.bytes <= most.0,
            Fault::new(Kind::Failed, format!("it contains more than {most}"))
                .hint("raise the limit with --max-size, or name fewer files")
        );
        Ok(())
    }
}

/// An omitted entry of an archive, and the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its name, with invalid characters replaced.
    pub path: String,
    /// The reason.
    pub reason: Cow<'static, str>,
}

/// The result of unpacking an archive.
#[derive(Debug, Default)]
pub struct Unpacked {
    /// The unpacked files.
    pub amount: Amount,
    /// The number of omitted entries.
    pub left_out: u64,
    /// The first of them.
    pub named: Vec<LeftOut>,
}

impl Unpacked {
    fn leave_out(&mut self, mut path: &[u8], reason: &'static str) {
        self.left_out += 1;
        // tar includes an entry for the packed directory itself.
        while let Some(rest) = path.strip_prefix(b"./") {
            path = rest;
        }
        if self.named.len() < MOST_NAMED {
            let path = String::from_utf8_lossy(&path[..path.len().min(LONGEST_NAME)]);
            let path = path.replace(char::is_control, "\u{fffd}");
            let reason = reason.into();
            self.named.push(LeftOut { path, reason });
        }
    }
}

/// Reads a file from its beginning, in parallel with other readers.
#[derive(Debug)]
pub struct FromStart<F> {
    file: F,
    at: u64,
}

impl<F: Borrow<File>> FromStart<F> {
    /// The start of `file`.
    pub fn of(file: F) -> Self {
        FromStart { file, at: 0 }
    }
}

impl<F: Borrow<File>> Read for FromStart<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.borrow().read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Packs `sources` with everything below them into an archive, each under its own name; returns
/// these names. Only files, directories and links are packed, links as links. Modes are reduced to
/// permissions, and owners are left out.
pub fn pack(sources: &[PathBuf], sink: &File, most: ByteSize) -> Result<(Vec<String>, Amount)> {
    let mut builder = Builder::new(sink);
    let (mut names, mut amount) = (Vec::new(), Amount::default());
    for source in sources {
        let name = own_name(source)?;
        ensure!(
            !names.contains(&name),
            Fault::new(Kind::Usage, format!("two sources are called {name}"))
        );
        pack_one(&mut builder, source, Path::new(&name), &mut amount, most)
            .with_context(|| format!("failed to read {}", source.display()))?;
        names.push(name);
    }
    builder.finish()?;
    Ok((names, amount))
}

/// The name of `source` in the archive.
fn own_name(source: &Path) -> Result<String> {
    let failed = || format!("failed to read {}", source.display());
    source.symlink_metadata().with_context(|| {
        Fault::new(Kind::Usage, failed()).hint("name files and directories of this host")
    })?;
    let whole = match source.file_name() {
        Some(_) => source.to_owned(),
        None => source.canonicalize().with_context(failed)?,
    };
    let name = whole.file_name().and_then(OsStr::to_str);
    let name = name.filter(|name| !name.contains(char::is_control));
    name.map(str::to_owned).ok_or_else(|| {
        let message = format!("{} has no valid file name", source.display());
        Fault::new(Kind::Usage, message).into()
    })
}

fn pack_one(
    builder: &mut Builder<&File>,
    source: &Path,
    name: &Path,
    amount: &mut Amount,
    most: ByteSize,
) -> Result<()> {
    let there = source.symlink_metadata()?;
    let kind = there.file_type();
    amount.add(if kind.is_file() { there.len() } else { 0 }, most)?;
    let mut header = header(&there);
    if kind.is_dir() {
        builder.append_data(&mut header, name, io::empty())?;
        let mut below: Vec<_> = source.read_dir()?.collect::<io::Result<_>>()?;
        below.sort_by_key(std::fs::DirEntry::file_name);
        for entry in below {
            let name = name.join(entry.file_name());
            pack_one(builder, &entry.path(), &name, amount, most)?;
        }
    } else if kind.is_symlink() {
        header.set_size(0);
        builder.append_link(&mut header, name, source.read_link()?)?;
    } else if kind.is_file() {
        let (directory, file) = Directory::of(source)?;
        let (file, size) = directory.open_sized(file, most.0)?;
        ensure!(size == there.len(), "{} changes", source.display());
        let mut whole = file.take(size);
        builder.append_data(&mut header, name, &mut whole)?;
        ensure!(whole.limit() == 0, "{} changes", source.display());
    } else {
        bail!(
            "{} is neither a file nor a directory nor a link",
            source.display()
        );
    }
    Ok(())
}

fn header(there: &Metadata) -> Header {
    let mut header = Header::new_gnu();
    header.set_metadata_in_mode(there, HeaderMode::Complete);
    header.set_mode(there.mode() & 0o777);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// Copies `sources`, which are trusted, with everything below them into `directory`, each under its own
/// name; returns these names.
pub fn copy(sources: &[PathBuf], directory: &Path, most: ByteSize) -> Result<Vec<String>> {
    let archive = tempfile::tempfile_in(directory)?;
    let (names, _) = pack(sources, &archive, most)?;
    Archive::new(FromStart::of(archive)).unpack(directory)?;
    Ok(names)
}

/// Unpacks an archive into `directory`, which must be empty and private. Files are readable for
/// their owner only, and stay executable. Anything that could do harm is omitted: entries that lead
/// out of the directory, anything but files, directories and links, and names that a terminal must
/// not show. An archive with more content than allowed is refused.
pub fn unpack(mut archive: File, directory: &Path, most: ByteSize) -> Result<Unpacked> {
    look_at_notes(&mut archive)?;
    archive.seek(SeekFrom::Start(0))?;
    let (mut seen, mut done) = (Amount::default(), Unpacked::default());
    // Nothing is ever written through a link: links are created last.
    let mut links = Vec::new();
    for entry in Archive::new(archive).entries()? {
        let entry = entry.context(NOT_AN_ARCHIVE)?;
        let raw = entry.path_bytes().into_owned();
        let path = match safe(&raw) {
            Ok(path) if path.as_os_str().is_empty() => continue,
            Ok(path) => path,
            Err(reason) => {
                done.leave_out(&raw, reason);
                // Omitted entries count too, so that a million bad names are not processed.
                seen.add(0, most)?;
                continue;
            }
        };
        let kind = entry.header().entry_type();
        let size = if kind.is_hard_link() { 0 } else { entry.size() };
        seen.add(size, most)?;
        if kind.is_symlink() {
            let target = entry.link_name_bytes().unwrap_or_default();
            links.push((path, PathBuf::from(OsStr::from_bytes(&target))));
            continue;
        }
        match take_out(entry, directory, &path, kind) {
            Ok(None) => done.amount.add(size, most)?,
            Ok(Some(reason)) => done.leave_out(&raw, reason),
            Err(error) => return Err(anyhow!(error).context("failed to write a file of it")),
        }
    }
    for (path, target) in links {
        let reason = match stays_inside(&path, &target) {
            true => placed(
                make_parents(directory, &path)
                    .and_then(|()| std::os::unix::fs::symlink(&target, directory.join(&path))),
            )?,
            false => Some("a link that leads out of it"),
        };
        match reason {
            None => done.amount.add(0, most)?,
            Some(reason) => done.leave_out(path.as_os_str().as_bytes(), reason),
        }
    }
    Ok(done)
}

const NOT_AN_ARCHIVE: &str = "its guest did not send a valid tar archive";

/// Refuses an archive with a name so long that reading it would use too much memory.
fn look_at_notes(archive: &mut File) -> Result<()> {
    archive.seek(SeekFrom::Start(0))?;
    let mut archive = Archive::new(archive);
    for (number, entry) in archive.entries_with_seek()?.raw(true).enumerate() {
        let entry = entry.context(NOT_AN_ARCHIVE)?;
        let kind = entry.header().entry_type();
        let is_note = kind.is_gnu_longname()
            || kind.is_gnu_longlink()
            || kind.is_pax_local_extensions()
            || kind.is_pax_global_extensions();
        let too_long = is_note && entry.header().entry_size()? > LARGEST_NOTE;
        ensure!(!too_long, "a name in it is too long");
        ensure!(
            number as u64 <= 3 * MOST_ENTRIES,
            "there are more than {MOST_ENTRIES} files"
        );
    }
    Ok(())
}

/// The path of an entry, if it is below the directory and safe to show.
fn safe(raw: &[u8]) -> Result<PathBuf, &'static str> {
    let text = std::str::from_utf8(raw).map_err(|_| "its name is not UTF-8")?;
    if text.contains(char::is_control) {
        return Err("its name has control characters");
    }
    let mut path = PathBuf::new();
    for component in Path::new(text).components() {
        match component {
            Component::Normal(name) if name.len() <= LONGEST_NAME => path.push(name),
            Component::Normal(_) => return Err("its name is too long"),
            Component::CurDir => {}
            _ => return Err("its name leads out of it"),
        }
    }
    if text.len() > LONGEST_PATH || path.components().count() > DEEPEST {
        return Err("its name is too long");
    }
    Ok(path)
}

/// Whether the link at `path` leads to a place in the same tree, also through other such links: no
/// more steps up than there are directories above it, and then down.
fn stays_inside(path: &Path, target: &Path) -> bool {
    if safe_text(target).is_none() {
        return false;
    }
    let above = path.components().count() - 1;
    let mut components = target.components().peekable();
    let mut up = 0;
    while components.next_if_eq(&Component::ParentDir).is_some() {
        up += 1;
    }
    let mut down = components.filter(|it| *it != Component::CurDir);
    up <= above && down.all(|it| matches!(it, Component::Normal(_)))
}

fn safe_text(path: &Path) -> Option<&str> {
    let text = path.to_str()?;
    (!text.is_empty() && text.len() <= LONGEST_PATH && !text.contains(char::is_control))
        .then_some(text)
}

/// Unpacks one entry; returns why it was omitted, if it was.
fn take_out(
    mut entry: Entry<'_, File>,
    directory: &Path,
    path: &Path,
    kind: EntryType,
) -> Result<Option<&'static str>> {
    let place = directory.join(path);
    let is_file = kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse();
    if kind.is_dir() {
        return placed(make_parents(directory, &path.join("x")));
    }
    if kind.is_hard_link() {
        let target = entry.link_name_bytes().unwrap_or_default();
        let Ok(target) = safe(&target) else {
            return Ok(Some("a link that leads out of it"));
        };
        return placed(
            make_parents(directory, path)
                .and_then(|()| std::fs::hard_link(directory.join(target), place)),
        );
    }
    if !is_file {
        return Ok(Some("neither a file nor a directory nor a link"));
    }
    let mode = match entry.header().mode() {
        Ok(mode) if mode & 0o100 != 0 => 0o700,
        _ => PRIVATE,
    };
    let made = make_parents(directory, path).and_then(|()| {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&place)
    });
    let mut file = match made {
        Ok(file) => file,
        Err(error) => return placed(Err(error)),
    };
    let written = copy_sparsely(&mut entry, &mut file)?;
    ensure!(written == entry.size(), "the archive ends too early");
    let modified = entry.header().mtime().unwrap_or_default();
    if let Some(at) = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(modified)) {
        // Ignore a time that no file can have.
        let _ = file.set_modified(at);
    }
    Ok(None)
}

/// Copies with holes in place of zeros: a sparse file uses no more space than before.
fn copy_sparsely(from: &mut impl Read, to: &mut File) -> Result<u64> {
    let mut piece = Vec::new();
    let mut written = 0;
    while from.take(64 << 10).read_to_end(&mut piece)? > 0 {
        if piece.iter().any(|byte| *byte != 0) {
            to.write_all(&piece)?;
        } else {
            to.seek(SeekFrom::Current(piece.len() as i64))?;
        }
        written += piece.len() as u64;
        piece.clear();
    }
    to.set_len(written)?;
    Ok(written)
}

/// Creates the parent directories of `path`, for their owner only.
fn make_parents(directory: &Path, path: &Path) -> io::Result<()> {
    let place = directory.join(path.parent().unwrap_or(Path::new("")));
    let mut maker = DirBuilder::new();
    let made = maker.recursive(true).mode(PRIVATE_DIRECTORY).create(place);
    made.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => io::ErrorKind::NotADirectory.into(),
        _ => error,
    })
}

/// Why an entry could not be created, if the archive and not this host is the cause.
fn placed(done: io::Result<()>) -> Result<Option<&'static str>> {
    match done {
        Ok(()) => Ok(None),
        Err(error) => match error.kind() {
            io::ErrorKind::AlreadyExists => Ok(Some("it is there twice")),
            io::ErrorKind::NotADirectory => Ok(Some("a file is in the place of its directory")),
            io::ErrorKind::NotFound => Ok(Some("a link to nothing in it")),
            _ => Err(error.into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const MOST: ByteSize = ByteSize(1 << 20);

    /// Kind, name, target of a link, content.
    type Raw<'a> = (EntryType, &'a [u8], &'a [u8], &'a [u8]);

    fn archive(entries: &[Raw]) -> File {
        let mut bytes = Vec::new();
        for (kind, name, target, content) in entries {
            let mut header = Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_size(content.len() as u64);
            header.set_mode(0o6755);
            header.set_mtime(1);
            let old = header.as_old_mut();
            old.name[..name.len()].copy_from_slice(name);
            old.linkname[..target.len()].copy_from_slice(target);
            header.set_cksum();
            bytes.extend(header.as_bytes());
            bytes.extend(*content);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.resize(bytes.len() + 1024, 0);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        file
    }

    fn reasons(done: &Unpacked) -> Vec<&str> {
        done.named.iter().map(|it| it.path.as_str()).collect()
    }

    #[test]
    fn nothing_in_an_archive_reaches_beyond_its_directory() {
        use EntryType as Kind;
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::write(outer.path().join("a/mine"), "mine").unwrap();
        let long = [b'x'; 99];
        let deep = "d/".repeat(49);
        let entries: &[Raw] = &[
            (Kind::Regular, b"./good", b"", b"1"),
            (Kind::Directory, b"sub/", b"", b""),
            (Kind::Regular, b"sub/run", b"", b"22"),
            (Kind::Link, b"sub/same", b"good", b""),
            (Kind::Symlink, b"sub/up", b"../good", b""),
            (Kind::Regular, &long, b"", b""),
            (Kind::Regular, deep.as_bytes(), b"", b""),
            // From here on nothing is taken.
            (Kind::Regular, b"../mine", b"", b"x"),
            (Kind::Regular, b"/etc/cyyber-was-here", b"", b"x"),
            (Kind::Regular, b"sub/../../mine", b"", b"x"),
            (Kind::Symlink, b"out", b"..", b""),
            (Kind::Regular, b"out/mine", b"", b"x"),
            (Kind::Symlink, b"sub/far", b"../../mine", b""),
            (Kind::Symlink, b"abs", b"/etc/passwd", b""),
            (Kind::Symlink, b"round", b"sub/../../mine", b""),
            (Kind::Symlink, b"none", b"", b""),
            (Kind::Link, b"hard", b"../mine", b""),
            (Kind::Link, b"hard", b"/etc/passwd", b""),
            (Kind::Link, b"hard", b"nothing", b""),
            (Kind::Char, b"null", b"", b""),
            (Kind::Block, b"disk", b"", b""),
            (Kind::Fifo, b"pipe", b"", b""),
            (Kind::Regular, b"good", b"", b"again"),
            (Kind::Regular, b"good/below", b"", b"x"),
            (Kind::Regular, b"latin\xe9", b"", b"x"),
            (Kind::Regular, b"clear\x1b[2J", b"", b"x"),
        ];
        let done = unpack(archive(entries), &inner, MOST).unwrap();
        println!("{:#?}", done.named);
        // A directory took the place of one of them.
        assert!(inner.join("out").is_dir(), "the link came after the file");
        assert_eq!(done.left_out, 18, "{:#?}", done.named);
        assert_eq!(done.amount, Amount { files: 8, bytes: 4 });
        assert!(reasons(&done).iter().all(|name| !name.contains('\x1b')));
        assert_eq!(std::fs::read(outer.path().join("a/mine")).unwrap(), b"mine");
        assert_eq!(std::fs::read(inner.join("sub/up")).unwrap(), b"1");
        assert_eq!(std::fs::read(inner.join("sub/same")).unwrap(), b"1");
        for (name, mode) in [("good", 0o700), ("sub", 0o700)] {
            let there = inner.join(name).metadata().unwrap();
            assert_eq!(there.mode() & 0o7777, mode, "{name}");
        }
        let links = [
            "abs", "round", "none", "hard", "null", "disk", "pipe", "sub/far",
        ];
        for name in links {
            assert!(inner.join(name).symlink_metadata().is_err(), "{name}");
        }
    }

    #[test]
    fn an_archive_that_is_too_much_is_refused() {
        let into = tempfile::tempdir().unwrap();
        let refused = |file, said: &str| {
            let error = unpack(file, into.path(), MOST).unwrap_err();
            let error = format!("{error:#}");
            assert!(error.contains(said), "{error}");
        };
        let large = vec![1; 600 << 10];
        let file: Raw = (EntryType::Regular, b"a", b"", &large);
        let other: Raw = (EntryType::Regular, b"b", b"", &large);
        refused(archive(&[file, other]), "more than 1M");
        let note: Raw = (EntryType::GNULongName, b"", b"", &large);
        refused(archive(&[note, file]), "too long");
        let empty: Raw = (EntryType::Regular, b"../x", b"", b"");
        let many = vec![empty; MOST_ENTRIES as usize + 1];
        refused(archive(&many), "more than 100000 files");
        let mut noise = tempfile::tempfile().unwrap();
        noise.write_all(&[7; 4096]).unwrap();
        refused(noise, "a valid tar archive");
        // It says that it has a file of four gigabytes, most of it a hole.
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNUSparse);
        header.set_path("sparse").unwrap();
        header.set_size(0);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.realsize = *b"40000000000\0";
        gnu.sparse[0].offset = *b"40000000000\0";
        gnu.sparse[0].numbytes = *b"00000000000\0";
        header.set_cksum();
        let mut sparse = tempfile::tempfile().unwrap();
        sparse.write_all(header.as_bytes()).unwrap();
        sparse.write_all(&[0; 1024]).unwrap();
        refused(sparse, "more than 1M");
    }

    #[test]
    fn what_is_packed_comes_out_again_without_what_nobody_may_send() {
        let from = tempfile::tempdir().unwrap();
        let path = |name: &str| from.path().join(name);
        std::fs::create_dir_all(path("work/deep")).unwrap();
        std::fs::write(path("work/deep/text"), "hello").unwrap();
        std::fs::write(path("one"), "1").unwrap();
        // It is sent as a link: what it leads to stays here.
        symlink("/etc/shadow", path("work/secret")).unwrap();
        let pack_all = |sources: &[&str], most| {
            let file = tempfile::tempfile().unwrap();
            let sources: Vec<_> = sources.iter().map(|name| path(name)).collect();
            pack(&sources, &file, most).map(|(names, amount)| (names, amount, file))
        };
        let (names, amount, file) = pack_all(&["work", "one"], MOST).unwrap();
        assert_eq!(names, ["work", "one"]);
        assert_eq!(amount, Amount { files: 5, bytes: 6 });
        let into = tempfile::tempdir().unwrap();
        let done = unpack(file, into.path(), MOST).unwrap();
        assert_eq!(reasons(&done), ["work/secret"]);
        let text = std::fs::read(into.path().join("work/deep/text")).unwrap();
        assert_eq!(text, b"hello");

        let refused = |sources: &[&str], most, said: &str| {
            let error = format!("{:#}", pack_all(sources, most).map(drop).unwrap_err());
            assert!(error.contains(said), "{error}");
        };
        refused(&["one", "work/../one"], MOST, "two sources are called one");
        refused(&["nothing"], MOST, "failed to read");
        refused(&["work"], ByteSize(4), "more than 4");
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, path("work/pipe"), fifo, PRIVATE.into(), 0).unwrap();
        refused(&["work"], MOST, "neither a file");
    }
}
