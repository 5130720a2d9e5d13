//! QMP, QEMU's control protocol: one JSON object a line, a command and then its answer, with events in between.
//! Source: QEMU's docs/interop/qmp-spec.

use std::{
    io::{self, BufRead, BufReader, IoSlice, Read},
    mem::MaybeUninit,
    os::{fd::AsFd, unix::net::UnixStream},
    time::{Duration, Instant},
};

use omnirun_vmm_api::MonitorError;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

/// How long one answer may take.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);
/// The longest line that is read. QEMU's own are a few hundred bytes; a broken one must not fill memory.
const LINE_BYTES_MAX: u64 = 256 * 1024;
/// How long a migration into or out of a file may take.
const MIGRATION_WAIT_MAX: Duration = Duration::from_secs(60);
const POLL_PAUSE: Duration = Duration::from_millis(2);

/// A connection to QEMU's monitor.
pub struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Greets QEMU. Returns when it is up.
    pub fn greet(stream: UnixStream) -> Result<Self, MonitorError> {
        let command = "greet";
        stream
            .set_read_timeout(Some(ANSWER_WAIT_MAX))
            .and_then(|()| stream.set_write_timeout(Some(ANSWER_WAIT_MAX)))
            .map_err(|source| MonitorError::Control { command, source })?;
        let mut qmp = Self { stream: BufReader::new(stream) };
        qmp.read_line(command)?;
        qmp.tell("qmp_capabilities", Value::Null)?;
        Ok(qmp)
    }

    /// Sends a command and waits for its answer.
    pub fn tell(&mut self, command: &'static str, arguments: Value) -> Result<Value, MonitorError> {
        self.send(command, arguments, &mut SendAncillaryBuffer::default())?;
        self.answer(command)
    }

    /// Gives QEMU a descriptor under a name.
    pub fn give(&mut self, name: &str, fd: &impl AsFd) -> Result<(), MonitorError> {
        let fds = [fd.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut extra = SendAncillaryBuffer::new(&mut space);
        extra.push(SendAncillaryMessage::ScmRights(&fds));
        self.send("getfd", json!({ "fdname": name }), &mut extra)?;
        self.answer("getfd").map(|_| ())
    }

    /// Writes the guest's state to a descriptor that was given as `name`.
    pub fn migrate_to(&mut self, name: &str) -> Result<(), MonitorError> {
        // The default of 128 MiB/s is meant for networks; the value is bytes per second.
        self.tell("migrate-set-parameters", json!({ "max-bandwidth": 1_u64 << 40 }))?;
        self.tell("migrate", json!({ "uri": format!("fd:{name}") }))?;
        self.wait("query-migrate", |answer| match answer["status"].as_str() {
            Some("completed") => Some(Ok(())),
            Some("failed" | "cancelled") => Some(Err("the migration failed".to_owned())),
            _ => None,
        })
    }

    /// Waits until a restored guest is all there.
    pub fn wait_restored(&mut self) -> Result<(), MonitorError> {
        self.wait("query-status", |answer| match answer["status"].as_str() {
            Some("inmigrate") | None => None,
            Some(_) => Some(Ok(())),
        })
    }

    fn wait(
        &mut self,
        command: &'static str,
        judge: impl Fn(&Value) -> Option<Result<(), String>>,
    ) -> Result<(), MonitorError> {
        let since = Instant::now();
        loop {
            let answer = self.tell(command, Value::Null)?;
            if let Some(verdict) = judge(&answer) {
                return verdict.map_err(|reason| MonitorError::Refused { command, reason });
            }
            if since.elapsed() > MIGRATION_WAIT_MAX {
                return Err(MonitorError::Control { command, source: io::ErrorKind::TimedOut.into() });
            }
            std::thread::sleep(POLL_PAUSE);
        }
    }

    fn send(
        &mut self,
        command: &'static str,
        arguments: Value,
        extra: &mut SendAncillaryBuffer<'_, '_, '_>,
    ) -> Result<(), MonitorError> {
        let mut message = json!({ "execute": command });
        if !arguments.is_null() {
            message["arguments"] = arguments;
        }
        let mut text = message.to_string().into_bytes();
        text.push(b'\n');
        let failed = |source: io::Error| MonitorError::Control { command, source };
        let stream = self.stream.get_ref();
        let sent = sendmsg(stream, &[IoSlice::new(&text)], extra, SendFlags::NOSIGNAL)
            .map_err(|e| failed(e.into()))?;
        io::Write::write_all(&mut &*stream, &text[sent..]).map_err(failed)
    }

    fn answer(&mut self, command: &'static str) -> Result<Value, MonitorError> {
        loop {
            let mut message = self.read_line(command)?;
            if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            }
            if let Some(error) = message.get("error") {
                let reason = error["desc"].as_str().unwrap_or("it did not say why").to_owned();
                return Err(MonitorError::Refused { command, reason });
            }
        }
    }

    fn read_line(&mut self, command: &'static str) -> Result<Value, MonitorError> {
        let failed = |source: io::Error| MonitorError::Control { command, source };
        let mut line = Vec::new();
        (&mut self.stream).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).map_err(failed)?;
        if line.is_empty() {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        serde_json::from_slice(&line).map_err(|error| failed(error.into()))
    }
}
