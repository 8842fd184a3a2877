//! Deliveries against real HTTP servers: what arrives, in which order, how often, and what is said about it.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use jiff::Timestamp;
use liuta::access::Links;
use liuta::alert::{Alert, Detection, Disposition, Phase};
use liuta::config::{Destination, DestinationKind, Kind, Secret, Site};
use liuta::dispatch::Dispatch;
use liuta::health::{Health, Severity};
use liuta::store::Store;
use tokio::net::TcpListener;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A request as it came in.
#[derive(Clone, Debug)]
struct Request {
    headers: HeaderMap,
    body: Bytes,
}

impl Request {
    fn id(&self) -> &str {
        self.headers["webhook-id"].to_str().unwrap()
    }
}

type Answer = Arc<dyn Fn(&Request, usize) -> Response + Send + Sync>;

/// A receiver that answers the n-th request as told.
struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(answer: impl Fn(&Request, usize) -> Response + Send + Sync + 'static) -> Server {
        Server::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), answer)
    }

    fn on(
        listener: TcpListener,
        answer: impl Fn(&Request, usize) -> Response + Send + Sync + 'static,
    ) -> Server {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let address = listener.local_addr().unwrap();
        let state: (Arc<Mutex<Vec<Request>>>, Answer) = (requests.clone(), Arc::new(answer));
        async fn handle(
            State((requests, answer)): State<(Arc<Mutex<Vec<Request>>>, Answer)>,
            headers: HeaderMap,
            body: Bytes,
        ) -> Response {
            let request = Request { headers, body };
            let n = {
                let mut requests = requests.lock().unwrap();
                requests.push(request.clone());
                requests.len() - 1
            };
            answer(&request, n)
        }
        let router = Router::new().fallback(post(handle)).with_state(state);
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Server { address, requests, task }
    }

    fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    fn ids(&self) -> Vec<String> {
        self.requests().iter().map(|request| request.id().to_owned()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn ok(_: &Request, _: usize) -> Response {
    StatusCode::NO_CONTENT.into_response()
}

struct Box_ {
    folder: tempfile::TempDir,
    store: Arc<Store>,
    health: Health,
    dispatch: Arc<Dispatch>,
}

fn destination(name: &str, address: SocketAddr) -> Destination {
    Destination {
        name: name.to_owned(),
        kind: DestinationKind::Webhook {
            url: format!("http://user:hunter2@{address}/alerts?key=hunter3").parse().unwrap(),
            secret: Some(Secret::new(SECRET)),
        },
        reach: liuta::config::reach::Reach::default(),
        expire: Duration::from_secs(3600),
    }
}

fn site() -> Site {
    Site { id: "edge-1".to_owned(), public_url: "http://box.example:8080".parse().unwrap() }
}

fn map(destinations: impl IntoIterator<Item = Destination>) -> BTreeMap<String, Arc<Destination>> {
    destinations.into_iter().map(|destination| (destination.name.clone(), Arc::new(destination))).collect()
}

fn start(destinations: impl IntoIterator<Item = Destination>) -> Box_ {
    start_in(tempfile::tempdir().unwrap(), destinations)
}

fn start_in(folder: tempfile::TempDir, destinations: impl IntoIterator<Item = Destination>) -> Box_ {
    let store = Store::open(folder.path()).unwrap();
    let health = Health::default();
    let links = Links::new([1; 32]);
    let dispatch = Dispatch::start(&map(destinations), site(), store.clone(), links, health.clone());
    Box_ { folder, store, health, dispatch }
}

impl Box_ {
    fn raise(&self, alert: &Alert) {
        let events = self.dispatch.events(alert, Some("ab12"));
        self.store.put_alert(alert, None, &events).unwrap();
        self.dispatch.wake();
    }

    fn pending(&self, destination: &str) -> u64 {
        self.store.outbox_state(destination).unwrap().1
    }

    fn state(&self, subject: &str) -> (Severity, String) {
        self.health
            .snapshot()
            .get(subject)
            .map_or((Severity::Ok, String::new()), |state| (state.severity, state.message.clone()))
    }
}

fn alert(n: u32) -> Alert {
    let at: Timestamp = "2026-03-01T02:03:04Z".parse().unwrap();
    Alert {
        id: format!("01JTEST{n:05}"),
        revision: 1,
        phase: Phase::Active,
        disposition: Disposition::Reported,
        kind: Kind::Fire,
        level: 1,
        camera: "forest-1".into(),
        scene: "forest-fire".to_owned(),
        zone: Some("slope".to_owned()),
        grid: Some("610881103001002".to_owned()),
        position: Some([110.2345, 39.1234]),
        confidence: 0.87,
        model: "liuta-watch-n@1.2.0".to_owned(),
        started_at: at,
        ended_at: None,
        count: 7,
        boxes: vec![Detection { class: "fire".to_owned(), score: 0.87, bbox: [0.41, 0.52, 0.47, 0.61] }],
        snapshot_at: at,
        evidence_start: at,
        evidence_end: at + Duration::from_secs(30),
        drill: false,
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "not within 60 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

#[test]
fn an_event_is_a_signed_cloud_event_with_the_contracts_alert() {
    run(async {
        let server = Server::start(ok).await;
        let liuta = start([destination("desk", server.address)]);
        liuta.raise(&alert(1));
        until("acknowledged", || liuta.pending("desk") == 0 && !server.requests().is_empty()).await;
        let request = server.requests().remove(0);
        standardwebhooks::Webhook::new(SECRET).unwrap().verify(&request.body, &request.headers).unwrap();
        let type_ = request.headers["content-type"].to_str().unwrap();
        assert!(type_.starts_with("application/cloudevents+json"), "{type_}");

        let event: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(event["specversion"], "1.0");
        assert_eq!(event["type"], "liuta.alert.v1");
        assert_eq!(event["id"], "01JTEST00001.1");
        assert_eq!(event["id"], request.id());
        assert_eq!(event["source"], "liuta://edge-1");
        assert_eq!(event["subject"], "forest-1");
        event["time"].as_str().unwrap().parse::<Timestamp>().unwrap();
        let text = std::str::from_utf8(&request.body).unwrap();
        for part in [
            r#""id":"01JTEST00001","revision":1,"phase":"active","disposition":"reported","kind":"fire","level":1"#,
            r#""camera":"forest-1","scene":"forest-fire""#,
            r#""grid":"610881103001002","position":[110.2345,39.1234],"confidence":0.87,"model":"liuta-watch-n@1.2.0""#,
            r#""started_at":"2026-03-01T02:03:04Z","ended_at":null,"count":7"#,
            r#""boxes":[{"class":"fire","score":0.87,"box":[0.41,0.52,0.47,0.61]}]"#,
            r#""sha256":"ab12""#,
            r#""start":"2026-03-01T02:03:04Z","end":"2026-03-01T02:03:34Z""#,
            r#""drill":false"#,
        ] {
            assert!(text.contains(part), "{part}\nnot in {text}");
        }
        for (what, file) in [("snapshot", "snapshot.jpg"), ("clip", "clip.mp4")] {
            let url: url::Url = event["data"][what]["url"].as_str().unwrap().parse().unwrap();
            assert_eq!(url.origin().ascii_serialization(), "http://box.example:8080");
            assert_eq!(url.path(), format!("/api/v1/alerts/01JTEST00001/{file}"));
            let query: HashMap<_, _> = url.query_pairs().collect();
            let links = Links::new([1; 32]);
            assert!(links.opens(url.path(), &query["expires"], &query["signature"], Timestamp::now()));
        }
        let metrics = liuta.health.metrics.encode();
        assert!(metrics.contains("liuta_outbox_delivery_seconds_count{destination=\"desk\"} 1"), "{metrics}");
    });
}

#[test]
fn a_failing_receiver_gets_the_same_event_again_and_again() {
    run(async {
        let server = Server::start(|_, n| match n {
            0 | 1 => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            2 => StatusCode::BAD_REQUEST.into_response(),
            _ => StatusCode::OK.into_response(),
        })
        .await;
        let liuta = start([destination("desk", server.address)]);
        liuta.raise(&alert(1));
        until("a failure is told", || liuta.state("dispatch/desk").0 > Severity::Ok).await;
        until("acknowledged", || liuta.pending("desk") == 0).await;
        until("recovered", || liuta.state("dispatch/desk").0 == Severity::Ok).await;
        assert_eq!(server.ids(), ["01JTEST00001.1"; 4]);
        let requests = server.requests();
        assert!(requests.iter().all(|request| request.body == requests[0].body));
        for request in &requests {
            standardwebhooks::Webhook::new(SECRET).unwrap().verify(&request.body, &request.headers).unwrap();
        }
    });
}

#[test]
fn an_absent_receiver_gets_everything_when_it_comes_even_after_a_restart() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let liuta = start([destination("desk", address)]);
        let mut again = alert(1);
        liuta.raise(&again);
        again.revision = 2;
        again.phase = Phase::Ended;
        liuta.raise(&again);
        liuta.raise(&alert(2));
        until("a failed attempt", || {
            let noted =
                liuta.store.due("desk", Timestamp::MAX, 9).unwrap().iter().any(|entry| entry.attempts > 0);
            // The attempt is noted in the store before the state is set.
            noted && !liuta.state("dispatch/desk").1.is_empty()
        })
        .await;
        let (_, message) = liuta.state("dispatch/desk");
        assert!(
            message.contains(&address.to_string()) && message.contains("cannot connect: Connection refused"),
            "{message}"
        );
        assert!(!message.contains("hunter"), "{message}");
        liuta.dispatch.stop().await;
        let Box_ { folder, store, dispatch, .. } = liuta;
        drop((store, dispatch));

        let server = Server::on(TcpListener::bind(address).await.unwrap(), ok);
        let liuta = start_in(folder, [destination("desk", address)]);
        until("everything arrived", || liuta.pending("desk") == 0).await;
        let ids = server.ids();
        let place = |id: &str| ids.iter().position(|found| found == id).unwrap();
        assert!(place("01JTEST00001.1") < place("01JTEST00001.2"), "{ids:?}");
        assert_eq!(ids.len(), 3, "{ids:?}");
    });
}

#[test]
fn revisions_arrive_in_order_although_attempts_fail() {
    run(async {
        let server = Server::start(|_, n| match n % 3 {
            1 => StatusCode::SERVICE_UNAVAILABLE.into_response(),
            _ => StatusCode::OK.into_response(),
        })
        .await;
        let liuta = start([destination("desk", server.address)]);
        for revision in 1..=4 {
            for n in 0..2 {
                liuta.raise(&Alert { revision, ..alert(n) });
            }
        }
        until("everything arrived", || liuta.pending("desk") == 0).await;
        for n in 0..2 {
            let mut ids: Vec<_> = server.ids();
            ids.retain(|id| id.starts_with(&alert(n).id));
            ids.dedup();
            let expected: Vec<_> = (1..=4).map(|revision| format!("{}.{revision}", alert(n).id)).collect();
            assert_eq!(ids, expected);
        }
    });
}

#[test]
fn a_refusal_of_one_event_does_not_hold_up_others_and_is_told() {
    run(async {
        let server = Server::start(|request, _| match request.id() {
            "01JTEST00001.1" => StatusCode::UNPROCESSABLE_ENTITY.into_response(),
            _ => StatusCode::OK.into_response(),
        })
        .await;
        let liuta = start([destination("desk", server.address)]);
        for n in 1..=20 {
            liuta.raise(&alert(n));
        }
        until("the others arrived", || liuta.pending("desk") == 1).await;
        until("the refusal is told", || liuta.state("dispatch/desk").1.contains("422")).await;
        let (severity, _) = liuta.state("dispatch/desk");
        assert!(severity > Severity::Ok);
        let metrics = liuta.health.metrics.encode();
        assert!(metrics.contains("liuta_outbox_pending{destination=\"desk\"} 1"), "{metrics}");
    });
}

#[test]
fn redirects_are_not_followed() {
    run(async {
        let elsewhere = Server::start(ok).await;
        let target = format!("http://{}/", elsewhere.address);
        let server = Server::start(move |_, _| {
            (StatusCode::TEMPORARY_REDIRECT, [("location", target.clone())]).into_response()
        })
        .await;
        let liuta = start([destination("desk", server.address)]);
        liuta.raise(&alert(1));
        until("two attempts", || server.requests().len() >= 2).await;
        let (severity, message) = liuta.state("dispatch/desk");
        assert_eq!(severity, Severity::Failed);
        assert!(message.contains("redirects are not followed"), "{message}");
        assert_eq!(liuta.pending("desk"), 1);
        assert!(elsewhere.requests().is_empty());
    });
}

#[test]
fn what_expires_is_a_dead_letter_that_health_shows() {
    run(async {
        let server = Server::start(|_, _| StatusCode::BAD_GATEWAY.into_response()).await;
        let short = Destination { expire: Duration::from_secs(2), ..destination("desk", server.address) };
        let liuta = start([short]);
        liuta.raise(&alert(1));
        liuta.raise(&Alert { revision: 2, ..alert(1) });
        until("given up", || liuta.pending("desk") == 0).await;
        until("shown", || liuta.state("dispatch/desk/undelivered").0 == Severity::Degraded).await;
        let (count, latest) = liuta.store.dead_letters("desk", Timestamp::MIN).unwrap();
        let latest = latest.unwrap();
        assert_eq!((count, latest.event.as_str()), (2, "01JTEST00001.2"));
        let (_, message) = liuta.state("dispatch/desk/undelivered");
        assert!(message.contains("not acknowledged within 2s"), "{message}");
    });
}

#[test]
fn endless_and_slow_answers_hold_up_nobody_else() {
    run(async {
        let endless = Server::start(|_, _| {
            let chunk = Bytes::from_static(&[b'x'; 65536]);
            Body::from_stream(futures::stream::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone())))
                .into_response()
        })
        .await;
        // Accepts and never answers: the kernel completes the connections.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let quick = Server::start(ok).await;
        let liuta = start([
            destination("endless", endless.address),
            destination("quick", quick.address),
            destination("silent", silent.local_addr().unwrap()),
        ]);
        for n in 0..8 {
            liuta.raise(&alert(n));
        }
        let start = Instant::now();
        until("the quick one has all", || liuta.pending("quick") == 0).await;
        until("the endless one has said yes", || liuta.pending("endless") == 0).await;
        assert_eq!(liuta.pending("silent"), 8);
        assert!(start.elapsed() < Duration::from_secs(40));
        until("silence is told", || liuta.state("dispatch/silent").1.contains("no answer within")).await;
        let stopped = Instant::now();
        liuta.dispatch.stop().await;
        assert!(stopped.elapsed() < Duration::from_secs(10));
    });
}

