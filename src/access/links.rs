//! Expiring HMAC links, each for one object: what alerts carry instead of a token.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::Sha256;

/// HMAC-SHA-256 with one of the box's secrets.
pub fn keyed(key: &[u8; 32]) -> Hmac<Sha256> {
    // HMAC pads a shorter key with zeros to SHA-256's block (RFC 2104, section 2).
    let mut block = [0; 64];
    block[..32].copy_from_slice(key);
    Hmac::new(&block.into())
}

/// Signs and checks links with one key of the box.
#[derive(Clone)]
pub struct Links {
    mac: Hmac<Sha256>,
}

impl Links {
    pub fn new(key: [u8; 32]) -> Links {
        Links { mac: keyed(&key) }
    }

    /// `path` (begins with `/`, no query) with `?expires=…&signature=…`; `expires` in Unix seconds.
    pub fn sign(&self, path: &str, expires: Timestamp) -> String {
        let expires = expires.as_second().to_string();
        let signature = URL_SAFE_NO_PAD.encode(self.over(path, &expires).finalize().into_bytes());
        format!("{path}?expires={expires}&signature={signature}")
    }

    /// Whether the query of a request for `path` opens it now.
    pub fn opens(&self, path: &str, expires: &str, signature: &str, now: Timestamp) -> bool {
        let Ok(signature) = URL_SAFE_NO_PAD.decode(signature) else { return false };
        // In constant time. The expiry is believed only once its signature is.
        self.over(path, expires).verify_slice(&signature).is_ok()
            && expires.parse::<i64>().is_ok_and(|expires| now.as_second() < expires)
    }

    /// A path holds no line break, so the two cannot run into each other.
    fn over(&self, path: &str, expires: &str) -> Hmac<Sha256> {
        self.mac.clone().chain_update(path).chain_update("\n").chain_update(expires)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(link: &str) -> (&str, &str, &str) {
        let (path, query) = link.split_once('?').unwrap();
        let (expires, signature) = query.split_once('&').unwrap();
        (path, expires.strip_prefix("expires=").unwrap(), signature.strip_prefix("signature=").unwrap())
    }

    #[test]
    fn a_link_opens_its_object_until_it_expires() {
        let links = Links::new([1; 32]);
        let expires: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let before: Timestamp = "2025-12-31T23:59:59Z".parse().unwrap();
        let link = links.sign("/api/v1/alerts/01J/snapshot.jpg", expires);
        let (path, at, signature) = parts(&link);
        assert!(links.opens(path, at, signature, before));
        assert!(!links.opens(path, at, signature, expires));
        assert!(!links.opens("/api/v1/alerts/01K/snapshot.jpg", at, signature, before));
        assert!(!links.opens(path, "99999999999", signature, before));
        assert!(!Links::new([2; 32]).opens(path, at, signature, before));
        assert!(!links.opens(path, at, &signature[1..], before));
        assert!(!links.opens(path, at, "", before));
    }

    proptest! {
        #[test]
        fn no_other_query_opens_a_link(path in "/[a-z/]{0,20}", expires in "\\PC{0,20}", signature in "\\PC{0,50}") {
            prop_assert!(!Links::new([1; 32]).opens(&path, &expires, &signature, Timestamp::UNIX_EPOCH));
        }
    }
}
