//! A commands service that does as it is told: it appends what a real one would, and remembers what it was asked.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use omnirun_commands_api::command::{Command, Envelope, Personal};
use omnirun_commands_api::{Commands, Outcome, Reply, SendError};
use omnirun_events::account::EmailChanged;
use omnirun_events::envelope::Role;
use omnirun_events::log::Position;
use omnirun_events::sandbox::*;
use omnirun_events::sealing::{DataKeyLabel, Sealed};
use omnirun_events::token::{RevokeReason, Scope, TokenCreated, TokenKind, TokenRevoked};
use omnirun_events::unit::Millis;
use omnirun_events::*;

use crate::worker::now;
use crate::world::Writer;

/// What the double does with a request for a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Runs,
    NoCapacity,
    NobodyClaims,
}

pub fn seal(text: String) -> Sealed {
    Sealed { key: DataKeyLabel::Account, nonce: [0; 24], text: text.into_bytes() }
}

/// The commands service: remembers what it was asked and appends what follows, without deciding.
pub struct Double {
    pub writer: Arc<Writer>,
    pub account: AccountId,
    pub fate: Mutex<Fate>,
    pub asked: Mutex<Vec<Envelope>>,
    /// No export is vouched for while a test holds this.
    pub vouching: tokio::sync::Mutex<()>,
    /// What a sign-out everywhere ends.
    pub signed_in: Mutex<Vec<(AccountId, TokenId)>>,
}

impl Double {
    pub fn asked(&self) -> Vec<Envelope> {
        self.asked.lock().expect("no panic").clone()
    }

    async fn create(&self, account: AccountId, kind: TokenKind, made: TokenCreated) -> (TokenId, Position) {
        let token = made.token;
        let made = TokenCreated { kind, ..made };
        let at =
            self.writer.append(Role::Commands, SubjectKind::Token(account, token), vec![made.into()]).await;
        (token, at)
    }
}

