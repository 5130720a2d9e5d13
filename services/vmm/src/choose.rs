//! Which monitor a host gets.

use omnirun_vmm_api::{Monitor, MonitorChoice, MonitorError};

use crate::{kvm::Kvm, probe::Verdict, qemu::Qemu};

/// A monitor that works on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Our own on KVM.
    Kvm,
    /// QEMU with TCG.
    Qemu,
}

impl Settled {
    /// The choice that always means it.
    pub fn choice(self) -> MonitorChoice {
        match self {
            Self::Kvm => MonitorChoice::Kvm,
            Self::Qemu => MonitorChoice::Qemu,
        }
    }

    /// What the log and operators call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Qemu => "qemu-tcg",
        }
    }
}

/// What a choice means on this host, tried once by [`Verdict::of_this_host`]: whoever starts many guests asks first, and
/// gives each what was answered.
pub fn settle(choice: MonitorChoice) -> Result<Settled, MonitorError> {
    settle_with(choice, Verdict::of_this_host, || Qemu::find().map(drop))
}

fn settle_with<'a>(
    choice: MonitorChoice,
    kvm: impl FnOnce() -> &'a Verdict,
    qemu: impl FnOnce() -> Result<(), MonitorError>,
) -> Result<Settled, MonitorError> {
    match choice {
        MonitorChoice::Qemu => qemu().map(|()| Settled::Qemu),
        MonitorChoice::Kvm => match kvm() {
            Verdict::Works => Ok(Settled::Kvm),
            verdict => Err(verdict.refusal()),
        },
        MonitorChoice::Auto => match kvm() {
            Verdict::Works => Ok(Settled::Kvm),
            _ => qemu().map(|()| Settled::Qemu),
        },
    }
}

/// The monitor that was asked for, or the best that works here. KVM that was asked for by name is not tried first: that
/// would take as long as a restore.
pub fn choose(choice: MonitorChoice) -> Result<Box<dyn Monitor>, MonitorError> {
    let settled = match choice {
        MonitorChoice::Auto => settle(choice)?,
        MonitorChoice::Qemu => Settled::Qemu,
        MonitorChoice::Kvm => Settled::Kvm,
    };
    match settled {
        Settled::Qemu => Ok(Box::new(Qemu::find()?)),
        Settled::Kvm => Ok(Box::new(Kvm::find()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(choice: MonitorChoice, kvm: &Verdict, has_qemu: Result<(), &str>) -> Result<Settled, String> {
        let missing = |reason: &str| MonitorError::Unavailable { monitor: "qemu", reason: reason.to_owned() };
        settle_with(choice, || kvm, || has_qemu.map_err(missing)).map_err(|error| error.to_string())
    }

    #[test]
    fn auto_is_kvm_where_it_works_and_qemu_everywhere_else() {
        let others = [
            Verdict::Absent,
            Verdict::Forbidden,
            Verdict::Emulates { stops_at: "PXOR" },
            Verdict::Broken { why: "x".to_owned() },
        ];
        assert_eq!(settled(MonitorChoice::Auto, &Verdict::Works, Err("no")), Ok(Settled::Kvm));
        for verdict in &others {
            assert_eq!(settled(MonitorChoice::Auto, verdict, Ok(())), Ok(Settled::Qemu));
        }
    }

    #[test]
    fn what_was_asked_for_by_name_is_had_or_refused_and_never_replaced() {
        let emulates = Verdict::Emulates { stops_at: "PXOR" };
        let said = settled(MonitorChoice::Kvm, &emulates, Ok(())).expect_err("it is refused");
        assert!(said.contains("only emulates") && said.contains("qemu monitor"), "{said}");
        assert_eq!(settled(MonitorChoice::Qemu, &Verdict::Works, Ok(())), Ok(Settled::Qemu));
        let said =
            settled(MonitorChoice::Qemu, &Verdict::Works, Err("no program")).expect_err("it is refused");
        assert!(said.contains("no program"), "{said}");
    }
}
