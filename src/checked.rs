//! Strings that are checked when they are read. A pattern is written once: the check, the JSON
//! schema and the error message are derived from it. Pure.

use std::fmt;

use regex_lite::Regex;

/// How much of a refused string an error shows, in characters.
const SHOWN: usize = 80;

/// The error for an invalid string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadText {
    what: &'static str,
    given: String,
    allowed: &'static str,
}

impl BadText {
    /// The error that `given` is not a `what`; `allowed` describes valid ones.
    pub fn new(what: &'static str, given: &str, allowed: &'static str) -> BadText {
        BadText {
            what,
            given: given.chars().take(SHOWN).collect(),
            allowed,
        }
    }
}

impl fmt::Display for BadText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `escape_debug` keeps control characters and look-alikes from reaching a terminal raw.
        let (what, given) = (self.what, self.given.escape_debug());
        write!(f, "bad {what} '{given}': {}", self.allowed)
    }
}

impl std::error::Error for BadText {}

/// The result of `value` for `text`, which must match `regex`.
pub fn read<T>(text: &str, regex: Option<&Regex>, value: fn(&str) -> Option<T>) -> Option<T> {
    let fits = regex.is_some_and(|regex| regex.is_match(text));
    (fits && !text.contains(char::is_control)).then(|| value(text))?
}

/// Whether the first character of `text` is in the set `first`, and at most `most` others follow, all
/// in the set `rest`. Sets are ASCII, as between the brackets of a regular expression.
pub fn is_word(text: &str, first: &str, rest: &str, most: usize) -> bool {
    let [head, tail @ ..] = text.as_bytes() else {
        return false;
    };
    let all_in = |bytes: &[u8], set: &str| bytes.iter().all(|byte| is_in(set.as_bytes(), *byte));
    tail.len() <= most && all_in(&[*head], first) && all_in(tail, rest)
}

fn is_in(set: &[u8], byte: u8) -> bool {
    match set {
        [from, b'-', to, others @ ..] => (*from..=*to).contains(&byte) || is_in(others, byte),
        [one, others @ ..] => *one == byte || is_in(others, byte),
        [] => false,
    }
}

