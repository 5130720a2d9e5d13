//! Commands that come again: whether what their first try recorded is what they want now.

use omnirun_commands_api::Rejection;
use omnirun_commands_api::command::Personal;

use super::other_wish;

/// What the first try sealed of a field, opened again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// There was no first try, or it sealed nothing.
    Nothing,
    /// It sealed this; none if its key is destroyed by now.
    Sealed(Option<Personal>),
}

impl Recorded {
    /// Refuses unless the recorded field is the wanted one. What cannot be opened any more cannot be told apart and passes.
    pub fn must_equal(&self, wanted: Option<&Personal>) -> Result<(), Rejection> {
        match (self, wanted) {
            (Self::Nothing, None) | (Self::Sealed(None), Some(_)) => Ok(()),
            (Self::Sealed(Some(recorded)), Some(wanted)) if recorded == wanted => Ok(()),
            _ => Err(other_wish()),
        }
    }
}

/// Refuses unless every recorded value is the wanted one.
pub(crate) fn must_be_same(is_same: bool) -> Result<(), Rejection> {
    if is_same { Ok(()) } else { Err(other_wish()) }
}
