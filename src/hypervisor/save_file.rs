//! The file in which libvirt saves a guest's memory (`qemu_saveimage.h` of libvirt), parsed as far
//! as necessary to replace its definition: QEMU's own stream, which follows, is never examined.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

const MAGIC: &[u8; 16] = b"LibvirtQemudSave";

/// Magic, five numbers and space for fourteen more, each with 32 bits, little-endian.
const HEADER: usize = 92;

/// The only tested version; libvirt 9 to 11 write it.
const VERSION: u32 = 2;

/// Memory in QEMU's format, neither compressed nor sparse.
const RAW: u32 = 0;

/// The maximum length of a definition.
const LONGEST: u32 = 16 << 20;

/// The stream begins at a multiple of this, because file systems share whole blocks between files.
/// libvirt leaves as much space.
const ALIGNMENT: usize = 64 << 10;

/// A file with a guest's saved memory.
#[derive(Debug)]
pub struct SaveFile {
    file: File,
    was_running: u32,
    /// What libvirt keeps of the CPU that the guest had.
    cookie: Vec<u8>,
    /// The offset of QEMU's stream.
    stream: u64,
}

/// The header of a file.
struct Header {
    version: u32,
    /// The total length of definition and cookie.
    length: u32,
    was_running: u32,
    format: u32,
    /// The offset of the cookie after the header; 0 without one.
    cookie: u32,
}

impl Header {
    fn read(file: &File) -> io::Result<Header> {
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0)?;
        let (magic, numbers) = header.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(other("it is not a complete file with saved memory"));
        }
        let number = |bytes: &[u8]| {
            let digits = bytes.iter().rev();
            digits.fold(0, |number, byte| number << 8 | u32::from(*byte))
        };
        let mut numbers = numbers.chunks_exact(4).map(number);
        let mut next = || numbers.next().unwrap_or_default();
        let header = Header {
            version: next(),
            length: next(),
            was_running: next(),
            format: next(),
            cookie: next(),
        };
        if header.length > LONGEST || header.cookie > header.length {
            return Err(other("its header is damaged"));
        }
        Ok(header)
    }

    /// Definition and cookie, each terminated by a zero byte.
    fn texts(&self, file: &File) -> io::Result<Vec<u8>> {
        let mut texts = vec![0; self.length as usize];
        file.read_exact_at(&mut texts, HEADER as u64)?;
        Ok(texts)
    }
}

/// The text from `at` to the first zero byte.
fn text(texts: &[u8], at: u32) -> io::Result<Vec<u8>> {
    let rest = texts.get(at as usize..).unwrap_or_default();
    let end = rest.iter().position(|byte| *byte == 0);
    let whole = end.and_then(|end| rest.get(..end));
    Ok(whole.ok_or_else(|| other("its header is damaged"))?.into())
}

/// The definition in a file with saved memory, of whatever version and format.
pub fn definition(file: &File) -> io::Result<String> {
    let definition = text(&Header::read(file)?.texts(file)?, 0)?;
    String::from_utf8(definition).map_err(io::Error::other)
}

impl SaveFile {
    /// Reads the header of `file`. Fails for an untested version or format.
    pub fn open(file: File) -> io::Result<SaveFile> {
        let header = Header::read(&file)?;
        let (version, format) = (header.version, header.format);
        if version != VERSION || format != RAW {
            return Err(other(&format!(
                "libvirt wrote it in version {version}, format {format}, and only version \
                 {VERSION}, format {RAW} (save_image_format = \"raw\" in qemu.conf) is supported"
            )));
        }
        let texts = header.texts(&file)?;
        Ok(SaveFile {
            file,
            was_running: header.was_running,
            cookie: match header.cookie {
                0 => Vec::new(),
                at => text(&texts, at)?,
            },
            stream: HEADER as u64 + u64::from(header.length),
        })
    }

