//! CreateToken and RevokeToken.

use omnirun_commands_api::command::{NewCredential, TokenWish};
use omnirun_commands_api::{Envelope, Reply};
use omnirun_events::id::{AccountId, TokenId};
use omnirun_events::sealing::DataKeyLabel;
use omnirun_events::subject::{Subject, SubjectKind};
use omnirun_events::token::{NAME_FIELD, RevokeReason};

use crate::decide::repeat::Recorded;
use crate::decide::{Wish, not_found, tokens};
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
        self.writer.reach(&subjects).await?;
        let (is_known, recorded) = self.writer.directory.view(|directory, _| {
            let recorded = directory.tokens.get(token).and_then(|token| token.name.clone());
            (directory.accounts.get(account).is_some(), recorded)
        });
        if !is_known {
            return Err(not_found().into());
        }
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
}
