//! Ed25519 as RFC 8032 has it, and stricter.

use data_encoding::HEXLOWER;
use omnirun_events::Role;
use omnirun_events::keys::Digest;
use omnirun_events::signing::{BadSignature, PublicKey, Signer, WeakKey};

fn bytes(hex: &str) -> [u8; 32] {
    HEXLOWER.decode(hex.as_bytes()).expect("hexadecimal").try_into().expect("32 bytes")
}

/// RFC 8032 section 7.1: secret and public keys. Its signatures are over bare messages, which a [`Signer`] never signs; that ours are made
/// the same way is pinned by the golden record.
#[test]
fn public_keys_are_those_of_the_rfc() {
    for (secret, public) in [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        ),
    ] {
        assert_eq!(Signer::from_seed(&bytes(secret), Role::Root).public(), Digest(bytes(public)));
    }
}

/// Points of small order, for which a signature exists that fits many messages.
#[test]
fn keys_of_small_order_are_refused() {
    for key in [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    ] {
        assert_eq!(PublicKey::from_bytes(&Digest(bytes(key))), Err(WeakKey), "{key}");
    }
}

/// Order of the group, little endian (RFC 8032 section 5.1, L).
const ORDER: &str = "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010";

#[test]
fn a_signature_in_another_form_does_not_pass() {
    let signer = Signer::from_seed(&[1; 32], Role::Gateway);
    let key = PublicKey::from_bytes(&signer.public()).expect("a derived key is not weak");
    let mut signature = signer.sign_as("kind", &[b"body"]);
    assert_eq!(key.verify_as("kind", &[b"body"], &signature), Ok(()));
    let mut carry = 0;
    for (byte, order) in signature[32..].iter_mut().zip(bytes(ORDER)) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        (*byte, carry) = (sum as u8, sum >> 8);
    }
    assert_eq!(carry, 0, "s + L fits");
    assert_eq!(key.verify_as("kind", &[b"body"], &signature), Err(BadSignature));
    assert_eq!(key.verify_as("kind", &[b"body"], &signature[..63]), Err(BadSignature));
}
