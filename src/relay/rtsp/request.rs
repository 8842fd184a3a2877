//! Requests as clients write them, and responses (RFC 2326 sections 4 to 7 and 10.12).
//!
//! Own code and not a strict parser, since real clients send relative URLs, lower-case headers, bare line feeds, and
//! control URLs glued behind query strings. The bytes are anybody's: every length is bounded before it is believed.

use bytes::{Buf, Bytes, BytesMut};

/// Bytes of a request's line and headers.
pub const MAX_HEAD: usize = 16 << 10;
/// Bytes of a request's body.
pub const MAX_BODY: usize = 64 << 10;
const MAX_HEADERS: usize = 64;

/// What arrived.
#[derive(Debug)]
pub enum Incoming {
    Request(Request),
    /// A frame on an interleaved channel: RTCP, which only shows that the client lives.
    Frame,
}

#[derive(Debug, Default)]
pub struct Request {
    pub method: String,
    pub uri: String,
    headers: Vec<(String, String)>,
}

impl Request {
    /// The first header of this name, in whatever case it came.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Bytes after which nothing more can be understood; the connection ends with this status.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused(pub u16);

/// Takes the next message out of `input`, or nothing while it is incomplete.
pub fn take(input: &mut BytesMut) -> Result<Option<Incoming>, Refused> {
    // Some clients end bodies and messages with empty lines of their own.
    let blank = input.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    input.advance(blank);
    if let [b'$', rest @ ..] = &input[..] {
        let [_channel, high, low, payload @ ..] = rest else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if payload.len() < length {
            return Ok(None);
        }
        input.advance(4 + length);
        return Ok(Some(Incoming::Frame));
    }
    let Some(end) = head_end(&input[..input.len().min(MAX_HEAD)]) else {
        return if input.len() >= MAX_HEAD { Err(Refused(431)) } else { check_beginning(input) };
    };
    let request = parse_head(&input[..end])?;
    let body = match request.header("Content-Length") {
        Some(text) => text.parse::<usize>().map_err(|_| Refused(400))?,
        None => 0,
    };
    if body > MAX_BODY {
        return Err(Refused(413));
    }
    if input.len() < end + body {
        return Ok(None);
    }
    input.advance(end + body);
    Ok(Some(Incoming::Request(request)))
}

/// Bytes up to and including the empty line.
fn head_end(input: &[u8]) -> Option<usize> {
    let mut line = 0;
    for (at, _) in input.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
        if matches!(&input[line..at], [] | [b'\r']) {
            return Some(at + 1);
        }
        line = at + 1;
    }
    None
}

/// Junk is refused at once and not when a head's worth of it is there.
fn check_beginning(input: &[u8]) -> Result<Option<Incoming>, Refused> {
    let method = input.split(u8::is_ascii_whitespace).find(|word| !word.is_empty()).unwrap_or_default();
    if is_method(method) { Ok(None) } else { Err(Refused(400)) }
}

fn is_method(word: &[u8]) -> bool {
    word.len() <= 32 && word.iter().all(|byte| byte.is_ascii_uppercase() || *byte == b'_')
}

fn parse_head(head: &[u8]) -> Result<Request, Refused> {
    let text = std::str::from_utf8(head).map_err(|_| Refused(400))?;
    let mut lines = text.lines();
    let mut words = lines.next().unwrap_or_default().split_ascii_whitespace();
    let (Some(method), Some(uri), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Refused(400));
    };
    if !version.starts_with("RTSP/") || !is_method(method.as_bytes()) {
        return Err(Refused(400));
    }
    if version != "RTSP/1.0" {
        return Err(Refused(505));
    }
    let mut request = Request { method: method.into(), uri: uri.into(), headers: Vec::new() };
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').ok_or(Refused(400))?;
        if request.headers.len() == MAX_HEADERS {
            return Err(Refused(431));
        }
        request.headers.push((name.trim().into(), value.trim().into()));
    }
    Ok(request)
}

/// What a request's URL means: absolute or relative, with slashes, a query or a control suffix.
#[derive(Debug, PartialEq, Eq)]
pub struct Target {
    /// As in `live::Directory`.
    pub path: String,
    /// Behind the `?`, without the control suffix; empty where there is none.
    pub query: String,
    /// Of `/trackID=N`.
    pub track: Option<usize>,
    /// The URL without the control suffix, with a slash at the end and without credentials: what control URLs are
    /// relative to.
    pub base: String,
}

