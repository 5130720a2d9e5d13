//! Lists of system calls as filters of the kernel (seccomp(2)). What is not listed ends the process at once, with the
//! signal SIGSYS.

use std::{collections::BTreeMap, io};

use omnirun_vmm_api::MonitorError;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter, sock_filter,
};

use super::{
    lists::{self, Condition, Rule, Width},
    step,
};

/// A filter, ready to be applied.
#[derive(Debug)]
pub struct Filter(BpfProgram);

/// Calls that a part of a program looks through one by one.
const PART_MAX: usize = 8;

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

/// Has all threads share the first heap. Of others the C library reads files without being asked: how many processors
/// there are before it makes one, and how the host gives out memory before it gives some back.
///
/// The calling thread must be the only one so far: a heap that another one has got stays.
pub fn share_one_heap() {
    // SAFETY: it stores a number, under the C library's own lock.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Puts the calling thread, and what it starts from now on, under the owner's filter.
pub fn seal() -> Result<(), MonitorError> {
    let absent = SeccompAction::Errno(libc::ENOSYS as u32);
    compile(lists::ABSENT, SeccompAction::Allow, absent)?.apply()?;
    Filter::of(lists::OWNER)?.apply()
}

/// The kernel runs a program for each of its calls when it is applied, and for calls with conditions each time; so
/// it finds a call's part by halving the list.
fn compile(list: &[Rule], others: SeccompAction, listed: SeccompAction) -> Result<Filter, MonitorError> {
    let mut sorted = list.to_vec();
    sorted.sort_unstable_by_key(|rule| rule.call);
    program(&sorted, &others, &listed).map(Filter)
}

/// A program that ends in a return on every path, so that others can stand before and after it.
fn program(
    sorted: &[Rule],
    others: &SeccompAction,
    listed: &SeccompAction,
) -> Result<BpfProgram, MonitorError> {
    if sorted.len() <= PART_MAX {
        return part(sorted, others, listed);
    }
    let (low, high) = sorted.split_at(sorted.len() / 2);
    let first_high = u32::try_from(high[0].call).expect("numbers of system calls are small");
    let low = program(low, others, listed)?;
    let skipped = u32::try_from(low.len()).expect("a program has at most some thousand steps");
    // Load the number, which is the first word of what a filter sees; if it is not below the half, skip the lower part.
    let head = [step_of(LOAD_WORD, 0, 0), step_of(IF_AT_LEAST, 1, first_high), step_of(SKIP, 0, skipped)];
    Ok([head.to_vec(), low, program(high, others, listed)?].concat())
}

/// Steps of filter programs: linux/bpf_common.h.
const LOAD_WORD: u16 = 0x20;
const IF_AT_LEAST: u16 = 0x35;
const SKIP: u16 = 0x05;

/// A step; where it decides, `if_not` is how many are skipped otherwise.
fn step_of(code: u16, if_not: u8, value: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: if_not, k: value }
}

fn part(list: &[Rule], others: &SeccompAction, listed: &SeccompAction) -> Result<BpfProgram, MonitorError> {
    let mut rules = BTreeMap::new();
    for rule in list {
        let one_of = rule.one_of.iter().map(condition).collect::<Result<Vec<_>, _>>();
        rules.insert(rule.call, step("describe a filter", one_of.map_err(io::Error::other))?);
    }
    let made = SeccompFilter::new(rules, others.clone(), listed.clone(), TargetArch::x86_64);
    step("make a filter", made.and_then(TryInto::try_into).map_err(io::Error::other))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do with a call without arguments: seccomp(2), the program's value.
    fn outcome(Filter(program): &Filter, call: i64, arch: u32) -> u32 {
        let (mut at, mut word) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let decided = match code {
                LOAD_WORD => {
                    word = match k {
                        0 => call as u32,
                        4 => arch,
                        _ => 0,
                    };
                    continue;
                }
                SKIP => {
                    at += k as usize;
                    continue;
                }
                0x06 => return k,
                0x15 => word == k,
                IF_AT_LEAST => word >= k,
                0x25 => word > k,
                0x54 => {
                    word &= k;
                    continue;
                }
                other => panic!("a step that is not known here: {other:#x}"),
            };
            at += usize::from(if decided { jt } else { jf });
        }
    }

    const ALLOWED: u32 = libc::SECCOMP_RET_ALLOW;
    const ENDED: u32 = libc::SECCOMP_RET_KILL_PROCESS;
    /// linux/audit.h.
    const X86_64: u32 = 0xc000_003e;
    const I386: u32 = 0x4000_0003;

    #[test]
    fn a_program_allows_exactly_what_is_in_its_list() {
        for list in [lists::OWNER, lists::VCPU, lists::DEVICES] {
            let filter = Filter::of(list).expect("the lists are right");
            for call in (0..600).chain([i64::from(u32::MAX), 0x4000_0000]) {
                let rule = list.iter().find(|rule| rule.call == call);
                let got = outcome(&filter, call, X86_64);
                match rule {
                    Some(rule) if rule.one_of.is_empty() => assert_eq!(got, ALLOWED, "{call}"),
                    // With zeros for arguments, some conditions hold and others do not.
                    Some(_) => assert!([ALLOWED, ENDED].contains(&got), "{call}"),
                    None => assert_eq!(got, ENDED, "{call}"),
                }
                assert_eq!(outcome(&filter, call, I386), ENDED, "{call}");
            }
        }
    }

    #[test]
    fn conditions_on_arguments_are_in_the_program() {
        let filter = Filter::of(lists::OWNER).expect("the lists are right");
        assert_eq!(outcome(&filter, libc::SYS_mmap, X86_64), ALLOWED, "without the right to execute");
        assert_eq!(outcome(&filter, libc::SYS_clone, X86_64), ENDED, "a process of its own");
        assert_eq!(outcome(&filter, libc::SYS_ioctl, X86_64), ENDED, "of no device of ours");
    }
}
