//! RequestSandbox: admit a sandbox, or say which limit stands in the way.

use omnirun_billing::Plans;
use omnirun_commands_api::command::{Personal, SandboxWish};
use omnirun_commands_api::{Code, Outcome, Rejection};
use omnirun_events::id::SandboxId;
use omnirun_events::sandbox::SandboxRequested;
use omnirun_events::sealing::Sealed;
use omnirun_events::subject::SubjectKind;
use omnirun_events::unit::{Mebibytes, Millis, Seconds, Shape, Vcpus};
use omnirun_projections::Directory;
use omnirun_projections::sandboxes::Sandbox;

use super::admission::terms;
use super::repeat::{Recorded, must_be_same};
use super::{Decision, Wish};

/// How long hosts may claim an admitted sandbox.
pub const CLAIM_WITHIN: Millis = Millis(60 * 1000);

/// The shape of who asks for none.
pub const DEFAULT_SHAPE: Shape = Shape { vcpus: Vcpus(1), memory: Mebibytes(512) };

/// Memory below which no guest kernel starts.
const MEMORY_MIN: Mebibytes = Mebibytes(128);

/// Bytes of metadata, at most.
const METADATA_MAX: usize = 16 * 1024;

/// The sandbox that a wish makes.
pub fn sandbox_of(wish: &Wish) -> SandboxId {
    SandboxId::derive(wish.id.as_bytes(), "sandbox")
}

/// Metadata that can be kept.
pub fn check_metadata(metadata: Option<&Personal>) -> Result<(), Rejection> {
    if metadata.is_some_and(|metadata| metadata.reveal().len() > METADATA_MAX) {
        return Err(Rejection::new(Code::Invalid, format!("Metadata may have {METADATA_MAX} bytes.")));
    }
    Ok(())
}

/// Decides. `metadata` is the wanted metadata, sealed; `recorded` is what an earlier try sealed.
pub fn decide(
    directory: &Directory,
    plans: &Plans,
    wish: &Wish,
    wanted: &SandboxWish,
    metadata: Option<Sealed>,
    recorded: &Recorded,
) -> Result<Decision, Rejection> {
    let terms = terms(directory, plans, wish.account, wish.now)?;
    let shape = Shape {
        vcpus: wanted.vcpus.unwrap_or(DEFAULT_SHAPE.vcpus),
        memory: wanted.memory.unwrap_or(DEFAULT_SHAPE.memory),
    };
    let timeout = if wanted.timeout == Seconds::ZERO { terms.plan.session_max } else { wanted.timeout };
    let sandbox = sandbox_of(wish);
    if let Some(earlier) = directory.sandboxes.get(sandbox) {
        must_be_same(is_same(earlier, wish, wanted, shape, timeout))?;
        recorded.must_equal(wanted.metadata.as_ref())?;
        return Ok(Decision::Already(Outcome::SandboxRequested { sandbox, deadline: earlier.deadline }));
    }
    offered(directory, &wanted.template, shape)?;
    terms.allow_shape(shape)?;
    terms.allow_session(timeout.into())?;
    terms.allow_another(directory, wish.account)?;
    terms.allow_now(directory, wish.account, wish.now)?;
    let reserved = shape.charge(timeout.into());
    terms.allow_reservation(directory, wish.account, sandbox, reserved)?;
    let deadline = wish.now.after(CLAIM_WITHIN);
    let requested = SandboxRequested {
        sandbox,
        template: wanted.template.clone(),
        shape,
        timeout,
        reserved,
        deadline,
        network: wanted.network,
        metadata,
    };
    let draft = wish.draft(SubjectKind::Admission(wish.account), requested);
    Ok(Decision::Write(vec![draft], Outcome::SandboxRequested { sandbox, deadline }))
}

fn is_same(earlier: &Sandbox, wish: &Wish, wanted: &SandboxWish, shape: Shape, timeout: Seconds) -> bool {
    earlier.account == wish.account
        && earlier.template == wanted.template
        && earlier.shape == shape
        && earlier.timeout == timeout
        && earlier.network == wanted.network
}

/// Refuses what no present host could start.
fn offered(directory: &Directory, template: &str, shape: Shape) -> Result<(), Rejection> {
    if directory.hosts.present().next().is_none() {
        let message = "No worker host is connected; nothing was done. Try again when one is.";
        return Err(Rejection::retryable(Code::Busy, message, Millis(5000)));
    }
    if !directory.hosts.offers(template) {
        return Err(Rejection::new(Code::UnknownTemplate, "No worker host offers this template."));
    }
    if shape.vcpus == Vcpus::ZERO || shape.memory < MEMORY_MIN {
        let message = format!("A sandbox has at least 1 vCPU and {} MiB.", MEMORY_MIN.0);
        return Err(Rejection::new(Code::Invalid, message));
    }
    let starts = |host: &omnirun_events::host::HostJoined| {
        host.templates.iter().any(|offered| offered.name == template)
            && shape.vcpus <= host.vcpus_max
            && shape.memory <= host.memory_max
    };
    if !directory.hosts.present().any(|(_, host)| starts(&host.offer)) {
        let message = "No worker host that offers this template runs sandboxes of this size; ask for less vCPU or memory.";
        return Err(Rejection::new(Code::Invalid, message));
    }
    Ok(())
}
