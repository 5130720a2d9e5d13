//! RecordOperator: who did what for whom at the operator's terminal, and why, before it is done.

use omnirun_commands_api::command::Whose;
use omnirun_commands_api::{Envelope, Outcome, Reply};
use omnirun_events::envelope::{Actor, Draft};
use omnirun_events::id::CommitId;
use omnirun_events::ops::OpsActed;
use omnirun_events::subject::{Subject, SubjectKind};
use omnirun_projections::Directory;

use crate::decide::close::Acting;
use crate::decide::{Decision, not_found};
use crate::failure::Failure;
use crate::service::CommandService;

impl CommandService {
    pub(crate) async fn record_operator(
        &self,
        envelope: &Envelope,
        whose: Option<&Whose>,
        acted: &OpsActed,
    ) -> Result<Reply, Failure> {
        if envelope.actor != Actor::Operator {
            return Err(not_found().into());
        }
        let acting = Acting::new(&acted.operator, &acted.reason)?;
        let account = match whose {
            Some(whose) => Some(self.account_named(whose).await?),
            None => None,
        };
        let mut subjects = vec![Subject::from(SubjectKind::Ops)];
        if let Some(account) = account {
            acting.must_not_name(account)?;
            subjects.push(SubjectKind::Account(account).into());
        }
        let draft = Draft {
            commit: CommitId::derive(envelope.id.as_bytes(), "commit"),
            subject: SubjectKind::Ops.into(),
            at: (self.clock)(),
            actor: Actor::Operator,
            cause: None,
            events: vec![acted.clone().into()],
        };
        let decide = |directory: &Directory| {
            if let Some(account) = account {
                directory.accounts.get(account).ok_or_else(not_found)?;
            }
            Ok(Decision::Write(vec![draft.clone()], Outcome::OperatorRecorded { account }))
        };
        self.writer.run(&subjects, decide).await
    }
}
