//! Secrets: values that must not appear in logs, panics and debug output.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A secret. It is only output explicitly, as JSON or by name.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    pub fn new(text: String) -> Secret {
        Secret(text)
    }

    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_shows_only_where_it_is_asked_for() {
        let secret = Secret::new("s3cret".to_owned());
        assert_eq!(format!("{:?}", Some(&secret)), "Some([secret])");
        assert_eq!(serde_json::to_string(&secret).unwrap(), r#""s3cret""#);
        assert_eq!(secret.reveal(), "s3cret");
    }
}
