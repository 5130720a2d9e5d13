//! Data keys: made, wrapped, acknowledged in KEYS, and only then used. Opening and sealing of fields is here; nothing else holds a data key.
//! How they end is in [`destroy`], and how they get under a new epoch of the master key in [`rotate`].

mod destroy;
mod rotate;

pub use rotate::Rotated;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use omnirun_commands_api::command::Personal;
use omnirun_events::envelope::{Actor, Draft, Head, Role};
use omnirun_events::event::Event;
use omnirun_events::id::{AccountId, CommitId};
use omnirun_events::keys::DataKeyWrapped;
use omnirun_events::log::Erase;
use omnirun_events::sealing::{DataKey, DataKeyLabel, Sealed};
use omnirun_events::subject::{Subject, SubjectKind};
use omnirun_events::unit::Clock;

use crate::failure::{Failure, busy};
use crate::master::MasterKey;
use crate::random::{self, Random};
use crate::writer::{Appended, Writer};

/// Data keys kept unwrapped in memory, at most. Above it all are dropped and read again as needed.
const CACHED_MAX: usize = 10_000;

/// Times that a key is made or found. The second finds what another writer made meanwhile; more would mean a record that is no key.
const TRIES_MAX: usize = 4;

/// Opens, seals, and makes the keys for it.
pub struct DataKeys {
    writer: Arc<Writer>,
    erase: Arc<dyn Erase>,
    master: Arc<MasterKey>,
    random: Random,
    clock: Clock,
    cache: Mutex<HashMap<(AccountId, DataKeyLabel), DataKey>>,
}

impl DataKeys {
    /// Data keys wrapped under `master`.
    pub fn new(
        writer: Arc<Writer>,
        erase: Arc<dyn Erase>,
        master: Arc<MasterKey>,
        random: Random,
        clock: Clock,
    ) -> Self {
        Self { writer, erase, master, random, clock, cache: Mutex::default() }
    }

    /// Seals `plain` under an account's key, which is made first if there is none.
    pub async fn seal(
        &self,
        account: AccountId,
        label: DataKeyLabel,
        subject: &Subject,
        field: &str,
        plain: &Personal,
    ) -> Result<Sealed, Failure> {
        let key = self.existing_or_new(account, label).await?;
        Ok(key.seal(label, random::bytes(&self.random), subject, field, plain.reveal().as_bytes()))
    }

    /// Opens a sealed field; none if its key is destroyed, it was sealed for another place, or it is no text.
    pub async fn open(
        &self,
        account: AccountId,
        sealed: &Sealed,
        subject: &Subject,
        field: &str,
    ) -> Result<Option<Personal>, Failure> {
        let Some(key) = self.existing(account, sealed.key).await? else { return Ok(None) };
        let plain = key.open(sealed, subject, field).ok().and_then(|plain| String::from_utf8(plain).ok());
        Ok(plain.map(Personal::new))
    }

    /// Forgets an account's keys; what is still sealed under them opens again only if they are still on the log.
    pub fn forget(&self, account: AccountId) {
        self.lock().retain(|(owner, _), _| *owner != account);
    }

    async fn existing(&self, account: AccountId, label: DataKeyLabel) -> Result<Option<DataKey>, Failure> {
        if let Some(key) = self.lock().get(&(account, label)) {
            return Ok(Some(key.clone()));
        }
        let subject = subject_of(account, label);
        let Some((record, _)) = self.writer.last(&subject).await? else { return Ok(None) };
        let Some(Event::DataKeyWrapped(wrapped)) = record.events.last() else { return Ok(None) };
        let key = self.unwrap(wrapped, &subject).await?;
        self.remember(account, label, &key);
        Ok(Some(key))
    }

    async fn unwrap(&self, wrapped: &DataKeyWrapped, subject: &Subject) -> Result<DataKey, Failure> {
        let epoch = wrapped.epoch;
        if self.master.wrapping(epoch).is_none() {
            // Another process may have rotated the master key since: a turn tells.
            drop(self.master.turn().await?);
        }
        let Some(master) = self.master.wrapping(epoch) else {
            tracing::error!(
                epoch,
                "a data key is wrapped under an epoch of the master key that is not at hand"
            );
            return Err(busy(
                "A key is missing; nothing was done. An operator has to restore the master key.",
            ));
        };
        master.unwrap_key(&wrapped.wrapped, subject).map_err(|_| {
            tracing::error!(epoch, "a data key does not open: this is not the master key that wrapped it");
            busy("A key does not open; nothing was done. An operator has to restore the master key.")
        })
    }

    async fn existing_or_new(&self, account: AccountId, label: DataKeyLabel) -> Result<DataKey, Failure> {
        for _ in 0..TRIES_MAX {
            if let Some(key) = self.existing(account, label).await? {
                return Ok(key);
            }
            // Held until the key is written down: a rotation that began in between would not see it.
            let _turn = self.master.turn().await?;
            let key = DataKey::from_bytes(random::bytes(&self.random));
            let draft = self.wrapped(&key, label, subject_of(account, label));
            match self.writer.append(&[draft], &[Head::EMPTY]).await? {
                Appended::At(_) => {
                    self.remember(account, label, &key);
                    return Ok(key);
                }
                // Somebody else made it in the meantime: that one is the key.
                Appended::Moved(_) => {}
            }
        }
        Err(busy("A key cannot be made; nothing was done. Try again."))
    }

    /// `key` under the current epoch of the master key.
    fn wrapped(&self, key: &DataKey, label: DataKeyLabel, subject: Subject) -> Draft {
        let epoch = self.master.epoch();
        let master = self.master.wrapping(epoch).expect("the current epoch is held");
        let wrapped = master.wrap(key, label, random::bytes(&self.random), &subject);
        Draft {
            // Random: this key exists once, and another try makes another key.
            commit: CommitId::from_bytes(random::bytes(&self.random)),
            subject,
            at: (self.clock)(),
            actor: Actor::System(Role::Commands),
            cause: None,
            events: vec![DataKeyWrapped { label, epoch, wrapped }.into()],
        }
    }

    fn remember(&self, account: AccountId, label: DataKeyLabel, key: &DataKey) {
        let mut cache = self.lock();
        if cache.len() >= CACHED_MAX {
            cache.clear();
        }
        cache.insert((account, label), key.clone());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(AccountId, DataKeyLabel), DataKey>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn subject_of(account: AccountId, label: DataKeyLabel) -> Subject {
    match label {
        DataKeyLabel::Account => SubjectKind::AccountKey(account).into(),
        DataKeyLabel::Address(version) => SubjectKind::AddressKey(account, version).into(),
        DataKeyLabel::Day(day) => SubjectKind::DayKey(account, day).into(),
        DataKeyLabel::Month(month) => SubjectKind::MonthKey(account, month).into(),
    }
}
