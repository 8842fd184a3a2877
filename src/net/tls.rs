//! The box's certificate: the configured one, or one that it makes for itself.
//!
//! There is one for all listeners. It is exchanged while they serve: when its files change, which is looked at every
//! few seconds and at a reload, and before the box's own ends. A pair that is broken changes nothing but a health state.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use arc_swap::ArcSwap;
use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

use crate::config::Config;
use crate::config::certificate::{Pair, PemFiles};
use crate::health::{CertificateLabel, Health, Severity};
use crate::owner;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// From then on people are told that a certificate ends.
const WARN_BEFORE: SignedDuration = SignedDuration::from_hours(14 * 24);

/// The box's own certificate lasts so long; browsers believe none that lasts longer.
const OWN_LASTS: SignedDuration = SignedDuration::from_hours(825 * 24);

/// With less left than this the box makes itself a new one.
const OWN_RENEWED: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Of the health state.
const SUBJECT: &str = "certificate";

/// The certificate that is served now.
pub struct Tls {
    current: Arc<Current>,
    source: Mutex<Source>,
    health: Health,
}

#[derive(Debug)]
struct Current(ArcSwap<Pair>);

/// Where the certificate comes from, and what was last read there.
struct Source {
    files: PemFiles,
    /// The names for a certificate of the box's own; `None` where people bring theirs.
    own: Option<Vec<String>>,
    seen: Option<Stamp>,
    /// Why the files are not served as they are now.
    flaw: Option<String>,
}

/// Tells a file that was replaced from the one before: inode, size, time of change.
type Stamp = [(u64, u64, i64, i64); 2];

impl Tls {
    /// The certificate that the configuration names, else the box's own, made where there is none. It also stands in for
    /// one that cannot be served: clients that know better refuse it, and the box records meanwhile.
    pub fn open(config: &Config, health: Health) -> anyhow::Result<Arc<Tls>> {
        let mut source = Source::of(config);
        let pair = match source.read() {
            Err(error) if source.own.is_none() => {
                source.flaw = Some(format!("{error:#}; the box's own certificate stands in"));
                Source::own(config).read()?
            }
            read => read?,
        };
        let tls = Tls {
            current: Arc::new(Current(ArcSwap::from_pointee(pair))),
            source: Mutex::new(source),
            health,
        };
        tls.tell();
        Ok(Arc::new(tls))
    }

