//! RecordOperator: who did what for whom at the operator's terminal, and why, before it is done.

use omnirun_commands_api::{Code, Envelope, Outcome, Rejection, Reply};
use omnirun_events::envelope::{Actor, Draft};
use omnirun_events::id::CommitId;
use omnirun_events::ops::OpsActed;
use omnirun_events::subject::{Subject, SubjectKind};

use crate::decide::Decision;
use crate::failure::Failure;
use crate::service::CommandService;

/// Characters of an operator's name and of a reason, at most.
const TEXT_MAX: usize = 200;

impl CommandService {
    pub(crate) async fn record_operator(
        &self,
        envelope: &Envelope,
        acted: &OpsActed,
    ) -> Result<Reply, Failure> {
        if envelope.actor != Actor::Operator {
            return Err(Rejection::new(Code::NotFound, "Only an operator acts as one.").into());
        }
        if [&acted.operator, &acted.reason].into_iter().any(|text| !is_said(text)) {
            return Err(unsaid().into());
        }
        let subject = Subject::from(SubjectKind::Ops);
        let draft = Draft {
            commit: CommitId::derive(envelope.id.as_bytes(), "commit"),
            subject: subject.clone(),
            at: (self.clock)(),
            actor: Actor::Operator,
            cause: None,
            events: vec![acted.clone().into()],
        };
        let decide = |_: &_| Ok(Decision::Write(vec![draft.clone()], Outcome::OperatorRecorded));
        self.writer.run(&[subject], decide).await
    }
}

/// An operator or a reason is missing, or cannot be written down.
pub(super) fn unsaid() -> Rejection {
    let message =
        format!("An operator and a reason have 1 to {TEXT_MAX} characters, none of them control characters.");
    Rejection::new(Code::Invalid, message)
}

/// Whether an operator has said something that can be written down.
pub(super) fn is_said(text: &str) -> bool {
    (1..=TEXT_MAX).contains(&text.trim().chars().count()) && !text.chars().any(char::is_control)
}
