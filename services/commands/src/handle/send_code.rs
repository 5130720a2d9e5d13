//! Sending a code: one path and one answer for every address, whatever the code is for.

use omnirun_commands_api::command::{ClientNetwork, Personal};
use omnirun_commands_api::mail::{Content, Mail};
use omnirun_commands_api::{Code, Envelope, Outcome, Rejection, Reply};
use omnirun_events::auth::{ChallengeIssued, Purpose};
use omnirun_events::id::{AccountId, ChallengeId, CommitId};
use omnirun_events::log::Sequence;
use omnirun_events::unit::Timestamp;

use crate::address::Address;
use crate::challenges::{Line, Newest};
use crate::codes::{self, RESEND_AFTER, VALID_FOR};
use crate::decide::other_wish;
use crate::decide::repeat::must_be_same;
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
        let issued = match self.challenges.issued(challenge).await? {
            Some(earlier) => earlier,
            None => self.issue(envelope, challenge, &asked, now).await?,
        };
        must_be_same(is_for(&issued, &asked) && now < issued.expires_at)?;
        if self.unsent.has(challenge) {
            self.mail(challenge, &issued, &asked)?;
            self.unsent.remove(challenge);
            self.end_older(envelope, challenge, &issued, asked, now).await?;
        }
        Ok(reply(Sequence::NONE, requested(challenge)))
    }

    /// Issues the challenge. Answers with what is stored: the same command at another process may have been first, with an account drawn there.
    async fn issue(
        &self,
        envelope: &Envelope,
        challenge: ChallengeId,
        asked: &Asked,
        now: Timestamp,
    ) -> Result<ChallengeIssued, Failure> {
        let form = self.limits.take(&asked.address, asked.network, now)?;
        let issued = ChallengeIssued {
            account: asked.account,
            epoch: self.master.epoch(),
            digits: form.max(self.guesses.form(&asked.address)).characters(),
            bind: asked.bind.map(Vec::from),
            expires_at: now.after(VALID_FOR),
            purpose: asked.purpose,
        };
        let commit = CommitId::derive(envelope.id.as_bytes(), "commit");
        self.unsent.add(challenge, issued.expires_at, now);
        self.challenges.issue(challenge, commit, issued, now).await?;
        Ok(self.challenges.issued(challenge).await?.ok_or_else(other_wish)?)
    }

    fn mail(&self, challenge: ChallengeId, issued: &ChallengeIssued, asked: &Asked) -> Result<(), Failure> {
        // None only if the master key was rotated twice since it was issued.
        let code = codes::derive(&self.master, challenge, issued, &asked.address)
            .ok_or_else(|| busy("No code can be made now; try again."))?;
        let content = match issued.purpose {
            Purpose::SignIn => Content::SignInCode { code, valid_for: VALID_FOR },
            Purpose::ChangeEmail => Content::ChangeEmailCode { code, valid_for: VALID_FOR },
        };
        self.outbox.hand_over(Mail { to: Personal::new(asked.address.as_str()), content });
        Ok(())
    }

    /// The challenge is the newest of its line from here on, and the one before it is used up.
    async fn end_older(
        &self,
        envelope: &Envelope,
        challenge: ChallengeId,
        issued: &ChallengeIssued,
        asked: Asked,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let line = match issued.purpose {
            Purpose::SignIn => Line::SignIn(asked.address),
            Purpose::ChangeEmail => Line::ChangeEmail(issued.account),
        };
        let (is_bound, expires_at) = (issued.bind.is_some(), issued.expires_at);
        let newest = Newest { account: issued.account, challenge, is_bound, expires_at };
        if let Some(old) = self.challenges.replace(line, newest, now)? {
            // Not the commit of a sign-in with the same id: this would count as its first try.
            let commit = CommitId::derive(envelope.id.as_bytes(), "replace");
            self.challenges.use_up(old.challenge, commit, now).await?;
        }
        Ok(())
    }
}

/// The address that was typed.
pub(super) fn parse(typed: &Personal) -> Result<Address, Rejection> {
    Address::parse(typed.reveal())
        .map_err(|_| Rejection::new(Code::Invalid, "This is not a mail address that codes can be sent to."))
}

/// Whether a challenge is what is asked for. Whose a sign-in is, the command's id says, which no two addresses share: the account that an
/// unknown address would get is another one at each process, and must not tell it from one with an account.
///
/// Once the code has expired the answer is the same for every address as well: what an unknown one was to get is forgotten by then.
fn is_for(issued: &ChallengeIssued, asked: &Asked) -> bool {
    let is_theirs = match asked.purpose {
        Purpose::SignIn => true,
        Purpose::ChangeEmail => issued.account == asked.account,
    };
    is_theirs && issued.purpose == asked.purpose && issued.bind == asked.bind.map(Vec::from)
}

fn requested(challenge: ChallengeId) -> Outcome {
    Outcome::CodeRequested { challenge, expires_in: VALID_FOR, resend_after: RESEND_AFTER }
}