/// Implements reading a type from a string. `impl TYPE, WHAT, PATTERN, ALLOWED, VALUE` is for a
/// type that is defined elsewhere: VALUE creates it from a string that matches the pattern, or
/// refuses that. Its schema gets the pattern with `#[schemars(extend("pattern" = Self::PATTERN))]`.
/// `struct TYPE, WHAT, PATTERN` defines a type that holds the string, with all of this; `ALLOWED`
/// and `VALUE` may follow.
///
/// A pattern is a regular expression that both JSON Schema and `regex_lite` support; it is anchored
/// at both ends. Control characters are always refused. For names, which are read by the thousand,
/// `word(FIRST, REST, MOST)` is the pattern `[FIRST][REST]{0,MOST}`, checked by the faster
/// [`is_word`].
macro_rules! checked {
    ($(#[$meta:meta])* struct $type:ident, $what:literal,
     word($first:literal, $rest:literal, $most:literal)) => {
        $crate::checked::checked! {
            type $(#[$meta])* $type, $what, concat!("[", $first, "][", $rest, "]{0,", $most, "}"),
            |_| concat!("allowed is [", $first, "][", $rest, "]{0,", $most, "}"),
            |text| {
                $crate::checked::is_word(text, $first, $rest, $most).then(|| $type(text.to_owned()))
            }
        }
    };
    (impl $type:ident, $what:literal, $pattern:expr, $allowed:expr, $value:expr) => {
        $crate::checked::checked!(from $type, $what, $pattern, $allowed, |text| {
            $crate::checked::checked!(read text, $type, $value)
        });
    };
    (read $text:ident, $type:ident, $value:expr) => {{
        static REGEX: std::sync::LazyLock<Option<regex_lite::Regex>> =
            std::sync::LazyLock::new(|| regex_lite::Regex::new($type::PATTERN).ok());
        $crate::checked::read($text, REGEX.as_ref(), $value)
    }};
    (from $type:ident, $what:literal, $pattern:expr, $allowed:literal, $read:expr) => {
        $crate::checked::checked!(from $type, $what, $pattern, |_| $allowed, $read);
    };
    (from $type:ident, $what:literal, $pattern:expr, $allowed:expr, $read:expr) => {
        impl $type {
            /// The regular expression for valid strings.
            pub const PATTERN: &str = concat!("^", $pattern, "$");
        }

        impl std::str::FromStr for $type {
            type Err = $crate::checked::BadText;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let read: fn(&str) -> Option<Self> = $read;
                read(text).ok_or_else(|| {
                    let allowed: fn(&str) -> &'static str = $allowed;
                    $crate::checked::BadText::new($what, text, allowed(text))
                })
            }
        }

        impl TryFrom<String> for $type {
            type Error = $crate::checked::BadText;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }
    };
    ($(#[$meta:meta])* struct $type:ident, $what:literal, $pattern:expr) => {
        $crate::checked::checked! {
            $(#[$meta])* struct $type, $what, $pattern, |_| concat!("allowed is ", $pattern)
        }
    };
    ($(#[$meta:meta])* struct $type:ident, $what:literal, $pattern:expr, $allowed:expr) => {
        $crate::checked::checked! {
            $(#[$meta])* struct $type, $what, $pattern, $allowed, |text| Some(text.to_owned())
        }
    };
    ($(#[$meta:meta])* struct $type:ident, $what:literal, $pattern:expr, $allowed:expr, $value:expr) => {
        $crate::checked::checked! {
            type $(#[$meta])* $type, $what, $pattern, $allowed, |text| {
                $crate::checked::checked!(read text, $type, $value).map($type)
            }
        }
    };
    (type $(#[$meta:meta])* $type:ident, $what:literal, $pattern:expr, $allowed:expr, $read:expr) => {
        #[derive(
            Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
        )]
        #[serde(try_from = "String")]
        #[schemars(extend("pattern" = Self::PATTERN))]
        $(#[$meta])*
        pub struct $type(String);

        $crate::checked::checked!(from $type, $what, $pattern, $allowed, $read);
        $crate::checked::like_a_string!($type);
    };
}

/// Methods of a type that holds a string.
macro_rules! like_a_string {
    ($type:ident) => {
        impl $type {
            /// The string.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

pub(crate) use {checked, like_a_string};

#[cfg(test)]
mod tests {
    use super::Regex;

    checked! {
        /// For these tests.
        struct Word, "word", "[a-z]{2,200}"
    }

    #[test]
    fn what_does_not_fit_is_shown_harmless_and_short() {
        assert_eq!("ab".parse::<Word>().unwrap().as_str(), "ab");
        let bad = |text: &str| text.parse::<Word>().unwrap_err().to_string();
        assert_eq!(bad("a"), "bad word 'a': allowed is [a-z]{2,200}");
        assert_eq!(bad("ab\n"), "bad word 'ab\\n': allowed is [a-z]{2,200}");
        let long = bad(&format!("\x1b[2J{}", "x".repeat(500)));
        assert!(!long.contains('\x1b') && long.len() < 150, "{long}");
    }

    checked! {
        /// For these tests.
        struct Name, "name", word("A-Za-z_", "a-z0-9.-", 5)
    }

    proptest::proptest! {
        #[test]
        fn a_word_is_what_its_pattern_says(text in "[A-Ca-c_][a-c0-9.-]{0,6}|[ -~]{0,7}|.{0,7}") {
            let regex = Regex::new(Name::PATTERN).unwrap();
            proptest::prop_assert_eq!(text.parse::<Name>().is_ok(), regex.is_match(&text));
        }
    }

    #[test]
    fn a_name_is_refused_with_its_pattern() {
        assert_eq!("A-b.9".parse::<Name>().unwrap().as_str(), "A-b.9");
        let bad = "9".parse::<Name>().unwrap_err().to_string();
        assert_eq!(bad, "bad name '9': allowed is [A-Za-z_][a-z0-9.-]{0,5}");
    }

    #[test]
    fn a_schema_has_the_pattern() {
        let schema = schemars::schema_for!(Word);
        assert_eq!(schema.get("pattern"), Some(&Word::PATTERN.into()));
    }
}