/// Control suffixes that the SDP gives.
pub const TRACK: &str = "trackID=";

impl Target {
    pub fn of(uri: &str) -> Target {
        let uri = uri.trim_end_matches('/');
        let (whole, track) = match uri.rsplit_once(TRACK) {
            Some((head, number)) => match number.parse() {
                Ok(number) => (head.trim_end_matches(['/', '?', '&']), Some(number)),
                Err(_) => (uri, None),
            },
            None => (uri, None),
        };
        let (scheme, authority, path) = match whole.split_once("://") {
            Some((scheme, rest)) => {
                let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
                (scheme, authority, path)
            }
            None => ("", "", whole),
        };
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let base = match scheme {
            "" => format!("/{}/", path.trim_start_matches('/')),
            _ => format!("{scheme}://{host}/{path}/"),
        };
        let path = path.split('#').next().unwrap_or_default();
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let (path, query) = (path.trim_matches('/').to_owned(), query.trim_end_matches('/').to_owned());
        Target { path, query, track, base }
    }

    /// The value of this name in the query, percent-decoded.
    pub fn parameter(&self, name: &str) -> Option<String> {
        let value = self.query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
        // A plus stands for itself, as in `+08:00`: nobody fills in a form here.
        Some(percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned())
    }
}

/// A response in the making; `CSeq` and `Session` are added where it is sent.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
}

impl Response {
    pub fn new(status: u16) -> Response {
        Response { status, headers: Vec::new(), body: String::new() }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Response {
        self.headers.push((name, value.into()));
        self
    }

    pub fn body(mut self, kind: &str, body: String) -> Response {
        self.body = body;
        self.with("Content-Type", kind)
    }

    /// An explanation for whoever debugs a client.
    pub fn saying(self, what: &str) -> Response {
        self.body("text/plain", format!("{what}\r\n"))
    }

    pub fn encode(&self, cseq: Option<&str>) -> Bytes {
        use std::fmt::Write;
        let mut text = format!("RTSP/1.0 {} {}\r\n", self.status, reason(self.status));
        if let Some(cseq) = cseq {
            let _ = write!(text, "CSeq: {cseq}\r\n");
        }
        text += "Server: liuta\r\n";
        for (name, value) in &self.headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        if !self.body.is_empty() {
            let _ = write!(text, "Content-Length: {}\r\n", self.body.len());
        }
        text += "\r\n";
        text += &self.body;
        text.into()
    }
}

/// RFC 2326 section 7.1.1; 429 and 431 are RFC 6585's.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        408 => "Request Timeout",
        413 => "Request Entity Too Large",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        453 => "Not Enough Bandwidth",
        454 => "Session Not Found",
        455 => "Method Not Valid In This State",
        456 => "Header Field Not Valid For Resource",
        457 => "Invalid Range",
        459 => "Aggregate Operation Not Allowed",
        461 => "Unsupported Transport",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "RTSP Version Not Supported",
        551 => "Option Not Supported",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn requests(text: &[u8]) -> Result<Vec<Request>, Refused> {
        let mut input = BytesMut::from(text);
        let mut met = Vec::new();
        while let Some(incoming) = take(&mut input)? {
            if let Incoming::Request(request) = incoming {
                met.push(request);
            }
        }
        Ok(met)
    }

    #[test]
    fn requests_frames_bodies_and_blank_lines_follow_each_other() {
        let mut bytes = b"\r\nOPTIONS * RTSP/1.0\r\ncseq:1\r\n\r\n$\x01\x00\x02\r\n".to_vec();
        bytes.extend_from_slice(b"SET_PARAMETER /a RTSP/1.0\ncontent-length: 3\nCSeq: 2\n\nabc\r\n");
        bytes.extend_from_slice(b"PLAY rtsp://h/a RTSP/1.0\r\nSession: 7\r\n\r\nTEARD");
        let met = requests(&bytes).unwrap();
        let methods: Vec<_> = met.iter().map(|request| request.method.as_str()).collect();
        assert_eq!(methods, ["OPTIONS", "SET_PARAMETER", "PLAY"]);
        assert_eq!(met[0].header("CSeq"), Some("1"));
        assert_eq!(met[2].header("SESSION"), Some("7"));
    }

