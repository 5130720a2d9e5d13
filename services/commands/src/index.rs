//! From address to account: in memory alone, made by opening the sealed fields. No address, and no hash of one, is stored for it.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use omnirun_events::account::EMAIL_FIELD;
use omnirun_events::id::AccountId;
use omnirun_events::log::Sequence;
use omnirun_events::sealing::Sealed;
use omnirun_events::subject::{Subject, SubjectKind};
use omnirun_projections::Directory;
use omnirun_runner::Live;

use crate::address::Address;
use crate::failure::Failure;
use crate::keys::DataKeys;

/// The index. It follows the directory when asked to ([`Self::sync`]).
pub struct AddressIndex {
    directory: Live<Directory>,
    keys: Arc<DataKeys>,
    known: RwLock<Known>,
    syncing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    accounts: HashMap<Address, AccountId>,
    /// What was opened for each account, and what it said; no address where its key was destroyed or it is none.
    opened: HashMap<AccountId, (Sealed, Option<Address>)>,
    /// Position of the last claim on the registry that is indexed.
    claims: Sequence,
}

impl Known {
    /// Takes in what the address of an account is that is not known, or forgotten.
    fn take(&mut self, account: AccountId, email: Sealed, address: Option<Address>) {
        if let Some(address) = &address {
            self.accounts.entry(address.clone()).or_insert(account);
        }
        self.opened.insert(account, (email, address));
    }

    /// The address of the account is free.
    fn forget(&mut self, account: AccountId) {
        if let Some((_, Some(address))) = self.opened.remove(&account)
            && self.accounts.get(&address) == Some(&account)
        {
            self.accounts.remove(&address);
        }
    }
}

impl AddressIndex {
    /// An empty index.
    pub fn new(directory: Live<Directory>, keys: Arc<DataKeys>) -> Self {
        Self { directory, keys, known: RwLock::default(), syncing: tokio::sync::Mutex::default() }
    }

    /// Takes in every account that the directory knows; cheap when nothing was claimed since. Answers with the position of the last
    /// claim that it has taken in, which the next claim has to expect.
    pub async fn sync(&self) -> Result<Sequence, Failure> {
        let registry = Subject::from(SubjectKind::Registry);
        let claims = self.directory.view(|_, verifier| verifier.head(&registry).sequence);
        let known = self.read(|known| known.claims);
        if known >= claims {
            return Ok(known);
        }
        let _one_at_a_time = self.syncing.lock().await;
        let (claims, new) = self.directory.view(|directory, verifier| {
            (verifier.head(&registry).sequence, self.read(|known| unseen(directory, known)))
        });
        // First, for an address may have gone from one of them to another.
        self.write(|known| new.iter().for_each(|(account, _)| known.forget(*account)));
        for (account, email) in new {
            let subject = SubjectKind::Account(account).into();
            let opened = self.keys.open(account, &email, &subject, EMAIL_FIELD).await?;
            let address = opened.and_then(|text| Address::parse(text.reveal()).ok());
            self.write(|known| known.take(account, email, address));
        }
        self.write(|known| known.claims = claims);
        Ok(claims)
    }

    /// The account of an address, as of the last [`Self::sync`].
    pub fn get(&self, address: &Address) -> Option<AccountId> {
        self.find(address).map(|(_, account)| account)
    }

    /// The address as its account has it, and that account, as of the last [`Self::sync`]. What is sent goes there: however alike two texts may
    /// look to the index, the one that proved itself is the account's.
    pub fn find(&self, address: &Address) -> Option<(Address, AccountId)> {
        self.read(|known| {
            let (stored, account) = known.accounts.get_key_value(address)?;
            Some((stored.clone(), *account))
        })
    }

    /// Forgets an account's address: it is free.
    pub fn forget(&self, account: AccountId) {
        self.write(|known| known.forget(account));
    }

    /// Forgets the addresses of all accounts but these; answers whose they were.
    pub fn retain(&self, is_there: impl Fn(AccountId) -> bool) -> Vec<AccountId> {
        let gone: Vec<AccountId> =
            self.read(|known| known.opened.keys().copied().filter(|account| !is_there(*account)).collect());
        gone.iter().for_each(|account| self.forget(*account));
        gone
    }

    fn write<R>(&self, write: impl FnOnce(&mut Known) -> R) -> R {
        write(&mut self.known.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn read<R>(&self, read: impl FnOnce(&Known) -> R) -> R {
        read(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The accounts whose address is another one than was opened last.
fn unseen(directory: &Directory, known: &Known) -> Vec<(AccountId, Sealed)> {
    let is_new = |id: &AccountId, email: &Sealed| known.opened.get(id).is_none_or(|(seen, _)| seen != email);
    let accounts = directory.accounts.iter().filter(|(id, account)| is_new(id, &account.email));
    accounts.map(|(id, account)| (id, account.email.clone())).collect()
}
