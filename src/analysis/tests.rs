use std::path::Path;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use super::*;
use crate::access::Links;
use crate::alert::watch::tests::with_fixed_rules;
use crate::alert::{Disposition, Phase};
use crate::config::{Config, file};
use crate::store::Filter;

#[test]
fn an_event_that_never_ends_keeps_its_beginning_alone() {
    let at = |second: i64| Timestamp::from_second(second).unwrap();
    assert_eq!(kept(at(1000), at(990)..at(1030)), at(990)..at(1030));
    assert_eq!(kept(at(1000), at(990)..at(90_000)), at(990)..at(1600));
}

struct Bench {
    config: Config,
    store: Arc<Store>,
    ring: Arc<Ring>,
    dispatch: Arc<Dispatch>,
    health: Health,
    data: tempfile::TempDir,
}

/// Nobody listens there: what is sent stays in the outbox.
fn bench() -> Bench {
    bench_telling("127.0.0.1:1")
}

fn bench_telling(desk: &str) -> Bench {
    let data = tempfile::tempdir().unwrap();
    let text = format!(
        "data = {:?}\n[record]\nmin_free = \"1MB\"\n[dispatch.desk]\ntype = \"webhook\"\n\
         url = \"http://{desk}/alerts\"\n[cameras.forest-1]\nurl = \"rtsp://127.0.0.1:1/\"\nscene = \"forest-fire\"",
        data.path()
    );
    let config = file::parse(Path::new("/nowhere/liuta.toml"), text).unwrap();
    // The process has one; another test may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let health = Health::default();
    let store = Store::open(&config.data).unwrap();
    let ring = Ring::open(&config.data, config.record.clone(), health.clone()).unwrap();
    let (site, links) = (config.site.clone(), Links::new([1; 32]));
    let dispatch = Dispatch::start(&config.dispatch, site, store.clone(), links, health.clone());
    Bench { config, store, ring, dispatch, health, data }
}

impl Bench {
    /// An analysis that watches the forest, and where looks go in.
    fn start(&self) -> (Arc<Analysis>, mpsc::Sender<Looked>) {
        let (looks, found) = mpsc::channel(4);
        let (store, ring) = (self.store.clone(), self.ring.clone());
        let (dispatch, health) = (self.dispatch.clone(), self.health.clone());
        let analysis = Analysis::start(store, ring, dispatch, health, found);
        analysis.watch(with_fixed_rules(&self.config.cameras["forest-1"]));
        (analysis, looks)
    }

    fn alerts(&self) -> Vec<Alert> {
        self.store.alerts(&Filter { limit: 100, ..Filter::default() }).unwrap().items
    }

    /// The only alert, once it is as wanted.
    async fn alert(&self, wanted: impl Fn(&Alert) -> bool) -> Alert {
        for _ in 0..600 {
            if let [alert] = &*self.alerts()
                && wanted(alert)
            {
                return alert.clone();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("it did not come to that: {:?}", self.alerts());
    }

    /// Waits until alerts are known not to be stored.
    async fn alarm(&self) {
        for _ in 0..600 {
            if self.health.snapshot().get(SUBJECT).is_some_and(|state| state.severity == Severity::Failed) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no alarm: {:?}", self.health.snapshot());
    }

    /// Waits until the destination has acknowledged everything.
    async fn all_delivered(&self) {
        for _ in 0..600 {
            if self.store.outbox_state("desk").unwrap().1 == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the outbox is not emptied");
    }
}

/// A dispatch desk that acknowledges whatever comes: its address, and the events.
async fn desk() -> (String, mpsc::UnboundedReceiver<serde_json::Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (events, received) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let events = events.clone();
            tokio::spawn(async move {
                let mut socket = BufReader::new(socket);
                loop {
                    let mut length = 0;
                    loop {
                        let mut line = String::new();
                        if socket.read_line(&mut line).await.unwrap_or(0) == 0 {
                            return;
                        }
                        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                            length = value.trim().parse().unwrap();
                        }
                        if line == "\r\n" {
                            break;
                        }
                    }
                    let mut body = vec![0; length];
                    socket.read_exact(&mut body).await.unwrap();
                    let _ = events.send(serde_json::from_slice(&body).unwrap());
                    socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
                }
            });
        }
    });
    (address, received)
}

/// The next event's id, with what stands in it.
async fn told(events: &mut mpsc::UnboundedReceiver<serde_json::Value>) -> (String, serde_json::Value) {
    let event = tokio::time::timeout(Duration::from_secs(60), events.recv()).await.unwrap().unwrap();
    (event["id"].as_str().unwrap().to_owned(), event["data"].clone())
}

