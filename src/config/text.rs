//! Text types of the configuration, each with its allowed content.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::checked::{checked, like_a_string};

/// The maximum length of a line of text, and of a text for students, in bytes.
const LONGEST_LINE: usize = 200;
const LONGEST_TEXT: usize = 64 << 10;

checked! {
    /// One line of text for people: no control characters, at most 200 bytes.
    #[schemars(extend("maxLength" = LONGEST_LINE))]
    struct Line, "line of text", r"[^\x00-\x1f\x7f]*\S[^\x00-\x1f\x7f]*",
    "allowed is a line that is not empty, has at most 200 bytes and no control characters",
    |text| {
        // XML does not allow Unicode noncharacters.
        let strange = |c: char| u32::from(c) & 0xfffe == 0xfffe;
        let blank = text.trim().is_empty();
        let fits = !blank && text.len() <= LONGEST_LINE && !text.contains(strange);
        fits.then(|| text.to_owned())
    }
}

checked! {
    /// The name of a Debian package (Debian Policy 5.6.1), which can be neither an option nor have
    /// a meaning for a shell.
    #[derive(PartialOrd, Ord)]
    struct PackageName, "package name", "[a-z0-9][a-z0-9+.-]{0,126}[a-z0-9+.]",
    // apt-get would remove the package for `name-`. Its other forms are not allowed either.
    |text| match text.find([':', '=', '/']).and_then(|at| text.get(at..=at)) {
        Some(":") => {
            "packages are always of the image's architecture; use a provision script for others"
        }
        Some(_) => "packages are always of the archive's version; use a provision script for others",
        None => "allowed is [a-z0-9][a-z0-9+.-]+, not ending with -",
    }
}

checked! {
    /// A checksum, `sha256:` and 64 hexadecimal digits.
    struct Sha256, "checksum", "sha256:[0-9a-fA-F]{64}",
    "allowed is sha256: and 64 hexadecimal digits",
    |text| Some(text.to_ascii_lowercase())
}

impl Sha256 {
    /// The hexadecimal digits, in lower case.
    pub fn digits(&self) -> &str {
        self.0.trim_start_matches("sha256:")
    }
}

/// Text for the student's terminal: any Unicode, with newlines, tabs and colour escapes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("maxLength" = LONGEST_TEXT))]
pub struct Text(String);

like_a_string!(Text);

impl TryFrom<String> for Text {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let size = text.len();
        if size > LONGEST_TEXT {
            return Err(format!(
                "text of {size} bytes: at most {LONGEST_TEXT} are allowed"
            ));
        }
        let strange = |c: &char| c.is_control() && !matches!(c, '\n' | '\t' | '\x1b');
        match text.chars().find(strange) {
            Some(c) => Err(format!(
                "control character {c:?} in text: newline, tab and escape are allowed"
            )),
            None => Ok(Text(text)),
        }
    }
}
