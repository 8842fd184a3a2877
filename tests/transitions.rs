//! What people do with alerts, with the real binary: judged, written down, and told to the dispatch system.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::client::Client;
use common::desk::Desk;
use common::{Daemon, until};
use jiff::{SignedDuration, Timestamp};
use liuta::store::Store;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);

const CAMERAS: &str = "[vision]\nenabled = false\n[cameras.gate-1]\nurl = \"rtsp://127.0.0.1:1/a\"\n\
    [cameras.road-1]\nurl = \"rtsp://127.0.0.1:1/b\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_is_worked_on_until_it_is_closed_and_dispatch_is_told_each_step() {
    let desk = Desk::start().await;
    let mut daemon = Daemon::start(&(desk.section() + CAMERAS)).await;
    let store = Store::open(&daemon.data()).unwrap();
    let at = Timestamp::now() - SignedDuration::from_secs(60);
    for id in ["01A", "01B"] {
        let alert = common::alert::alert(id, "gate-1", at);
        store.put_alert(&alert, Some(&Bytes::from_static(b"jpeg")), &[]).unwrap();
    }
    let dispatch = Client::of(&daemon, "dispatch", &["gate-1"]);
    let path = "/api/v1/alerts/01A/transitions";
    let to = async |to: &str| dispatch.post(path, json!({ "to": to })).await;

    // Who may see alerts but not work on them, and whose camera it is not.
    let operator = Client::of(&daemon, "operator", &[]);
    operator.post(path, json!({ "to": "accepted" })).await.is(StatusCode::FORBIDDEN);
    let other = Client::of(&daemon, "dispatch", &["road-1"]);
    other.post(path, json!({ "to": "accepted" })).await.is(StatusCode::NOT_FOUND);

    let skipped = to("closed").await.is(StatusCode::CONFLICT);
    assert_eq!(skipped.body["type"], "urn:liuta:problem:not-now");
    assert!(skipped.body["detail"].as_str().unwrap().ends_with("accepted, rejected"), "{}", skipped.body);
    dispatch.post(path, json!({ "to": "rejected" })).await.is(StatusCode::BAD_REQUEST);
    dispatch.post(path, json!({ "to": "accepted", "note": "\u{1b}[31m" })).await.is(StatusCode::BAD_REQUEST);

    // Of many who take it at once, one does.
    let taking =
        (0..6).map(|n| dispatch.post(path, json!({ "to": "accepted", "note": format!("unit {n}") })));
    let taken = futures::future::join_all(taking).await;
    let won: Vec<_> = taken.iter().filter(|answer| answer.status == StatusCode::CREATED).collect();
    assert_eq!(won.len(), 1);
    assert_eq!((&won[0].body["disposition"], &won[0].body["revision"]), (&json!("accepted"), &json!(2)));
    assert!(taken.iter().all(|a| matches!(a.status, StatusCode::CREATED | StatusCode::CONFLICT)));

    // Based on a revision that is no more.
    let body = json!({ "to": "assigned" });
    let stale = dispatch.ask(Method::POST, path, Some("\"1\""), Some(body.clone())).await;
    stale.is(StatusCode::PRECONDITION_FAILED);
    dispatch.ask(Method::POST, path, Some("\"2\""), Some(body)).await.is(StatusCode::CREATED);
    // Vision goes on meanwhile, and keeps what people did.
    for disposition in ["extended", "handled", "rework", "handled", "verified", "closed"] {
        to(disposition).await.is(StatusCode::CREATED);
    }
    let end = to("accepted").await.is(StatusCode::CONFLICT);
    assert!(end.body["detail"].as_str().unwrap().contains("nothing any more"), "{}", end.body);

    // A slip of the hand is mended.
    let wrong = json!({ "to": "rejected", "reason": "false_alarm", "note": "尾灯\n两盏" });
    dispatch.post("/api/v1/alerts/01B/transitions", wrong).await.is(StatusCode::CREATED);
    dispatch
        .post("/api/v1/alerts/01B/transitions", json!({ "to": "accepted" }))
        .await
        .is(StatusCode::CREATED);

    // The dispatch system was told all of it, in order, with the picture's hash.
    let told = until(MINUTE, "every revision at the desk", async || {
        let all = desk.received();
        (all.len() >= 10).then_some(all)
    })
    .await;
    let of = |id: &str| -> Vec<Value> {
        let alerts = told.iter().map(|received| received.alert()).filter(|alert| alert["id"] == id);
        alerts.map(|alert| alert["disposition"].clone()).collect()
    };
    let whole = ["accepted", "assigned", "extended", "handled", "rework", "handled", "verified", "closed"];
    assert_eq!(of("01A"), whole);
    assert_eq!(of("01B"), ["rejected", "accepted"]);
    assert_eq!(told[0].id, "01A.2");
    assert_eq!(told[0].alert()["snapshot"]["sha256"].as_str().unwrap().len(), 64);

    // And it can be looked up: what, who, when.
    let first = dispatch.get(&format!("{path}?limit=3")).await.is(StatusCode::OK).body;
    assert!(first["items"][0]["note"].as_str().unwrap().starts_with("unit "), "{first}");
    let rest = dispatch.get(&format!("{path}?cursor={}", first["next"].as_str().unwrap())).await.body;
    let done = [&first, &rest].map(|page| page["items"].as_array().unwrap().clone()).concat();
    assert_eq!(done.iter().map(|row| row["to"].as_str().unwrap()).collect::<Vec<_>>(), whole);
    assert!(done.iter().all(|row| row["who"].as_str().unwrap().starts_with("token ")));
    let audit = daemon.json("/api/v1/audit?action=acknowledge&object=alert/01B").await;
    let details: Vec<_> =
        audit["items"].as_array().unwrap().iter().map(|row| row["detail"].clone()).collect();
    assert_eq!(details, ["rejected to accepted", "reported to rejected"]);
    assert!(store.verify_audit().unwrap().broken.is_none());
    assert_eq!(dispatch.get("/api/v1/alerts/01A").await.tag.as_deref(), Some("\"9\""));
}
