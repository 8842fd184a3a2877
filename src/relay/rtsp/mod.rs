//! The RTSP server (RFC 2326), TCP interleaved.

use std::sync::Arc;

use tokio::net::TcpListener;

use crate::access::Access;
use crate::health::Health;
use crate::live::Directory;

pub struct Server {}

impl Server {
    /// Serves every stream of the directory at its path.
    pub fn start(listener: TcpListener, streams: Arc<Directory>, access: Access, health: Health) -> Server {
        let _ = (listener, streams, access, health);
        todo!()
    }

    /// Closes the listener and every session.
    pub async fn stop(self) {
        todo!()
    }
}
