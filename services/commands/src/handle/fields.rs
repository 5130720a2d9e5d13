//! OpenFields and SignExport: sealed fields of one account for who may show them, and a signature under what was shown. Nothing is written.

use omnirun_commands_api::command::{EXPORT_TYPE, FIELDS_MAX, SealedField};
use omnirun_commands_api::{Code, Outcome, Rejection, Reply};
use omnirun_events::id::AccountId;
use omnirun_events::keys::Digest;
use omnirun_events::log::Sequence;
use omnirun_events::subject::SubjectKind;

use crate::decide::not_found;
use crate::failure::Failure;
use crate::service::CommandService;
use crate::writer::reply;

impl CommandService {
    pub(crate) async fn open_fields(
        &self,
        account: AccountId,
        fields: &[SealedField],
    ) -> Result<Reply, Failure> {
        if fields.len() > FIELDS_MAX {
            let message = format!("One command opens at most {FIELDS_MAX} fields.");
            return Err(Rejection::new(Code::Invalid, message).into());
        }
        let mut opened = Vec::with_capacity(fields.len());
        for SealedField { subject, field, sealed } in fields {
            let is_own = subject.kind().account() == Some(account);
            let plain = if is_own { self.keys.open(account, sealed, subject, field).await? } else { None };
            opened.push(plain);
        }
        Ok(reply(Sequence::NONE, Outcome::FieldsOpened(opened)))
    }

    pub(crate) async fn sign_export(&self, account: AccountId, manifest: Digest) -> Result<Reply, Failure> {
        self.writer.reach(&[SubjectKind::Account(account).into()]).await?;
        if self.writer.directory.view(|directory, _| directory.accounts.get(account).is_none()) {
            return Err(not_found().into());
        }
        let signer = &self.writer.signer;
        let signature = signer.sign_as(EXPORT_TYPE, &[account.as_bytes(), &manifest.0]).to_vec();
        Ok(reply(Sequence::NONE, Outcome::ExportSigned { key: signer.id(), signature }))
    }
}
