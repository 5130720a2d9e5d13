//! Capabilities: what a gateway's signature lets a worker do with one sandbox, for seconds.

use data_encoding::BASE64URL_NOPAD;
use omnirun_events::envelope::Role;
use omnirun_events::id::{AccountId, KeyId, SandboxId};
use omnirun_events::keyring::KeyRing;
use omnirun_events::signing::Signer;
use omnirun_events::unit::{Millis, Timestamp};
use serde::{Deserialize, Serialize};

/// DSSE type of a capability's signature.
const KIND: &str = "application/vnd.omnirun.capability.v1";

/// How long a capability is good for. It is checked when a request starts; a long stream outlives it, and ends with the sandbox.
pub const CAPABILITY_LIFE: Millis = Millis(30_000);

/// How far the clocks of a gateway and a worker may differ.
const CLOCK_SKEW: Millis = Millis(5_000);

/// What a capability lets its holder do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Use the guest's agent: run code, touch files.
    Use,
    /// Hand over environment variables before the sandbox is announced as ready.
    Prepare,
}

/// One gateway's word about one sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capability {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// Its owner, who asked.
    pub account: AccountId,
    /// What it lets do.
    pub verbs: Vec<Verb>,
    /// When it stops being good.
    pub expires_at: Timestamp,
}

/// Why a capability is not honoured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CapabilityError {
    /// The text is no capability.
    #[error("not a capability")]
    Malformed,
    /// Its key is not that of a current gateway.
    #[error("not signed by a gateway")]
    UnknownKey,
    /// The signature does not fit.
    #[error("the signature does not fit")]
    Signature,
    /// It was good once, or will be good far in the future.
    #[error("not good at this time")]
    Expired,
}

#[derive(Serialize, Deserialize)]
struct Sealed {
    #[serde(with = "serde_bytes")]
    body: Vec<u8>,
    key: KeyId,
    #[serde(with = "serde_bytes")]
    signature: Vec<u8>,
}

impl Capability {
    /// The text of this capability, signed by a gateway's key.
    pub fn sign(&self, signer: &Signer) -> String {
        let body = rmp_serde::to_vec_named(self).expect("ids, enums and numbers always encode");
        let signature = signer.sign_as(KIND, &[&body]).to_vec();
        let sealed = Sealed { body, key: signer.id(), signature };
        let bytes = rmp_serde::to_vec_named(&sealed).expect("byte strings always encode");
        BASE64URL_NOPAD.encode(&bytes)
    }

    /// The capability in `text`, if a gateway of `ring` signed it and it is good at `now`.
    pub fn verify(text: &str, ring: &KeyRing, now: Timestamp) -> Result<Self, CapabilityError> {
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| CapabilityError::Malformed)?;
        let sealed: Sealed = rmp_serde::from_slice(&bytes).map_err(|_| CapabilityError::Malformed)?;
        let entry = ring.get(sealed.key).ok_or(CapabilityError::UnknownKey)?;
        if entry.role != Role::Gateway || entry.retired_at.is_some() {
            return Err(CapabilityError::UnknownKey);
        }
        let checked = entry.public.verify_as(KIND, &[&sealed.body], &sealed.signature);
        checked.map_err(|_| CapabilityError::Signature)?;
        let capability: Self = rmp_serde::from_slice(&sealed.body).map_err(|_| CapabilityError::Malformed)?;
        let latest = now.after(CAPABILITY_LIFE).after(CLOCK_SKEW);
        let is_good = now <= capability.expires_at.after(CLOCK_SKEW) && capability.expires_at <= latest;
        if is_good { Ok(capability) } else { Err(CapabilityError::Expired) }
    }

    /// Whether it lets its holder do this with this sandbox.
    pub fn allows(&self, verb: Verb, sandbox: SandboxId) -> bool {
        self.sandbox == sandbox && self.verbs.contains(&verb)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use omnirun_events::event::Event;
    use omnirun_events::keys::KeyEnrolled;
    use omnirun_events::log::Sequence;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn ring(signer: &Signer, role: Role) -> KeyRing {
        let root = Signer::from_seed(&[9; 32], Role::Root);
        let mut ring = KeyRing::rooted_in(&root.public()).expect("a derived key is not weak");
        let enrolled = KeyEnrolled { key: signer.id(), public: signer.public(), role, host: None };
        ring.apply(&Event::KeyEnrolled(enrolled), Sequence(1), Timestamp::ZERO).expect("a good key");
        ring
    }

    fn capability() -> Capability {
        Capability {
            sandbox: SandboxId::from_bytes([1; 16]),
            account: AccountId::from_bytes([2; 16]),
            verbs: vec![Verb::Use],
            expires_at: NOW.after(CAPABILITY_LIFE),
        }
    }

    #[test]
    fn a_gateways_capability_is_honoured_until_it_expires() {
        let gateway = Signer::from_seed(&[1; 32], Role::Gateway);
        let ring = ring(&gateway, Role::Gateway);
        let text = capability().sign(&gateway);
        assert_eq!(Capability::verify(&text, &ring, NOW), Ok(capability()));
        let late = NOW.after(CAPABILITY_LIFE).after(CLOCK_SKEW).after(Millis(1));
        assert_eq!(Capability::verify(&text, &ring, late), Err(CapabilityError::Expired));
        let early = Timestamp(NOW.0 - CLOCK_SKEW.0 - 1);
        assert_eq!(Capability::verify(&text, &ring, early), Err(CapabilityError::Expired));
    }

    #[test]
    fn a_capability_signed_by_any_other_key_is_refused() {
        let (commands, gateway) =
            (Signer::from_seed(&[1; 32], Role::Commands), Signer::from_seed(&[2; 32], Role::Gateway));
        let text = capability().sign(&commands);
        assert_eq!(
            Capability::verify(&text, &ring(&commands, Role::Commands), NOW),
            Err(CapabilityError::UnknownKey)
        );
        assert_eq!(
            Capability::verify(&text, &ring(&gateway, Role::Gateway), NOW),
            Err(CapabilityError::UnknownKey)
        );
        assert_eq!(
            Capability::verify("AAAA", &ring(&gateway, Role::Gateway), NOW),
            Err(CapabilityError::Malformed)
        );
    }
}
