//! CreateToken, RevokeToken and SignOutEverywhere.

use omnirun_commands_api::command::{NewCredential, TokenWish};
use omnirun_commands_api::{Envelope, Outcome, Reply};
use omnirun_events::id::{AccountId, TokenId};
use omnirun_events::sealing::DataKeyLabel;
use omnirun_events::subject::{Subject, SubjectKind};
use omnirun_events::token::{NAME_FIELD, RevokeReason};

use crate::decide::repeat::Recorded;
use crate::decide::{Wish, must_be_open, tokens};
use crate::failure::Failure;
use crate::service::CommandService;

impl CommandService {
    pub(crate) async fn create_token(
        &self,
        envelope: &Envelope,
        account: AccountId,
        wanted: &TokenWish,
        credential: &NewCredential,
    ) -> Result<Reply, Failure> {
        tokens::check(wanted)?;
        let wish = Wish::of(envelope, account, (self.clock)());
        let token = tokens::token_of(&wish);
        let subject = Subject::from(SubjectKind::Token(account, token));
        let subjects = [SubjectKind::Account(account).into(), subject.clone()];
        // Each token has a subject of its own: only who comes alone and has read the whole log sees how many there are, and what the same command
        // has made before. Two processes may each let one more through.
        let _turn = self.turn(account).await;
        self.writer.catch_up().await?;
        let (is_open, recorded) = self.writer.directory.view(|directory, _| {
            let recorded = directory.tokens.get(token).and_then(|token| token.name.clone());
            (must_be_open(directory, account).map(drop), recorded)
        });
        is_open?;
        let recorded = match recorded {
            Some(sealed) => Recorded::Sealed(self.keys.open(account, &sealed, &subject, NAME_FIELD).await?),
            None => Recorded::Nothing,
        };
        let name = self.keys.seal(account, DataKeyLabel::Account, &subject, NAME_FIELD, &wanted.name).await?;
        let decide = |directory: &_| tokens::create(directory, &wish, wanted, credential, &name, &recorded);
        self.writer.run(&subjects, decide).await
    }

    pub(crate) async fn revoke_token(
        &self,
        envelope: &Envelope,
        account: AccountId,
        token: TokenId,
        reason: RevokeReason,
    ) -> Result<Reply, Failure> {
        let wish = Wish::of(envelope, account, (self.clock)());
        let subjects = [SubjectKind::Token(account, token).into()];
        self.writer.run(&subjects, |directory| tokens::revoke(directory, &wish, token, reason)).await
    }

    /// Ends sign-ins until none is left that was there when this began. Broken off in between, some are ended: asked again, it ends the rest.
    pub(crate) async fn sign_out_everywhere(
        &self,
        envelope: &Envelope,
        account: AccountId,
    ) -> Result<Reply, Failure> {
        let wish = Wish::of(envelope, account, (self.clock)());
        let mut ended = 0;
        loop {
            // Sign-ins have a subject each: only the whole log tells which there are.
            self.writer.catch_up().await?;
            let reply =
                self.writer.run(&[], |directory| tokens::sign_out_everywhere(directory, &wish)).await?;
            let Outcome::SignedOut { ended: now } = reply.outcome else { return Ok(reply) };
            ended += now;
            if (now as usize) < tokens::ENDED_AT_ONCE {
                return Ok(Reply { outcome: Outcome::SignedOut { ended }, ..reply });
            }
        }
    }
}