#[test]
fn events_that_the_store_refuses_are_sent_from_memory_and_only_once() {
    run(async {
        let server = Server::start(ok).await;
        let liuta = start([destination("desk", server.address)]);
        let events = liuta.dispatch.events(&alert(1), None);
        liuta.dispatch.send_unstored(&alert(1), &events);
        until("arrived", || server.requests().len() == 1).await;
        liuta.store.put_alert(&alert(1), None, &events).unwrap();
        liuta.dispatch.wake();
        until("noted", || liuta.pending("desk") == 0).await;
        assert_eq!(server.ids(), ["01JTEST00001.1"]);
    });
}

#[test]
fn a_store_that_cannot_commit_costs_neither_a_delivery_nor_a_second_one() {
    run(async {
        let server = Server::start(ok).await;
        let liuta = start([destination("desk", server.address)]);
        // Somebody else holds the write lock, as a disk that does not answer would.
        let mut other = rusqlite::Connection::open(liuta.folder.path().join("state.db")).unwrap();
        let events = liuta.dispatch.events(&alert(1), None);
        liuta.store.put_alert(&alert(1), None, &events).unwrap();
        let lock = other.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
        liuta.dispatch.wake();
        until("the stored one arrived", || server.requests().len() == 1).await;
        for n in 2..=20 {
            liuta.dispatch.send_unstored(&alert(n), &liuta.dispatch.events(&alert(n), None));
        }
        until("those in memory arrived", || server.requests().len() == 20).await;
        until("the trouble is told", || liuta.state("dispatch/desk").1.contains("outbox")).await;
        assert_eq!(liuta.state("dispatch/desk").0, Severity::Failed);
        drop(lock);
        for n in 2..=20 {
            let events = liuta.dispatch.events(&alert(n), None);
            liuta.store.put_alert(&alert(n), None, &events).unwrap();
        }
        liuta.dispatch.wake();
        until("noted", || liuta.pending("desk") == 0).await;
        until("recovered", || liuta.state("dispatch/desk").0 == Severity::Ok).await;
        let mut ids = server.ids();
        ids.sort();
        ids.dedup();
        assert_eq!((ids.len(), server.requests().len()), (20, 20), "each once");
    });
}

