//! RequestCode: one path and one answer for every address.

use omnirun_commands_api::command::{ClientNetwork, Personal};
use omnirun_commands_api::mail::{Content, Mail};
use omnirun_commands_api::{Code, Envelope, Outcome, Rejection, Reply};
use omnirun_events::auth::ChallengeIssued;
use omnirun_events::id::{AccountId, ChallengeId, CommitId};
use omnirun_events::log::Sequence;

use crate::address::Address;
use crate::challenges::{Answer, Newest};
use crate::codes::{self, RESEND_AFTER, VALID_FOR, epoch_of};
use crate::decide::other_wish;
use crate::failure::Failure;
use crate::random;
use crate::service::CommandService;
use crate::writer::reply;

impl CommandService {
    pub(crate) async fn request_code(
        &self,
        envelope: &Envelope,
        typed: &Personal,
        bind: Option<[u8; 32]>,
        network: Option<ClientNetwork>,
    ) -> Result<Reply, Failure> {
        let address = parse(typed)?;
        let now = (self.clock)();
        let challenge = ChallengeId::derive(envelope.id.as_bytes(), "challenge");
        let form = self.guesses.form(&address);
        let issued = ChallengeIssued {
            account: self.account_for(&address).await?,
            epoch: epoch_of(now),
            digits: form.characters(),
            bind: bind.map(Vec::from),
            expires_at: now.after(VALID_FOR),
        };
        if let Some(earlier) = self.challenges.issued(challenge).await? {
            return again(challenge, &earlier, &issued);
        }
        self.limits.take(&address, network, now)?;
        let commit = CommitId::derive(envelope.id.as_bytes(), "commit");
        if self.challenges.issue(challenge, commit, issued.clone(), now).await? == Answer::Late {
            return Err(other_wish().into());
        }
        let newest = Newest {
            account: issued.account,
            challenge,
            is_bound: bind.is_some(),
            expires_at: issued.expires_at,
        };
        if let Some(old) = self.challenges.replace(&address, newest, now)? {
            self.challenges.use_up(old.challenge, commit, now).await?;
        }
        let (account, epoch) = (issued.account, issued.epoch);
        let code = codes::derive(&self.master, epoch, challenge, account, &address, form);
        let content = Content::SignInCode { code, valid_for: VALID_FOR };
        self.outbox.hand_over(Mail { to: Personal(address.as_str().to_owned()), content });
        Ok(reply(Sequence::NONE, requested(challenge)))
    }

    /// The account of an address, or the one that it would get: the same one as long as a challenge of the address is live.
    async fn account_for(&self, address: &Address) -> Result<AccountId, Failure> {
        self.index.sync().await?;
        // A code that is asked for while the account is erased may come back when it is gone: never for its id.
        let is_closing = |account: &AccountId| {
            self.writer.directory.view(|directory, _| directory.accounts.is_closing(*account))
        };
        let pending = || self.challenges.newest(address, (self.clock)()).map(|newest| newest.account);
        let known = self.index.get(address).or_else(pending).filter(|account| !is_closing(account));
        Ok(known.unwrap_or_else(|| AccountId::from_bytes(random::bytes(&self.random))))
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
    if earlier.account != wanted.account || earlier.bind != wanted.bind {
        return Err(other_wish().into());
    }
    Ok(reply(Sequence::NONE, requested(challenge)))
}

fn requested(challenge: ChallengeId) -> Outcome {
    Outcome::CodeRequested { challenge, expires_in: VALID_FOR, resend_after: RESEND_AFTER }
}
