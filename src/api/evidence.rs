//! What others check exported clips with.

use axum::Json;
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;

use super::door::{Answer, Asked};
use crate::evidence::key::SigningKey;

/// The key that manifests of exported clips are signed with.
#[derive(Serialize, ToSchema)]
#[schema(as = SigningKey)]
pub struct KeyView {
    /// The box's id.
    #[serde(rename = "box")]
    site: String,
    algorithm: &'static str,
    /// SHA-256 of the key's DER, in hex.
    fingerprint: String,
    /// The public key.
    pem: String,
}

#[utoipa::path(
    get, path = "/api/v1/signing-key", tag = "recordings",
    responses((status = 200, description = "What `liuta verify --key` takes", body = KeyView))
)]
pub async fn signing_key(asked: Asked) -> Answer {
    let key = asked.ask(|state| SigningKey::of(&state.store)).await?.public();
    let site = asked.state.settings.config().site.id.clone();
    let (fingerprint, pem) = (key.fingerprint(), key.pem());
    Ok(Json(KeyView { site, algorithm: "Ed25519", fingerprint, pem }).into_response())
}
