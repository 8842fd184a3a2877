//! What people and tokens may do with themselves and with others: nobody keeps, or gives away, more than they have.

mod common;

use common::people::{DEAD_CAMERAS, PASSWORD, client, closed, get_with, liuta, liuta_raw, person, sign_in};
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn who_has_stolen_a_session_gets_no_key_and_can_be_thrown_out() {
    let daemon = closed(DEAD_CAMERAS, &[]).await;
    let old = person(&daemon, "li", "viewer", &[]);
    let own = || sign_in(&daemon, json!({ "name": "li", "password": PASSWORD }));
    let (here, stolen) = (own().await.unwrap(), own().await.unwrap());
    let client = client();
    let new_key = |body: Value| {
        client.post(daemon.url("/api/v1/session/key")).header(header::COOKIE, &stolen).json(&body).send()
    };
    assert_eq!(new_key(json!({})).await.unwrap().status(), StatusCode::BAD_REQUEST);
    let wrong = new_key(json!({ "password": "wrong password" })).await.unwrap();
    assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
    let right = new_key(json!({ "password": PASSWORD })).await.unwrap();
    assert_eq!(right.status(), StatusCode::OK);
    assert_ne!(right.json::<Value>().await.unwrap()["stream_key"], old.as_str());

    person(&daemon, "wang", "viewer", &[]);
    let others = sign_in(&daemon, json!({ "name": "wang", "password": PASSWORD })).await.unwrap();
    let sign_out = |query: &str| {
        let path = daemon.url(&format!("/api/v1/session{query}"));
        client.delete(path).header(header::COOKIE, &here).send()
    };
    let is_in = async |cookie: &str| {
        get_with(&daemon, "/api/v1/cameras", header::COOKIE, cookie).await == StatusCode::OK
    };
    assert_eq!(sign_out("?everywhere=yes").await.unwrap().status(), StatusCode::BAD_REQUEST);
    assert!(is_in(&here).await && is_in(&stolen).await && is_in(&others).await);
    assert_eq!(sign_out("?everywhere=true").await.unwrap().status(), StatusCode::NO_CONTENT);
    assert!(!is_in(&here).await && !is_in(&stolen).await && is_in(&others).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_gives_no_more_than_its_own_scopes() {
    let daemon = closed(DEAD_CAMERAS, &[]).await;
    person(&daemon, "chief", "admin", &[]);
    person(&daemon, "vera", "viewer", &[]);
    let scopes = ["--scope", "configure", "--scope", "live"];
    let create = [&["token", "create", "--role", "admin"][..], &scopes].concat();
    let narrow = liuta(&daemon, &create, "")["token"].as_str().unwrap().to_owned();
    let whole = liuta(&daemon, &create[..4], "")["token"].as_str().unwrap().to_owned();
    let client = client();
    let asks = [
        (Method::POST, "tokens", json!({ "role": "admin" }), false),
        (Method::POST, "tokens", json!({ "role": "admin", "scopes": ["configure", "recordings"] }), false),
        (Method::POST, "tokens", json!({ "role": "operator" }), false),
        (Method::POST, "tokens", json!({ "role": "admin", "scopes": ["configure"] }), true),
        (Method::POST, "tokens", json!({ "role": "viewer" }), true),
        (Method::POST, "users", json!({ "name": "eve", "role": "admin", "password": PASSWORD }), false),
        (Method::POST, "users", json!({ "name": "eve", "role": "viewer", "password": PASSWORD }), true),
        (Method::PATCH, "users/vera", json!({ "role": "admin" }), false),
        (Method::PATCH, "users/vera", json!({ "password": "battery staple" }), true),
        (Method::PATCH, "users/chief", json!({ "password": "battery staple" }), false),
        (Method::PATCH, "users/chief", json!({ "role": "viewer" }), false),
        (Method::POST, "users/chief/key", json!({}), false),
        (Method::POST, "users/vera/key", json!({}), true),
        (Method::DELETE, "users/chief", json!({}), false),
    ];
    for (method, path, body, allowed) in asks {
        let ask = |token: &str| {
            let request = client.request(method.clone(), daemon.url(&format!("/api/v1/{path}")));
            request.bearer_auth(token).json(&body).send()
        };
        let status = ask(&narrow).await.unwrap().status();
        assert_eq!(status.is_success(), allowed, "{method} {path} {body}: {status}");
        assert!(allowed || status == StatusCode::FORBIDDEN, "{method} {path} {body}: {status}");
        if path == "tokens" {
            assert!(ask(&whole).await.unwrap().status().is_success(), "an unlimited token: {body}");
        }
    }
    // Who made what is listed, whatever became of them.
    let made: Vec<Value> = serde_json::from_value(liuta(&daemon, &["token", "list"], "")).unwrap();
    let by_token = made.iter().filter(|token| token["created_by"].as_str().unwrap().starts_with("token "));
    assert_eq!(by_token.count(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_changes_people() {
    let daemon = closed(DEAD_CAMERAS, &[]).await;
    person(&daemon, "chief", "admin", &[]);
    person(&daemon, "li", "viewer", &["gate-1"]);
    let change = |what: &[&str], line: &str| {
        let told = liuta(&daemon, &[&["user", "change", "li"], what].concat(), line);
        (told["role"].clone(), told["cameras"].clone(), told["disabled"].clone())
    };
    let enter = |password: &'static str| sign_in(&daemon, json!({ "name": "li", "password": password }));
    let cookie = enter(PASSWORD).await.unwrap();
    assert_eq!(change(&["--role", "operator"], ""), (json!("operator"), json!(["gate-1"]), json!(false)));
    let group = ["--camera", "group:school", "--camera", "road-1"];
    assert_eq!(change(&group, "").1, json!(["group:school", "road-1"]));
    assert_eq!(change(&["--every-camera", "--disable"], ""), (json!("operator"), Value::Null, json!(true)));
    common::until(std::time::Duration::from_secs(5), "the session ends", async || {
        let status = get_with(&daemon, "/api/v1/cameras", header::COOKIE, &cookie).await;
        (status == StatusCode::UNAUTHORIZED).then_some(())
    })
    .await;
    assert!(enter(PASSWORD).await.is_err());
    change(&["--enable", "--password-stdin"], "battery staple");
    assert!(enter(PASSWORD).await.is_err() && enter("battery staple").await.is_ok());
    for wrong in [
        &["user", "change", "li"][..],
        &["user", "change", "li", "--enable", "--disable"],
        &["user", "change", "nobody", "--enable"],
        &["user", "change", "li", "--camera", "gate-9"],
        &["user", "change", "chief", "--disable"],
        &["user", "add", "LI", "--role", "viewer", "--password-stdin"],
        &["user", "add", "l\u{456}", "--role", "viewer", "--password-stdin"],
    ] {
        assert!(!liuta_raw(&daemon, wrong, PASSWORD).status.success(), "{wrong:?}");
    }
    for weak in ["          ", "1234567890", "password12"] {
        let refused = liuta_raw(&daemon, &["user", "change", "li", "--password-stdin"], weak);
        assert!(String::from_utf8_lossy(&refused.stderr).contains("password: "), "{weak:?}: {refused:?}");
    }
}
