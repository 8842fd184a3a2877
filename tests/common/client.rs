//! Somebody who uses the API with a token.

use std::time::Duration;

use reqwest::{Method, StatusCode, header};
use serde_json::Value;

use super::Daemon;

/// A camera's password that no answer may ever show.
pub const CANARY: &str = "canary-camera-password";

/// Somebody with a token.
pub struct Client {
    client: reqwest::Client,
    base: String,
    token: String,
}

/// What was answered.
pub struct Answered {
    pub status: StatusCode,
    pub tag: Option<String>,
    pub location: Option<String>,
    pub body: Value,
}

impl Client {
    pub fn of(daemon: &Daemon, role: &str, cameras: &[&str]) -> Client {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(60)).build().unwrap();
        Client { client, base: daemon.url(""), token: daemon.token_of(role, cameras) }
    }

    pub async fn ask(&self, method: Method, path: &str, tag: Option<&str>, body: Option<Value>) -> Answered {
        let mut request =
            self.client.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token);
        if let Some(tag) = tag {
            request = request.header(header::IF_MATCH, tag);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let said = |name| Some(answer.headers().get(name)?.to_str().unwrap().to_owned());
        let (tag, location, status) = (said(header::ETAG), said(header::LOCATION), answer.status());
        let text = answer.text().await.unwrap();
        assert!(!text.contains(CANARY), "{path} shows the password: {text}");
        let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() };
        Answered { status, tag, location, body }
    }

    pub async fn get(&self, path: &str) -> Answered {
        self.ask(Method::GET, path, None, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answered {
        self.ask(Method::POST, path, None, Some(body)).await
    }

    /// A change based on what is there now.
    pub async fn patch(&self, path: &str, body: Value) -> Answered {
        let tag = self.get(path).await.tag;
        self.ask(Method::PATCH, path, tag.as_deref(), Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> Answered {
        self.ask(Method::DELETE, path, Some("*"), None).await
    }
}

impl Answered {
    #[track_caller]
    pub fn is(self, status: StatusCode) -> Answered {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }

    /// Pointers of what is wrong.
    pub fn pointers(&self) -> Vec<&str> {
        self.body["errors"].as_array().unwrap().iter().map(|e| e["pointer"].as_str().unwrap()).collect()
    }
}
