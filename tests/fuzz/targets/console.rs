//! The console device with the agent port, driven by anything, and a host that writes, reads, closes and goes.
#![no_main]

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
};

use libfuzzer_sys::fuzz_target;
use omnirun_fuzz::{
    driver::{Host, run},
    ignore_sigpipe,
    input::Input,
    say::*,
    seeds::write_if_asked,
};
use omnirun_vmm::kvm::{
    memory::Ram,
    virtio::{Fault, console::Console, mmio::Mmio},
};

fuzz_target!(
    init: {
        ignore_sigpipe();
        write_if_asked(seeds());
    },
    |bytes: &[u8]| run(bytes, || {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        theirs.set_nonblocking(true).expect("a socket can be made not to block");
        (Console::new(ours).expect("it is a socket"), Owner(Some(theirs)))
    })
);

/// The owner's end of the port.
struct Owner(Option<UnixStream>);

impl Host<Console> for Owner {
    fn act(&mut self, input: &mut Input<'_>, mmio: &mut Mmio<Console>, ram: &Ram) -> Result<(), Fault> {
        match input.byte() % 5 {
            0 => {
                if let Some(socket) = &mut self.0 {
                    let _ = socket.write(input.text());
                }
            }
            1 => {
                if let Some(socket) = &mut self.0 {
                    let _ = socket.read(&mut [0; 4096][..usize::from(input.half() % 4097)]);
                }
            }
            2 => self.0 = None,
            3 => _ = mmio.serve(ram, |console, queues, ram| console.hang_up(queues, ram))?,
            _ => mmio.device_mut().close(),
        }
        // What the thread beside the processors does when the socket is ready.
        if mmio.device().watch().is_some() {
            mmio.serve(ram, |console, queues, ram| console.pump(queues, ram))?;
        }
        Ok(())
    }
}

/// Control messages (VIRTIO 1.2, section 5.3.6.2) to queue 3: port 0, event, value.
fn control(event: u8, value: u8) -> Vec<u8> {
    request(3, &[reads(0x8000, &[0, 0, 0, 0, event, 0, value, 0])])
}

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    const TO_GUEST: u8 = 0;
    const FROM_GUEST: u8 = 1;
    const CONTROL_TO_GUEST: u8 = 2;
    let rooms = || (0..4).map(|at| request(CONTROL_TO_GUEST, &[writes(0x9000 + at * 64, 64)]));
    // Room for answers, the device is ready, the port is ready, a program opens it.
    let opened: Vec<u8> =
        rooms().chain([control(0, 1), control(3, 1), control(6, 1)]).collect::<Vec<_>>().concat();
    let input = request(TO_GUEST, &[writes(0xa000, 32)]);
    let output = request(FROM_GUEST, &[reads(0xb000, b"answer")]);
    // Half of the guest's memory.
    let to_be_read = [vec![16, 0, 0x20], 0x8000_u32.to_le_bytes().to_vec()].concat();
    let (says, listens, goes, hangs_up) = (host(b"\0\x05hello"), host(&[1, 64, 0]), host(&[2]), host(&[3]));
    let both = || vec![opened.clone(), input.clone(), says.clone(), output.clone(), listens.clone()];
    vec![
        ("opened", started(std::slice::from_ref(&opened))),
        ("both-ways", started(&both())),
        ("host-goes", started(&[both(), vec![goes, input.clone(), output.clone()]].concat())),
        (
            "hung-up-and-saved",
            started(&[both(), vec![hangs_up, save_and_load(), input.clone(), says.clone()]].concat()),
        ),
        // As long as one may be: 1 MiB.
        ("long-message", started(&[opened.clone(), request(FROM_GUEST, &[many(32, to_be_read)])])),
        ("large-room", started(&[opened.clone(), says, request(TO_GUEST, &[many(8, writes(0, 0x8000))])])),
    ]
}
