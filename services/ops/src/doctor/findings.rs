//! What the facts of a host mean for sandboxes, and what to do about each. Pure.

use super::facts::{Cgroup, Facts, Moves, Presence, QEMU};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grade {
    /// As it should be.
    Ok,
    /// Sandboxes run, but slower or less apart from each other than they could.
    Warn,
    /// No sandbox can run.
    Bad,
}

impl Grade {
    /// As it is printed.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Bad => "bad",
        }
    }
}

/// One thing about the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub grade: Grade,
    /// What it is about.
    pub name: &'static str,
    /// What was found.
    pub text: String,
    /// What to do; none where nothing needs to be done.
    pub remedy: Option<String>,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

/// What others have tried on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handed {
    /// Whether KVM runs guests; in words.
    pub kvm: Result<String, Trouble>,
    /// Names of the templates that are whole, or why there is none to use.
    pub templates: Result<Vec<String>, Trouble>,
}

/// All findings, those first that decide whether sandboxes can run.
pub fn examine(facts: &Facts, handed: &Handed) -> Vec<Finding> {
    vec![
        kvm(facts, handed),
        qemu(facts, handed),
        images(handed),
        programs(facts),
        user(facts),
        cgroup(facts),
        swap(facts),
        ksm(facts),
        smt(facts),
        cores(facts),
    ]
}

fn ok(name: &'static str, text: impl Into<String>) -> Finding {
    Finding { grade: Grade::Ok, name, text: text.into(), remedy: None }
}

fn warn(name: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { grade: Grade::Warn, name, text: text.into(), remedy: Some(remedy.into()) }
}

fn bad(name: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { grade: Grade::Bad, ..warn(name, text, remedy) }
}

fn kvm(facts: &Facts, Handed { kvm, .. }: &Handed) -> Finding {
    match kvm {
        Ok(said) => ok("kvm", said.as_str()),
        Err(Trouble { what, remedy }) if facts.qemu == Presence::Present => {
            warn("kvm", format!("{what}, so sandboxes run in QEMU, slower"), remedy.as_str())
        }
        Err(Trouble { what, remedy }) => bad("kvm", what.as_str(), remedy.as_str()),
    }
}

fn qemu(facts: &Facts, Handed { kvm, .. }: &Handed) -> Finding {
    let install = format!("apt-get install {}", QEMU.package);
    match (facts.qemu, kvm) {
        (Presence::Present, _) => ok("qemu", format!("/usr/bin/{} is there", QEMU.name)),
        (Presence::Absent, Ok(_)) => ok("qemu", "it is not there, and KVM does without it"),
        (Presence::Absent, Err(_)) => bad("qemu", "it is not there, and KVM cannot replace it", install),
    }
}

fn images(Handed { templates, .. }: &Handed) -> Finding {
    match templates {
        Ok(names) => ok("images", format!("templates: {}", names.join(", "))),
        Err(Trouble { what, remedy }) => bad("images", what.as_str(), remedy.as_str()),
    }
}

fn programs(facts: &Facts) -> Finding {
    if facts.missing.is_empty() {
        return ok("programs", "all that makes guest images is there");
    }
    let names: Vec<_> = facts.missing.iter().map(|program| program.name).collect();
    let packages: Vec<_> = facts.missing.iter().map(|program| program.package).collect();
    let text = format!("guest images cannot be made without {}", names.join(", "));
    warn("programs", text, format!("apt-get install {}", packages.join(" ")))
}

fn user(facts: &Facts) -> Finding {
    match facts.user {
        Some(0) => ok("user", "root, who can jail every guest and needs no user namespaces for it"),
        _ => warn(
            "user",
            "only root can give every guest a user, a root directory and namespaces of its own",
            "run the worker as root",
        ),
    }
}

