//! `liuta simulate`: clips served as RTSP cameras, in a loop, with continuous time.

use std::net::SocketAddr;
use std::path::PathBuf;

/// One simulated camera.
#[derive(Clone, Debug)]
pub struct Clip {
    pub name: String,
    pub file: PathBuf,
}

/// Serves the clips until the process is told to end.
pub async fn run(
    listen: SocketAddr,
    clips: Vec<Clip>,
    credentials: Option<(String, String)>,
) -> anyhow::Result<()> {
    let _ = (listen, clips, credentials);
    todo!()
}
