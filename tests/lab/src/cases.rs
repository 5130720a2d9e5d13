//! The cases of the lab, each a sentence that must be true of the monitor. A case that fails does not stop the others.

mod bad_input;
mod hostile;
mod jail;
mod life;
mod network;
mod pause;
pub mod snapshot;
mod worker;

use std::{panic::AssertUnwindSafe, time::Instant};

use anyhow::Result;

use crate::limit;

/// A case: its name, and what it does. It answers with what it measured, in words.
type Case = (&'static str, fn() -> Result<String>);

const CASES: &[Case] = &[
    ("the_trial_of_kvm_finds_that_it_works", bad_input::kvm_works),
    ("a_guest_boots_answers_runs_a_command_and_is_killed", life::boots_answers_runs_and_is_killed),
    ("a_guest_has_as_many_processors_as_it_was_given", life::has_as_many_processors_as_it_was_given),
    ("a_guest_uses_its_memory_around_the_devices", life::uses_its_memory_around_the_devices),
    ("a_guests_memory_may_be_a_file_without_a_name", life::memory_may_be_a_memfd),
    ("a_guest_draws_entropy_from_the_host", life::draws_entropy_from_the_host),
    ("a_guest_moves_megabytes_over_its_port", life::moves_megabytes_over_the_port),
    ("a_guest_that_stops_is_seen_to_have_ended", life::a_guest_that_stops_is_seen_to_have_ended),
    (
        "a_guest_that_lies_to_a_device_ends_itself_and_no_other",
        hostile::each_lie_ends_its_own_guest_and_no_other,
    ),
    ("a_boot_can_be_killed_at_any_moment", life::a_boot_can_be_killed_at_any_moment),
    ("eight_guests_run_at_once", life::eight_run_at_once),
    ("a_guest_moves_megabytes_over_its_network_device", network::megabytes_both_ways),
    ("a_tap_that_vanishes_is_named_and_ends_its_guest", network::a_vanished_tap_is_named),
    ("a_guests_process_has_nothing_of_the_host", jail::nothing_of_the_host_is_left),
    ("a_guest_reads_its_template_from_a_disk_within_limits", jail::reads_are_limited),
    ("a_system_call_that_is_not_listed_ends_the_process", jail::refused_calls_end_the_process),
    ("memory_comes_and_goes_in_a_jail", jail::memory_comes_and_goes),
    ("a_keeper_and_its_owner_end_together", jail::a_keeper_and_its_owner_end_together),
    ("a_guest_pauses_and_resumes_ten_times_with_its_data_whole", pause::ten_times),
    ("time_stands_still_for_a_guest_that_pauses", pause::time_stands_still),
    ("twenty_guests_of_one_snapshot_share_nothing", snapshot::twenty_restores),
    ("a_spare_owner_restores_a_guest_when_told", snapshot::a_spare_restores_when_told),
    ("a_snapshot_of_two_processors_goes_on_with_both", snapshot::with_two_processors),
    ("the_whole_program_runs_a_sandbox_and_nothing_is_left", worker::from_sign_in_to_nothing_left),
    ("snapshots_that_are_cut_changed_or_foreign_are_refused_by_name", snapshot::refusals),
    ("files_of_the_wrong_kind_are_refused_by_name_and_leave_nothing", bad_input::files_are_refused),
    ("shapes_that_no_guest_has_are_refused_with_the_limits", bad_input::shapes_are_refused),
    ("a_user_who_may_not_open_kvm_is_told_what_to_do", bad_input::permission_is_asked_for),
];

/// One of each kind, for whoever has eight minutes: boot and commands, eight at once, a template's snapshot and its restores, pauses, kills
/// during a boot, hostile queues, the jail, and the whole program.
const CORE: &[&str] = &[
    "the_trial_of_kvm_finds_that_it_works",
    "a_guest_boots_answers_runs_a_command_and_is_killed",
    "a_guest_that_lies_to_a_device_ends_itself_and_no_other",
    "a_boot_can_be_killed_at_any_moment",
    "eight_guests_run_at_once",
    "a_tap_that_vanishes_is_named_and_ends_its_guest",
    "a_guests_process_has_nothing_of_the_host",
    "a_guest_reads_its_template_from_a_disk_within_limits",
    "a_system_call_that_is_not_listed_ends_the_process",
    "memory_comes_and_goes_in_a_jail",
    "a_keeper_and_its_owner_end_together",
    "a_guest_pauses_and_resumes_ten_times_with_its_data_whole",
    "time_stands_still_for_a_guest_that_pauses",
    "twenty_guests_of_one_snapshot_share_nothing",
    "the_whole_program_runs_a_sandbox_and_nothing_is_left",
    "shapes_that_no_guest_has_are_refused_with_the_limits",
    "a_user_who_may_not_open_kvm_is_told_what_to_do",
];

/// Runs those whose name contains `only`, or a core of them, or all, so many times, and prints a line for each and one at
/// the end.
pub fn run(times: usize, only: Option<&str>) -> Result<()> {
    let is_wanted = |name: &str| match only {
        Some("core") => CORE.contains(&name),
        Some(only) => name.contains(only),
        None => true,
    };
    let chosen: Vec<&Case> = CASES.iter().filter(|(name, _)| is_wanted(name)).collect();
    anyhow::ensure!(only != Some("core") || chosen.len() == CORE.len(), "a case of the core is not there");
    println!("LAB chose {} of {} cases", chosen.len(), CASES.len());
    let wanted: Vec<&Case> = std::iter::repeat_n(&chosen, times).flatten().copied().collect();
    let mut passed = 0;
    for (name, case) in &wanted {
        println!("LAB case {name}");
        let since = Instant::now();
        // A case that panics is one that fails.
        let outcome = limit::within(name, || std::panic::catch_unwind(AssertUnwindSafe(case)))
            .unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked, see above")));
        let took = since.elapsed().as_millis();
        match outcome {
            Ok(said) => {
                passed += 1;
                println!("LAB pass {name} ({took} ms) {said}");
            }
            Err(error) => println!("LAB fail {name} ({took} ms) {error:#}"),
        }
    }
    println!(
        "LAB cases: {} of {} were chosen, {passed} of {} runs passed",
        chosen.len(),
        CASES.len(),
        wanted.len()
    );
    println!("LAB ran {passed} of {}", wanted.len());
    Ok(())
}
