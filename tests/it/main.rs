//! Real processes, real faults and made-up requests: what is left after a kill at every record and whether it heals, and what an API that is
//! fuzzed lets through.

mod fuzzed_api;
mod kills;
mod mail_in_memory;
mod refusals;
mod roles;
