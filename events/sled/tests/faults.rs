//! Power cuts, kills, damage and full disks: what was acknowledged is there, or the log is not served.

#[path = "support/common.rs"]
mod common;

#[path = "faults/damage.rs"]
mod damage;
#[path = "faults/full.rs"]
mod full;
#[path = "faults/kill.rs"]
mod kill;
#[path = "faults/torn.rs"]
mod torn;
