//! An RTSP client of our own, for what real ones cannot be made to do.

#![allow(dead_code)] // Each test binary uses its part of it.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Long enough for a busy machine; nothing here takes it on an idle one.
const PATIENCE: Duration = Duration::from_secs(90);

pub struct Client {
    pub socket: TcpStream,
    sequence: u32,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Client {
        Client::of(TcpStream::connect(address).await.unwrap())
    }

    pub fn of(socket: TcpStream) -> Client {
        Client { socket, sequence: 0 }
    }

    /// The whole response: head, empty line, body.
    pub async fn ask(&mut self, request: &str, headers: &str) -> String {
        self.sequence += 1;
        let text = format!("{request} RTSP/1.0\r\nCSeq: {}\r\n{headers}\r\n", self.sequence);
        self.socket.write_all(text.as_bytes()).await.unwrap();
        timeout(PATIENCE, self.response()).await.unwrap()
    }

    pub async fn response(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.socket.read_u8().await.unwrap());
            if head == b"$" {
                self.frame_body().await;
                head.clear();
            }
        }
        let mut text = String::from_utf8(head).unwrap();
        let length =
            text.lines().find_map(|line| line.strip_prefix("Content-Length: ")).map(|n| n.parse().unwrap());
        let mut body = vec![0; length.unwrap_or(0)];
        self.socket.read_exact(&mut body).await.unwrap();
        text.push_str(std::str::from_utf8(&body).unwrap());
        text
    }

    /// Channel and packet of the next interleaved frame.
    pub async fn frame(&mut self) -> (u8, Vec<u8>) {
        assert_eq!(timeout(PATIENCE, self.socket.read_u8()).await.unwrap().unwrap(), b'$');
        timeout(PATIENCE, self.frame_body()).await.unwrap()
    }

    pub async fn frame_body(&mut self) -> (u8, Vec<u8>) {
        let channel = self.socket.read_u8().await.unwrap();
        let mut packet = vec![0; self.socket.read_u16().await.unwrap().into()];
        self.socket.read_exact(&mut packet).await.unwrap();
        (channel, packet)
    }

    pub async fn play(&mut self, url: &str, channels: &str) -> String {
        let transport = format!("Transport: RTP/AVP/TCP;unicast;interleaved={channels}\r\n");
        let answer = self.ask(&format!("SETUP {url}/trackID=0"), &transport).await;
        assert!(answer.starts_with("RTSP/1.0 200"), "{answer}");
        let session = answer.lines().find_map(|line| line.strip_prefix("Session: ")).unwrap().to_owned();
        let answer = self.ask(&format!("PLAY {url}"), &format!("Session: {session}\r\n")).await;
        assert!(answer.starts_with("RTSP/1.0 200"), "{answer}");
        answer
    }

    /// Reads until the server ends the connection.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset is an end too: the server may have had more to read than it cared to.
        let _ =
            timeout(PATIENCE, self.socket.read_to_end(&mut rest)).await.expect("the connection stays open");
        rest
    }
}
