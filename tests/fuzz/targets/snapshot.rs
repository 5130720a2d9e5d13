//! The state file of a snapshot: any bytes; bytes with a right head and checksum, so that what is behind those is reached
//! too; and devices with a forged state, which are then used.
#![no_main]

use std::os::unix::net::UnixStream;

use libfuzzer_sys::fuzz_target;
use omnirun_fuzz::{driver, input::Input, seeds::write_if_asked};
use omnirun_vmm::kvm::{
    memory::Ram,
    snapshot::{State, VERSION, codec},
    virtio::{
        Device,
        console::Console,
        entropy::Entropy,
        mmio::{Mmio, Saved},
    },
};
use serde_json::{Value, json};
use vm_memory::{Bytes, GuestAddress};

/// A state of a machine that KVM made and that never ran, its structures cut to 64 bytes.
const MADE_BY_KVM: &[u8] = include_bytes!("../corpus/snapshot/made-by-kvm");

const ANYTHING: u8 = 0;
const STATE: u8 = 1;
const CONSOLE: u8 = 2;

fuzz_target!(
    init: write_if_asked(seeds()),
    |bytes: &[u8]| {
        let mut input = Input::new(bytes);
        match input.byte() % 4 {
            ANYTHING => check_state(input.rest()),
            STATE => check_state(&with_head(input.rest())),
            CONSOLE => {
                let (ours, _theirs) = UnixStream::pair().expect("a pair of sockets");
                check_device(Console::new(ours).expect("it is a socket"), &mut input);
            }
            _ => check_device(Entropy::default(), &mut input),
        }
    }
);

/// What is taken for a state is written as it was read.
fn check_state(bytes: &[u8]) {
    let Ok(state) = codec::decode::<State>(bytes) else { return };
    let written = codec::encode(&state).expect("it was read");
    let again: State = codec::decode(&written).expect("it was written");
    assert!(codec::encode(&again).expect("it was read twice") == written, "nothing is lost");
}

/// A device that takes a state can be used: the guest's memory begins with what is left of the input.
fn check_device<D: Device>(device: D, input: &mut Input<'_>) {
    let length = input.half();
    let Ok(saved) = codec::decode::<Saved>(&with_head(input.bytes(length.into()))) else { return };
    let ram: &Ram = driver::ram();
    let mut mmio = Mmio::new(device);
    if mmio.load(&saved, ram).is_err() {
        return;
    }
    let memory = input.rest();
    ram.write_slice(&memory[..memory.len().min(0xc000)], GuestAddress(0)).expect("it is memory");
    for queue in 0..4_u32 {
        if mmio.write(0x050, &queue.to_le_bytes(), ram).is_err() {
            return;
        }
    }
}

/// The bytes as those of a file whose head is right: magic, version, length, CRC-32 of all but itself.
fn with_head(body: &[u8]) -> Vec<u8> {
    let head = [&b"OMNIRUNS"[..], &VERSION.to_le_bytes(), &(body.len() as u32).to_le_bytes()].concat();
    let mut sum = crc32fast::Hasher::new();
    sum.update(&head);
    sum.update(body);
    [&head, &sum.finalize().to_le_bytes()[..], body].concat()
}

/// A queue of 16 at 0, in use.
fn queues(count: usize) -> (Vec<Value>, Vec<Value>) {
    let queue = json!({"size": 16, "ready": true, "next_avail": 0, "next_used": 0});
    (vec![json!([0, 0x800, 0xc00]); count], vec![queue; count])
}

fn device(count: usize, own: &[u8]) -> Value {
    let (rings, queues) = queues(count);
    json!({
        "registers": {
            "device_features_select": 0, "driver_features_select": 0, "driver_features": 1_u64 << 32,
            "queue_select": 0, "status": 15, "interrupts": 0, "rings": rings,
        },
        "queues": queues,
        "device": own,
    })
}

/// The state of a guest with one processor. The structures of KVM are byte strings, and missing bytes are zeros.
fn state() -> Value {
    let processor = json!({
        "cpuid": [[1, 0, 0, 0]], "tsc_khz": 2_000_000, "regs": [1, 2], "sregs": [], "xsave": [], "xcrs": [], "debug": [],
        "lapic": [], "msrs": [[0x10, 0, 0, 0]], "events": [], "mp": [],
    });
    let template = json!({"name": "t", "kernel": "k", "initramfs": "i", "root": "r"});
    json!({
        "id": vec![7; 16], "template": template, "vcpus": 1, "memory": 128, "fingerprint": [1, 2, 3], "processors": [processor],
        "machine": {"irqchips": [[0], [1], [2]], "pit": [], "clock": []},
        "devices": [device(1, &8_u64.to_le_bytes()), device(4, &[1, 1]), device(1, &[])],
    })
}

fn packed(value: &Value) -> Vec<u8> {
    rmp_serde::to_vec_named(value).expect("it is plain data")
}

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let state = packed(&state());
    let file = with_head(&state);
    for body in [&state[..], &MADE_BY_KVM[1..]] {
        codec::decode::<State>(&with_head(body)).map(drop).expect("the seed is a state");
    }
    let used = |mode: u8, device: Value| {
        let device = packed(&device);
        // One descriptor, 64 bytes at 0x4000 to be written, made available.
        let mut memory = vec![0; 0x808];
        memory[..16].copy_from_slice(&[0, 0x40, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 2, 0, 0, 0]);
        memory[0x802] = 1;
        [&[mode][..], &(device.len() as u16).to_le_bytes(), &device, &memory].concat()
    };
    vec![
        ("state-file", [&[ANYTHING][..], &file].concat()),
        ("state", [&[STATE][..], &state].concat()),
        ("made-by-kvm", MADE_BY_KVM.to_vec()),
        ("console", used(CONSOLE, device(4, &[1, 1]))),
        ("entropy", used(3, device(1, &[]))),
    ]
}