    /// Accepts TLS 1.2 and later. `alpn` names what is spoken inside.
    pub fn acceptor(&self, alpn: &[&[u8]]) -> TlsAcceptor {
        // The process-wide provider may be another's choice.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(rustls::DEFAULT_VERSIONS)
            .expect("the provider has suites for the versions that it is built with")
            .with_no_client_auth()
            .with_cert_resolver(self.current.clone());
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    /// Nobody but the box itself vouches for the certificate.
    pub fn is_self_signed(&self) -> bool {
        self.current.0.load().self_signed
    }

    /// Takes over a reloaded configuration's files.
    pub fn reconfigure(&self, config: &Config) {
        {
            let mut source = self.source();
            let new = Source::of(config);
            if (&source.files, &source.own) != (&new.files, &new.own) {
                *source = new;
            }
        }
        self.look();
    }

    /// Looks at the files for as long as the daemon runs.
    pub async fn keep_fresh(self: Arc<Tls>) {
        let mut often = tokio::time::interval(LOOK_EVERY);
        loop {
            often.tick().await;
            let tls = self.clone();
            if let Err(error) = tokio::task::spawn_blocking(move || tls.look()).await {
                tracing::error!("certificate: {error}");
            }
        }
    }

    /// Serves what the files hold now, if they have changed and fit together.
    fn look(&self) {
        let mut source = self.source();
        let served = self.current.0.load_full();
        if source.is_due(&served) {
            let read = source.read();
            source.flaw = read.as_ref().err().map(|error| format!("{error:#}; the former certificate stays"));
            if let Ok(pair) = read {
                if pair.fingerprint != served.fingerprint {
                    tracing::info!("a new certificate is served, SHA-256 {}", pair.fingerprint);
                }
                self.current.0.store(Arc::new(pair));
            }
        }
        drop(source);
        self.tell();
    }

    /// Says in metrics and health how long the certificate lasts, and what is wrong with its files.
    fn tell(&self) {
        let (pair, source) = (self.current.0.load(), self.source());
        let file = source.files.cert.display();
        let expiry = &self.health.metrics.certificate_expiry_timestamp_seconds;
        // One certificate at a time.
        expiry.clear();
        expiry.get_or_create(&CertificateLabel::new(file.to_string())).set(pair.not_after.as_second());
        let left = pair.not_after.duration_since(Timestamp::now());
        let trouble = match &source.flaw {
            Some(flaw) => Some(flaw.clone()),
            None if left.is_negative() => Some(format!(
                "{file} has expired, at {}: clients refuse it; put a new one there",
                pair.not_after
            )),
            None if left < WARN_BEFORE => {
                Some(format!("{file} expires at {}: put a new one there", pair.not_after))
            }
            None => None,
        };
        match trouble {
            Some(message) => self.health.set(SUBJECT, Severity::Degraded, message),
            None => self.health.ok(SUBJECT),
        }
    }

    fn source(&self) -> std::sync::MutexGuard<'_, Source> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source {
    fn of(config: &Config) -> Source {
        match &config.api.tls {
            Some(files) => Source { files: files.clone(), own: None, seen: None, flaw: None },
            None => Source::own(config),
        }
    }

    fn own(config: &Config) -> Source {
        let folder = config.data.join("tls");
        let files = PemFiles { cert: folder.join("cert.pem"), key: folder.join("key.pem") };
        Source { files, own: Some(names(config)), seen: None, flaw: None }
    }

    fn is_due(&self, served: &Pair) -> bool {
        let ends = self.own.is_some() && ends_soon(served);
        ends || self.seen.is_none() || self.seen != self.stamp()
    }

    /// Reads the pair, and makes the box's own where that is needed.
    fn read(&mut self) -> anyhow::Result<Pair> {
        if let Some(names) = &self.own {
            let usable = Pair::read(&self.files).is_ok_and(|pair| !ends_soon(&pair));
            if !usable {
                make(&self.files, names).context("the box's own certificate cannot be made")?;
            }
        }
        // Before the files are read: what changes meanwhile is seen the next time. A pair that is refused is not read
        // again until it changes.
        self.seen = self.stamp();
        let pair = Pair::read(&self.files)?;
        if self.own.is_some() {
            tracing::info!("the box's own certificate is served, SHA-256 {}", pair.fingerprint);
        }
        Ok(pair)
    }

    fn stamp(&self) -> Option<Stamp> {
        let of = |path: &Path| {
            let meta = fs::metadata(path).ok()?;
            Some((meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
        };
        Some([of(&self.files.cert)?, of(&self.files.key)?])
    }
}

fn ends_soon(pair: &Pair) -> bool {
    pair.not_after.duration_since(Timestamp::now()) < OWN_RENEWED
}

/// What the box may be called by: as people are told, as it calls itself, and where it listens.
fn names(config: &Config) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    names.extend(config.site.public_url.host_str().map(|host| host.trim_matches(['[', ']']).to_owned()));
    let listening = [Some(config.api.listen), config.rtsp.rtsps_listen].into_iter().flatten();
    names.extend(listening.filter(|at| !at.ip().is_unspecified()).map(|at| at.ip().to_string()));
    // Of a kernel without /proc the box has one name less.
    let hostname = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    names.extend(Some(hostname.trim().to_owned()).filter(|name| !name.is_empty()));
    names.sort();
    names.dedup();
    names
}

/// Makes a key and a certificate that it signs itself. The key is on the disk, for its owner alone, before the
/// certificate is.
fn make(files: &PemFiles, names: &[String]) -> anyhow::Result<()> {
    let key = KeyPair::generate()?;
    // A host name need not be one that certificates can bear.
    let bearable = names.iter().filter(|name| CertificateParams::new([(*name).clone()].to_vec()).is_ok());
    let mut params = CertificateParams::new(bearable.cloned().collect::<Vec<_>>())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "liuta");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let now = Timestamp::now();
    // Clients' clocks may be late.
    params.not_before = system_time(now - SignedDuration::from_hours(24)).into();
    params.not_after = system_time(now + OWN_LASTS).into();
    let certificate = params.self_signed(&key)?;
    if let Some(folder) = files.key.parent() {
        owner::make_folders(folder, 0o700).with_context(|| format!("{}", folder.display()))?;
    }
    write(&files.key, &key.serialize_pem(), 0o600)?;
    write(&files.cert, &certificate.pem(), 0o644)
}

fn system_time(at: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(at.as_second().max(0).unsigned_abs())
}

fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    owner::replace(path, text, mode).with_context(|| format!("{}", path.display()))
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().certified.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    use super::*;
    use crate::config::file;

