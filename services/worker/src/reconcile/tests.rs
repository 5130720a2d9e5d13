//! The table of what is done in each situation.

use super::*;

const NOW: Timestamp = Timestamp(1_000);
const END: Timestamp = Timestamp(9_000);

fn id() -> SandboxId {
    SandboxId::from_bytes([1; 16])
}

fn vm() -> VmId {
    VmId::new("one")
}

fn claimed(deadline: u64) -> Option<Phase> {
    Some(Phase::Claimed { deadline: Timestamp(deadline) })
}

fn running() -> Option<Phase> {
    Some(Phase::Running { end_at: Some(END) })
}

fn pausing() -> Option<Phase> {
    Some(Phase::Pausing { end_at: Some(END) })
}

fn paused() -> Option<Phase> {
    Some(Phase::Paused { end_at: Some(END) })
}

fn stopping() -> Option<Phase> {
    Some(Phase::Stopping { has_run: true })
}

/// What is done about one sandbox and its guest.
#[track_caller]
fn check_in(mode: Mode, phase: Option<Phase>, stage: Option<Stage>, expected: &[Action]) {
    let log: LogView = phase.into_iter().map(|phase| (id(), phase)).collect();
    let guests: Vec<GuestView> =
        stage.into_iter().map(|stage| GuestView { vm: vm(), tenant: Tenant::Sandbox(id()), stage }).collect();
    assert_eq!(plan(&log, &guests, mode, NOW), expected, "{phase:?} {stage:?}");
}

#[track_caller]
fn check(phase: Option<Phase>, stage: Option<Stage>, expected: &[Action]) {
    check_in(Mode::Serving, phase, stage, expected);
}

#[test]
fn a_claimed_sandbox_gets_a_guest_until_its_deadline_and_fails_after_it() {
    check(claimed(1_000), None, &[Action::Start(id())]);
    check(claimed(999), None, &[Action::Fail(id())]);
}

#[test]
fn a_claimed_sandbox_whose_guest_lives_is_announced_even_late() {
    check(claimed(1_000), Some(Stage::Waiting), &[Action::Start(id())]);
    check(claimed(999), Some(Stage::Running(Some(END))), &[Action::Start(id())]);
}

#[test]
fn a_claimed_sandbox_whose_guest_died_before_it_was_announced_gets_another_one_in_time() {
    check(claimed(1_000), Some(Stage::Gone), &[Action::Start(id())]);
    check(claimed(999), Some(Stage::Gone), &[Action::Fail(id())]);
}

#[test]
fn a_running_sandbox_is_left_alone_and_its_end_follows_the_log() {
    check(running(), Some(Stage::Running(Some(END))), &[]);
    check(running(), Some(Stage::Running(Some(NOW))), &[Action::SetEnd(vm(), END)]);
    check(running(), Some(Stage::Running(None)), &[Action::SetEnd(vm(), END)]);
}

#[test]
fn a_guest_stands_still_before_it_is_said_to_and_goes_on_when_the_log_says_so() {
    check(pausing(), Some(Stage::Running(Some(END))), &[Action::Pause(vm())]);
    check(pausing(), Some(Stage::Paused(Some(END))), &[Action::ReportPaused(id())]);
    check(paused(), Some(Stage::Paused(Some(END))), &[]);
    check(paused(), Some(Stage::Running(Some(END))), &[Action::Pause(vm())]);
    check(running(), Some(Stage::Paused(Some(END))), &[Action::Resume(vm())]);
}

#[test]
fn the_end_of_a_paused_guest_follows_the_log_too_and_a_pause_saves_nobody_from_it() {
    check(paused(), Some(Stage::Paused(Some(NOW))), &[Action::SetEnd(vm(), END)]);
    check(stopping(), Some(Stage::Paused(Some(END))), &[Action::Kill(vm(), EndReason::Killed)]);
    check_in(
        Mode::Draining,
        paused(),
        Some(Stage::Paused(Some(END))),
        &[Action::Kill(vm(), EndReason::HostStopped)],
    );
    check(paused(), Some(Stage::Gone), &[Action::Report(id())]);
    check(pausing(), None, &[Action::Report(id())]);
    check(None, Some(Stage::Paused(Some(END))), &[Action::Kill(vm(), EndReason::NotNeeded)]);
}

