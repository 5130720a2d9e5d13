//! The network device: frames to and from a tap of the lab, and a tap that is not there or goes away.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use omnirun_vmm_api::{
    MacAddress, NetworkSpec,
    owner::{EndReason, FINAL, OwnerSpec, StartFrom},
};

use crate::{
    owner::{self, Owner},
    tap::LabTap,
};

const HOST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const PORT: u16 = 7777;
/// Much more than both queues and any socket's buffer hold.
const BYTES: usize = 4 << 20;
const MAC: [u8; 6] = [0x02, 0x6f, 0x6d, 0x6e, 0x69, 0x01];

/// Brings the guest's interface up, sends that many bytes to the lab and reads as many, which are `b`. Perl is what the
/// template has: SIOCSIFADDR, SIOCSIFNETMASK and SIOCSIFFLAGS of linux/sockios.h.
const EXCHANGE: &str = r#"perl -MSocket -e '
    socket(my $c, AF_INET, SOCK_DGRAM, 0) or die;
    sub ask { ioctl($c, $_[0], pack("a16a24", "eth0", $_[1])) or die "$_[0]: $!" }
    ask(0x8916, pack("Sna4", AF_INET, 0, inet_aton("10.77.0.2")));
    ask(0x891c, pack("Sna4", AF_INET, 0, inet_aton("255.255.255.0")));
    ask(0x8914, pack("s", 0x41));
    socket(my $s, AF_INET, SOCK_STREAM, 0) or die;
    connect($s, sockaddr_in(7777, inet_aton("10.77.0.1"))) or die "connect: $!";
    my $left = 4 << 20;
    while ($left) { my $n = syswrite($s, "a" x 65536, $left < 65536 ? $left : 65536) or die; $left -= $n }
    my ($read, $bytes) = (0, "");
    while ($read < 4 << 20) { my $n = sysread($s, $bytes, 65536) or die "read: $!"; $bytes =~ /[^b]/ and die; $read += $n }
    print $read;
'"#;

fn with_tap(name: &'static str) -> impl FnOnce(&mut OwnerSpec) {
    move |spec| {
        spec.network = Some(NetworkSpec { tap: name.to_owned(), mac: MacAddress(MAC) });
        spec.start_from = StartFrom::Auto;
    }
}

/// A connection of TCP in each direction, with its address's resolution, over the device.
pub fn megabytes_both_ways() -> Result<String> {
    let _tap = LabTap::make("lab0", HOST)?;
    let listener = TcpListener::bind((HOST, PORT))?;
    let peer = thread::spawn(move || -> Result<usize> {
        let (mut stream, _) = listener.accept()?;
        let mut bytes = vec![0; BYTES];
        stream.read_exact(&mut bytes)?;
        ensure!(bytes.iter().all(|byte| *byte == b'a'), "other bytes came");
        stream.write_all(&vec![b'b'; BYTES])?;
        Ok(bytes.len())
    });
    owner::block_on(async {
        let mut owner = Owner::start("network", with_tap("lab0")).await?;
        owner.claim("network").await?;
        let address = owner.run("cat /sys/class/net/eth0/address").await?;
        ensure!(address.trim() == "02:6f:6d:6e:69:01", "its address is {address}");
        let read = owner.run_as("root", EXCHANGE).await?;
        ensure!(read.trim() == BYTES.to_string(), "it read {read}");
        let sent = peer.join().ok().context("the peer panicked")??;
        let left = owner.kill().await?;
        let (rx, tx) = (left.usage.rx_bytes.0, left.usage.tx_bytes.0);
        ensure!(rx >= BYTES as u64 && tx >= BYTES as u64, "it counted {rx} and {tx} bytes");
        Ok(format!("{sent} bytes each way, {rx} and {tx} with headers"))
    })
}

/// A tap that is not there is named; one that goes away ends its guest with that reason; nothing is left of either.
pub fn a_vanished_tap_is_named() -> Result<String> {
    owner::block_on(async {
        let refused = Owner::begin("untapped", with_tap("lab9")).await;
        let said = format!("{:#}", refused.err().context("it started")?);
        ensure!(
            said.contains("cannot use the tap lab9: this host has no tap of that name: make it"),
            "{said}"
        );
        ensure!(!std::path::Path::new("/tmp/untapped").exists(), "something is left");

        let tap = LabTap::make("lab1", HOST)?;
        let mut owner = Owner::start("vanishing", with_tap("lab1")).await?;
        owner.claim("vanishing").await?;
        tap.remove()?;
        let status = owner.wait()?;
        let complaint = owner.complaints();
        let is_told = complaint.starts_with("omnirun vmm: vanishing: the host's tap lab1")
            && complaint.contains("has vanished")
            && complaint.lines().count() == 1;
        ensure!(status.code() == Some(1) && is_told, "{status}: {complaint}");
        ensure!(owner.left()?.reason == EndReason::NetworkLost, "the reason is {:?}", owner.left()?.reason);
        let files: Vec<_> =
            std::fs::read_dir(&owner.state)?.flatten().map(|entry| entry.file_name()).collect();
        ensure!(files == [FINAL], "{files:?} are left");
        Ok(complaint)
    })
}
