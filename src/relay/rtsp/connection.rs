//! One client: its requests, its session, and the stream that it reads.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{Instant, MissedTickBehavior, timeout};

use super::Shared;
use super::exchange::{Moved, exchange};
use super::output::Output;
use super::request::{self, Incoming, MAX_BODY, MAX_HEAD, Refused, Request, Response};
use super::session::{Event, Session, Source};
use crate::access::Challenge;
use crate::health::PathProtocol;
use crate::net::listener::Socket;

pub(super) const METHODS: &str =
    "OPTIONS, DESCRIBE, SETUP, PLAY, PAUSE, GET_PARAMETER, SET_PARAMETER, TEARDOWN";

/// A client that neither plays nor asks for so long is gone; `Session` headers tell it (RFC 2326 section 12.37). One
/// that plays shows its life by taking what it is sent, by UDP with its RTCP.
pub(super) const SESSION_TIMEOUT: Duration = Duration::from_secs(60);

/// From connecting to the first request that was allowed.
const SIGN_IN_TIMEOUT: Duration = Duration::from_secs(20);

/// From the first byte of a request to its last.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A client that takes not one byte for so long is closed.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Wrong tokens and stream keys on one connection before it is closed.
const MAX_DENIALS: u32 = 10;

/// Bytes of input held: a request, or the longest interleaved frame.
const MAX_INPUT: usize = MAX_HEAD + MAX_BODY + 4;

/// Why a connection was ended from our side.
#[derive(Debug, thiserror::Error)]
pub enum Closed {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it took no byte for {} s", STALL_TIMEOUT.as_secs())]
    Stalled,
    #[error("no complete request within {} s", REQUEST_TIMEOUT.as_secs())]
    Slow,
    #[error("it did not sign in or ask for a stream within {} s", SIGN_IN_TIMEOUT.as_secs())]
    NoSignIn,
    #[error("no request for {} s, and no RTCP where it plays by UDP", SESSION_TIMEOUT.as_secs())]
    Idle,
    #[error("a request that cannot be understood (answered {0})")]
    Refused(u16),
    #[error("too many wrong sign-ins")]
    Denied,
    #[error("the stream changed its codec: the client must ask for a new description")]
    OtherCodec,
    #[error("the stream was removed")]
    Removed,
    #[error("its path leads to another stream now")]
    Moved,
    #[error("it may no longer watch the stream")]
    Revoked,
}

impl Closed {
    /// No sign-in is needed for this end.
    pub fn is_strangers(&self) -> bool {
        use Closed::*;
        matches!(self, Io(_) | Slow | NoSignIn | Idle | Refused(_) | Denied)
    }
}

pub struct Connection {
    pub(super) socket: Socket,
    pub(super) peer: Ends,
    pub(super) shared: Arc<Shared>,
    input: BytesMut,
    pub(super) output: Output,
    pub(super) session: Option<Session>,
    /// What PLAY's cursor has met already: it follows the answer.
    pub(super) first: Option<Event>,
    connected: Instant,
    /// When the last request or frame was complete.
    heard: Instant,
    pub(super) challenge: Challenge,
    /// A request was allowed.
    pub(super) allowed: bool,
    pub(super) denials: u32,
    /// Once everything is written the connection ends, for this reason.
    closing: Option<Closed>,
}

/// What a connection joins.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    pub client: IpAddr,
    /// The box's own address, as the client has reached it.
    pub local: IpAddr,
    pub is_encrypted: bool,
}

impl Connection {
    pub fn new(socket: Socket, peer: Ends, shared: Arc<Shared>) -> Connection {
        let now = Instant::now();
        Connection {
            socket,
            peer,
            shared,
            input: BytesMut::new(),
            output: Output::new(),
            session: None,
            first: None,
            connected: now,
            heard: now,
            challenge: Challenge::default(),
            allowed: false,
            denials: 0,
            closing: None,
        }
    }