#[async_trait]
impl Commands for Double {
    async fn send(&self, envelope: Envelope) -> Result<Reply, SendError> {
        let seen_before = {
            let mut asked = self.asked.lock().expect("no panic");
            let seen = asked.iter().any(|other| other.id == envelope.id);
            asked.push(envelope.clone());
            seen
        };
        let id = TokenId::derive(envelope.id.as_bytes(), "token");
        let blank =
            |scopes: Vec<Scope>, credential: &omnirun_commands_api::command::NewCredential| TokenCreated {
                token: id,
                kind: TokenKind::Api,
                verifier: credential.verifier,
                name: None,
                scopes,
                hint: credential.hint.clone(),
                expires_at: None,
            };
        let (position, outcome) = match envelope.command {
            Command::RequestCode { .. } | Command::RequestEmailChange { .. } => {
                let challenge = ChallengeId::derive(envelope.id.as_bytes(), "challenge");
                let (expires_in, resend_after) = (Millis(600_000), Millis(30_000));
                (None, Outcome::CodeRequested { challenge, expires_in, resend_after })
            }
            Command::VerifyCode { kind, credential, .. } => {
                let made = blank(Scope::ALL.to_vec(), &credential);
                let (token, at) = self.create(self.account, kind, made).await;
                (Some(at), Outcome::SignedIn { account: self.account, token, expires_at: now() })
            }
            Command::ChangeEmail { account, email, .. } => {
                let event = EmailChanged { email: seal(email.into_revealed()) }.into();
                let kind = SubjectKind::Account(account);
                (Some(self.writer.append(Role::Commands, kind, vec![event]).await), Outcome::EmailChanged)
            }
            Command::CreateToken { .. } if seen_before => (None, Outcome::TokenAlreadyCreated { token: id }),
            Command::CreateToken { account, wish, credential } => {
                let made = TokenCreated {
                    name: Some(seal(wish.name.into_revealed())),
                    ..blank(wish.scopes, &credential)
                };
                let (token, at) = self.create(account, TokenKind::Api, made).await;
                (Some(at), Outcome::TokenCreated { token, created_at: now(), expires_at: None })
            }
            Command::RevokeToken { account, token, reason } => {
                let event = TokenRevoked { reason }.into();
                let kind = SubjectKind::Token(account, token);
                (Some(self.writer.append(Role::Commands, kind, vec![event]).await), Outcome::TokenRevoked)
            }
            Command::SignOutEverywhere { account } => {
                let event: Event = TokenRevoked { reason: RevokeReason::ByOwner }.into();
                let signed_in = self.signed_in.lock().expect("no panic").clone();
                let (mut at, mut ended) = (None, 0);
                for (owner, token) in signed_in.into_iter().filter(|(owner, _)| *owner == account) {
                    let kind = SubjectKind::Token(owner, token);
                    at = Some(self.writer.append(Role::Commands, kind, vec![event.clone()]).await);
                    ended += 1;
                }
                (at, Outcome::SignedOut { ended })
            }
            Command::RequestSandbox { account, wish } => {
                let sandbox = SandboxId::derive(envelope.id.as_bytes(), "sandbox");
                let deadline = now().after(Millis(2_000));
                let outcome = Outcome::SandboxRequested { sandbox, deadline };
                if seen_before {
                    return Ok(Reply { position: None, outcome });
                }
                let at =
                    self.writer.request(account, sandbox, wish.metadata.map(Personal::into_revealed)).await;
                let fate = *self.fate.lock().expect("no panic");
                match fate {
                    Fate::Runs => drop(self.writer.run(account, sandbox).await),
                    Fate::NoCapacity => {
                        let failed = SandboxFailed { reason: FailReason::NoCapacity }.into();
                        let kind = SubjectKind::Sandbox(account, sandbox);
                        self.writer.append(Role::Commands, kind, vec![failed]).await;
                    }
                    Fate::NobodyClaims => {}
                }
                (Some(at), outcome)
            }
            Command::StopSandbox { account, sandbox } => {
                (Some(self.writer.stop(account, sandbox).await), Outcome::SandboxStopping)
            }
            Command::PauseSandbox { account, sandbox } => {
                (Some(self.writer.pause(account, sandbox).await), Outcome::SandboxPausing)
            }
            Command::ResumeSandbox { account, sandbox } => {
                (Some(self.writer.resume(account, sandbox).await), Outcome::SandboxResumed)
            }
            Command::ExtendTimeout { timeout, .. } => {
                (None, Outcome::TimeoutExtended { end_at: now().after(timeout.into()) })
            }
            Command::CloseAccount { .. } => {
                let receipt = ReceiptId::from_bytes([7; 16]);
                (None, Outcome::AccountClosing { receipt, since: now() })
            }
            Command::RotateMasterKey
            | Command::RecordOperator { .. }
            | Command::EraseAccount { .. }
            | Command::LoseHost { .. }
            | Command::PlanRetention
            | Command::ApplyRetention { .. }
            | Command::ChangePlan { .. } => {
                panic!("a gateway is no operator")
            }
            Command::SignExport { .. } => {
                drop(self.vouching.lock().await);
                let (key, signature) = (KeyId::from_bytes([0; 16]), vec![0; 64]);
                (None, Outcome::ExportSigned { key, signature })
            }
            Command::CloseStatement { .. }
            | Command::CorrectStatement { .. }
            | Command::SendUsageNotice { .. } => {
                panic!("a gateway asks for no such thing")
            }
            Command::OpenFields { fields, .. } => {
                let text = |field: omnirun_commands_api::command::SealedField| {
                    let text = String::from_utf8(field.sealed.text).expect("the double sealed it");
                    Some(Personal::new(text))
                };
                (None, Outcome::FieldsOpened(fields.into_iter().map(text).collect()))
            }
        };
        Ok(Reply { position, outcome })
    }
}
