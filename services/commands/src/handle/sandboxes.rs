//! RequestSandbox, StopSandbox, ExtendTimeout, PauseSandbox, ResumeSandbox.

use omnirun_billing::calendar::Date;
use omnirun_commands_api::command::SandboxWish;
use omnirun_commands_api::{Envelope, Rejection, Reply};
use omnirun_events::id::{AccountId, SandboxId};
use omnirun_events::sandbox::METADATA_FIELD;
use omnirun_events::sealing::DataKeyLabel;
use omnirun_events::subject::{Subject, SubjectKind};
use omnirun_events::unit::Seconds;
use omnirun_projections::Directory;

use crate::decide::repeat::Recorded;
use crate::decide::{Decision, Wish, extend, must_be_open, pause, request, resume, stop};
use crate::failure::Failure;
use crate::service::CommandService;

impl CommandService {
    pub(crate) async fn request_sandbox(
        &self,
        envelope: &Envelope,
        account: AccountId,
        wanted: &SandboxWish,
    ) -> Result<Reply, Failure> {
        request::check_metadata(wanted.metadata.as_ref())?;
        let wish = Wish::of(envelope, account, (self.clock)());
        let admission = Subject::from(SubjectKind::Admission(account));
        // One decision per account at a time in this process: others would only find that they came second.
        let _turn = self.turn(account).await;
        let subjects = [SubjectKind::Account(account).into(), admission.clone()];
        self.writer.reach(&subjects).await?;
        let sandbox = request::sandbox_of(&wish);
        let (is_open, recorded) = self.writer.directory.view(|directory, _| {
            let recorded = directory.sandboxes.get(sandbox).and_then(|sandbox| sandbox.metadata.clone());
            (must_be_open(directory, account).map(drop), recorded)
        });
        is_open?;
        let recorded = match recorded {
            Some(sealed) => {
                Recorded::Sealed(self.keys.open(account, &sealed, &admission, METADATA_FIELD).await?)
            }
            None => Recorded::Nothing,
        };
        let metadata = match &wanted.metadata {
            Some(plain) => {
                let day = DataKeyLabel::Day(Date::of(wish.now).yyyymmdd());
                Some(self.keys.seal(account, day, &admission, METADATA_FIELD, plain).await?)
            }
            None => None,
        };
        let decide = |directory: &_| {
            request::decide(directory, &self.plans, &wish, wanted, metadata.clone(), &recorded)
        };
        self.writer.run(&subjects, decide).await
    }

    pub(crate) async fn stop_sandbox(
        &self,
        envelope: &Envelope,
        account: AccountId,
        sandbox: SandboxId,
    ) -> Result<Reply, Failure> {
        let decide = |directory: &_, wish: &_| stop::decide(directory, wish, sandbox);
        self.decide_on(envelope, account, sandbox, decide).await
    }

    pub(crate) async fn extend_timeout(
        &self,
        envelope: &Envelope,
        account: AccountId,
        sandbox: SandboxId,
        timeout: Seconds,
    ) -> Result<Reply, Failure> {
        let _turn = self.turn(account).await;
        let decide = |directory: &_, wish: &_| extend::decide(directory, &self.plans, wish, sandbox, timeout);
        self.decide_on(envelope, account, sandbox, decide).await
    }

    pub(crate) async fn pause_sandbox(
        &self,
        envelope: &Envelope,
        account: AccountId,
        sandbox: SandboxId,
    ) -> Result<Reply, Failure> {
        let decide = |directory: &_, wish: &_| pause::decide(directory, wish, sandbox);
        self.decide_on(envelope, account, sandbox, decide).await
    }

    pub(crate) async fn resume_sandbox(
        &self,
        envelope: &Envelope,
        account: AccountId,
        sandbox: SandboxId,
    ) -> Result<Reply, Failure> {
        let _turn = self.turn(account).await;
        let decide = |directory: &_, wish: &_| resume::decide(directory, &self.plans, wish, sandbox);
        self.decide_on(envelope, account, sandbox, decide).await
    }

    /// Decides what becomes of one sandbox, from its request and its life. What reserves hours of the plan is decided in the account's turn.
    async fn decide_on(
        &self,
        envelope: &Envelope,
        account: AccountId,
        sandbox: SandboxId,
        decide: impl Fn(&Directory, &Wish) -> Result<Decision, Rejection>,
    ) -> Result<Reply, Failure> {
        let wish = Wish::of(envelope, account, (self.clock)());
        let known_from =
            [SubjectKind::Admission(account).into(), SubjectKind::Sandbox(account, sandbox).into()];
        self.writer.run(&known_from, |directory| decide(directory, &wish)).await
    }
}
