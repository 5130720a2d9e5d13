//! Who is at the other end of a request: a program of this machine, or which network. The network is counted and forgotten.

use std::convert::Infallible;
use std::net::IpAddr;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri, header};
use omnirun_commands_api::command::ClientNetwork;

use crate::auth::origin::SEC_FETCH_SITE;
use crate::gateway::App;
use crate::serve::Peer;

/// The header in which each proxy appends the address that it saw.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// Headers that proxies add and programs of this machine do not.
const RELAYED: [&str; 4] = ["forwarded", FORWARDED_FOR, "x-real-ip", "via"];

/// The other end of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Client {
    /// Whether the request comes from this machine: not through a proxy, and not from another site's page that has given itself a name for
    /// this machine's address.
    pub is_local: bool,
    /// The network that it comes from; none for programs of this machine, whose requests are not limited.
    pub network: Option<ClientNetwork>,
}

impl FromRequestParts<App> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Infallible> {
        let peer = parts.extensions.get::<Peer>().map(|peer| peer.0.ip().to_canonical());
        Ok(Self::of(peer, &parts.uri, &parts.headers, app.config.proxies))
    }
}

impl Client {
    fn of(peer: Option<IpAddr>, uri: &Uri, headers: &HeaderMap, proxies: u8) -> Self {
        let is_local = peer.is_some_and(|peer| peer.is_loopback()) && is_of_this_machine(uri, headers);
        let address = match usize::from(proxies) {
            0 if is_local => return Self { is_local, network: None },
            // A loopback address that is none of ours has come through a proxy that nobody told us of.
            0 => peer.filter(|peer| !peer.is_loopback()),
            proxies => forwarded_for(headers, proxies),
        };
        Self { is_local, network: Some(address.map_or(ClientNetwork::Unknown, ClientNetwork::of)) }
    }
}

/// The address that the outermost of so many proxies saw; what a client has written itself is to the left of it.
fn forwarded_for(headers: &HeaderMap, proxies: usize) -> Option<IpAddr> {
    let texts = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let seen: Vec<&str> = texts.flat_map(|text| text.split(',')).map(str::trim).collect();
    seen.len().checked_sub(proxies).and_then(|at| seen[at].parse().ok())
}

/// Whether a request that came over loopback says nothing of a way from elsewhere.
fn is_of_this_machine(uri: &Uri, headers: &HeaderMap) -> bool {
    let is_relayed = RELAYED.iter().any(|name| headers.contains_key(*name));
    let host = host(uri, headers).unwrap_or_default();
    let name =
        host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(host, |(name, _)| name);
    let site = headers.get(SEC_FETCH_SITE).map(|value| value.as_bytes());
    let is_own_page = matches!(site, None | Some(b"same-origin" | b"none"));
    !is_relayed && is_own_page && ["localhost", "127.0.0.1", "[::1]"].contains(&name)
}

/// The name and port that a request is for: the authority of its target, which HTTP/2 has in place of `Host` and which counts before it
/// (RFC 9110 section 7.2, RFC 9113 section 8.3.1).
pub(crate) fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    let authority = uri.authority().map(|authority| authority.as_str());
    authority.or_else(|| headers.get(header::HOST).and_then(|host| host.to_str().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, named: &[(&'static str, &'static str)], proxies: u8) -> Client {
        let headers = named
            .iter()
            .map(|(name, text)| (header::HeaderName::from_static(name), text.parse().expect("a value")));
        let peer: IpAddr = peer.parse().expect("an address");
        Client::of(Some(peer), &Uri::from_static("/"), &HeaderMap::from_iter(headers), proxies)
    }

    fn network_of(peer: &str, forwarded: &[&'static str], proxies: u8) -> Option<ClientNetwork> {
        let mut named = vec![("host", "localhost:8080")];
        named.extend(forwarded.iter().map(|text| (FORWARDED_FOR, *text)));
        client(peer, &named, proxies).network
    }

    const UNKNOWN: Option<ClientNetwork> = Some(ClientNetwork::Unknown);

    #[test]
    fn without_a_proxy_the_peer_counts_and_what_it_claims_does_not() {
        assert_eq!(network_of("192.0.2.9", &["198.51.100.1"], 0), Some(ClientNetwork::V4([192, 0, 2])));
        assert_eq!(network_of("127.0.0.1", &[], 0), None);
        assert_eq!(network_of("::1", &[], 0), None);
    }

    #[test]
    fn behind_proxies_the_address_counts_that_the_outermost_of_ours_saw() {
        let office = Some(ClientNetwork::V4([198, 51, 100]));
        assert_eq!(network_of("127.0.0.1", &["203.0.113.5, 198.51.100.1"], 1), office);
        assert_eq!(network_of("127.0.0.1", &["203.0.113.5", "198.51.100.1, 10.0.0.1"], 2), office);
    }

    #[test]
    fn whoever_cannot_be_told_apart_shares_one_bucket_and_is_not_taken_for_this_machine() {
        assert_eq!(network_of("127.0.0.1", &[], 1), UNKNOWN, "the proxy says nothing");
        assert_eq!(network_of("127.0.0.1", &["unknown"], 1), UNKNOWN, "the proxy hides it");
        assert_eq!(network_of("127.0.0.1", &["203.0.113.5"], 0), UNKNOWN, "nobody told of the proxy");
        let behind_tls = client("127.0.0.1", &[("host", "omnirun.example")], 0);
        assert_eq!(behind_tls, Client { is_local: false, network: UNKNOWN });
    }

    #[test]
    fn a_request_over_http_2_is_for_its_authority_whatever_a_host_header_says() {
        let headers = HeaderMap::from_iter([(header::HOST, "b.example".parse().expect("a value"))]);
        assert_eq!(
            host(&Uri::from_static("https://a.example:8443/x"), &HeaderMap::new()),
            Some("a.example:8443")
        );
        assert_eq!(host(&Uri::from_static("https://a.example/x"), &headers), Some("a.example"));
        assert_eq!(host(&Uri::from_static("/x"), &headers), Some("b.example"));
    }
}
