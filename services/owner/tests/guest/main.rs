//! Real guests under real QEMU, through the owner process as the worker uses it.
//!
//! They need a template store: `scripts/guest-image` makes it in `.data/images`, or `OMNIRUN_IMAGES` names another.

mod support;

mod commands;

mod files;

mod identity;

mod lifetime;

mod refusals;
