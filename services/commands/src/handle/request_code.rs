//! RequestCode: a code to sign in with, the same for every address.

use omnirun_commands_api::command::{ClientNetwork, Personal};
use omnirun_commands_api::{Envelope, Reply};
use omnirun_events::auth::Purpose;
use omnirun_events::id::AccountId;

use super::send_code::{Asked, parse};
use crate::address::Address;
use crate::challenges::Line;
use crate::failure::Failure;
use crate::random;
use crate::service::CommandService;

impl CommandService {
    pub(crate) async fn request_code(
        &self,
        envelope: &Envelope,
        typed: &Personal,
        bind: Option<[u8; 32]>,
        network: Option<ClientNetwork>,
    ) -> Result<Reply, Failure> {
        let (address, account) = self.account_for(parse(typed)?).await?;
        let asked = Asked { address, account, purpose: Purpose::SignIn, bind, network };
        self.send_code(envelope, asked).await
    }

    /// The account of the address that was typed, and the address as the account has it; or the account that it would get: the same one as
    /// long as a challenge of the address is live.
    async fn account_for(&self, typed: Address) -> Result<(Address, AccountId), Failure> {
        self.index.sync().await?;
        // Drawn in any case: what is done must not tell whether there is an account.
        let reserved = AccountId::from_bytes(random::bytes(&self.random));
        let (stored, known) = self.index.find(&typed).unzip();
        let pending = self.challenges.newest(&Line::SignIn(typed.clone()), (self.clock)());
        let pending = pending.map(|newest| newest.account);
        // Never one that is being erased or gone, which the index may not have noticed: a code for it may come back when its id is free.
        let account = self.writer.directory.view(|directory, _| match known {
            Some(known) => directory.accounts.get_open(known).map(|_| known),
            None => pending.filter(|pending| directory.accounts.get(*pending).is_none()),
        });
        Ok((stored.unwrap_or(typed), account.unwrap_or(reserved)))
    }
}
