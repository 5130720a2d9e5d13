//! One virtual processor and the thread that is it. It stands still until it is told to run, and whenever it is told
//! anything it first finishes the instruction that the monitor was asked about.
//!
//! [`state`] has what a processor consists of, [`counter`] what it counts time with.

pub mod counter;
pub mod state;

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TryRecvError, channel, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use kvm_ioctls::{VcpuExit, VcpuFd};
use omnirun_vmm_api::MonitorError;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use super::{
    bus::{Asked, Bus},
    ended::{End, Ended},
    failed,
    jail::filter::ThreadFilters,
    usage::Counted,
};

/// How long a processor may take to stand still. It leaves the guest as soon as the signal reaches its thread.
const ORDER_WAIT_MAX: Duration = Duration::from_secs(30);

/// Stack of a thread. The default of 2 MiB may come as one large page, which is more than all the rest of the monitor.
pub const STACK_BYTES: usize = 256 << 10;

/// What a processor's thread is told.
enum Order {
    Pause(SyncSender<()>),
    Resume,
    Do(Box<dyn FnOnce(&VcpuFd) + Send>),
    End,
}

/// A processor's thread, from outside.
pub struct Vcpu {
    orders: Sender<Order>,
    leave: ImmediateExit,
    /// Gives the processor back, so that what `leave` points to is there until the thread has been joined.
    thread: Option<JoinHandle<VcpuFd>>,
}

/// `kvm_run.immediate_exit` of a processor: while it is not 0, KVM_RUN finishes what is pending and returns.
#[derive(Clone, Copy)]
struct ImmediateExit(NonNull<AtomicU8>);

// SAFETY: it is an atomic in memory that KVM shares with this process; any thread may store to it.
unsafe impl Send for ImmediateExit {}

impl ImmediateExit {
    fn of(vcpu: &mut VcpuFd) -> Self {
        Self(NonNull::from(&mut vcpu.get_kvm_run().immediate_exit).cast())
    }

    fn set(self, value: u8) {
        // SAFETY: the mapping lives as long as the processor, which outlives every user: see `Vcpu::thread`.
        unsafe { self.0.as_ref() }.store(value, Ordering::SeqCst);
    }
}

/// Makes the signal that interrupts KVM_RUN do nothing else. Once for the process is enough, and twice does no harm.
pub fn prepare_signal() -> Result<(), MonitorError> {
    extern "C" fn nothing<T>(_: i32, _: *mut T, _: *mut std::ffi::c_void) {}
    register_signal_handler(SIGRTMIN(), nothing).map_err(|error| failed("prepare a signal")(error.into()))
}

/// Starts a processor's thread; it stands still.
pub fn start(
    index: usize,
    mut vcpu: VcpuFd,
    bus: &Arc<Bus>,
    ended: &Arc<Ended>,
    filters: Option<&Arc<ThreadFilters>>,
) -> Result<Vcpu, MonitorError> {
    let (orders, told) = channel();
    let leave = ImmediateExit::of(&mut vcpu);
    let (bus, ended, filters) = (bus.clone(), ended.clone(), filters.cloned());
    let thread = std::thread::Builder::new()
        .name(format!("vcpu-{index}"))
        .stack_size(STACK_BYTES)
        .spawn(move || {
            if let Some(Err(error)) = filters.map(|filters| filters.vcpu.apply()) {
                ended.note(End::Kvm(error.to_string()));
                return vcpu;
            }
            // Unwinding would take the processor away from `leave`.
            let lived = AssertUnwindSafe(|| live(&mut vcpu, leave, &told, &bus, &ended));
            if catch_unwind(lived).is_err() {
                ended.note(End::Kvm("a processor's thread panicked".to_owned()));
            }
            vcpu
        })
        .map_err(failed("start a thread"))?;
    Ok(Vcpu { orders, leave, thread: Some(thread) })
}

impl Vcpu {
    fn tell(&self, order: Order) {
        // The order first: whoever is woken finds it. A thread that has ended needs none.
        let _ = self.orders.send(order);
        self.leave.set(1);
        if let Some(thread) = &self.thread {
            let _ = thread.kill(SIGRTMIN());
        }
    }

    /// Begins to make it stand still.
    pub fn begin_pause(&self) -> Pausing {
        let (done, pausing) = sync_channel(1);
        self.tell(Order::Pause(done));
        Pausing(pausing)
    }

