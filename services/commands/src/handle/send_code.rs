//! Sending a code: one path and one answer for every address, whatever the code is for.

use omnirun_commands_api::command::{ClientNetwork, Personal};
use omnirun_commands_api::mail::{Content, Mail};
use omnirun_commands_api::{Code, Envelope, Outcome, Rejection, Reply};
use omnirun_events::auth::{ChallengeIssued, Purpose};
use omnirun_events::id::{AccountId, ChallengeId, CommitId};
use omnirun_events::log::Sequence;

use crate::address::Address;
use crate::challenges::{Answer, Newest};
use crate::codes::{self, RESEND_AFTER, VALID_FOR};
use crate::decide::other_wish;
use crate::failure::{Failure, busy};
use crate::service::CommandService;
use crate::writer::reply;

/// What a code is asked for.
pub(super) struct Asked {
    pub address: Address,
    pub account: AccountId,
    pub purpose: Purpose,
    pub bind: Option<[u8; 32]>,
    pub network: Option<ClientNetwork>,
}

impl CommandService {
    pub(super) async fn send_code(&self, envelope: &Envelope, asked: Asked) -> Result<Reply, Failure> {
        let Asked { address, account, purpose, bind, network } = asked;
        let now = (self.clock)();
        let challenge = ChallengeId::derive(envelope.id.as_bytes(), "challenge");
        let issued = ChallengeIssued {
            account,
            epoch: self.master.epoch(),
            digits: self.guesses.form(&address).characters(),
            bind: bind.map(Vec::from),
            expires_at: now.after(VALID_FOR),
            purpose,
        };
        if let Some(earlier) = self.challenges.issued(challenge).await? {
            return again(challenge, &earlier, &issued);
        }
        self.limits.take(&address, network, now)?;
        let commit = CommitId::derive(envelope.id.as_bytes(), "commit");
        if self.challenges.issue(challenge, commit, issued.clone(), now).await? == Answer::Late {
            return Err(other_wish().into());
        }
        if purpose == Purpose::SignIn {
            let (is_bound, expires_at) = (bind.is_some(), issued.expires_at);
            let newest = Newest { account, challenge, is_bound, expires_at };
            if let Some(old) = self.challenges.replace(&address, newest, now)? {
                self.challenges.use_up(old.challenge, commit, now).await?;
            }
        }
        let code = codes::derive(&self.master, challenge, &issued, &address);
        // Gone only if the master key was rotated twice since the line above.
        let code = code.ok_or_else(|| busy("No code can be made now; try again."))?;
        let content = match purpose {
            Purpose::SignIn => Content::SignInCode { code, valid_for: VALID_FOR },
            Purpose::ChangeEmail => Content::ChangeEmailCode { code, valid_for: VALID_FOR },
        };
        self.outbox.hand_over(Mail { to: Personal(address.as_str().to_owned()), content });
        Ok(reply(Sequence::NONE, requested(challenge)))
    }
}

/// The address that was typed.
pub(super) fn parse(typed: &Personal) -> Result<Address, Rejection> {
    Address::parse(&typed.0)
        .map_err(|_| Rejection::new(Code::Invalid, "This is not a mail address that codes can be sent to."))
}

/// The command came before: its first mail is the one.
fn again(
    challenge: ChallengeId,
    earlier: &ChallengeIssued,
    wanted: &ChallengeIssued,
) -> Result<Reply, Failure> {
    let of = |issued: &ChallengeIssued| (issued.account, issued.bind.clone(), issued.purpose);
    if of(earlier) != of(wanted) {
        return Err(other_wish().into());
    }
    Ok(reply(Sequence::NONE, requested(challenge)))
}

fn requested(challenge: ChallengeId) -> Outcome {
    Outcome::CodeRequested { challenge, expires_in: VALID_FOR, resend_after: RESEND_AFTER }
}
