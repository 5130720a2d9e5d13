//! The network device, driven by anything, on a wire from which frames of any length come and which may be cut.
#![no_main]

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use libfuzzer_sys::fuzz_target;
use omnirun_fuzz::{
    driver::{Host, run},
    input::Input,
    say::*,
    seeds::write_if_asked,
};
use omnirun_vmm::kvm::{
    memory::Ram,
    virtio::{
        Fault,
        mmio::Mmio,
        net::{Net, Received, Sent, Wire},
    },
};
use omnirun_vmm_api::MacAddress;

fuzz_target!(
    init: write_if_asked(seeds()),
    |bytes: &[u8]| run(bytes, || {
        let ends = Ends::default();
        (Net::new(ends.clone(), MacAddress([2, 0, 0, 0, 0, 1])), ends)
    })
);

#[derive(Default)]
struct Frames {
    /// Lengths of those that wait for the guest.
    come: VecDeque<usize>,
    is_cut: bool,
}

/// Both ends of the wire.
#[derive(Clone, Default)]
struct Ends(Arc<Mutex<Frames>>);

impl Ends {
    fn frames(&self) -> MutexGuard<'_, Frames> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wire for Ends {
    fn send(&mut self, frame: &[u8]) -> Sent {
        assert!(frame.len() >= 14, "a frame has a header");
        if self.frames().is_cut { Sent::Vanished } else { Sent::Whole }
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Received {
        let mut frames = self.frames();
        match frames.come.pop_front() {
            _ if frames.is_cut => Received::Vanished,
            None => Received::Nothing,
            Some(length) => Received::Frame(length.min(buffer.len())),
        }
    }
}

impl Host<Net<Ends>> for Ends {
    fn act(&mut self, input: &mut Input<'_>, mmio: &mut Mmio<Net<Ends>>, ram: &Ram) -> Result<(), Fault> {
        match input.byte() % 4 {
            0 => self.frames().is_cut = true,
            _ => self.frames().come.push_back(input.half().into()),
        }
        // What the thread beside the processors does when the tap is ready.
        mmio.serve(ram, Net::pump).map(drop)
    }
}

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    const TO_GUEST: u8 = 0;
    const FROM_GUEST: u8 = 1;
    let room = request(TO_GUEST, &[writes(0xa000, 1526)]);
    let says = request(FROM_GUEST, &[reads(0xb000, &[0; 12]), reads(0xb100, b"to----from--ty and more")]);
    // Half of the guest's memory.
    let to_be_read = [vec![16, 0, 0x20], 0x8000_u32.to_le_bytes().to_vec()].concat();
    let comes = |length: u16| host(&[&[1][..], &length.to_le_bytes()].concat());
    vec![
        ("both-ways", started(&[room.clone(), comes(60), says.clone(), comes(1514)])),
        ("larger-than-its-room", started(&[room.clone(), comes(9000), comes(60)])),
        ("no-room", started(&[comes(60), comes(60), room.clone(), comes(60)])),
        ("cut", started(&[room, comes(60), host(&[0]), says])),
        // More than the longest frame.
        ("long-frame", started(&[request(FROM_GUEST, &[many(3, to_be_read)])])),
    ]
}
