//! Digest sign-in of RTSP players (RFC 7616): challenges, and whether an answer is right.
//!
//! A nonce belongs to one connection and is good for [`NONCE_LIFE`]: an answer that was overheard opens nothing on
//! another connection. Answers without `qop` are taken (RFC 2069), since GStreamer sends no other. Both MD5 and SHA-256
//! are offered: players that know MD5 alone are the rule.

use std::time::{Duration, Instant};

use md5::Md5;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use super::{Denied, random_text};
use crate::store::Ha1;

/// What stream keys are hashed with: it never changes, or every key would be void.
pub const REALM: &str = "liuta";

/// An answer to an older challenge is answered by a new one; players follow by themselves.
const NONCE_LIFE: Duration = Duration::from_secs(300);

/// A longer header is no player's.
const LONGEST: usize = 4_096;

/// `H(user:realm:key)`, for both algorithms.
pub fn ha1(user: &str, key: &str) -> Ha1 {
    let text = format!("{user}:{REALM}:{key}");
    Ha1 { md5: Md5::digest(&text).into(), sha256: Sha256::digest(&text).into() }
}

/// In constant time.
pub fn same(a: &Ha1, b: &Ha1) -> bool {
    bool::from(a.sha256.ct_eq(&b.sha256))
}

/// What a connection is challenged with.
pub struct Challenge {
    nonce: String,
    made: Instant,
    /// The highest count that an answer came with.
    counted: u32,
    renewed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Md5,
    Sha256,
}

/// The parameters of `Authorization: Digest …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub user: String,
    pub uri: String,
    nonce: String,
    algorithm: Algorithm,
    response: String,
    /// `nc` and `cnonce`, where `qop=auth`.
    auth: Option<(String, String)>,
}

impl Default for Challenge {
    fn default() -> Challenge {
        Challenge { nonce: random_text(), made: Instant::now(), counted: 0, renewed: false }
    }
}

impl Challenge {
    /// The values of a 401's `WWW-Authenticate` headers. MD5 comes after SHA-256: of two Digest challenges ffmpeg and
    /// GStreamer take the last, and know only MD5.
    pub fn headers(&mut self) -> [String; 3] {
        if self.made.elapsed() > NONCE_LIFE {
            *self = Challenge { renewed: self.renewed, ..Challenge::default() };
        }
        let stale = if std::mem::take(&mut self.renewed) { ", stale=true" } else { "" };
        let nonce = &self.nonce;
        let digest = |algorithm: &str| {
            format!("Digest realm=\"{REALM}\", nonce=\"{nonce}\", algorithm={algorithm}, qop=\"auth\"{stale}")
        };
        [digest("SHA-256"), digest("MD5"), format!("Basic realm=\"{REALM}\"")]
    }

    /// Whether an answer that is right is one to the challenge as it stands, and its first.
    pub fn admit(&mut self, answer: &Response) -> Result<(), Denied> {
        let count = match &answer.auth {
            None => None,
            Some((nc, _)) => Some(u32::from_str_radix(nc, 16).map_err(|_| Denied::Unknown)?),
        };
        let fresh = bool::from(answer.nonce.as_bytes().ct_eq(self.nonce.as_bytes()))
            && self.made.elapsed() <= NONCE_LIFE
            && count.is_none_or(|count| count > self.counted);
        if !fresh {
            *self = Challenge { renewed: true, ..Challenge::default() };
            return Err(Denied::Stale);
        }
        self.counted = count.unwrap_or(self.counted);
        Ok(())
    }
}

impl Response {
    /// From what stands behind `Digest`. The bytes are anybody's.
    pub fn parse(text: &str) -> Option<Response> {
        if text.len() > LONGEST {
            return None;
        }
        let mut given = [const { None::<String> }; 9];
        const NAMES: [&str; 9] =
            ["username", "realm", "nonce", "uri", "response", "algorithm", "qop", "nc", "cnonce"];
        for (name, value) in Parameters(text) {
            let Some(at) = NAMES.iter().position(|known| name.eq_ignore_ascii_case(known)) else { continue };
            // Twice the same name is a riddle, not an answer.
            if given[at].replace(value?).is_some() {
                return None;
            }
        }
        let [user, realm, nonce, uri, response, algorithm, qop, nc, cnonce] = given;
        if realm? != REALM {
            return None;
        }
        let algorithm = match algorithm.as_deref() {
            None => Algorithm::Md5,
            Some(name) if name.eq_ignore_ascii_case("MD5") => Algorithm::Md5,
            Some(name) if name.eq_ignore_ascii_case("SHA-256") => Algorithm::Sha256,
            Some(_) => return None,
        };
        let auth = match qop.as_deref() {
            None => None,
            Some("auth") => Some((nc.filter(|nc| nc.len() == 8)?, cnonce?)),
            Some(_) => return None,
        };
        Some(Response { user: user?, uri: uri?, nonce: nonce?, response: response?, algorithm, auth })
    }