    /// Serves the client until it leaves or is closed.
    pub async fn run(mut self) -> Result<(), Closed> {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.take_requests().await;
            if self.output.is_empty()
                && let Some(why) = self.closing.take()
            {
                // What is seldom needed, and large, is on the heap while it lasts: here and below it keeps tasks small.
                Box::pin(self.say_goodbye()).await;
                return Err(why);
            }
            let readable = self.closing.is_none() && self.output.takes_messages();
            let due = self.output.is_empty() && self.closing.is_none();
            tokio::select! {
                // What is due goes first: a picture is written by the very wake-up that told of it.
                biased;
                event = next(&mut self.session), if due => {
                    self.meet(event);
                    self.write_now().await?;
                }
                moved = exchange(&mut self.socket, &mut self.output, &mut self.input, readable) => match moved? {
                    Moved::Out => {}
                    Moved::In { bytes: 0 } => return Ok(()),
                    // A request is late from its own first byte on, not from the end of the one before.
                    Moved::In { bytes } if self.input.len() == bytes => self.heard = Instant::now(),
                    Moved::In { .. } => {}
                },
                _ = tick.tick() => {
                    if self.socket.place().is_given_up() {
                        return Err(io::Error::from(io::ErrorKind::ConnectionAborted).into());
                    }
                    self.check_deadlines()?;
                    Box::pin(self.check_permission()).await;
                }
            }
        }
    }

    /// Writes what the socket takes without waiting.
    async fn write_now(&mut self) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        std::future::poll_fn(|cx| match self.output.poll_write(cx, Pin::new(&mut self.socket)) {
            Poll::Ready(written) => Poll::Ready(written),
            // The rest is what the client has to make room for.
            Poll::Pending => Poll::Ready(Ok(())),
        })
        .await
    }

    async fn take_requests(&mut self) {
        while self.closing.is_none() && self.output.takes_messages() {
            match request::take(&mut self.input) {
                Ok(None) if self.input.len() <= MAX_INPUT => break,
                Ok(None) => self.refuse(413),
                Ok(Some(incoming)) => {
                    self.heard = Instant::now();
                    if let Incoming::Request(request) = incoming {
                        Box::pin(self.answer(&request)).await;
                    }
                }
                Err(Refused(status)) => self.refuse(status),
            }
        }
        if self.input.is_empty() {
            // An idle reader holds no buffer.
            self.input = BytesMut::new();
        }
    }

    fn refuse(&mut self, status: u16) {
        self.output.message(Response::new(status).encode(None));
        self.closing = Some(Closed::Refused(status));
    }

    fn check_deadlines(&mut self) -> Result<(), Closed> {
        if !self.output.is_empty() && self.output.progress.elapsed() > STALL_TIMEOUT {
            return Err(Closed::Stalled);
        }
        if self.closing.is_some() {
            return Ok(());
        }
        let playing = self.session.as_ref().filter(|session| session.is_playing());
        let lives = playing.is_some_and(|session| session.silence().is_none_or(|by| by < SESSION_TIMEOUT));
        let silence = self.heard.elapsed();
        let late = if !self.input.is_empty() && self.output.takes_messages() && silence > REQUEST_TIMEOUT {
            Closed::Slow
        } else if !self.allowed && self.connected.elapsed() > SIGN_IN_TIMEOUT {
            Closed::NoSignIn
        } else if !lives && silence > SESSION_TIMEOUT {
            Closed::Idle
        } else {
            return Ok(());
        };
        self.output.message(Response::new(408).encode(None));
        self.closing = Some(late);
        Ok(())
    }

    /// A token or stream key is revoked or ends, `anonymous` is switched off, and a reload lays a channel on another camera: who
    /// plays on must not outlive that.
    async fn check_permission(&mut self) {
        let Some(session) = self.session.as_mut().filter(|_| self.closing.is_none()) else { return };
        let Some(standing) = session.standing() else { return };
        if !standing.holds().await {
            return self.end(Closed::Revoked);
        }
        if let Source::Live { stream, .. } = &session.source
            && !self.shared.streams.get(&session.path).is_some_and(|now| Arc::ptr_eq(&now, stream))
        {
            self.end(Closed::Moved);
        }
    }

    /// Says good-bye on every track that was sent, and sends no more.
    fn end(&mut self, why: Closed) {
        if let Some(session) = &mut self.session {
            session.say_bye(&mut self.output, "");
            session.pause();
        }
        self.closing = Some(why);
    }

    /// Reads on for a moment: closing a socket with unread input would take the last answer back.
    async fn say_goodbye(&mut self) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let drain = async {
            self.socket.shutdown().await?;
            let mut junk = [0; 4_096];
            while self.socket.read(&mut junk).await? > 0 {}
            io::Result::Ok(())
        };
        let _ = timeout(Duration::from_secs(1), drain).await;
    }

    // Requests

    async fn answer(&mut self, request: &Request) {
        let cseq = request.header("CSeq").filter(|text| text.len() <= 20);
        let unknown_option = request.header("Require").filter(|_| request.method != "OPTIONS");
        let response = if let Some(option) = unknown_option {
            // What is sent back is no other header.
            let option: String = option.chars().filter(|c| !c.is_control()).take(100).collect();
            Ok(Response::new(551).with("Unsupported", &option))
        } else {
            match request.method.as_str() {
                "OPTIONS" => Ok(Response::new(200).with("Public", METHODS)),
                "DESCRIBE" => self.describe(request).await,
                "SETUP" => self.set_up(request).await,
                "PLAY" => self.play(request).await,
                "PAUSE" => self.pause(request),
                "GET_PARAMETER" | "SET_PARAMETER" => Ok(self.in_session(Response::new(200))),
                "TEARDOWN" => self.tear_down(request),
                _ => Ok(Response::new(501).with("Public", METHODS)),
            }
        };
        let response = response.unwrap_or_else(|denied| denied);
        if self.denials >= MAX_DENIALS {
            self.closing = Some(Closed::Denied);
        }
        self.output.message(response.encode(cseq));
        if let Some(first) = self.first.take() {
            self.meet(first);
        }
    }

    fn meet(&mut self, event: Event) {
        let Some(session) = &mut self.session else { return };
        match event {
            Event::Sample(sample, packets) => {
                if let Err(why) = session.send(&mut self.output, &sample, packets) {
                    self.closing = Some(why);
                }
            }
            Event::Skipped(count) => {
                let label = PathProtocol::new(session.path.as_str(), "rtsp");
                self.shared.health.metrics.relay_skips.get_or_create(&label).inc();
                tracing::debug!(path = session.path, "a slow RTSP reader skipped {count} pictures");
            }
            Event::End(why) => {
                session.say_bye(&mut self.output, &why);
                session.pause();
            }
            Event::Gone => self.end(Closed::Removed),
        }
    }
}

/// The next thing that a playing client is owed; never, where there is no session.
async fn next(session: &mut Option<Session>) -> Event {
    match session {
        Some(session) => session.next().await,
        None => std::future::pending().await,
    }
}
