//! The box's signing key, and public keys as people hand them around.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use sha2::{Digest, Sha256};

use crate::store::{Store, StoreError};

/// Of the secret in the store that the key is made of.
const SECRET: &str = "signing-key";

/// What stands before the 32 bytes of an Ed25519 key in its `SubjectPublicKeyInfo` (RFC 8410, 4).
const DER_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

const PEM_BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const PEM_END: &str = "-----END PUBLIC KEY-----";

/// A file of a key is far shorter.
const LONGEST_FILE: u64 = 64 << 10;

/// What the box signs manifests with, and nothing else. Made at first use and kept in `state.db`, so that backups hold it.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    pub fn of(store: &Store) -> Result<SigningKey, StoreError> {
        // Ed25519 takes any 32 bytes as a private key (RFC 8032, 5.1.5).
        Ed25519KeyPair::from_seed_unchecked(&store.secret(SECRET)?)
            .map(SigningKey)
            .map_err(|error| StoreError::Corrupt(format!("the box's signing key in state.db: {error}")))
    }

    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(bytes)
    }

    /// Ed25519 over the bytes as they are, as `openssl pkeyutl -verify -rawin` checks it.
    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.0.sign(bytes).as_ref().to_vec()
    }
}

/// An Ed25519 public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    pub fn has_signed(&self, bytes: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(bytes, signature).is_ok()
    }

    /// `SubjectPublicKeyInfo`, as `openssl pkey -pubin -outform DER` writes it.
    pub fn der(&self) -> Vec<u8> {
        [&DER_PREFIX[..], &self.0].concat()
    }

    /// SHA-256 of [`der`](Self::der), in hex: short enough to be read out.
    pub fn fingerprint(&self) -> String {
        super::hex(&Sha256::digest(self.der()))
    }

    pub fn pem(&self) -> String {
        format!("{PEM_BEGIN}\n{self}\n{PEM_END}\n")
    }
}

/// Base64 of [`PublicKey::der`]: PEM's middle line.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.der()))
    }
}

/// PEM with whatever stands around it (RFC 7468, 2), or base64 of the DER or of the bare 32 bytes.
impl FromStr for PublicKey {
    type Err = String;

    fn from_str(text: &str) -> Result<PublicKey, String> {
        let inside = text.split_once(PEM_BEGIN).and_then(|(_, rest)| rest.split_once(PEM_END));
        let base64: String =
            inside.map_or(text, |(inside, _)| inside).chars().filter(|c| !c.is_whitespace()).collect();
        let bytes = STANDARD.decode(base64).unwrap_or_default();
        let key = bytes.strip_prefix(&DER_PREFIX).unwrap_or(&bytes);
        key.try_into().map(PublicKey).map_err(|_| {
            "no Ed25519 public key, as PEM or base64; `liuta signing-key` on the box prints its own"
                .to_owned()
        })
    }
}

impl serde::Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<PublicKey, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A key that whoever checks a clip has from the box itself: the key, or its fingerprint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KnownKey {
    Key(PublicKey),
    Fingerprint(String),
}

impl KnownKey {
    pub fn is(&self, key: &PublicKey) -> bool {
        match self {
            KnownKey::Key(known) => known == key,
            KnownKey::Fingerprint(known) => *known == key.fingerprint(),
        }
    }
}

/// A file with the key, the key, or its fingerprint.
impl FromStr for KnownKey {
    type Err = String;

    fn from_str(text: &str) -> Result<KnownKey, String> {
        let hex: String = text.chars().filter(|c| !matches!(c, ':' | ' ')).collect();
        if hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(KnownKey::Fingerprint(hex.to_ascii_lowercase()));
        }
        let path = Path::new(text);
        let Ok(found) = std::fs::metadata(path) else {
            return text
                .parse()
                .map(KnownKey::Key)
                .map_err(|error| format!("there is no such file, and it is {error}"));
        };
        if !found.is_file() || found.len() > LONGEST_FILE {
            return Err("this is no file with a key".to_owned());
        }
        let text = std::fs::read(path).map_err(|error| error.to_string())?;
        String::from_utf8_lossy(&text)
            .parse()
            .map(KnownKey::Key)
            .map_err(|error| format!("this file holds {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8032, 7.1, test 2.
    const SEED: [u8; 32] = *b"\x4c\xcd\x08\x9b\x28\xff\x96\xda\x9d\xb6\xc3\x46\xec\x11\x4e\x0f\x5b\x8a\x31\x9f\x35\xab\xa6\x24\xda\x8c\xf6\xed\x4f\xb8\xa6\xfb";

    fn key() -> SigningKey {
        SigningKey(Ed25519KeyPair::from_seed_unchecked(&SEED).unwrap())
    }

    #[test]
    fn signatures_are_those_of_the_standard() {
        let key = key();
        let public = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";
        assert_eq!(super::super::hex(&key.public().0), public);
        let signature = super::super::hex(&key.sign(&[0x72]));
        assert!(signature.starts_with("92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8f"), "{signature}");
        assert!(key.public().has_signed(&[0x72], &key.sign(&[0x72])));
        assert!(!key.public().has_signed(&[0x73], &key.sign(&[0x72])));
        assert!(!key.public().has_signed(&[0x72], &[]));
    }

    #[test]
    fn a_public_key_is_read_in_every_form_that_it_is_handed_around_in() {
        let public = key().public();
        let forms = [
            public.pem(),
            format!("box edge-1\n{}and more\n", public.pem()),
            public.to_string(),
            STANDARD.encode(public.0),
        ];
        for form in forms {
            assert_eq!(form.parse(), Ok(public), "{form}");
        }
        for wrong in ["", "-----BEGIN PUBLIC KEY-----", "AAAA", "not a key", &STANDARD.encode([0; 33])] {
            wrong.parse::<PublicKey>().unwrap_err();
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("box.pem");
        std::fs::write(&file, public.pem()).unwrap();
        for known in [file.to_str().unwrap(), &public.to_string(), &public.fingerprint().to_uppercase()] {
            assert!(known.parse::<KnownKey>().unwrap().is(&public), "{known}");
        }
        assert!(!"0".repeat(64).parse::<KnownKey>().unwrap().is(&public));
        folder.path().to_str().unwrap().parse::<KnownKey>().unwrap_err();
    }

    #[test]
    fn the_key_is_made_once_and_backed_up() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let public = SigningKey::of(&store).unwrap().public();
        let restored = folder.path().join("restored");
        std::fs::create_dir(&restored).unwrap();
        store.back_up(&restored.join("state.db")).unwrap();
        for store in [Store::open(folder.path()).unwrap(), Store::open(&restored).unwrap()] {
            assert_eq!(SigningKey::of(&store).unwrap().public(), public);
        }
    }
}
