//! Real processes and real faults: what is left after a kill at every record, and whether it heals.

mod kills;
mod refusals;
mod roles;
