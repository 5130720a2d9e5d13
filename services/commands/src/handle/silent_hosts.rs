//! Hosts whose leases are over are given up: what the log says of each for [`crate::leases`], and what follows from it.

use std::collections::BTreeMap;

use omnirun_events::envelope::{Actor, Role};
use omnirun_events::host::HostLost;
use omnirun_events::id::{CommitId, HostId};
use omnirun_events::subject::{Slot, SubjectKind};
use omnirun_events::unit::{Millis, Timestamp};
use omnirun_projections::Directory;

use crate::failure::Failure;
use crate::leases::{Leases, Word};
use crate::service::CommandService;

impl CommandService {
    /// Gives up the hosts whose leases are over at `now`, the time since this process began to look; answers how many. Their sandboxes are
    /// [`Self::end_lost`]'s.
    pub async fn give_up_silent(&self, leases: &mut Leases, now: Millis) -> Result<usize, Failure> {
        let words = self.words().await.inspect_err(|_| leases.could_not_look())?;
        let silent = leases.look(now, words);
        for host in &silent {
            let joined_at = self.writer.directory.view(|directory, _| joined_at(directory, *host));
            tracing::error!(host = %host, "a host has said nothing for a whole lease and is given up with its sandboxes");
            metrics::counter!("omnirun_hosts_given_up_total").increment(1);
            // Each time that it has joined it can be given up once.
            let cause = [host.as_bytes().as_slice(), &joined_at.0.to_be_bytes()].concat();
            let (operator, reason) = ("the commands service".to_owned(), "its lease is over".to_owned());
            let (commit, actor) = (CommitId::derive(&cause, "lease"), Actor::System(Role::Commands));
            self.give_up(*host, commit, actor, HostLost { operator, reason }).await?;
        }
        Ok(silent.len())
    }

    /// What every host that has sandboxes has said by now, those that were given up excepted.
    async fn words(&self) -> Result<BTreeMap<HostId, Word>, Failure> {
        // A directory that is behind would have sandboxes that ended long ago.
        self.writer.catch_up().await?;
        let mut words = BTreeMap::<HostId, Word>::new();
        let claimed: Vec<_> = self.writer.directory.view(|directory, _| {
            let live = directory.sandboxes.live();
            let claimed = live.filter_map(|(id, sandbox)| {
                let host = sandbox.host.filter(|host| directory.hosts.lost(*host).is_none())?;
                Some((host, joined_at(directory, host), sandbox.account, id))
            });
            claimed.collect()
        });
        for (host, joined_at, account, sandbox) in claimed {
            let mut filed = Vec::new();
            // Readings are filed by their host's clock.
            for slot in Slot::near((self.clock)()) {
                let subject = SubjectKind::Usage(slot, account, sandbox).into();
                filed.push(self.writer.reader.last(&subject).await?.map(|stored| stored.sequence));
            }
            let new = || Word { joined_at, filed: BTreeMap::new() };
            words.entry(host).or_insert_with(new).filed.insert(sandbox, filed);
        }
        Ok(words)
    }
}

/// When the host last joined; the beginning of time for one that never has.
fn joined_at(directory: &Directory, host: HostId) -> Timestamp {
    directory.hosts.get(host).map(|known| known.joined_at).unwrap_or_default()
}
