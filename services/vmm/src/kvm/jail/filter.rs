//! Lists of system calls as filters of the kernel (seccomp(2)). What is not listed ends the process at once, with the
//! signal SIGSYS.

use std::{collections::BTreeMap, io};

use omnirun_vmm_api::MonitorError;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

use super::{
    lists::{self, Condition, Rule, Width},
    step,
};

/// A filter, ready to be applied.
#[derive(Debug)]
pub struct Filter(BpfProgram);

/// Heaps that threads share. Where this is not said, the C library looks for the number of processors in a file, as
/// soon as there are many threads.
const HEAPS_MAX: libc::c_int = 4;

/// Those of a guest's own threads.
#[derive(Debug)]
pub struct ThreadFilters {
    /// Of a virtual processor.
    pub vcpu: Filter,
    /// Of the thread that waits for the agent port.
    pub devices: Filter,
}

impl ThreadFilters {
    /// Both.
    pub fn make() -> Result<Self, MonitorError> {
        Ok(Self { vcpu: Filter::of(lists::VCPU)?, devices: Filter::of(lists::DEVICES)? })
    }
}

impl Filter {
    /// Of a list.
    pub fn of(list: &[Rule]) -> Result<Self, MonitorError> {
        compile(list, SeccompAction::KillProcess, SeccompAction::Allow)
    }

    /// Puts the calling thread, and what it starts from now on, under it, for good. It may get no new privileges
    /// from now on.
    pub fn apply(&self) -> Result<(), MonitorError> {
        step("filter system calls", apply_filter(&self.0).map_err(io::Error::other))
    }
}

/// Puts the calling thread, which must be the only one, and what it starts from now on, under the owner's filter.
pub fn seal() -> Result<(), MonitorError> {
    // SAFETY: it stores a number; no other thread runs that could allocate meanwhile.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, HEAPS_MAX) };
    let absent = SeccompAction::Errno(libc::ENOSYS as u32);
    compile(lists::ABSENT, SeccompAction::Allow, absent)?.apply()?;
    Filter::of(lists::OWNER)?.apply()
}

fn compile(list: &[Rule], others: SeccompAction, listed: SeccompAction) -> Result<Filter, MonitorError> {
    let mut rules = BTreeMap::new();
    for rule in list {
        let one_of = rule.one_of.iter().map(condition).collect::<Result<Vec<_>, _>>();
        rules.insert(rule.call, step("describe a filter", one_of.map_err(io::Error::other))?);
    }
    let made = SeccompFilter::new(rules, others, listed, TargetArch::x86_64).and_then(TryInto::try_into);
    step("make a filter", made.map(Filter).map_err(io::Error::other))
}

fn condition(condition: &Condition) -> Result<SeccompRule, seccompiler::BackendError> {
    let Condition { argument, width, mask, value } = *condition;
    let width = match width {
        Width::Int => SeccompCmpArgLen::Dword,
        Width::Long => SeccompCmpArgLen::Qword,
    };
    let compared = SeccompCondition::new(argument, width, SeccompCmpOp::MaskedEq(mask), value)?;
    SeccompRule::new(vec![compared])
}
