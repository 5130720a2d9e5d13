//! RequestEmailChange and ChangeEmail: a code to the new address, and then that address in place of the old one, whose key is destroyed.

use std::time::Duration;

use omnirun_commands_api::command::{ClientNetwork, Personal};
use omnirun_commands_api::mail::{Content, Mail};
use omnirun_commands_api::{Envelope, Outcome, Reply};
use omnirun_events::account::EMAIL_FIELD;
use omnirun_events::auth::Purpose;
use omnirun_events::id::AccountId;
use omnirun_events::log::Sequence;
use omnirun_events::sealing::{DataKeyLabel, Sealed};
use omnirun_events::subject::{Subject, SubjectKind};

use super::prove::{Meant, Presented};
use super::send_code::{Asked, parse};
use super::verify_code::CLAIMS_MAX;
use crate::address::Address;
use crate::decide::email::{self, next_key, taken};
use crate::decide::{Wish, not_found};
use crate::failure::{Failure, busy};
use crate::service::CommandService;
use crate::writer::reply;

/// How long the mail server may take to accept the notice to the old address, while its owner waits for the answer. After that it is tried
/// further from memory.
const NOTICE_WITHIN: Duration = Duration::from_secs(5);

impl CommandService {
    /// The answer does not tell whether another account has the address.
    pub(crate) async fn request_email_change(
        &self,
        envelope: &Envelope,
        account: AccountId,
        typed: &Personal,
        network: Option<ClientNetwork>,
    ) -> Result<Reply, Failure> {
        let address = parse(typed)?;
        self.address_of(account).await?;
        let asked = Asked { address, account, purpose: Purpose::ChangeEmail, bind: None, network };
        self.send_code(envelope, asked).await
    }

    pub(crate) async fn change_email(
        &self,
        envelope: &Envelope,
        account: AccountId,
        typed: &Personal,
        presented: Presented<'_>,
    ) -> Result<Reply, Failure> {
        let address = parse(typed)?;
        self.address_of(account).await?;
        if self.index.get(&address) == Some(account) {
            return Ok(reply(Sequence::NONE, Outcome::EmailChanged));
        }
        self.prove(envelope, &address, Meant::ChangeEmail(account), &presented).await?;
        self.give(envelope, account, &address).await
    }

    /// Gives an account an address that has proved itself.
    async fn give(
        &self,
        envelope: &Envelope,
        account: AccountId,
        address: &Address,
    ) -> Result<Reply, Failure> {
        let (registry, own) =
            (Subject::from(SubjectKind::Registry), Subject::from(SubjectKind::Account(account)));
        for _ in 0..CLAIMS_MAX {
            self.writer.reach(std::slice::from_ref(&registry)).await?;
            let claims = self.index.sync().await?;
            match self.index.get(address) {
                Some(owner) if owner == account => return Ok(reply(claims, Outcome::EmailChanged)),
                Some(_) => return Err(taken().into()),
                None => {}
            }
            let before = self.address_of(account).await?;
            let email = Personal::new(address.as_str());
            let email = self.keys.seal(account, next_key(before.key), &own, EMAIL_FIELD, &email).await?;
            let notice = self.keys.open(account, &before, &own, EMAIL_FIELD).await?;
            let wish = Wish::of(envelope, account, (self.clock)());
            // Held until the old key is gone: an epoch of the master key that began in between would wrap it anew.
            let _turn = self.master.turn().await?;
            let done = self.writer.decide_at(std::slice::from_ref(&own), (&registry, claims), |directory| {
                email::change(directory, &wish, &before, &email)
            });
            let Some(reply) = done.await? else { continue };
            // The old address hears of it before it is unreadable: a crash in between leaves its key, until the next sweep.
            if let Some(to) = notice {
                self.outbox.deliver(Mail { to, content: Content::EmailChanged }, NOTICE_WITHIN).await;
            }
            // The address is changed already; a key that could not be destroyed now (the log says why), the sweep destroys.
            let _ = self.forget_address(account, before.key).await;
            return Ok(reply);
        }
        Err(busy("Too many people change addresses at once; ask for a new code and try again."))
    }

    /// What its address is now, still sealed.
    async fn address_of(&self, account: AccountId) -> Result<Sealed, Failure> {
        self.writer.reach(&[SubjectKind::Account(account).into()]).await?;
        self.index.sync().await?;
        let known = self
            .writer
            .directory
            .view(|directory, _| directory.accounts.get(account).map(|account| account.email.clone()));
        Ok(known.ok_or_else(not_found)?)
    }

    /// Destroys what the address before alone was sealed under.
    async fn forget_address(&self, account: AccountId, key: DataKeyLabel) -> Result<(), Failure> {
        match key {
            DataKeyLabel::Address(_) => self.keys.destroy(account, key).await,
            DataKeyLabel::Account | DataKeyLabel::Day(_) | DataKeyLabel::Month(_) => Ok(()),
        }
    }
}
