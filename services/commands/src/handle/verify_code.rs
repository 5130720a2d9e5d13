//! VerifyCode: spend a try, compare, use the code up, and let its owner in. Every way to fail is one answer.

use omnirun_commands_api::command::{NO_CHALLENGE, NewCredential, Personal};
use omnirun_commands_api::{Envelope, Outcome, Reply};
use omnirun_events::account::EMAIL_FIELD;
use omnirun_events::auth::{ChallengeIssued, CodeProof};
use omnirun_events::envelope::Actor;
use omnirun_events::id::{AccountId, ChallengeId, CommitId};
use omnirun_events::sealing::DataKeyLabel;
use omnirun_events::subject::{Subject, SubjectKind};
use omnirun_events::token::TokenKind;
use omnirun_events::unit::Timestamp;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::request_code::parse;
use crate::address::Address;
use crate::challenges::Answer;
use crate::codes::{self, Form};
use crate::decide::sign_in::{self, Opening, refused};
use crate::decide::tokens::token_of;
use crate::decide::{Wish, other_wish};
use crate::failure::{Failure, busy};
use crate::service::CommandService;
use crate::writer::reply;

/// Times that signing up starts anew because somebody else opened an account meanwhile.
const SIGN_UPS_MAX: usize = 64;

/// What the user brought.
pub(crate) struct Presented<'a> {
    pub challenge: Option<ChallengeId>,
    pub proof: CodeProof,
    pub page_secret: Option<&'a Personal>,
}

impl CommandService {
    pub(crate) async fn verify_code(
        &self,
        envelope: &Envelope,
        typed: &Personal,
        presented: Presented<'_>,
        kind: TokenKind,
        credential: &NewCredential,
    ) -> Result<Reply, Failure> {
        let address = parse(typed)?;
        sign_in::lifetime(kind)?;
        if let Some(reply) = self.signed_in_before(envelope, &address).await? {
            return Ok(reply);
        }
        let (challenge, issued) = self.prove(envelope, &address, &presented).await?;
        self.challenges.forget(&address, challenge);
        self.sign_in(envelope, &address, issued.account, kind, credential).await
    }

    /// The answer to a command that signed in before: its secret was shown then.
    async fn signed_in_before(
        &self,
        envelope: &Envelope,
        address: &Address,
    ) -> Result<Option<Reply>, Failure> {
        self.writer.reach(&[SubjectKind::Registry.into()]).await?;
        self.index.sync().await?;
        let token = token_of(&Wish::of(envelope, NOBODY, Timestamp::ZERO));
        if let Some(account) = self.index.get(address) {
            self.writer.reach(&[SubjectKind::Token(account, token).into()]).await?;
        }
        let known = self.writer.directory.view(|directory, verifier| {
            let account = directory.tokens.get(token)?.account;
            Some((account, verifier.head(&SubjectKind::Token(account, token).into()).sequence))
        });
        match known {
            None => Ok(None),
            Some((account, at)) if self.index.get(address) == Some(account) => {
                Ok(Some(reply(at, Outcome::TokenAlreadyCreated { token })))
            }
            Some(_) => Err(other_wish().into()),
        }
    }

    /// Finds the challenge, checks what costs no try, spends one, compares, and uses the code up.
    async fn prove(
        &self,
        envelope: &Envelope,
        address: &Address,
        presented: &Presented<'_>,
    ) -> Result<(ChallengeId, ChallengeIssued), Failure> {
        let now = (self.clock)();
        let unbound = || self.challenges.newest(address, now).filter(|newest| !newest.is_bound);
        let challenge = presented.challenge.or_else(|| unbound().map(|newest| newest.challenge));
        let challenge = challenge.ok_or_else(refused)?;
        let issued = self.challenges.issued(challenge).await?.ok_or_else(refused)?;
        if now >= issued.expires_at || !is_from_its_page(&issued, presented.page_secret) {
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
        let (epoch, account) = (issued.epoch, issued.account);
        let form = Form::of(issued.digits).ok_or_else(refused)?;
        let code = codes::derive(&self.master, epoch, challenge, account, address, form);
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

    /// Signs the owner of the address in, to a new account if the address has none. `reserved` is the id that it would get.
    async fn sign_in(
        &self,
        envelope: &Envelope,
        address: &Address,
        reserved: AccountId,
        kind: TokenKind,
        credential: &NewCredential,
    ) -> Result<Reply, Failure> {
        let registry = Subject::from(SubjectKind::Registry);
        for _ in 0..SIGN_UPS_MAX {
            self.writer.reach(std::slice::from_ref(&registry)).await?;
            let claims = self.index.sync().await?;
            let known = self.index.get(address);
            let account = known.unwrap_or(reserved);
            let opening = match known {
                Some(_) => None,
                None => Some(self.opening(account, address).await?),
            };
            let wish = Wish {
                id: envelope.id,
                account,
                // The code proved who it is.
                actor: Actor::Account(account),
                now: (self.clock)(),
            };
            let seen = [SubjectKind::Token(account, token_of(&wish)).into()];
            let done = self.writer.decide_at(&seen, (&registry, claims), |directory| {
                sign_in::decide(directory, &wish, kind, credential, opening.clone())
            });
            if let Some(reply) = done.await? {
                return Ok(reply);
            }
        }
        Err(busy("Too many people sign up at once; ask for a new code and try again."))
    }

    async fn opening(&self, account: AccountId, address: &Address) -> Result<Opening, Failure> {
        let subject = SubjectKind::Account(account).into();
        let email = Personal(address.as_str().to_owned());
        let email = self.keys.seal(account, DataKeyLabel::Account, &subject, EMAIL_FIELD, &email).await?;
        Ok(Opening { email, plan: self.plans.start().name.clone() })
    }
}

/// Whose token a command would make does not matter for the token's id.
const NOBODY: AccountId = AccountId::from_bytes([0; 16]);

/// Whether a bound challenge came back with the secret of its page, and an unbound one without any.
fn is_from_its_page(issued: &ChallengeIssued, page_secret: Option<&Personal>) -> bool {
    match (&issued.bind, page_secret) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(bind), Some(secret)) => Sha256::digest(secret.0.as_bytes()).ct_eq(bind.as_slice()).into(),
    }
}