/// Three looks at a fire, from this second on.
async fn burn(looks: &mpsc::Sender<Looked>, from: i64) {
    let mut jpeg = Vec::new();
    let picture = image::RgbImage::from_pixel(64, 36, image::Rgb([80; 3]));
    image::codecs::jpeg::JpegEncoder::new(&mut jpeg).encode_image(&picture).unwrap();
    for second in [from, from + 2, from + 4] {
        let fire = Detection { class: "fire".into(), score: 0.8, bbox: [0.4, 0.5, 0.5, 0.6] };
        let nonsense = Detection { score: f32::NAN, ..fire.clone() };
        let looked = Looked {
            camera: "forest-1".into(),
            capture: Timestamp::from_second(1_780_000_000 + second).unwrap(),
            detections: vec![nonsense, fire],
            jpeg: Some(jpeg.clone().into()),
            model: "m@1".into(),
        };
        looks.send(looked).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fire_is_stored_with_its_picture_and_waits_in_the_outbox() {
    let bench = bench();
    let (analysis, looks) = bench.start();
    burn(&looks, 0).await;
    let alert = bench.alert(|_| true).await;
    assert_eq!((alert.revision, alert.phase, alert.count), (1, Phase::Active, 3));
    let snapshot = bench.store.snapshot(&alert.id).unwrap().unwrap();
    assert_eq!(image::load_from_memory(&snapshot).unwrap().width(), 64);
    assert_eq!(bench.store.outbox_state("desk").unwrap().1, 1);
    let detections = bench.store.detections(&Filter { limit: 100, ..Filter::default() }).unwrap();
    assert_eq!(detections.items.len(), 3, "the nonsense is left out");
    assert!(analysis.stop(Duration::from_secs(30)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fire_that_burns_over_a_restart_is_one_alert_and_ends_with_its_camera() {
    let bench = bench();
    let (analysis, looks) = bench.start();
    burn(&looks, 0).await;
    let before = bench.alert(|_| true).await;
    assert!(analysis.stop(Duration::from_secs(30)).await);
    let (analysis, looks) = bench.start();
    burn(&looks, 20).await;
    // Closing the way in and stopping waits until all has been looked at.
    drop(looks);
    analysis.unwatch("forest-1");
    let ended = bench.alert(|alert| alert.phase == Phase::Ended).await;
    assert_eq!((&ended.id, ended.revision), (&before.id, before.revision + 1));
    assert!(analysis.stop(Duration::from_secs(30)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_refuses_is_sent_from_memory_once_and_stored_later() {
    let (address, mut events) = desk().await;
    let bench = bench_telling(&address);
    let (analysis, looks) = bench.start();
    let sabotage = rusqlite::Connection::open(bench.data.path().join("state.db")).unwrap();
    sabotage.execute_batch("ALTER TABLE alerts RENAME TO away").unwrap();
    burn(&looks, 0).await;
    let (event, data) = told(&mut events).await;
    bench.alarm().await;
    sabotage.execute_batch("ALTER TABLE away RENAME TO alerts").unwrap();
    let stored = bench.alert(|_| true).await;
    assert_eq!((event, data["id"].as_str()), (format!("{}.1", stored.id), Some(&*stored.id)));
    bench.all_delivered().await;
    assert!(analysis.stop(Duration::from_secs(30)).await);
    assert_eq!(bench.health.snapshot()[SUBJECT].severity, Severity::Ok);
    assert!(events.try_recv().is_err(), "it is not sent again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_hangs_delays_no_alert() {
    let (address, mut events) = desk().await;
    let bench = bench_telling(&address);
    let (analysis, looks) = bench.start();
    let hog = rusqlite::Connection::open(bench.data.path().join("state.db")).unwrap();
    hog.busy_timeout(Duration::from_secs(30)).unwrap();
    hog.execute_batch("BEGIN IMMEDIATE").unwrap();
    burn(&looks, 0).await;
    let (first, _) = told(&mut events).await;
    bench.alarm().await;
    // The analysis goes on, too: the same fire gets its last revision.
    analysis.unwatch("forest-1");
    let (second, data) = told(&mut events).await;
    assert_eq!(data["phase"], "ended");
    assert!(bench.alerts().is_empty());
    hog.execute_batch("COMMIT").unwrap();
    let stored = bench.alert(|alert| alert.phase == Phase::Ended).await;
    assert_eq!((first, second), (format!("{}.1", stored.id), format!("{}.2", stored.id)));
    bench.all_delivered().await;
    assert!(analysis.stop(Duration::from_secs(30)).await);
    assert!(events.try_recv().is_err(), "nothing is sent again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_did_with_an_alert_stands() {
    let (address, mut events) = desk().await;
    let bench = bench_telling(&address);
    let (analysis, looks) = bench.start();
    burn(&looks, 0).await;
    let mut alert = bench.alert(|_| true).await;
    // Two steps of somebody at the desk take the numbers that the analysis would give next.
    for disposition in [Disposition::Accepted, Disposition::Assigned] {
        (alert.revision, alert.disposition) = (alert.revision + 1, disposition);
        bench.store.put_alert(&alert, None, &[]).unwrap();
    }
    analysis.unwatch("forest-1");
    let ended = bench.alert(|alert| alert.phase == Phase::Ended).await;
    assert_eq!((ended.revision, ended.disposition), (4, Disposition::Assigned));
    assert_eq!(told(&mut events).await.0, format!("{}.1", alert.id));
    let (event, data) = told(&mut events).await;
    assert_eq!((event, data["disposition"].as_str()), (format!("{}.4", alert.id), Some("assigned")));
    assert!(analysis.stop(Duration::from_secs(30)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_alert_that_cannot_be_read_does_not_hold_up_others() {
    let bench = bench();
    let (analysis, looks) = bench.start();
    burn(&looks, 0).await;
    let alert = bench.alert(|_| true).await;
    let sabotage = rusqlite::Connection::open(bench.data.path().join("state.db")).unwrap();
    sabotage.execute("UPDATE alerts SET body = '{}', revision = 8", []).unwrap();
    analysis.unwatch("forest-1");
    for _ in 0..600 {
        if bench.store.alert(&alert.id).is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(bench.alert(|_| true).await.revision, 9);
    assert!(analysis.stop(Duration::from_secs(30)).await);
}