    /// Lets it run.
    pub fn resume(&self) {
        self.tell(Order::Resume);
    }

    /// Has its thread do something with it and answers with what came of that; it must stand still.
    pub fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&VcpuFd) -> Result<T, MonitorError> + Send + 'static,
    ) -> Result<T, MonitorError> {
        let (done, answer) = sync_channel(1);
        self.tell(Order::Do(Box::new(move |vcpu| drop(done.try_send(work(vcpu))))));
        answer.recv_timeout(ORDER_WAIT_MAX).map_err(|error| failed("ask a processor of")(late(error)))?
    }

    /// For counting what it uses, until it is joined.
    pub fn counted(&self) -> Option<Counted<'_>> {
        self.thread.as_ref().map(Counted::new)
    }

    /// Begins to end it.
    pub fn begin_end(&self) {
        self.tell(Order::End);
    }

    /// Waits for its end, which must have begun.
    pub fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed; there is nothing else to be done about it here.
            let _ = thread.join();
        }
    }
}

/// A processor that will stand still in a moment.
pub struct Pausing(Receiver<()>);

impl Pausing {
    /// Waits until it does.
    pub fn wait(self) -> Result<(), MonitorError> {
        self.0.recv_timeout(ORDER_WAIT_MAX).map_err(|error| failed("stop a processor of")(late(error)))
    }
}

fn late(error: RecvTimeoutError) -> io::Error {
    match error {
        RecvTimeoutError::Timeout => io::ErrorKind::TimedOut.into(),
        RecvTimeoutError::Disconnected => io::ErrorKind::BrokenPipe.into(),
    }
}

/// What the thread does.
fn live(vcpu: &mut VcpuFd, leave: ImmediateExit, orders: &Receiver<Order>, bus: &Bus, ended: &Ended) {
    let mut stands_still = true;
    loop {
        // Before the orders are looked at: one that comes later sets it again.
        leave.set(0);
        loop {
            let order = if stands_still {
                orders.recv().unwrap_or(Order::End)
            } else {
                match orders.try_recv() {
                    Ok(order) => order,
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => Order::End,
                }
            };
            match order {
                Order::End => return,
                Order::Resume => stands_still = false,
                Order::Pause(done) => {
                    stands_still = true;
                    // So that the guest does not take the pause for a processor that hangs. Refused without its clock.
                    let _ = vcpu.kvmclock_ctrl();
                    let _ = done.try_send(());
                }
                Order::Do(work) => work(vcpu),
            }
        }
        if let Err(end) = run(vcpu, bus) {
            ended.note(end);
            stands_still = true;
        }
    }
}

/// Runs the guest until the thread is interrupted. KVM has then finished the instruction that it asked about last.
fn run(vcpu: &mut VcpuFd, bus: &Bus) -> Result<(), End> {
    loop {
        match vcpu.run() {
            Ok(VcpuExit::MmioRead(address, data)) => bus.read(address, data),
            Ok(VcpuExit::MmioWrite(address, data)) => bus.write(address, data)?,
            Ok(VcpuExit::IoIn(port, data)) => bus.port_read(port, data),
            Ok(VcpuExit::IoOut(port, data)) => {
                if bus.port_write(port, data) == Asked::Reset {
                    return Err(End::Stopped);
                }
            }
            Ok(VcpuExit::Shutdown | VcpuExit::Hlt | VcpuExit::SystemEvent(..)) => return Err(End::Stopped),
            Ok(VcpuExit::InternalError) => return Err(End::Kvm(EMULATES_ONLY.to_owned())),
            Ok(VcpuExit::FailEntry(reason, _)) => {
                return Err(End::Kvm(format!("the processor refused to enter it, reason {reason:#x}")));
            }
            Ok(other) => return Err(End::Kvm(format!("an exit that nobody asked for: {other:?}"))),
            Err(error) => match io::Error::from(error) {
                error if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
                // A processor that waits for its start was woken without one.
                error if error.kind() == io::ErrorKind::WouldBlock => {}
                error => return Err(End::Kvm(error.to_string())),
            },
        }
    }
}

const EMULATES_ONLY: &str =
    "it met an instruction that it cannot emulate; if this host's KVM only emulates, use the qemu monitor";
