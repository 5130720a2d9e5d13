//! Where a request came from, as far as anybody needs to know.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The network that a request came from, coarse enough to be no person's: it is counted and never stored. Its Debug prints nothing of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientNetwork {
    /// The first 24 bits of an IPv4 address.
    V4([u8; 3]),
    /// The first 56 bits of an IPv6 address: what one household or office is given (RFC 6177 section 2).
    V6([u8; 7]),
    /// Outside, and more cannot be told: all of these count as one.
    Unknown,
}

impl ClientNetwork {
    /// The network of an address; an IPv4 address written as an IPv6 one is the former.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let [a, b, c, _] = address.octets();
                Self::V4([a, b, c])
            }
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g])
            }
        }
    }
}

impl fmt::Debug for ClientNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientNetwork([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_a_prefix_and_prints_as_nothing() {
        let of = |text: &str| ClientNetwork::of(text.parse().expect("an address"));
        assert_eq!(of("192.0.2.1"), of("192.0.2.200"));
        assert_ne!(of("192.0.2.1"), of("192.0.3.1"));
        assert_eq!(of("::ffff:192.0.2.9"), ClientNetwork::V4([192, 0, 2]));
        assert_eq!(of("2001:db8:1:200::1"), of("2001:db8:1:2ff::2"));
        assert_ne!(of("2001:db8:1:200::1"), of("2001:db8:1:300::1"));
        assert_eq!(format!("{:?}", of("192.0.2.1")), "ClientNetwork([redacted])");
    }
}
