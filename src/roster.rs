//! A list of users: one id per line. Pure.

use std::collections::HashSet;

use crate::error::{Fault, Kind};
use crate::names::UserId;

/// The users in `text`, each once, in their order. Blank lines, text after `#` and carriage returns
/// are ignored. `source` is named in errors.
pub fn parse(text: &str, source: &str) -> Result<Vec<UserId>, Fault> {
    let mut seen = HashSet::new();
    let mut users = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let id = line.split('#').next().unwrap_or_default().trim();
        if id.is_empty() {
            continue;
        }
        let user: UserId = id.parse().map_err(|error| {
            let message = format!("{source}, line {}: {error}", number + 1);
            Fault::new(Kind::Usage, message).hint("write one user id per line")
        })?;
        if seen.insert(user.clone()) {
            users.push(user);
        }
    }
    if users.is_empty() {
        let message = format!("no users in {source}");
        return Err(Fault::new(Kind::Usage, message).hint("write one user id per line"));
    }
    Ok(users)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(text: &str) -> Vec<String> {
        let users = parse(text, "class.txt").unwrap();
        users.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_user_once_in_order() {
        let text = "# class 7b\r\nanna\r\n\r\n ben # from 7a\nanna\n7";
        assert_eq!(ids(text), ["anna", "ben", "7"]);
    }

    #[test]
    fn a_bad_id_is_named_with_its_place() {
        let error = parse("anna\n\nben b\n", "class.txt").unwrap_err();
        let message = error.to_string();
        assert!(
            message.starts_with("class.txt, line 3: bad user id 'ben b'"),
            "{message}"
        );
    }

    #[test]
    fn nobody_is_an_error() {
        for text in ["", "\n \n", "# only words\n"] {
            assert_eq!(parse(text, "x").unwrap_err().to_string(), "no users in x");
        }
    }
}
