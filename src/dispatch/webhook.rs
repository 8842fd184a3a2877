//! A webhook: CloudEvents 1.0 in structured mode by HTTP POST, signed as Standard Webhooks
//! (<https://www.standardwebhooks.com>), one attempt at a time. Whether and when to try again is [`super::pace`]'s.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use sha2::Sha256;
use url::Url;

use crate::config::reach::Reach;
use crate::config::{Secret, file::webhook_key};
use crate::net::outbound::Resolver;

const CONNECT: Duration = Duration::from_secs(5);

/// From the first byte sent to the answer's head.
const ANSWER: Duration = Duration::from_secs(15);

/// An answer's body says nothing that is needed; a short one is read so that the connection can be used again.
const BODY: usize = 16 << 10;
const BODY_WAIT: Duration = Duration::from_secs(1);

/// Why an attempt failed.
#[derive(Debug, PartialEq)]
pub struct Failure {
    /// For people; holds no secret.
    pub cause: String,
    /// The destination is there and says no: somebody must change something.
    pub refused: bool,
    pub retry_after: Option<Duration>,
}

/// Connections to one webhook, which lies within `reach`.
#[derive(Clone)]
pub struct Client {
    http: Result<reqwest::Client, String>,
    reach: Reach,
}

impl Client {
    pub fn new(reach: Reach) -> Client {
        // Fails where the process has a provider already, which then serves.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = || {
            reqwest::Client::builder()
                // A redirect would carry an alert to an address that nobody configured.
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                // A proxy of the environment would resolve the name by itself.
                .no_proxy()
                .dns_resolver(Resolver(reach.clone()))
                .connect_timeout(CONNECT)
                .timeout(ANSWER)
                .pool_max_idle_per_host(4)
                .user_agent(concat!("liuta/", env!("CARGO_PKG_VERSION")))
        };
        let client = builder().build().or_else(|error| {
            // A box without certificate authorities still reaches plain HTTP; https then fails with its own words.
            tracing::warn!(
                "no certificate authorities ({}): install ca-certificates for https",
                root(&error)
            );
            let none = rustls::ClientConfig::builder()
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
            builder().tls_backend_preconfigured(none).build()
        });
        Client { http: client.map_err(|error| root(&error)), reach }
    }

    /// One attempt. `Ok`: acknowledged (2xx).
    pub async fn post(
        &self,
        url: &Url,
        secret: Option<&Secret>,
        event: &str,
        body: Bytes,
    ) -> Result<(), Failure> {
        let failure = |cause| Failure { cause, refused: false, retry_after: None };
        let client = self.http.as_ref().map_err(|error| failure(error.clone()))?;
        // Names are judged when they are resolved.
        if let Err(barred) = self.reach.check_literal(url.host_str().unwrap_or_default()) {
            return Err(Failure { refused: true, ..failure(format!("cannot connect: {barred}")) });
        }
        let timestamp = Timestamp::now().as_second();
        let mut request = client
            .post(url.clone())
            .header(CONTENT_TYPE, "application/cloudevents+json; charset=utf-8")
            .header("webhook-id", event)
            .header("webhook-timestamp", timestamp);
        if let Some(secret) = secret {
            let key = webhook_key(secret.expose()).ok_or_else(|| Failure {
                refused: true,
                ..failure("its secret is none of Standard Webhooks (whsec_…)".to_owned())
            })?;
            request = request.header("webhook-signature", signature(&key, event, timestamp, &body));
        }
        let sent = request.body(body).send().await.map_err(reqwest::Error::without_url);
        let response = sent.map_err(|error| {
            failure(match (error.is_connect(), error.is_timeout()) {
                (true, true) => format!("cannot connect within {CONNECT:?}"),
                (true, false) => format!("cannot connect: {}", root(&error)),
                (false, true) => format!("no answer within {ANSWER:?}"),
                (false, false) => root(&error),
            })
        })?;
        let outcome = judge(&response);
        let _ = tokio::time::timeout(BODY_WAIT, drain(response)).await;
        outcome
    }
}