    #[test]
    fn what_cannot_be_understood_is_refused_at_once() {
        let long = format!("OPTIONS /{} RTSP/1.0\r\n", "a".repeat(MAX_HEAD));
        let many = format!("OPTIONS * RTSP/1.0\r\n{}\r\n", "a: b\r\n".repeat(MAX_HEADERS + 1));
        for (text, status) in [
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("\u{16}\u{3}\u{1}\u{2}", 400),
            ("OPTIONS *\r\n\r\n", 400),
            ("OPTIONS * RTSP/2.0\r\n\r\n", 505),
            ("OPTIONS * RTSP/1.0\r\nno colon\r\n\r\n", 400),
            ("OPTIONS * RTSP/1.0\r\nContent-Length: -1\r\n\r\n", 400),
            ("OPTIONS * RTSP/1.0\r\nContent-Length: 99999999\r\n\r\n", 413),
            (long.as_str(), 431),
            (many.as_str(), 431),
        ] {
            assert_eq!(requests(text.as_bytes()).unwrap_err(), Refused(status), "{text:.40}");
        }
        assert!(requests(b"OPTIONS * RTSP/1.0\r\nContent-Length: 5\r\n\r\nabc").unwrap().is_empty());
    }

    #[test]
    fn a_request_is_read_alike_whole_and_byte_by_byte() {
        let long = format!("{} * RTSP/1.0\r\n\r\n", "A".repeat(33));
        for (text, good) in [("OPTIONS\t* RTSP/1.0\r\n\r\n", true), (long.as_str(), false)] {
            assert_eq!(requests(text.as_bytes()).is_ok(), good, "{text:?} whole");
            let mut input = BytesMut::new();
            let pieces = text.bytes().map(|byte| {
                input.extend_from_slice(&[byte]);
                take(&mut input)
            });
            assert_eq!(pieces.collect::<Result<Vec<_>, _>>().is_ok(), good, "{text:?} byte by byte");
        }
    }

    #[test]
    fn urls_of_real_clients_reach_the_same_stream() {
        for (uri, track, base, query) in [
            ("rtsp://h:8554/a/sub", None, "rtsp://h:8554/a/sub/", ""),
            ("rtsp://h:8554/a/sub/", None, "rtsp://h:8554/a/sub/", ""),
            ("rtsp://h:8554//a/sub/trackID=1", Some(1), "rtsp://h:8554//a/sub/", ""),
            ("rtsp://h:8554/a/sub/?x=y/trackID=0", Some(0), "rtsp://h:8554/a/sub/?x=y/", "x=y"),
            ("rtsp://h:8554/a/sub?x=y", None, "rtsp://h:8554/a/sub?x=y/", "x=y"),
            ("rtsp://user:secret@h/a/sub", None, "rtsp://h/a/sub/", ""),
            ("/a/sub/trackID=0", Some(0), "/a/sub/", ""),
            ("a/sub", None, "/a/sub/", ""),
        ] {
            let (base, query) = (base.into(), query.into());
            assert_eq!(Target::of(uri), Target { path: "a/sub".into(), query, track, base }, "{uri}");
        }
        let target = Target::of("rtsp://h/playback/a?start=2026-01-01T08:00:00%2B08:00&end=x/trackID=1");
        assert_eq!(target.parameter("start").as_deref(), Some("2026-01-01T08:00:00+08:00"));
        assert_eq!((target.parameter("end").as_deref(), target.parameter("at")), (Some("x"), None));
        let plus = Target::of("rtsp://h/playback/a?start=2026-01-01T08:00:00+08:00");
        assert_eq!(plus.parameter("start").as_deref(), Some("2026-01-01T08:00:00+08:00"));
        assert_eq!(Target::of("*").path, "*");
        assert_eq!(Target::of("rtsp://h").path, "");
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), uri in ".{0,80}") {
            let mut input = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = take(&mut input) {}
            Target::of(&uri);
            let text = format!("DESCRIBE {uri} RTSP/1.0\r\n{}\r\n\r\n", String::from_utf8_lossy(&bytes));
            let mut input = BytesMut::from(text.as_bytes());
            while let Ok(Some(_)) = take(&mut input) {}
        }
    }
}