    /// Whether it is made with this key, whatever the challenge.
    pub fn is_right(&self, method: &str, key: &Ha1) -> bool {
        let h = |text: &str| match self.algorithm {
            Algorithm::Md5 => hex(&Md5::digest(text)),
            Algorithm::Sha256 => hex(&Sha256::digest(text)),
        };
        let ha1 = match self.algorithm {
            Algorithm::Md5 => hex(&key.md5),
            Algorithm::Sha256 => hex(&key.sha256),
        };
        let ha2 = h(&format!("{method}:{}", self.uri));
        let nonce = &self.nonce;
        let expected = match &self.auth {
            None => h(&format!("{ha1}:{nonce}:{ha2}")),
            Some((nc, cnonce)) => h(&format!("{ha1}:{nonce}:{nc}:{cnonce}:auth:{ha2}")),
        };
        bool::from(self.response.to_ascii_lowercase().as_bytes().ct_eq(expected.as_bytes()))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `name=value, name="value", …`: names with their values, `None` for one that cannot be read.
struct Parameters<'t>(&'t str);

impl<'t> Iterator for Parameters<'t> {
    type Item = (&'t str, Option<String>);

    fn next(&mut self) -> Option<Self::Item> {
        let text = self.0.trim_start_matches([' ', '\t', ',']);
        if text.is_empty() {
            return None;
        }
        let Some((name, rest)) = text.split_once('=') else {
            self.0 = "";
            return Some((text, None));
        };
        let (name, rest) = (name.trim(), rest.trim_start());
        let Some(quoted) = rest.strip_prefix('"') else {
            let end = rest.find(',').unwrap_or(rest.len());
            self.0 = &rest[end..];
            return Some((name, Some(rest[..end].trim().to_owned())));
        };
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.0 = &quoted[at + 1..];
                    return Some((name, Some(value)));
                }
                '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
                c => value.push(c),
            }
        }
        self.0 = "";
        Some((name, None))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn judge(challenge: &mut Challenge, answer: &Response, method: &str, key: &Ha1) -> Result<(), Denied> {
        if answer.is_right(method, key) { challenge.admit(answer) } else { Err(Denied::Unknown) }
    }

    /// What a player that knows the rules answers.
    fn answer(
        challenge: &Challenge,
        algorithm: &str,
        nc: Option<u32>,
        method: &str,
        user: &str,
        key: &str,
    ) -> String {
        let h = |text: String| match algorithm {
            "MD5" => hex(&Md5::digest(text)),
            _ => hex(&Sha256::digest(text)),
        };
        let uri = "rtsp://h/gate-1";
        let (ha1, ha2) = (h(format!("{user}:liuta:{key}")), h(format!("{method}:{uri}")));
        let nonce = &challenge.nonce;
        let (response, more) = match nc {
            None => (h(format!("{ha1}:{nonce}:{ha2}")), String::new()),
            Some(nc) => (
                h(format!("{ha1}:{nonce}:{nc:08x}:c\"n:auth:{ha2}")),
                format!(", qop=auth, nc={nc:08x}, cnonce=\"c\\\"n\""),
            ),
        };
        format!(
            "username=\"{user}\", realm=\"liuta\", nonce=\"{nonce}\", uri=\"{uri}\", algorithm={algorithm}, \
             response=\"{response}\"{more}"
        )
    }

    #[test]
    fn the_example_of_rfc_7616_is_right() {
        // Section 3.9.1, whose realm is another.
        let response = Response {
            user: "Mufasa".into(),
            uri: "/dir/index.html".into(),
            nonce: "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v".into(),
            algorithm: Algorithm::Sha256,
            response: "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1".into(),
            auth: Some(("00000001".into(), "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ".into())),
        };
        let text = "Mufasa:http-auth@example.org:Circle of Life";
        let key = Ha1 { md5: Md5::digest(text).into(), sha256: Sha256::digest(text).into() };
        assert!(response.is_right("GET", &key));
        let md5 = Response {
            algorithm: Algorithm::Md5,
            response: "8ca523f5e9506fed4657c9700eebdbec".into(),
            ..response
        };
        assert!(md5.is_right("GET", &key));
        assert!(!md5.is_right("POST", &key));
    }

