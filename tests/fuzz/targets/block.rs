//! The block device, driven by anything, with a disk of eight sectors.
#![no_main]

use std::{env, fs, fs::File, sync::OnceLock};

use libfuzzer_sys::fuzz_target;
use omnirun_fuzz::{
    driver::{Nobody, run},
    say::*,
    seeds::write_if_asked,
};
use omnirun_vmm::kvm::{files::Named, virtio::block::Block};

fuzz_target!(
    init: write_if_asked(seeds()),
    |bytes: &[u8]| run(bytes, || (Block::of(disk()).expect("it is a disk"), Nobody))
);

/// A disk that begins as a squashfs image does. Its file has no name any more, so that nothing stays behind.
fn disk() -> &'static Named {
    static DISK: OnceLock<Named> = OnceLock::new();
    DISK.get_or_init(|| {
        let path = env::temp_dir().join(format!("omnirun-fuzz-disk-{}", std::process::id()));
        let mut image = vec![0; 4096];
        image[..4].copy_from_slice(b"hsqs");
        fs::write(&path, image).expect("there is room");
        let file = File::open(&path).expect("it was written");
        fs::remove_file(&path).expect("it is there");
        Named { path, file }
    })
}

/// Type, reserved, first sector (VIRTIO 1.2, section 5.2.6).
fn header(kind: i8, sector: i8) -> Vec<u8> {
    reads_numbers(0x8000, kind, sector)
}

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let status = || writes(0xb000, 1);
    let ask = |kind, sector, length| request(0, &[header(kind, sector), writes(0x9000, length), status()]);
    vec![
        ("read", started(&[ask(0, 2, 1024)])),
        ("read-past-the-end", started(&[ask(0, 7, 1024)])),
        ("write", started(&[request(0, &[header(1, 0), reads(0x9000, &[7; 64]), status()])])),
        ("flush", started(&[request(0, &[header(4, 0), status()])])),
        ("identify", started(&[ask(8, 0, 20)])),
        ("indirect", started(&[request(0, &[header(0, 1), many(2, writes(0x9400, 512))])])),
        ("saved-between", started(&[ask(0, 0, 512), save_and_load(), ask(0, 3, 512)])),
    ]
}
