//! Decodes text files that people write, in any encoding, and writes texts and bytes for others; pure.

use std::path::Path;

use anyhow::Context as _;

/// The byte order mark, which some editors write before UTF-8.
pub const MARK: &[u8] = b"\xef\xbb\xbf";

/// Whether a file seems to be text in UTF-16.
pub fn is_utf16(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\xff\xfe")
        || bytes.starts_with(b"\xfe\xff")
        // ASCII letters have a zero byte beside them there.
        || bytes.iter().take(2).any(|byte| *byte == 0)
}

/// The text in a file: UTF-8, with a byte order mark or without.
///
/// # Errors
///
/// The message says what it seems to be instead, and what to do.
pub fn utf8(bytes: Vec<u8>) -> Result<String, String> {
    if is_utf16(&bytes) {
        return Err("it is UTF-16 text: save it as UTF-8".to_owned());
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.split(|byte| *byte == b'\n').count();
        format!("line {line} is not UTF-8, as in a file in Latin-1: save it as UTF-8")
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned())
}

/// A path as text, for interfaces that only accept text.
///
/// # Errors
///
/// It is not valid Unicode.
pub fn path(path: &Path) -> anyhow::Result<&str> {
    let text = path.to_str();
    text.with_context(|| format!("{} is not valid Unicode", path.display()))
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The JSON text `json` in ASCII: libvirt 11.3, as Debian 13 has it, takes no other for JSON.
pub fn json_in_ascii(json: &str) -> String {
    let mut ascii = String::with_capacity(json.len());
    for letter in json.chars() {
        if letter.is_ascii() {
            ascii.push(letter);
            continue;
        }
        // Only strings have such letters.
        for unit in letter.encode_utf16(&mut [0; 2]) {
            ascii.push_str(&format!("\\u{unit:04x}"));
        }
    }
    ascii
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_at_the_front_is_no_part_of_the_text() {
        assert_eq!(utf8("\u{feff}{}".into()), Ok("{}".to_owned()));
        assert_eq!(utf8("zoë\r\n".into()), Ok("zoë\r\n".to_owned()));
        assert_eq!(utf8(Vec::new()), Ok(String::new()));
    }

    #[test]
    fn other_encodings_are_told_by_name() {
        for utf16 in [&b"\xff\xfea\0n\0"[..], b"\xfe\xff\0a", b"a\0n\0", b"\0a\0n"] {
            assert!(utf8(utf16.to_vec()).unwrap_err().contains("UTF-16"));
        }
        let latin = utf8(b"anna\nzo\xeb\n".to_vec()).unwrap_err();
        assert!(
            latin.contains("line 2") && latin.contains("Latin-1"),
            "{latin}"
        );
    }

    #[test]
    fn json_in_ascii_says_the_same() {
        let value = serde_json::json!({"ü": "a \"—\" \u{7f} 😀\n"});
        let ascii = json_in_ascii(&value.to_string());
        assert!(ascii.is_ascii(), "{ascii}");
        assert_eq!(ascii.parse::<serde_json::Value>().unwrap(), value);
    }
}
