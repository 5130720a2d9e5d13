//! What the fuzz targets share. `scripts/fuzz` builds and runs them; docs/decisions/fuzzing.md says why they are as they are.
//!
//! Reading order: [`input`] (values out of the fuzzer's bytes), [`driver`] (a guest's driver that does what they say, for
//! the three virtio devices), [`seeds`] (the corpus that a run starts with). The targets are in `targets/`.

pub mod input;

pub mod driver;

pub mod seeds;
