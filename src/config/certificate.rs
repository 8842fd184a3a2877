//! A certificate and its key, as PEM files, and everything that is wrong with the pair.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};

/// `tls = { cert = "…", key = "…" }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PemFiles {
    /// The box's own certificate first, then those that lead to its authority.
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// A pair that fits together.
#[derive(Debug)]
pub struct Pair {
    pub certified: Arc<CertifiedKey>,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    /// Its own authority: browsers ask people before they believe it.
    pub self_signed: bool,
    /// SHA-256 over the certificate, in hexadecimal.
    pub fingerprint: String,
}

/// What is wrong, and with which of the two files.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("{0}")]
    Cert(String),
    #[error("{0}")]
    Key(String),
}

impl Pair {
    pub fn read(files: &PemFiles) -> Result<Pair, Flaw> {
        let cert = |what: &dyn std::fmt::Display| Flaw::Cert(format!("{}: {what}", files.cert.display()));
        let key = |what: &dyn std::fmt::Display| Flaw::Key(format!("{}: {what}", files.key.display()));
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(&std::fs::read(&files.cert).map_err(|error| cert(&error))?)
                .collect::<Result<_, _>>()
                .map_err(|_| cert(&"no PEM file"))?;
        let Some(first) = chain.first() else {
            return Err(cert(&"holds no certificate (-----BEGIN CERTIFICATE-----)"));
        };
        let (_, x509) =
            x509_parser::parse_x509_certificate(first).map_err(|_| cert(&"holds no X.509 certificate"))?;
        let validity = x509.validity();
        let time = |at: &x509_parser::time::ASN1Time| {
            Timestamp::from_second(at.timestamp()).map_err(|_| cert(&"is valid at no time of this calendar"))
        };
        let (not_before, not_after) = (time(&validity.not_before)?, time(&validity.not_after)?);
        let self_signed = x509.subject().as_raw() == x509.issuer().as_raw();
        let fingerprint = Sha256::digest(first).iter().map(|byte| format!("{byte:02x}")).collect();
        let private = PrivateKeyDer::from_pem_slice(&std::fs::read(&files.key).map_err(|error| key(&error))?)
            .map_err(|_| key(&"holds no private key in the clear (-----BEGIN PRIVATE KEY-----)"))?;
        let certified = CertifiedKey::from_der(chain, private, &rustls::crypto::ring::default_provider())
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => {
                    key(&format!("is not the key of the certificate in {}", files.cert.display()))
                }
                error => key(&format!("cannot be used: {error}")),
            })?;
        Ok(Pair { certified: Arc::new(certified), not_before, not_after, self_signed, fingerprint })
    }
}
