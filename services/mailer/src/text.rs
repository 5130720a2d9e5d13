//! The words of each mail: plain text, no links, no pictures, nothing that tells who read it.

use omnirun_commands_api::mail::Content;
use omnirun_events::unit::{Millis, StandardMillis};

/// A mail as people read it.
#[derive(Clone, PartialEq, Eq)]
pub struct Text {
    /// The subject; it holds no code, since subjects show on locked screens.
    pub subject: &'static str,
    /// The body, in lines of at most 78 characters.
    pub body: String,
}

impl Text {
    /// The words for this content.
    pub fn of(content: &Content) -> Self {
        match content {
            Content::SignInCode { code, valid_for } => Self {
                subject: "Your OmniRun sign-in code",
                body: format!(
                    "Your code to sign in to OmniRun:\n\n    {}\n\nIt works once, within {}.\n\n\
                     If you did not ask for it, ignore this mail: nobody gets in without\n\
                     the code. OmniRun never asks you to tell it to anybody.\n",
                    grouped(code.reveal()),
                    minutes(*valid_for)
                ),
            },
            Content::UsageNotice { percent, used, included, resets_on } => Self {
                subject: match percent {
                    ..80 => "Half of your OmniRun hours are used",
                    80..100 => "80 % of your OmniRun hours are used",
                    _ => "All of your OmniRun hours are used",
                },
                body: format!(
                    "Your OmniRun sandboxes have used {} of the {} sandbox-hours\n\
                     that your plan includes this month ({percent} %).\n\n\
                     The next month begins on {resets_on} at 00:00 UTC. What was used by day\n\
                     is in your account, under usage. Each of these notices comes once a\n\
                     month, at 50, 80 and 100 %.\n",
                    hours(*used),
                    hours(*included)
                ),
            },
            Content::ErasureReceipt { document } => Self {
                subject: "Your OmniRun account is being erased",
                body: format!(
                    "Your OmniRun account is closed and is being erased. This is the last mail\n\
                     about it: your address is among what is destroyed next.\n\n\
                     The receipt below is signed. Keep it as it is; it says what will be\n\
                     destroyed, by when that is final, and what lies outside its proof. With\n\
                     it the people who run this service can show you that it was done.\n\n{document}\n"
                ),
            },
            Content::ChangeEmailCode { code, valid_for } => Self {
                subject: "Your OmniRun code for a new address",
                body: format!(
                    "Your code to make this the address of your OmniRun account:\n\n    {}\n\n\
                     It works once, within {}.\n\n\
                     If you did not ask for it, ignore this mail: nothing changes without\n\
                     the code. OmniRun never asks you to tell it to anybody.\n",
                    grouped(code.reveal()),
                    minutes(*valid_for)
                ),
            },
            Content::EmailChanged => Self {
                subject: "Your OmniRun account has another address",
                body: "The address of your OmniRun account was changed. This one is not stored any\n\
                       more, and codes to sign in go to the new one.\n\n\
                       If this was not you, somebody was signed in as you: write to the people\n\
                       who run this service at once.\n"
                    .to_owned(),
            },
        }
    }
}

/// The code in groups as people read it aloud: six digits by three, ten characters by five.
fn grouped(code: &str) -> String {
    let characters: Vec<char> = code.chars().collect();
    let group = if characters.len().is_multiple_of(3) { 3 } else { 5 };
    characters.chunks(group).map(|group| group.iter().collect::<String>()).collect::<Vec<_>>().join(" ")
}

fn minutes(length: Millis) -> String {
    match length.0 / 60_000 {
        0 | 1 => "1 minute".to_owned(),
        minutes => format!("{minutes} minutes"),
    }
}

/// Hours with two decimals, rounded down.
fn hours(amount: StandardMillis) -> String {
    let hundredths = amount.0 / 36_000;
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use omnirun_commands_api::mail::OneTimeCode;

    use super::*;

    fn text(code: &str) -> Text {
        Text::of(&Content::SignInCode { code: OneTimeCode::new(code), valid_for: Millis(600_000) })
    }

    #[test]
    fn the_code_is_in_the_body_in_groups_and_not_in_the_subject() {
        let text = text("012345");
        assert!(text.body.contains("    012 345\n") && text.body.contains("within 10 minutes"));
        assert!(!text.subject.contains("012"));
        assert!(super::Text::of(&long()).body.contains("    0A1B2 C3D4E\n"));
    }

    fn long() -> Content {
        Content::SignInCode { code: OneTimeCode::new("0A1B2C3D4E"), valid_for: Millis(600_000) }
    }

    fn notice(percent: u8) -> Text {
        Text::of(&Content::UsageNotice {
            percent,
            used: StandardMillis(72_000_000),
            included: StandardMillis(90_000_000),
            resets_on: "2026-12-15".to_owned(),
        })
    }

    #[test]
    fn a_notice_says_what_is_used_of_what_and_when_it_begins_anew() {
        let text = notice(80);
        assert_eq!(text.subject, "80 % of your OmniRun hours are used");
        assert!(
            text.body.contains("20.00 of the 25.00 sandbox-hours") && text.body.contains("on 2026-12-15")
        );
        assert_eq!(notice(50).subject, "Half of your OmniRun hours are used");
        assert_eq!(notice(100).subject, "All of your OmniRun hours are used");
    }

    #[test]
    fn there_are_no_links_and_no_long_lines() {
        let code = OneTimeCode::new("012345");
        let change = Content::ChangeEmailCode { code, valid_for: Millis(600_000) };
        let bodies = [long(), change, Content::EmailChanged].map(|content| super::Text::of(&content).body);
        for body in bodies.into_iter().chain([notice(100).body]) {
            assert!(!body.contains("http") && !body.contains("www") && body.is_ascii());
            assert!(body.lines().all(|line| line.len() <= 78), "{body}");
        }
    }
}
