//! Requests as a client makes them: one connection each.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use std::net::SocketAddr;
use tokio::net::TcpStream;

/// A request in the making.
#[derive(Clone)]
pub struct Call {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Bytes,
}

/// A whole answer.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the answer is JSON")
    }

    pub fn code(&self) -> String {
        self.json()["code"].as_str().expect("a refusal has a code").to_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("our headers are text"))
    }
}

impl Call {
    pub fn new(method: &str, path: impl Into<String>) -> Self {
        Self { method: method.to_owned(), path: path.into(), headers: Vec::new(), body: Bytes::new() }
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn key(self, token: &str) -> Self {
        self.header("x-api-key", token)
    }

    /// As a page of ours sends it.
    pub fn cookie(self, session: &str) -> Self {
        self.header("cookie", format!("omnirun_token={session}")).header("sec-fetch-site", "same-origin")
    }

    pub fn body(mut self, kind: &str, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self.header("content-type", kind)
    }

    pub fn json(self, value: &Value) -> Self {
        self.body("application/json", value.to_string())
    }

    /// Sends it and takes the answer's head; dropping the answer closes the connection.
    pub async fn start(self, to: SocketAddr) -> Response<Incoming> {
        let tcp = TcpStream::connect(to).await.expect("the gateway listens");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        let mut request = Request::builder().method(self.method.as_str()).uri(&self.path);
        if !self.headers.iter().any(|(name, _)| name == "host") {
            request = request.header("host", "app.example");
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(self.body)).expect("a request");
        sender.send_request(request).await.expect("an answer")
    }

    /// Sends it over HTTP/2 to this authority, without a `Host` header as browsers do; takes the answer's head, and lets none of its body come.
    pub async fn start_over_http_2(self, to: SocketAddr, authority: &str) -> Response<Incoming> {
        let tcp = TcpStream::connect(to).await.expect("the gateway listens");
        let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(0)
            .handshake(TokioIo::new(tcp))
            .await
            .expect("HTTP/2");
        tokio::spawn(connection);
        let uri = format!("http://{authority}{}", self.path);
        let mut request = Request::builder().method(self.method.as_str()).uri(uri);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(self.body)).expect("a request");
        sender.send_request(request).await.expect("an answer")
    }

    /// The same; answers the status.
    pub async fn over_http_2(self, to: SocketAddr, authority: &str) -> StatusCode {
        self.start_over_http_2(to, authority).await.status()
    }

    pub async fn send(self, to: SocketAddr) -> Answer {
        let (head, body) = self.start(to).await.into_parts();
        let body = body.collect().await.expect("a whole answer").to_bytes();
        Answer { status: head.status, headers: head.headers, body }
    }
}