fn cgroup(facts: &Facts) -> Finding {
    const UNLIMITED: &str = "a guest's monitor cannot be limited";
    const BOOT: &str = "boot with systemd.unified_cgroup_hierarchy=1";
    match &facts.cgroup {
        Cgroup::Absent => warn("cgroup", format!("no cgroup v2 is mounted, so {UNLIMITED}"), BOOT),
        Cgroup::ReadOnly { at } => {
            let remedy = format!("run the worker as root, with {at} mounted writable");
            warn("cgroup", format!("{at} cannot be changed from here, so {UNLIMITED}"), remedy)
        }
        Cgroup::Writable { at, lacks, moves: Moves::Slow } if lacks.is_empty() => {
            let remedy = format!("mount -o remount,favordynmods {at}, and in the same way at every start");
            let text =
                format!("version 2 in {at} limits guests, but makes each wait for milliseconds at its start");
            warn("cgroup", text, remedy)
        }
        Cgroup::Writable { at, lacks, .. } if lacks.is_empty() => {
            ok("cgroup", format!("version 2 in {at} limits cpu, memory, pids and io"))
        }
        Cgroup::Writable { at, lacks, .. } => {
            let lacks = lacks.join(", ");
            warn("cgroup", format!("version 2 in {at} does not limit {lacks}"), BOOT)
        }
    }
}

fn swap(facts: &Facts) -> Finding {
    if facts.swaps.is_empty() {
        return ok("swap", "none, so that no guest's memory reaches a disk");
    }
    let text = format!("memory of guests can be written to {}", facts.swaps.join(", "));
    warn("swap", text, "swapoff -a, and take it out of /etc/fstab")
}

fn ksm(facts: &Facts) -> Finding {
    match facts.ksm.as_deref() {
        None => ok("ksm", "this kernel does not merge pages"),
        Some("1") => warn(
            "ksm",
            "pages of different guests are merged, and the time of a write tells one what another has",
            "echo 2 >/sys/kernel/mm/ksm/run",
        ),
        Some(_) => ok("ksm", "off"),
    }
}

fn smt(facts: &Facts) -> Finding {
    match facts.smt.as_deref() {
        Some("0") => ok("smt", "off, so that no two guests share a core at once"),
        Some(_) => warn(
            "smt",
            "two guests can share a core at once, and its caches and buffers with it",
            "boot with nosmt, or echo off >/sys/devices/system/cpu/smt/control",
        ),
        None => warn("smt", "the kernel does not say whether it is on", "mount /sys, or see lscpu"),
    }
}

