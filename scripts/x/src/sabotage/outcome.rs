//! What came of a patch, and what a run of tests says of it.

/// What came of a patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The test ran and failed: the promise is watched.
    Red,
    /// It ran until its time was over: noticed as well.
    Hung,
    /// The test passed although its mechanism is broken.
    Green,
    /// No test of that name ran.
    NothingRan,
    /// The test fails without the patch too, so that its failing says nothing.
    RedAnyway,
    /// The broken program does not compile, which is not what a promise's test would notice.
    NoBuild,
    /// The patch does not apply to the last commit.
    DoesNotApply,
    /// The patch changes more than one mechanism's worth of lines, or none.
    WrongSize,
    /// The promise has a test and no patch.
    NoPatch,
}

impl Outcome {
    pub(super) fn is_proof(self) -> bool {
        matches!(self, Self::Red | Self::Hung)
    }

    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Red => "red, as it must be",
            Self::Hung => "red: hung until its time was over",
            Self::Green => "GREEN: the test does not watch its mechanism",
            Self::NothingRan => "NOTHING RAN: no test of that name",
            Self::RedAnyway => "RED WITHOUT THE PATCH: mend the test first",
            Self::NoBuild => "NO BUILD: a patch must break behaviour, not types",
            Self::DoesNotApply => "DOES NOT APPLY: write it anew",
            Self::WrongSize => "WRONG SIZE: 1 to 10 changed lines",
            Self::NoPatch => "NO PATCH: nobody has seen this test fail",
        }
    }
}

/// What the test program's last line and its exit status mean; none when they do not fit together, as after a crash of the program.
pub(super) fn judge(is_success: bool, printed: &str) -> Option<Outcome> {
    let counts = printed.lines().rev().find(|line| line.starts_with("test result:"));
    let count = |what: &str| -> Option<u64> {
        let (before, _) = counts?.split_once(what)?;
        before.rsplit([' ', '.']).find(|word| !word.is_empty())?.parse().ok()
    };
    match (count(" passed"), count(" failed")) {
        (Some(0), Some(0)) => Some(Outcome::NothingRan),
        (Some(_), Some(0)) if is_success => Some(Outcome::Green),
        (Some(_), Some(failed)) if failed > 0 && !is_success => Some(Outcome::Red),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_test_that_ran_and_failed_is_red() {
        let line = |passed, failed| {
            format!("running\ntest result: x. {passed} passed; {failed} failed; 0 ignored; 7 filtered out\n")
        };
        assert_eq!(judge(false, &line(1, 1)), Some(Outcome::Red));
        assert_eq!(judge(true, &line(2, 0)), Some(Outcome::Green));
        assert_eq!(judge(true, &line(0, 0)), Some(Outcome::NothingRan));
        assert_eq!(judge(false, &line(2, 0)), None);
        assert_eq!(judge(false, "error: could not compile"), None);
    }
}