    /// Writes the same memory with another `definition` into the empty file `target`. The stream
    /// shares its blocks if the file system supports that, and is copied otherwise.
    pub fn write_with(mut self, definition: &str, mut target: &File) -> io::Result<()> {
        let text = definition.as_bytes();
        let mut content = Vec::with_capacity(ALIGNMENT);
        let cookie_at = match self.cookie.is_empty() {
            true => 0,
            false => text.len() + 1,
        };
        let used = HEADER + text.len() + self.cookie.len() + 2;
        let stream = used.next_multiple_of(ALIGNMENT);
        content.extend(MAGIC);
        for number in [
            VERSION as usize,
            stream - HEADER,
            self.was_running as usize,
            RAW as usize,
            cookie_at,
        ] {
            let number = u32::try_from(number).map_err(io::Error::other)?;
            content.extend(number.to_le_bytes());
        }
        content.resize(HEADER, 0);
        content.extend(text);
        content.push(0);
        content.extend(&self.cookie);
        content.resize(stream, 0);
        target.write_all(&content)?;
        self.file.seek(SeekFrom::Start(self.stream))?;
        io::copy(&mut self.file, &mut target).map(drop)
    }
}

fn other(why: &str) -> io::Error {
    io::Error::other(why.to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn file_with(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file.rewind().unwrap();
        file
    }

    /// As libvirt writes it.
    fn saved(version: u32, format: u32, definition: &str, stream: &[u8]) -> Vec<u8> {
        let cookie_at = definition.find('\0').unwrap() + 1;
        let mut content = MAGIC.to_vec();
        for number in [
            version,
            definition.len() as u32,
            1,
            format,
            cookie_at as u32,
        ] {
            content.extend(number.to_le_bytes());
        }
        content.resize(HEADER, 0);
        content.extend(definition.bytes());
        content.extend(stream);
        content
    }

    #[test]
    fn memory_gets_another_definition_and_is_the_same_otherwise() {
        let stream: Vec<u8> = (0..200_000_u32).map(|it| it as u8).collect();
        let before = saved(2, 0, "<domain/>\0<cookie/>\0\0\0", &stream);
        let mut after = tempfile::tempfile().unwrap();
        let definition = format!("<domain>{}</domain>", "x".repeat(70_000));
        let opened = SaveFile::open(file_with(&before)).unwrap();
        opened.write_with(&definition, &after).unwrap();
        after.rewind().unwrap();
        let mut content = Vec::new();
        after.read_to_end(&mut content).unwrap();
        let wanted = format!("{definition}\0<cookie/>\0");
        assert_eq!(&content[HEADER..HEADER + wanted.len()], wanted.as_bytes());
        assert_eq!(&content[2 * ALIGNMENT..], stream);

        assert_eq!(super::definition(&after).unwrap(), definition);
        let again = SaveFile::open(after).unwrap();
        assert_eq!(
            (again.cookie.as_slice(), again.was_running),
            (&b"<cookie/>"[..], 1)
        );
        assert_eq!(again.stream, 2 * ALIGNMENT as u64);
    }

    #[test]
    fn what_was_never_tried_is_refused() {
        let xml = "<domain/>\0<cookie/>\0";
        let good = saved(2, 0, xml, b"stream");
        SaveFile::open(file_with(&good)).unwrap();
        let why = |content: &[u8]| SaveFile::open(file_with(content)).unwrap_err().to_string();
        assert!(why(&saved(3, 0, xml, b"")).contains("version 3"));
        assert!(why(&saved(2, 6, xml, b"")).contains("format 6"));
        assert!(why(&[b"LibvirtQemudPart", &good[16..]].concat()).contains("not a complete file"));
        for cut in [0, 50, HEADER, HEADER + 5] {
            why(&good[..cut]);
        }
        let mut damaged = good.clone();
        damaged[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(why(&damaged).contains("damaged"));
        // A definition whose end is missing.
        let mut damaged = good;
        damaged[20..24].copy_from_slice(&(xml.len() as u32 - 1).to_le_bytes());
        assert!(why(&damaged).contains("damaged"));
    }
}
