//! Sending a code: one path and one answer for every address, whatever the code is for.

use omnirun_commands_api::command::{ClientNetwork, Personal};
use omnirun_commands_api::mail::{Content, Mail};
use omnirun_commands_api::{Code, Envelope, Outcome, Rejection, Reply};
use omnirun_events::auth::{ChallengeIssued, Purpose};
use omnirun_events::id::{AccountId, ChallengeId, CommitId};
use omnirun_events::log::Sequence;
use omnirun_events::unit::Timestamp;

use crate::address::Address;
use crate::challenges::{Answer, Line, Newest};
use crate::codes::{self, RESEND_AFTER, VALID_FOR};
use crate::decide::other_wish;
use crate::failure::{Failure, busy};
use crate::service::CommandService;
use crate::writer::reply;

/// What a code is asked for.
pub(super) struct Asked {
    /// Where it goes: the address as its account has it, where one does.
    pub address: Address,
    pub account: AccountId,
    pub purpose: Purpose,
    pub bind: Option<[u8; 32]>,
    pub network: Option<ClientNetwork>,
}

impl CommandService {
    pub(super) async fn send_code(&self, envelope: &Envelope, asked: Asked) -> Result<Reply, Failure> {
        let now = (self.clock)();
        let challenge = ChallengeId::derive(envelope.id.as_bytes(), "challenge");
        if let Some(earlier) = self.challenges.issued(challenge).await? {
            return again(challenge, &earlier, &asked, now);
        }
        let Asked { address, account, purpose, bind, network } = asked;
        let form = self.limits.take(&address, network, now)?.max(self.guesses.form(&address));
        let issued = ChallengeIssued {
            account,
            epoch: self.master.epoch(),
            digits: form.characters(),
            bind: bind.map(Vec::from),
            expires_at: now.after(VALID_FOR),
            purpose,
        };
        let commit = CommitId::derive(envelope.id.as_bytes(), "commit");
        if self.challenges.issue(challenge, commit, issued.clone(), now).await? == Answer::Late {
            return Err(other_wish().into());
        }
        let line = match purpose {
            Purpose::SignIn => Line::SignIn(address.clone()),
            Purpose::ChangeEmail => Line::ChangeEmail(account),
        };
        let newest = Newest { account, challenge, is_bound: bind.is_some(), expires_at: issued.expires_at };
        if let Some(old) = self.challenges.replace(line, newest, now)? {
            self.challenges.use_up(old.challenge, commit, now).await?;
        }
        let code = codes::derive(&self.master, challenge, &issued, &address);
        // Gone only if the master key was rotated twice since the line above.
        let code = code.ok_or_else(|| busy("No code can be made now; try again."))?;
        let content = match purpose {
            Purpose::SignIn => Content::SignInCode { code, valid_for: VALID_FOR },
            Purpose::ChangeEmail => Content::ChangeEmailCode { code, valid_for: VALID_FOR },
        };
        self.outbox.hand_over(Mail { to: Personal::new(address.as_str()), content });
        Ok(reply(Sequence::NONE, requested(challenge)))
    }
}

/// The address that was typed.
pub(super) fn parse(typed: &Personal) -> Result<Address, Rejection> {
    Address::parse(typed.reveal())
        .map_err(|_| Rejection::new(Code::Invalid, "This is not a mail address that codes can be sent to."))
}

/// The command came before: its first mail is the one. Once that code has expired, the answer is the same for every address: what an address
/// without an account was to get is forgotten by then, and must not tell it from one with an account.
fn again(
    challenge: ChallengeId,
    earlier: &ChallengeIssued,
    asked: &Asked,
    now: Timestamp,
) -> Result<Reply, Failure> {
    let bind = asked.bind.map(Vec::from);
    let is_same = (earlier.account, &earlier.bind, earlier.purpose) == (asked.account, &bind, asked.purpose);
    if !is_same || now >= earlier.expires_at {
        return Err(other_wish().into());
    }
    Ok(reply(Sequence::NONE, requested(challenge)))
}

fn requested(challenge: ChallengeId) -> Outcome {
    Outcome::CodeRequested { challenge, expires_in: VALID_FOR, resend_after: RESEND_AFTER }
}