fn cores(facts: &Facts) -> Finding {
    match facts.core_pattern.as_deref() {
        Some(pattern) => match pattern.strip_prefix('|') {
            None => ok("cores", "of crashed programs go to files, and OmniRun's processes write none"),
            Some(program) => {
                let program = program.split_whitespace().next().unwrap_or("a program");
                let text = format!(
                    "of crashed programs go to {program}, and only OmniRun's own limits hold guests' back"
                );
                warn("cores", text, "sysctl -w kernel.core_pattern=core")
            }
        },
        None => warn("cores", "the kernel does not say where they go", "mount /proc"),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::facts::{IMAGE_PROGRAMS, Program},
        *,
    };

    fn good() -> (Facts, Handed) {
        let facts = Facts {
            user: Some(0),
            swaps: Vec::new(),
            ksm: Some("0".to_owned()),
            smt: Some("0".to_owned()),
            core_pattern: Some("core".to_owned()),
            cgroup: Cgroup::Writable {
                at: "/sys/fs/cgroup".to_owned(),
                lacks: Vec::new(),
                moves: Moves::Quick,
            },
            qemu: Presence::Present,
            missing: Vec::new(),
        };
        let handed = Handed { kvm: Ok("it runs guests".to_owned()), templates: Ok(vec!["base".to_owned()]) };
        (facts, handed)
    }

    fn trouble() -> Trouble {
        Trouble { what: "it does not".to_owned(), remedy: "make it".to_owned() }
    }

    /// After this change of a good host, these findings are not ok, and each of them says what to do.
    #[track_caller]
    fn check(change: impl FnOnce(&mut Facts, &mut Handed), expected: &[(Grade, &str, &str)]) {
        let (mut facts, mut handed) = good();
        change(&mut facts, &mut handed);
        let all = examine(&facts, &handed);
        let found: Vec<_> = all.iter().filter(|finding| finding.grade != Grade::Ok).collect();
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (finding, (grade, name, word)) in found.into_iter().zip(expected) {
            let remedy = finding.remedy.as_deref().unwrap_or_default();
            assert_eq!((finding.grade, finding.name), (*grade, *name));
            assert!(
                !remedy.is_empty() && format!("{}: {remedy}", finding.text).contains(word),
                "{finding:?}"
            );
        }
    }

    #[test]
    fn on_a_good_host_all_is_ok_and_nothing_is_to_be_done() {
        check(|_, _| (), &[]);
        let (facts, handed) = good();
        assert!(examine(&facts, &handed).iter().all(|finding| finding.remedy.is_none()));
    }

    #[test]
    fn one_monitor_is_enough_and_none_is_bad() {
        check(|_, handed| handed.kvm = Err(trouble()), &[(Grade::Warn, "kvm", "run in QEMU")]);
        check(|facts, _| facts.qemu = Presence::Absent, &[]);
        let none = |facts: &mut Facts, handed: &mut Handed| {
            facts.qemu = Presence::Absent;
            handed.kvm = Err(trouble());
        };
        check(
            none,
            &[(Grade::Bad, "kvm", "make it"), (Grade::Bad, "qemu", "apt-get install qemu-system-x86")],
        );
    }

    #[test]
    fn without_an_image_no_sandbox_runs_and_without_its_programs_no_new_one_is_made() {
        check(|_, handed| handed.templates = Err(trouble()), &[(Grade::Bad, "images", "make it")]);
        let [_, squashfs, lz4, _]: [Program; 4] = IMAGE_PROGRAMS;
        check(
            |facts, _| facts.missing = vec![squashfs, lz4],
            &[(Grade::Warn, "programs", "mksquashfs, lz4: apt-get install squashfs-tools lz4")],
        );
    }

    #[test]
    fn whatever_lets_one_guest_learn_of_another_is_a_warning() {
        check(|facts, _| facts.swaps = vec!["/dev/sda2".to_owned()], &[(Grade::Warn, "swap", "/dev/sda2")]);
        check(|facts, _| facts.ksm = Some("1".to_owned()), &[(Grade::Warn, "ksm", "echo 2 >")]);
        for ksm in [None, Some("0"), Some("2")] {
            check(|facts, _| facts.ksm = ksm.map(str::to_owned), &[]);
        }
        for smt in [None, Some("1")] {
            check(|facts, _| facts.smt = smt.map(str::to_owned), &[(Grade::Warn, "smt", "")]);
        }
        for (pattern, word) in
            [(Some("|/usr/lib/collect %p"), "/usr/lib/collect,"), (Some("|"), "a program"), (None, "/proc")]
        {
            check(
                |facts, _| facts.core_pattern = pattern.map(str::to_owned),
                &[(Grade::Warn, "cores", word)],
            );
        }
        for user in [None, Some(1000)] {
            check(|facts, _| facts.user = user, &[(Grade::Warn, "user", "as root")]);
        }
    }

    #[test]
    fn limits_need_version_2_writable_and_with_its_controllers() {
        let at = || "/sys/fs/cgroup".to_owned();
        for (cgroup, word) in [
            (Cgroup::Absent, "no cgroup v2"),
            (Cgroup::ReadOnly { at: at() }, "cannot be changed"),
            (Cgroup::Writable { at: at(), lacks: vec!["cpu", "pids"], moves: Moves::Quick }, "cpu, pids"),
            (Cgroup::Writable { at: at(), lacks: Vec::new(), moves: Moves::Slow }, "favordynmods"),
        ] {
            check(|facts, _| facts.cgroup = cgroup, &[(Grade::Warn, "cgroup", word)]);
        }
    }
}