    #[test]
    fn right_answers_open_and_others_do_not() {
        let key = ha1("li", "lk_secret");
        for algorithm in ["MD5", "SHA-256"] {
            for nc in [None, Some(1)] {
                let told = |method: &str, user: &str, secret: &str| {
                    let mut challenge = Challenge::default();
                    let answer = answer(&challenge, algorithm, nc, method, user, secret);
                    judge(&mut challenge, &Response::parse(&answer).unwrap(), "DESCRIBE", &key)
                };
                assert_eq!(told("DESCRIBE", "li", "lk_secret"), Ok(()));
                assert_eq!(told("PLAY", "li", "lk_secret"), Err(Denied::Unknown));
                assert_eq!(told("DESCRIBE", "wang", "lk_secret"), Err(Denied::Unknown));
                assert_eq!(told("DESCRIBE", "li", "lk_other"), Err(Denied::Unknown));
            }
        }
    }

    #[test]
    fn an_answer_counts_once_and_for_its_own_challenge() {
        let key = ha1("li", "k");
        let mut challenge = Challenge::default();
        let first = Response::parse(&answer(&challenge, "MD5", Some(1), "PLAY", "li", "k")).unwrap();
        let second = Response::parse(&answer(&challenge, "MD5", Some(2), "PLAY", "li", "k")).unwrap();
        assert_eq!(judge(&mut challenge, &first, "PLAY", &key), Ok(()));
        assert_eq!(judge(&mut challenge, &second, "PLAY", &key), Ok(()));
        assert_eq!(judge(&mut challenge, &first, "PLAY", &key), Err(Denied::Stale));
        assert!(challenge.headers().iter().take(2).all(|header| header.contains("stale=true")));
        assert!(!challenge.headers()[0].contains("stale"), "said once");
        // On another connection it opens nothing, not even as the first.
        assert_eq!(judge(&mut Challenge::default(), &second, "PLAY", &key), Err(Denied::Stale));
    }

    #[test]
    fn old_challenges_are_renewed() {
        let key = ha1("li", "k");
        let mut challenge = Challenge::default();
        let Some(past) = Instant::now().checked_sub(NONCE_LIFE + Duration::from_secs(1)) else { return };
        challenge.made = past;
        let late = Response::parse(&answer(&challenge, "SHA-256", Some(1), "PLAY", "li", "k")).unwrap();
        assert_eq!(judge(&mut challenge, &late, "PLAY", &key), Err(Denied::Stale));
        assert_ne!(challenge.nonce, late.nonce);
        let again = Response::parse(&answer(&challenge, "SHA-256", Some(1), "PLAY", "li", "k")).unwrap();
        assert_eq!(judge(&mut challenge, &again, "PLAY", &key), Ok(()));
    }

    #[test]
    fn what_is_no_answer_is_none() {
        let good = answer(&Challenge::default(), "MD5", Some(1), "PLAY", "li", "k");
        assert!(Response::parse(&good).is_some());
        for (from, to) in [
            ("realm=\"liuta\"", "realm=\"other\""),
            ("algorithm=MD5", "algorithm=MD5-sess"),
            ("qop=auth", "qop=auth-int"),
            ("nc=00000001", "nc=1"),
            ("username=\"li\"", "username=\"li\", username=\"admin\""),
            ("username=\"li\"", "username=\"li"),
            ("uri=", "url="),
        ] {
            assert_eq!(Response::parse(&good.replace(from, to)), None, "{to}");
        }
        assert_eq!(Response::parse(&format!("{good}, x=\"{}\"", "y".repeat(LONGEST))), None);
    }

    proptest! {
        #[test]
        fn nothing_that_is_sent_panics_or_opens(text in "\\PC{0,200}", username in "[a-z\"\\\\,=]{0,20}") {
            let key = ha1("li", "k");
            let framed = format!(
                "username=\"{username}\", realm=\"liuta\", nonce=\"n\", uri=\"u\", response=\"{text}\", {text}"
            );
            for text in [text, framed] {
                if let Some(answer) = Response::parse(&text) {
                    prop_assert_eq!(judge(&mut Challenge::default(), &answer, "PLAY", &key), Err(Denied::Unknown));
                }
            }
        }
    }
}
