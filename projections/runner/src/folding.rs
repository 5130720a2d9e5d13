//! One record into a read model: checked, then folded, reported or passed.

use omnirun_events::erasure::Erased;
use omnirun_events::log::{Read, Stored};
use omnirun_events::subject::Log;
use omnirun_events::verify::{Depth, Fault, TombstonesError, Verdict, tombstones};
use omnirun_projections::Fold;

use crate::live::Inner;

impl<F: Fold> Inner<F> {
    /// Reads the tombstones on the log and drops what they name.
    pub(crate) async fn learn_tombstones(&mut self, reader: &dyn Read) -> Result<(), TombstonesError> {
        let erased = tombstones(reader, self.verifier.ring().clone()).await?;
        self.learn(&erased);
        Ok(())
    }

    pub(crate) fn learn(&mut self, erased: &Erased) {
        self.verifier.learn(erased);
        self.forget_erased();
    }

    /// Drops what came of records that a tombstone has taken.
    fn forget_erased(&mut self) {
        for subject in self.verifier.take_forgotten() {
            self.state.forget(subject);
        }
    }
}

/// Checks one record and folds it; the position moves with the state.
pub(crate) fn apply<F: Fold>(
    inner: &mut Inner<F>,
    log: Log,
    stored: &Stored,
    depth: Depth,
) -> Result<(), Fault> {
    let verdict = inner.verifier.check(log, stored, depth)?;
    take(inner, log, stored, verdict);
    Ok(())
}

/// Passes and reports a record that cannot be believed, if a host may have put it there; the position moves with the state. Otherwise the fault
/// is the answer.
pub(crate) fn pass<F: Fold>(
    inner: &mut Inner<F>,
    log: Log,
    stored: &Stored,
    fault: Fault,
) -> Result<(), Fault> {
    if !inner.verifier.pass(log, stored) {
        return Err(fault);
    }
    metrics::counter!("omnirun_view_passed_total", "view" => F::NAME).increment(1);
    let position = stored.sequence.0;
    tracing::error!(view = F::NAME, %log, position, reason = %fault.kind, "a record where hosts write cannot be believed");
    inner.positions.insert(log, stored.sequence);
    Ok(())
}

/// Folds or reports a checked record; the position moves with the state.
pub(crate) fn take<F: Fold>(inner: &mut Inner<F>, log: Log, stored: &Stored, verdict: Verdict) {
    match verdict {
        Verdict::Believed(record) => inner.state.apply_record(stored, &record),
        Verdict::Ignored(record, why) => {
            metrics::counter!("omnirun_view_ignored_total", "view" => F::NAME).increment(1);
            let (position, key) = (stored.sequence.0, record.header.key.to_string());
            tracing::warn!(view = F::NAME, %log, position, key, reason = ?why, "a record was ignored");
        }
        Verdict::Erased => {}
    }
    inner.forget_erased();
    inner.positions.insert(log, stored.sequence);
}
