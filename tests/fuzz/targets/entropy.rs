//! The entropy device, driven by anything.
#![no_main]

use libfuzzer_sys::fuzz_target;
use omnirun_fuzz::{
    driver::{Nobody, run},
    say::*,
    seeds::write_if_asked,
};
use omnirun_vmm::kvm::virtio::entropy::Entropy;

fuzz_target!(
    init: write_if_asked(seeds()),
    |bytes: &[u8]| run(bytes, || (Entropy::default(), Nobody))
);

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let ask = request(0, &[writes(0xa000, 64)]);
    vec![
        ("one-part", started(std::slice::from_ref(&ask))),
        ("two-parts", started(&[request(0, &[writes(0xa000, 100), writes(0x1_0000, 60)])])),
        ("indirect", started(&[request(0, &[many(3, writes(0xa000, 8))])])),
        ("saved-between", started(&[ask.clone(), save_and_load(), ask])),
        ("to-be-read", started(&[request(0, &[reads(0xa000, b"12345678")])])),
    ]
}