    fn opened(folder: &Path) -> (Config, Health) {
        let text = format!("data = {folder:?}\n[api]\nlisten = \"0.0.0.0:1\"\n");
        (file::parse(Path::new("t.toml"), text).unwrap(), Health::default())
    }

    #[test]
    fn the_boxs_own_is_made_once_and_its_key_is_the_owners() {
        let folder = tempfile::tempdir().unwrap();
        let (config, health) = opened(folder.path());
        let first = Tls::open(&config, health.clone()).unwrap();
        assert!(first.is_self_signed());
        let key = folder.path().join("tls/key.pem");
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        let again = Tls::open(&config, health).unwrap();
        assert_eq!(first.current.0.load().fingerprint, again.current.0.load().fingerprint);
        // One that cannot be used is replaced, not fatal.
        fs::write(&key, "nonsense").unwrap();
        let (config, health) = opened(folder.path());
        let new = Tls::open(&config, health).unwrap();
        assert_ne!(first.current.0.load().fingerprint, new.current.0.load().fingerprint);
    }

    #[test]
    fn the_boxs_own_bears_every_name_that_people_may_use() {
        let text = "[box]\npublic_url = \"https://box.example:8443\"\n[api]\nlisten = \"192.0.2.9:8443\"\n\
                    [rtsp]\nrtsps_listen = \"[2001:db8::9]:8322\"\n";
        let names = names(&file::parse(Path::new("t.toml"), text.to_owned()).unwrap());
        for name in ["box.example", "192.0.2.9", "2001:db8::9", "localhost", "127.0.0.1", "::1"] {
            assert!(names.iter().any(|known| known == name), "{name} not in {names:?}");
        }
        let folder = tempfile::tempdir().unwrap();
        let files = PemFiles { cert: folder.path().join("c.pem"), key: folder.path().join("k.pem") };
        make(&files, &[&names[..], &["no name\u{e9}".to_owned()]].concat()).unwrap();
        let pem = CertificateDer::from_pem_file(&files.cert).unwrap();
        let (_, x509) = x509_parser::parse_x509_certificate(&pem).unwrap();
        let alternatives = x509.subject_alternative_name().unwrap().unwrap();
        assert_eq!(alternatives.value.general_names.len(), names.len());
    }

    #[test]
    fn a_broken_pair_changes_nothing_but_a_health_state() {
        let (folder, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let files = PemFiles { cert: folder.path().join("c.pem"), key: folder.path().join("k.pem") };
        make(&files, &["box.example".to_owned()]).unwrap();
        let (mut config, health) = opened(own.path());
        config.api.tls = Some(files.clone());
        let tls = Tls::open(&config, health.clone()).unwrap();
        let served = || tls.current.0.load().fingerprint.clone();
        let first = served();
        // A certificate without its key, as between two renames.
        let other = PemFiles { cert: files.cert.clone(), key: folder.path().join("other.pem") };
        make(&other, &["box.example".to_owned()]).unwrap();
        tls.look();
        assert_eq!(served(), first);
        let state = || health.snapshot()[SUBJECT].clone();
        assert_eq!(state().severity, Severity::Degraded);
        assert!(state().message.contains("k.pem: is not the key"), "{:?}", state());
        fs::rename(&other.key, &files.key).unwrap();
        tls.look();
        assert_ne!(served(), first);
        assert_eq!(state().severity, Severity::Ok);
    }
}
