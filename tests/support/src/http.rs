//! A small HTTP client for tests and the demo: one connection per request, JSON or bytes, no retries, nothing hidden.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap};
use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// A client of one server, with the credential that it shows.
#[derive(Debug, Clone)]
pub struct Client {
    address: String,
    token: Option<String>,
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The body as JSON, if the status is this one.
    pub fn expect(&self, status: u16) -> Result<Value> {
        let text = String::from_utf8_lossy(&self.body);
        ensure!(self.status.as_u16() == status, "expected {status}, got {}: {text}", self.status);
        Ok(self.json())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client {
    /// A client of the server at `address` (`host:port`) without a credential.
    pub fn anonymous(address: impl Into<String>) -> Self {
        Self { address: address.into(), token: None }
    }

    /// The same server with this token.
    pub fn with_token(&self, token: impl Into<String>) -> Self {
        Self { address: self.address.clone(), token: Some(token.into()) }
    }

    /// The same server without a credential.
    pub fn without_token(&self) -> Self {
        Self::anonymous(&self.address)
    }

    /// The same credential shown to the server at another address.
    pub fn at(&self, address: impl Into<String>) -> Self {
        Self { address: address.into(), token: self.token.clone() }
    }

    /// The token that it shows.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Sends a request as it is and answers when the head of the response is there.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>> {
        let stream = TcpStream::connect(&self.address).await.context("cannot connect")?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.context("cannot speak HTTP")?;
        tokio::spawn(connection);
        sender.send_request(request).await.context("no answer")
    }

    /// A request with this client's credential.
    pub fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        headers: &[(&str, &str)],
    ) -> Request<Full<Bytes>> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, &self.address);
        if let Some(token) = &self.token {
            request = request.header("x-api-key", token);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Full::new(body)).expect("tests write well-formed requests")
    }

    /// Sends and reads the answer to its end.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        headers: &[(&str, &str)],
    ) -> Result<Answer> {
        let response = self.send(self.request(method, path, body, headers)).await?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.context("the answer broke off")?.to_bytes();
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.call(Method::GET, path, Bytes::new(), &[]).await
    }

    /// GET of a stream; answers when its head is there.
    pub async fn open(&self, path: &str) -> Result<Streaming> {
        let answer = self.send(self.request(Method::GET, path, Bytes::new(), &[])).await?;
        ensure!(answer.status() == StatusCode::OK, "expected 200, got {}", answer.status());
        Ok(Streaming(answer.into_body()))
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Result<Answer> {
        self.call(Method::DELETE, path, Bytes::new(), &[]).await
    }

    /// POST of JSON.
    pub async fn post(&self, path: &str, body: Value) -> Result<Answer> {
        self.post_with(path, body, &[]).await
    }

    /// PATCH of JSON.
    pub async fn patch(&self, path: &str, body: Value) -> Result<Answer> {
        let headers = [(CONTENT_TYPE.as_str(), "application/json")];
        self.call(Method::PATCH, path, Bytes::from(body.to_string()), &headers).await
    }

    /// POST of JSON with more headers.
    pub async fn post_with(&self, path: &str, body: Value, headers: &[(&str, &str)]) -> Result<Answer> {
        let body = Bytes::from(body.to_string());
        let headers = [&[(CONTENT_TYPE.as_str(), "application/json")], headers].concat();
        self.call(Method::POST, path, body, &headers).await
    }
}

/// An answer that goes on.
pub struct Streaming(Incoming);

impl Streaming {
    /// Reads it until it ends or breaks off.
    pub async fn to_its_end(mut self) {
        while let Some(Ok(_)) = self.0.frame().await {}
    }
}
