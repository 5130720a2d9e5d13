//! Going on after a record that cannot be believed, where a host may have put it.
//!
//! The bus lets a worker write to every sandbox, meter and host: which is whose cannot be said in its permissions. So whoever has a worker's
//! access, or stole it, can file anything there, and if that stopped the readers, one host would stop the system. Elsewhere only the system
//! itself writes, and what cannot be believed there means that the log is damaged.

use crate::log::Stored;
use crate::subject::{Log, SubjectKind};
use crate::verify::Verifier;

impl Verifier {
    /// Passes a record that [`Self::check`] called a fault, if a host may have put it there; the caller has read the tombstones first where
    /// [`super::Fault::may_be_erasure`]. The record is as if it were not there: the chain does not go through it. Only its position counts, so that
    /// the next writer of the subject can append after it. False, and nothing is changed, on every other subject.
    pub fn pass(&mut self, log: Log, stored: &Stored) -> bool {
        let kind = stored.subject.kind();
        let is_hosts =
            matches!(kind, SubjectKind::Sandbox(..) | SubjectKind::Usage(..) | SubjectKind::Host(_));
        if !is_hosts || stored.subject.log() != log {
            return false;
        }
        self.subjects.entry(stored.subject.clone()).or_default().head.sequence = stored.sequence;
        true
    }
}