/// The address as logs and health states may show it: paths and queries often hold keys.
pub fn shown(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// `v1,…` over `event.timestamp.body`, with the key inside the `whsec_` secret.
pub fn signature(key: &[u8], event: &str, timestamp: i64, body: &[u8]) -> String {
    let mac = match Hmac::<Sha256>::new_from_slice(key) {
        Ok(mac) => mac,
        Err(_) => unreachable!("HMAC takes keys of any length"),
    };
    let mac = mac.chain_update(format!("{event}.{timestamp}.")).chain_update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

fn judge(response: &reqwest::Response) -> Result<(), Failure> {
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let hint = match status.as_u16() {
        300..=399 => "; redirects are not followed, configure the final address",
        401 | 403 => "; check the secret on both sides and the address",
        404 | 405 | 410 => "; check the address",
        _ => "",
    };
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?));
    // 408, 425 and 429 ask for another attempt, like 5xx.
    let refused = !status.is_server_error() && !matches!(status.as_u16(), 408 | 425 | 429);
    Err(Failure { cause: format!("it answers {status}{hint}"), refused, retry_after })
}

/// Seconds or an HTTP date (RFC 9110, section 10.2.3).
fn retry_after(value: &str) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    Duration::try_from(at.duration_since(Timestamp::now())).ok()
}

async fn drain(mut response: reqwest::Response) {
    let mut read = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        read += chunk.len();
        if read > BODY {
            return;
        }
    }
}

/// What is at the bottom of an error: the layers above say little.
fn root(mut error: &dyn std::error::Error) -> String {
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_standard_webhooks_own() {
        let key = webhook_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed =
            signature(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b"{\"test\": 2432232314}");
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[tokio::test]
    async fn https_to_something_else_fails_with_a_cause() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            use tokio::io::AsyncWriteExt;
            while let Ok((mut socket, _)) = listener.accept().await {
                let _ = socket.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await;
            }
        });
        let url = Url::parse(&format!("https://u:hunter2@{address}/?key=hunter3")).unwrap();
        let failure = Client::new(Reach::default())
            .post(&url, None, "a.1", Bytes::from_static(b"{}"))
            .await
            .unwrap_err();
        assert!(!failure.refused && !failure.cause.contains("hunter"), "{failure:?}");
        assert!(failure.cause.starts_with("cannot connect: "), "{failure:?}");
    }

    #[tokio::test]
    async fn what_lies_out_of_reach_is_never_connected_to() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let elsewhere = Reach::only(["10.0.0.0/8".parse().unwrap()]);
        for url in [
            format!("http://localhost:{port}/"),
            format!("http://127.0.0.1:{port}/"),
            format!("http://127.1:{port}/"),
            format!("http://[::ffff:127.0.0.1]:{port}/"),
        ] {
            let client = Client::new(elsewhere.clone());
            let body = Bytes::from_static(b"{}");
            let failure = client.post(&Url::parse(&url).unwrap(), None, "a.1", body).await.unwrap_err();
            assert!(failure.cause.contains("outside the networks"), "{url}: {failure:?}");
        }
        let none = tokio::time::timeout(Duration::from_millis(200), listener.accept()).await;
        assert!(none.is_err(), "it was connected to");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(retry_after("120"), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("soon"), None);
        assert_eq!(retry_after("-5"), None);
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), None);
        let later = retry_after("Wed, 21 Oct 2099 07:28:00 GMT").unwrap();
        assert!(later > Duration::from_secs(86_400));
    }

    #[test]
    fn only_the_origin_of_an_address_is_shown() {
        let url = Url::parse("https://user:pw@hook.example:8443/T0/secret?key=1").unwrap();
        assert_eq!(shown(&url), "https://hook.example:8443");
    }
}
