//! What a driver, good or bad, gets from the registers.

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::{
    super::{entropy::Entropy, queue::tests},
    *,
};

const FEATURES_OK: u32 = 1 | 2 | 8;
const DRIVER_OK: u32 = FEATURES_OK | 4;

fn write(mmio: &mut Mmio<Entropy>, ram: &Ram, offset: u64, value: u32) -> Result<Progress, Fault> {
    mmio.write(offset, &value.to_le_bytes(), ram)
}

fn read(mmio: &Mmio<Entropy>, offset: u64) -> u32 {
    let mut word = [0; 4];
    mmio.read(offset, &mut word);
    u32::from_le_bytes(word)
}

/// What Linux does, up to the point where the driver runs; the queue's parts are at 0x1000, 0x2000 and 0x3000.
fn started(ram: &Ram) -> Mmio<Entropy> {
    let mut mmio = Mmio::new(Entropy::default());
    let steps = [
        (0x070, 0),
        (0x070, 3),
        (0x024, 1),
        (0x020, 1),
        (0x024, 0),
        (0x020, 0),
        (0x070, FEATURES_OK),
        (0x030, 0),
        (0x038, 16),
        (0x080, 0x1000),
        (0x090, 0x2000),
        (0x0a0, 0x3000),
        (0x044, 1),
        (0x070, DRIVER_OK),
    ];
    for (offset, value) in steps {
        assert_eq!(write(&mut mmio, ram, offset, value), Ok(Progress::Nothing), "{offset:#x}");
    }
    mmio
}

fn reason(outcome: Result<Progress, Fault>) -> &'static str {
    outcome.expect_err("it is against the rules").what
}

#[test]
fn a_driver_finds_the_device_and_uses_it() {
    let ram = tests::ram();
    let mut mmio = started(&ram);
    assert_eq!([0x000, 0x004, 0x008, 0x034, 0x044].map(|at| read(&mmio, at)), [0x7472_6976, 2, 4, 64, 1]);
    // One descriptor: 32 bytes at 0x8000, to be written.
    ram.write_slice(&[0, 0x80, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0, 2, 0, 0, 0], GuestAddress(0x1000))
        .expect("memory");
    ram.write_obj(1_u16, GuestAddress(0x2002)).expect("memory");
    assert_eq!(write(&mut mmio, &ram, 0x050, 0), Ok(Progress::Used));
    assert_eq!(read(&mmio, 0x060), 1);
    assert_eq!(ram.read_obj::<u16>(GuestAddress(0x3002)).expect("memory"), 1, "one was used");
    write(&mut mmio, &ram, 0x064, 1).expect("an interrupt can be acknowledged");
    assert_eq!(read(&mmio, 0x060), 0);
}

#[test]
fn features_that_were_not_offered_are_refused() {
    let ram = tests::ram();
    let mut mmio = Mmio::new(Entropy::default());
    for (offset, value) in [(0x024, 0), (0x020, 1 << 5), (0x024, 1), (0x020, 1), (0x070, FEATURES_OK)] {
        write(&mut mmio, &ram, offset, value).expect("asking is allowed");
    }
    assert_eq!(read(&mmio, 0x070) & 8, 0);
}

#[test]
fn queues_are_checked_before_they_are_used_and_left_alone_after() {
    let ram = tests::ram();
    let mut mmio = Mmio::new(Entropy::default());
    assert_eq!(reason(write(&mut mmio, &ram, 0x050, 0)), "a queue that is used before it is ready");
    assert_eq!(reason(write(&mut mmio, &ram, 0x050, 9)), "a queue that does not exist");
    assert_eq!(reason(write(&mut mmio, &ram, 0x038, 15)), "a queue of an impossible size");
    assert_eq!(reason(write(&mut mmio, &ram, 0x038, 1 << 20)), "a queue of an impossible size");
    write(&mut mmio, &ram, 0x080, 0x1001).expect("an address is looked at when it counts");
    assert_eq!(reason(write(&mut mmio, &ram, 0x044, 1)), "a queue that is not aligned");
    write(&mut mmio, &ram, 0x080, 0x1000).expect("an address may be written again");
    write(&mut mmio, &ram, 0x0a4, 1).expect("and be anywhere");
    assert_eq!(reason(write(&mut mmio, &ram, 0x044, 1)), "a queue outside of memory");
    let mut mmio = started(&ram);
    assert_eq!(reason(write(&mut mmio, &ram, 0x080, 0)), "a queue that is changed while it is in use");
    assert_eq!(reason(write(&mut mmio, &ram, 0x038, 8)), "a queue that is changed while it is in use");
    write(&mut mmio, &ram, 0x070, 0).expect("a reset is always allowed");
    assert_eq!((read(&mmio, 0x044), read(&mmio, 0x070)), (0, 0));
}

#[test]
fn a_saved_device_goes_on_and_a_forged_one_is_refused() {
    let ram = tests::ram();
    let saved = started(&ram).save().expect("an entropy device is always quiet");
    let mut other = Mmio::new(Entropy::default());
    other.load(&saved, &ram).expect("it was saved");
    assert_eq!(other.save().expect("quiet"), saved);
    let forge = |change: fn(&mut Saved)| {
        let mut forged = saved.clone();
        change(&mut forged);
        Mmio::new(Entropy::default()).load(&forged, &ram).is_err()
    };
    assert!(forge(|saved| saved.registers.rings[0][1] = u64::MAX - 1));
    assert!(forge(|saved| saved.registers.rings.clear()));
    assert!(forge(|saved| saved.queues[0].size = 3));
    assert!(forge(|saved| saved.device = vec![1]));
}

proptest! {
    #[test]
    fn no_sequence_of_writes_makes_it_panic(
        writes in prop::collection::vec((0..0x120_u64, prop_oneof![0..20_u32, any::<u32>()], 0..5_usize), 0..60),
    ) {
        let ram = tests::ram();
        let mut mmio = started(&ram);
        for (offset, value, width) in writes {
            let _ = mmio.write(offset, &value.to_le_bytes()[..width], &ram);
            mmio.read(offset, &mut [0; 4][..width]);
        }
    }
}
