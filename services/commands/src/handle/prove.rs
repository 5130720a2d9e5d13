//! Whether somebody knows a code: spend a try, compare, use the code up. Every way to fail is one answer.

use omnirun_commands_api::Envelope;
use omnirun_commands_api::command::{NO_CHALLENGE, Personal};
use omnirun_events::auth::{ChallengeIssued, CodeProof, Purpose};
use omnirun_events::id::{ChallengeId, CommitId};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::address::Address;
use crate::challenges::Answer;
use crate::codes;
use crate::decide::sign_in::refused;
use crate::failure::Failure;
use crate::service::CommandService;

/// What the user brought.
pub(crate) struct Presented<'a> {
    pub challenge: Option<ChallengeId>,
    pub proof: CodeProof,
    pub page_secret: Option<&'a Personal>,
}

impl CommandService {
    /// Finds the challenge, checks what costs no try, spends one, compares, and uses the code up.
    pub(crate) async fn prove(
        &self,
        envelope: &Envelope,
        address: &Address,
        purpose: Purpose,
        presented: &Presented<'_>,
    ) -> Result<(ChallengeId, ChallengeIssued), Failure> {
        let now = (self.clock)();
        let unbound = || self.challenges.newest(address, now).filter(|newest| !newest.is_bound);
        let challenge = presented.challenge.or_else(|| unbound().map(|newest| newest.challenge));
        let challenge = challenge.ok_or_else(refused)?;
        let issued = self.challenges.issued(challenge).await?.ok_or_else(refused)?;
        let is_meant = issued.purpose == purpose && is_from_its_page(&issued, presented.page_secret);
        if now >= issued.expires_at || !is_meant {
            return Err(refused().into());
        }
        if self.challenges.is_used(challenge).await? {
            return Err(refused().into());
        }
        let commit = CommitId::derive(envelope.id.as_bytes(), "commit");
        if self.challenges.spend_try(challenge, self.fresh_commit(), now).await? == Answer::Late {
            return Err(refused().into());
        }
        metrics::counter!("omnirun_code_tries_total").increment(1);
        let code = codes::derive(&self.master, challenge, &issued, address).ok_or_else(refused)?;
        let named = presented.challenge.unwrap_or(NO_CHALLENGE);
        let expected = CodeProof::of(named, &code.0);
        if !bool::from(expected.0.ct_eq(&presented.proof.0)) {
            self.guesses.wrong(address);
            return Err(refused().into());
        }
        match self.challenges.use_up(challenge, commit, now).await? {
            Answer::First => {
                self.guesses.right(address);
                Ok((challenge, issued))
            }
            Answer::Late => Err(refused().into()),
        }
    }
}

/// Whether a bound challenge came back with the secret of its page, and an unbound one without any.
fn is_from_its_page(issued: &ChallengeIssued, page_secret: Option<&Personal>) -> bool {
    match (&issued.bind, page_secret) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(bind), Some(secret)) => Sha256::digest(secret.0.as_bytes()).ct_eq(bind.as_slice()).into(),
    }
}
