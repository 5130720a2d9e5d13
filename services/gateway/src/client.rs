//! Where a request comes from: the network of the client, for the limits of what needs no credential. It is counted and forgotten.

use std::net::IpAddr;

use axum::http::HeaderMap;
use omnirun_commands_api::command::ClientNetwork;

/// The header in which each proxy appends the address that it saw.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// The network of a request that came from `peer` through `proxies` of ours. None for programs of this machine, and where the proxies
/// are more or fewer than was said: what a client has written itself is no address.
pub(crate) fn network(peer: IpAddr, headers: &HeaderMap, proxies: u8) -> Option<ClientNetwork> {
    let forwarded = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let seen: Vec<&str> = forwarded.flat_map(|text| text.split(',')).map(str::trim).collect();
    let address = match usize::from(proxies) {
        0 => (!peer.to_canonical().is_loopback()).then_some(peer),
        // The last one wrote what it saw at the end, the one before it to the left of that.
        proxies => seen.len().checked_sub(proxies).and_then(|at| seen[at].parse().ok()),
    };
    address.map(ClientNetwork::of)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network_of(peer: &str, forwarded: &[&'static str], proxies: u8) -> Option<ClientNetwork> {
        let headers = forwarded
            .iter()
            .map(|text| (FORWARDED_FOR.parse().expect("a name"), text.parse().expect("a value")));
        network(peer.parse().expect("an address"), &HeaderMap::from_iter(headers), proxies)
    }

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
        assert_eq!(network_of("127.0.0.1", &[], 1), None);
        assert_eq!(network_of("127.0.0.1", &["unknown"], 1), None);
    }
}
