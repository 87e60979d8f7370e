//! Suggestions for a name that does not exist. Pure.

use strsim::osa_distance;

/// The one of `known` of which `given` is most likely a typo; `None` if none is close.
///
/// One typo is allowed per three characters. Words of digits only are left out: 124 is no useful
/// suggestion for 123.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = given.to_lowercase();
    let is_number = |word: &str| word.bytes().all(|byte| byte.is_ascii_digit());
    known
        .into_iter()
        .filter(|other| *other != given && !(is_number(given) && is_number(other)))
        .map(|other| (osa_distance(&lower, &other.to_lowercase()), other))
        .filter(|(slips, _)| *slips <= given.chars().count() / 3)
        // If several are equally close, the first by name.
        .min()
        .map(|(_, other)| other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found() {
        let labs = ["lab01", "lab02", "forensics", "web-hacking"];
        for (given, meant) in [
            ("forensic", Some("forensics")),
            ("forensisc", Some("forensics")),
            ("webhacking", Some("web-hacking")),
            ("Forensics", Some("forensics")),
            ("lab1", Some("lab01")),
            ("lab03", Some("lab01")),
            ("network", None),
            ("lab01", Some("lab02")),
        ] {
            assert_eq!(nearest(given, labs), meant, "{given}");
        }
    }

    #[test]
    fn short_names_and_numbers_are_not_mistaken_for_one_another() {
        assert_eq!(nearest("8", ["7", "9"]), None);
        assert_eq!(nearest("123", ["124"]), None);
        assert_eq!(nearest("bo", ["jo"]), None);
        assert_eq!(nearest("ana", ["anna"]), Some("anna"));
        assert_eq!(nearest("s123", ["s124"]), Some("s124"));
        // Equal except for case, however short.
        assert_eq!(nearest("a", ["A"]), Some("A"));
    }
}