#[test]
fn a_reload_adds_moves_and_removes_destinations() {
    run(async {
        let (first, second) = (Server::start(ok).await, Server::start(ok).await);
        let liuta = start([destination("desk", first.address)]);
        liuta.dispatch.reconfigure(
            &map([destination("desk", second.address), destination("wall", first.address)]),
            site(),
        );
        liuta.raise(&alert(1));
        until("both have it", || first.ids().len() == 1 && second.ids().len() == 1).await;
        liuta.dispatch.reconfigure(&map([destination("wall", first.address)]), site());
        liuta.raise(&alert(2));
        until("the one that is left has it", || first.ids().len() == 2).await;
        assert_eq!(second.ids().len(), 1);
        assert!(!liuta.health.snapshot().contains_key("dispatch/desk"));
    });
}

#[test]
fn the_demo_receiver_takes_what_is_signed_and_prints_each_alert_once() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let out = lines.clone();
        tokio::spawn(liuta::demo::receiver::receive(listener, Some(Secret::new(SECRET)), move |line| {
            out.lock().unwrap().push(line.to_owned());
        }));
        let liuta = start([destination("desk", address)]);
        liuta.raise(&alert(1));
        until("acknowledged", || liuta.pending("desk") == 0).await;
        let printed = lines.lock().unwrap().clone();
        let expected =
            "02:03:04Z  level 1  fire  active  forest-1  87 %  http://box.example:8080/api/v1/alerts/";
        assert!(printed[0].starts_with(expected), "{printed:?}");

        let body = r#"{"data":{"kind":"fire"}}"#;
        let webhook = standardwebhooks::Webhook::new(SECRET).unwrap();
        let now = Timestamp::now().as_second();
        let http = reqwest::Client::new();
        for (at, tamper, expected) in
            [(now, "", 204), (now, "", 204), (now, " ", 401), (now - 400, "", 401), (now + 400, "", 401)]
        {
            let answer = http
                .post(format!("http://{address}/alerts"))
                .header("webhook-id", "x.1")
                .header("webhook-timestamp", at)
                .header("webhook-signature", webhook.sign("x.1", at, body.as_bytes()).unwrap())
                .body(format!("{body}{tamper}"))
                .send()
                .await
                .unwrap();
            assert_eq!(answer.status(), expected, "at {} with {tamper:?}", at - now);
        }
        assert_eq!(lines.lock().unwrap().len(), 2, "a repetition is not printed");
    });
}
