//! A dispatch desk: takes webhooks, verifies each with the Standard Webhooks library, and keeps them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use serde_json::Value;

/// One event that was sent and whose signature is right.
#[derive(Clone, Debug)]
pub struct Received {
    pub id: String,
    pub event: Value,
}

impl Received {
    /// The alert inside the event.
    pub fn alert(&self) -> &Value {
        &self.event["data"]
    }
}

/// A running desk.
pub struct Desk {
    pub address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Desk {
    pub async fn start() -> Desk {
        let received = Arc::new(Mutex::new(Vec::new()));
        let kept = received.clone();
        let take = move |headers: HeaderMap, body: Bytes| async move {
            let signed = standardwebhooks::Webhook::new(super::SECRET).unwrap();
            if signed.verify(&body, &headers).is_err() {
                return StatusCode::UNAUTHORIZED;
            }
            let event: Value = serde_json::from_slice(&body).expect("a JSON body");
            let id = headers["webhook-id"].to_str().unwrap().to_owned();
            kept.lock().unwrap().push(Received { id, event });
            StatusCode::NO_CONTENT
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().route("/alerts", axum::routing::post(take));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Desk { address, received }
    }

    /// The destination's section in a configuration.
    pub fn section(&self) -> String {
        format!(
            "[dispatch.desk]\ntype = \"webhook\"\nurl = \"http://{}/alerts\"\nsecret = \"{}\"\n",
            self.address,
            super::SECRET
        )
    }

    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
}
