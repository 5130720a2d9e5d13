//! VerifyCode: prove that the code is known, and let its owner in. Every way to fail is one answer, and until the code is proved nothing is
//! looked at that is different for addresses with and without an account.

use omnirun_commands_api::command::{NewCredential, Personal};
use omnirun_commands_api::{Envelope, Outcome, Reply};
use omnirun_events::account::EMAIL_FIELD;
use omnirun_events::envelope::Actor;
use omnirun_events::id::AccountId;
use omnirun_events::sealing::DataKeyLabel;
use omnirun_events::subject::{Subject, SubjectKind};
use omnirun_events::token::TokenKind;
use omnirun_events::unit::Timestamp;

use super::prove::{Meant, Presented, Proved};
use super::send_code::parse;
use crate::address::Address;
use crate::challenges::Line;
use crate::decide::sign_in::{self, Opening};
use crate::decide::tokens::token_of;
use crate::decide::{Wish, other_wish};
use crate::failure::{Failure, busy};
use crate::service::CommandService;
use crate::writer::reply;

/// Times that signing up starts anew because somebody else claimed an address meanwhile.
pub(super) const CLAIMS_MAX: usize = 64;

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
        let Proved { challenge, account, is_repeated } =
            self.prove(envelope, &address, Meant::SignIn, &presented).await?;
        self.challenges.forget(&Line::SignIn(address.clone()), challenge);
        if is_repeated && let Some(reply) = self.signed_in_before(envelope, &address).await? {
            return Ok(reply);
        }
        self.sign_in(envelope, &address, account, kind, credential).await
    }

    /// The answer to a command that signed in before: its secret was shown then. None if it was broken off before it did.
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
        for _ in 0..CLAIMS_MAX {
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
        let email = Personal::new(address.as_str());
        let email = self
            .keys
            .seal(account, DataKeyLabel::Address(FIRST_ADDRESS), &subject, EMAIL_FIELD, &email)
            .await?;
        Ok(Opening { email, plan: self.plans.start().name.clone() })
    }
}

/// Version of the key of an account's first address.
const FIRST_ADDRESS: u32 = 1;

/// Whose token a command would make does not matter for the token's id.
const NOBODY: AccountId = AccountId::from_bytes([0; 16]);
