//! Whether somebody knows a code: spend a try, compare, use the code up. Every way to fail is one answer.

use omnirun_commands_api::Envelope;
use omnirun_commands_api::command::{ClientNetwork, NO_CHALLENGE, Personal};
use omnirun_events::auth::{ChallengeIssued, CodeProof, Purpose};
use omnirun_events::id::{AccountId, ChallengeId, CommitId};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::address::Address;
use crate::challenges::{Answer, Line};
use crate::codes;
use crate::decide::sign_in::refused;
use crate::failure::Failure;
use crate::service::CommandService;

/// What the user brought.
pub(crate) struct Presented<'a> {
    pub challenge: Option<ChallengeId>,
    pub proof: CodeProof,
    pub page_secret: Option<&'a Personal>,
    pub network: Option<ClientNetwork>,
}

/// What a code is to be for.
#[derive(Clone, Copy)]
pub(super) enum Meant {
    /// Signing in.
    SignIn,
    /// Giving this account, which asked for it, another address.
    ChangeEmail(AccountId),
}

impl Meant {
    fn fits(self, issued: &ChallengeIssued) -> bool {
        match self {
            Self::SignIn => issued.purpose == Purpose::SignIn,
            Self::ChangeEmail(account) => issued.purpose == Purpose::ChangeEmail && issued.account == account,
        }
    }
}

/// A code that was right.
pub(super) struct Proved {
    pub challenge: ChallengeId,
    /// The account that it is for.
    pub account: AccountId,
    /// Whether the same command had used it before.
    pub is_repeated: bool,
}

impl CommandService {
    /// Finds the challenge, checks what costs no try, spends one, compares, and uses the code up. A command that comes again has to bring the
    /// right code again, and spends a try like everybody.
    pub(super) async fn prove(
        &self,
        envelope: &Envelope,
        address: &Address,
        meant: Meant,
        presented: &Presented<'_>,
    ) -> Result<Proved, Failure> {
        let now = (self.clock)();
        let newest = || self.challenges.newest(&Line::SignIn(address.clone()), now);
        let unbound = || newest().filter(|newest| !newest.is_bound).map(|newest| newest.challenge);
        let challenge = presented.challenge.or_else(unbound).ok_or_else(refused)?;
        let issued = self.challenges.issued(challenge).await?.ok_or_else(refused)?;
        let is_meant = meant.fits(&issued) && is_from_its_page(&issued, presented.page_secret);
        if now >= issued.expires_at || !is_meant {
            return Err(refused().into());
        }
        let commit = CommitId::derive(envelope.id.as_bytes(), "commit");
        let used_by = self.challenges.used_by(challenge).await?;
        if used_by.is_some_and(|by| by != commit) {
            return Err(refused().into());
        }
        // Whoever has the secret of a page is that page, and no stranger.
        let network = presented.network.filter(|_| issued.bind.is_none());
        self.tries.take(challenge, network, now)?;
        if self.challenges.spend_try(challenge, self.fresh_commit(), now).await? == Answer::Late {
            return Err(refused().into());
        }
        if !self.is_right(challenge, &issued, address, presented) {
            self.guesses.wrong(address);
            return Err(refused().into());
        }
        self.tries.give_back(challenge, network);
        if self.challenges.use_up(challenge, commit, now).await? == Answer::Late {
            return Err(refused().into());
        }
        self.guesses.right(address);
        Ok(Proved { challenge, account: issued.account, is_repeated: used_by.is_some() })
    }

    /// Compares, for whoever has spent a try.
    fn is_right(
        &self,
        challenge: ChallengeId,
        issued: &ChallengeIssued,
        address: &Address,
        presented: &Presented<'_>,
    ) -> bool {
        metrics::counter!("omnirun_code_tries_total").increment(1);
        let Some(code) = codes::derive(&self.master, challenge, issued, address) else { return false };
        let named = presented.challenge.unwrap_or(NO_CHALLENGE);
        CodeProof::of(named, code.reveal()).0.ct_eq(&presented.proof.0).into()
    }
}

/// Whether a bound challenge came back with the secret of its page, and an unbound one without any.
fn is_from_its_page(issued: &ChallengeIssued, page_secret: Option<&Personal>) -> bool {
    match (&issued.bind, page_secret) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(bind), Some(secret)) => {
            Sha256::digest(secret.reveal().as_bytes()).ct_eq(bind.as_slice()).into()
        }
    }
}
