//! What a guest sends through the agent port, as the owner takes it: HTTP/2 frames and the JSON in them, as answers to the
//! requests that every guest gets. The frames are whole or cut, their contents are anything.
#![no_main]

use std::{os::unix::net::UnixStream, time::Duration};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use libfuzzer_sys::fuzz_target;
use omnirun_agent_api::{Personalise, Personalised, UnixMillis};
use omnirun_fuzz::{ignore_sigpipe, input::Input, seeds::write_if_asked};
use omnirun_owner::fuzzing::{Agent, AgentError, connect, passing};
use tokio::{io::AsyncWriteExt, runtime::Runtime};

/// Whatever a guest says before it hangs up, the owner is done with it soon after.
const DONE_MAX: Duration = Duration::from_secs(10);

fuzz_target!(
    init: {
        ignore_sigpipe();
        write_if_asked(seeds());
    },
    |bytes: &[u8]| drop(session(bytes))
);

/// What came of the owner's own questions.
type Heard = (Result<(), AgentError>, Result<Personalised, AgentError>);

fn session(bytes: &[u8]) -> Heard {
    thread_local! {
        static RUNTIME: Runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime of one thread");
    }
    RUNTIME.with(|runtime| runtime.block_on(talk(bytes)))
}

async fn talk(bytes: &[u8]) -> Heard {
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    theirs.set_nonblocking(true).expect("a socket can be made not to block");
    let theirs = tokio::net::UnixStream::from_std(theirs).expect("it does not block");
    let (agent, ended) = connect(ours).await.expect("the port is open");
    let all = async { tokio::join!(ask(agent), guest(theirs, bytes), ended) };
    let (heard, ..) = tokio::time::timeout(DONE_MAX, all).await.expect("no guest keeps the owner busy");
    heard
}

/// The first request of every guest on stream 1, the second on 3, and on 5 one that a user's client sends.
async fn ask(agent: Agent) -> Heard {
    let wish = Personalise {
        entropy: "00".repeat(64).into(),
        now: UnixMillis(0),
        hostname: "guest".to_owned(),
        envs: Default::default(),
    };
    let relayed = async {
        let request = Request::get("http://agent/files")
            .body(Empty::new().map_err(|never| match never {}).boxed_unsync());
        let Ok(answer) = agent.send(request.expect("it is a request")).await else { return };
        passing(answer.headers());
        let _ = Limited::new(answer.into_body(), 1 << 20).collect().await;
    };
    let (alive, named, ()) = tokio::join!(agent.wait_alive(DONE_MAX), agent.personalise(&wish), relayed);
    (alive, named)
}

/// Says all of the input, then hangs up.
async fn guest(mut port: tokio::net::UnixStream, bytes: &[u8]) {
    let mut input = Input::new(bytes);
    settle(&port).await;
    while !input.is_empty() {
        let said = match input.byte() % 5 {
            0 => input.text().to_vec(),
            1 => {
                let (kind, flags, stream) = (input.byte(), input.byte(), input.byte());
                frame(kind, flags, stream, input.text())
            }
            2 => {
                let (flags, stream) = (input.byte(), input.byte());
                frame(HEADERS, flags, stream, &headers(&mut input))
            }
            3 => {
                let (flags, stream, count) = (input.byte(), input.byte(), input.half());
                frame(DATA, flags, stream, &vec![input.byte(); count.into()])
            }
            _ => {
                settle(&port).await;
                continue;
            }
        };
        if port.write_all(&said).await.is_err() {
            return;
        }
    }
}

/// Lets the owner do what it can, and takes what it sends.
async fn settle(port: &tokio::net::UnixStream) {
    for _ in 0..4 {
        tokio::task::yield_now().await;
        while port.try_read(&mut [0; 4096]).is_ok_and(|read| read > 0) {}
    }
}

/// RFC 9113, section 6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], body].concat()
}

/// A header block without compression (RFC 7541, section 6, and its static table): a status, then as many as the input says.
fn headers(input: &mut Input<'_>) -> Vec<u8> {
    const STATUS_200: u8 = 8;
    let mut block = vec![0x80 | (STATUS_200 + input.byte() % 7)];
    for _ in 0..input.byte() % 8 {
        match input.byte() % 4 {
            0 => {
                let length = input.long().to_string();
                block.extend([0x0f, 28 - 15, length.len() as u8]);
                block.extend(length.as_bytes());
            }
            1 => block.extend(b"\x0f\x10\x10application/json"),
            2 => {
                block.push(0);
                for text in [input.text(), input.text()] {
                    block.push(text.len().min(126) as u8);
                    block.extend(&text[..text.len().min(126)]);
                }
            }
            _ => block.extend(input.text()),
        }
    }
    block
}

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let said = |kind: u8, flags: u8, stream: u8, body: &[u8]| {
        [&[1, kind, flags, stream, body.len() as u8][..], body].concat()
    };
    let head = |stream: u8, flags: u8, status: u8, length: u64| {
        [&[2, flags, stream, status, 2, 1, 0][..], &length.to_le_bytes()].concat()
    };
    let settings = said(SETTINGS, 0, 0, &[]);
    let settled = [settings.clone(), said(SETTINGS, 1, 0, &[]), vec![4]].concat();
    let answer = |stream, status, text: &[u8]| {
        let head = head(stream, END_HEADERS, status, text.len() as u64);
        [head, said(DATA, END_STREAM, stream, text)].concat()
    };
    let alive = answer(1, 0, br#"{"stage":"barrier","version":"0.1.0"}"#);
    let named = answer(3, 0, br#"{"boot_id":"b","machine_id":"m","instance":"i"}"#);
    let refused = answer(3, 4, br#"{"code":"bad_request","message":"no"}"#);
    let streamed = [head(5, END_HEADERS, 0, 60_000), vec![3, END_STREAM, 5, 0x60, 0xea, b'x']].concat();
    let reset = said(3, 0, 5, &[0, 0, 0, 8]);
    let away = said(7, 0, 0, &[0, 0, 0, 5, 0, 0, 0, 0]);
    let grown = [said(8, 0, 0, &[0, 1, 0, 0]), said(6, 0, 0, b"12345678")].concat();
    let all = [settled.clone(), alive.clone(), vec![4], named, streamed.clone()].concat();
    assert!(matches!(session(&all), (Ok(()), Ok(_))), "the seed is a good guest");
    vec![
        ("all-is-well", all),
        ("refused", [settled.clone(), alive.clone(), refused].concat()),
        ("pings-and-windows", [settled.clone(), grown, streamed].concat()),
        ("reset-and-gone", [settled, alive, reset, away].concat()),
        ("no-http", b"\0\x10HTTP/1.1 200 OK\n".to_vec()),
    ]
}
