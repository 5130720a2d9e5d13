//! What an owner is tested with: a store, a monitor without guests, and an agent without a guest.

use std::{
    convert::Infallible,
    fs,
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response,
    body::{Body, Frame, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use omnirun_agent_api::{Personalised, route};
use omnirun_vmm::store::Template;
use omnirun_vmm_api::{
    Guest, MemoryMib, Monitor, MonitorError, Purpose, SnapshotFiles, Vcpus, VmSpec,
    owner::{OwnerSpec, Stage},
};
use tokio::net::UnixStream;

use crate::{
    agent::{self, Agent},
    clock, machine,
    outside::{Files, Outside},
    owner::{Owner, Prepared},
    shelf::Shelf,
    voice::Voice,
};

/// A monitor without guests.
pub struct Nothing;

impl Monitor for Nothing {
    fn identity(&self) -> Result<String, MonitorError> {
        Ok("nothing.1".to_owned())
    }

    fn start(&self, _: &VmSpec) -> Result<Box<dyn Guest>, MonitorError> {
        unreachable!("no guest is started")
    }

    fn restore(&self, _: &VmSpec, _: SnapshotFiles) -> Result<Box<dyn Guest>, MonitorError> {
        unreachable!("no guest is started")
    }
}

fn template(home: &Path) -> Template {
    let put = |name: &str, text: &str| {
        let path = home.join(name);
        fs::create_dir_all(path.parent().expect("it is in a directory")).expect("writable");
        fs::write(path, text).expect("writable");
    };
    for name in ["kernel/vmlinux", "initramfs.cpio", "templates/base/root.sqfs", "state/owner.sock"] {
        put(name, "");
    }
    let described = r#"{"name":"base","kernel":"k","initramfs":"i","root":"r"}"#;
    put("templates/base/template.json", described);
    Template::open(home, "base").expect("it has just been made")
}

/// The files of a guest whose home has the store and the state directory.
pub fn files(home: &Path, purpose: Purpose) -> Files {
    let shelf = Shelf::new(&template(home), &Nothing, Vcpus(1), MemoryMib(128)).expect("it has a name");
    Files::new(home.join("state"), shelf, purpose)
}

/// An owner whose guest waits for a sandbox, and is nothing but this agent.
pub fn owner(home: &Path, agent: Agent) -> Owner {
    let outside = Outside::Here(Box::new(files(home, Purpose::Sandbox)));
    let template = template(home);
    let spec = serde_json::json!({
        "vm_id": "one", "store": home, "template": "base", "state_dir": home.join("state"), "vcpus": 1, "memory": 128
    });
    let spec: OwnerSpec = serde_json::from_value(spec).expect("a spec");
    let prepared = Prepared {
        vm: machine(&spec, &template),
        spec,
        template: template.digests,
        snapshot_key: String::new(),
        snapshot: None,
        monitor: Box::new(Nothing),
        started: clock::Started::now(),
    };
    let owner = Owner::new(prepared, 1, outside, Voice::nameless());
    {
        let mut life = owner.life();
        life.stage = Stage::Ready;
        life.agent = Some(agent);
    }
    owner
}

/// An agent that prints without end wherever it is asked for a command's output, and takes its time over an identity.
#[derive(Default)]
pub struct FakeAgent {
    /// Lines that it has printed.
    pub printed: AtomicUsize,
    /// Notified when it is to be personalised.
    pub asked: tokio::sync::Notify,
    /// Notified when it may answer that.
    pub may_answer: tokio::sync::Notify,
}

/// As short as an agent's get.
pub const LINE: &[u8; 60] = &[b'x'; 60];

impl FakeAgent {
    /// Lets it serve, and connects to it.
    pub async fn connect(self: &Arc<Self>) -> Agent {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        let this = self.clone();
        let service = service_fn(move |request| {
            let this = this.clone();
            async move { Ok::<_, Infallible>(this.answer(&request).await) }
        });
        tokio::spawn(
            http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(theirs), service),
        );
        let (agent, _) = agent::connect(ours.into_std().expect("a socket")).await.expect("it serves");
        agent
    }

    async fn answer(
        self: Arc<Self>,
        request: &Request<Incoming>,
    ) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
        match request.uri().path() {
            route::PERSONALISE => {
                self.asked.notify_one();
                self.may_answer.notified().await;
                let text = String::new;
                let made = Personalised { boot_id: text(), machine_id: text(), instance: text() };
                let made = serde_json::to_vec(&made).expect("plain data");
                Response::new(Full::from(made).boxed_unsync())
            }
            path if path.starts_with(route::COMMANDS) => Response::new(Output(self).boxed_unsync()),
            _ => Response::new(Full::default().boxed_unsync()),
        }
    }
}

/// A command's output, which has no end.
struct Output(Arc<FakeAgent>);

impl Body for Output {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.0.printed.fetch_add(1, Ordering::SeqCst);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(LINE)))))
    }
}
