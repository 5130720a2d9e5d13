//! RequestSandbox, StopSandbox, ExtendTimeout, PauseSandbox, ResumeSandbox.

use omnirun_billing::calendar::Date;
use omnirun_commands_api::command::SandboxWish;
use omnirun_commands_api::{Envelope, Reply};
use omnirun_events::id::{AccountId, SandboxId};
use omnirun_events::sandbox::METADATA_FIELD;
use omnirun_events::sealing::DataKeyLabel;
use omnirun_events::subject::{Subject, SubjectKind};
use omnirun_events::unit::Seconds;

use crate::decide::repeat::Recorded;
use crate::decide::{Wish, extend, must_be_open, pause, request, resume, stop};
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
        let wish = Wish::of(envelope, account, (self.clock)());
        let subjects = subjects(account, sandbox);
        self.writer.run(&subjects, |directory| stop::decide(directory, &wish, sandbox)).await
    }

    pub(crate) async fn extend_timeout(
        &self,
        envelope: &Envelope,
        account: AccountId,
        sandbox: SandboxId,
        timeout: Seconds,
    ) -> Result<Reply, Failure> {
        let wish = Wish::of(envelope, account, (self.clock)());
        let _turn = self.turn(account).await;
        let subjects = subjects(account, sandbox);
        let decide = |directory: &_| extend::decide(directory, &self.plans, &wish, sandbox, timeout);
        self.writer.run(&subjects, decide).await
    }

    pub(crate) async fn pause_sandbox(
        &self,
        envelope: &Envelope,
        account: AccountId,
        sandbox: SandboxId,
    ) -> Result<Reply, Failure> {
        let wish = Wish::of(envelope, account, (self.clock)());
        let subjects = subjects(account, sandbox);
        self.writer.run(&subjects, |directory| pause::decide(directory, &wish, sandbox)).await
    }

    pub(crate) async fn resume_sandbox(
        &self,
        envelope: &Envelope,
        account: AccountId,
        sandbox: SandboxId,
    ) -> Result<Reply, Failure> {
        let wish = Wish::of(envelope, account, (self.clock)());
        let _turn = self.turn(account).await;
        let subjects = subjects(account, sandbox);
        let decide = |directory: &_| resume::decide(directory, &self.plans, &wish, sandbox);
        self.writer.run(&subjects, decide).await
    }
}

/// Where what is known of a sandbox comes from: its request, and its life.
fn subjects(account: AccountId, sandbox: SandboxId) -> [Subject; 2] {
    [SubjectKind::Admission(account).into(), SubjectKind::Sandbox(account, sandbox).into()]
}
