//! Text that belongs to a user and is never printed: commands, code, paths, file contents, environment values.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A user's text. Its `Debug` shows only its length, so that no log or panic can carry it.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Private(String);

impl Private {
    /// The text itself, for the one who has to use it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The text itself, by value.
    pub fn into_inner(self) -> String {
        self.0
    }
}

impl From<String> for Private {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Private {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Private {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Private({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_text() {
        let shown = format!("{:?}", Private::from("canary"));
        assert_eq!(shown, "Private(6 bytes)");
    }
}