#[test]
fn a_sandbox_whose_guest_is_gone_is_reported_whatever_it_left() {
    check(running(), Some(Stage::Gone), &[Action::Report(id())]);
    check(running(), None, &[Action::Report(id())]);
    check(stopping(), Some(Stage::Gone), &[Action::Report(id())]);
    check(Some(Phase::Stopping { has_run: false }), None, &[Action::Report(id())]);
}

#[test]
fn a_sandbox_that_is_not_wanted_any_more_loses_its_guest_first() {
    for stage in [Stage::Waiting, Stage::Running(Some(END))] {
        check(stopping(), Some(stage), &[Action::Kill(vm(), EndReason::Killed)]);
    }
}

#[test]
fn a_guest_whose_sandbox_is_final_or_elsewhere_is_ended_and_removed_without_a_word() {
    check(None, Some(Stage::Running(Some(END))), &[Action::Kill(vm(), EndReason::NotNeeded)]);
    check(None, Some(Stage::Waiting), &[Action::Kill(vm(), EndReason::NotNeeded)]);
    check(None, Some(Stage::Gone), &[Action::Remove(vm())]);
}

#[test]
fn a_host_that_is_emptied_ends_what_it_has_and_starts_nothing() {
    let check = |phase, stage, expected: &[Action]| check_in(Mode::Draining, phase, stage, expected);
    check(running(), Some(Stage::Running(Some(END))), &[Action::Kill(vm(), EndReason::HostStopped)]);
    check(claimed(1_000), Some(Stage::Waiting), &[Action::Kill(vm(), EndReason::HostStopped)]);
    check(claimed(1_000), None, &[Action::Fail(id())]);
    check(stopping(), Some(Stage::Running(None)), &[Action::Kill(vm(), EndReason::Killed)]);
}

#[test]
fn a_host_that_is_cut_off_ends_what_it_has_as_one_that_is_emptied_and_says_why() {
    let check = |phase, stage, expected: &[Action]| check_in(Mode::CutOff, phase, stage, expected);
    check(running(), Some(Stage::Running(Some(END))), &[Action::Kill(vm(), EndReason::HostCutOff)]);
    check(paused(), Some(Stage::Paused(Some(END))), &[Action::Kill(vm(), EndReason::HostCutOff)]);
    check(running(), Some(Stage::Gone), &[Action::Report(id())]);
    check(claimed(1_000), None, &[Action::Fail(id())]);
    check(stopping(), Some(Stage::Running(None)), &[Action::Kill(vm(), EndReason::Killed)]);
}

#[test]
fn the_workers_own_guests_are_left_alone_and_an_earlier_workers_are_ended() {
    let guest = |tenant, stage| vec![GuestView { vm: vm(), tenant, stage }];
    let plan = |guests: Vec<GuestView>| plan(&LogView::new(), &guests, Mode::Serving, NOW);
    assert_eq!(plan(guest(Tenant::Worker, Stage::Waiting)), []);
    assert_eq!(plan(guest(Tenant::Worker, Stage::Gone)), [Action::Remove(vm())]);
    assert_eq!(plan(guest(Tenant::Nobody, Stage::Waiting)), [Action::Kill(vm(), EndReason::NotNeeded)]);
    assert_eq!(plan(guest(Tenant::Nobody, Stage::Gone)), [Action::Remove(vm())]);
}

#[test]
fn what_must_not_live_is_ended_before_anything_is_started() {
    let log = LogView::from([(id(), Phase::Claimed { deadline: NOW })]);
    let guests = [GuestView {
        vm: vm(),
        tenant: Tenant::Sandbox(SandboxId::from_bytes([9; 16])),
        stage: Stage::Waiting,
    }];
    let actions = plan(&log, &guests, Mode::Serving, NOW);
    assert_eq!(actions, [Action::Kill(vm(), EndReason::NotNeeded), Action::Start(id())]);
}
