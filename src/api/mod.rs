//! HTTP: REST, HLS, recordings, the console's page, metrics, health.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::access::{Access, Links};
use crate::config::Config;
use crate::dispatch::Dispatch;
use crate::health::Health;
use crate::live::Directory;
use crate::record::Ring;
use crate::store::Store;
use crate::vision::Vision;

/// What handlers reach.
#[derive(Clone)]
pub struct Shared {
    pub config: Arc<ArcSwap<Config>>,
    pub streams: Arc<Directory>,
    pub access: Access,
    pub links: Links,
    pub store: Arc<Store>,
    pub ring: Arc<Ring>,
    pub vision: Arc<Vision>,
    pub dispatch: Arc<Dispatch>,
    pub health: Health,
}

/// Serves until `stop`, then lets requests in flight end.
pub async fn serve(listener: TcpListener, state: Shared, stop: CancellationToken) -> std::io::Result<()> {
    let _ = (listener, state, stop);
    todo!()
}
