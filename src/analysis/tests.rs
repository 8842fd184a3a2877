use std::path::Path;

use jiff::Timestamp;

use super::*;
use crate::access::Links;
use crate::alert::Phase;
use crate::config::{Config, file};
use crate::store::Filter;

struct Bench {
    config: Config,
    sinks: Sinks,
    data: tempfile::TempDir,
}

fn bench() -> Bench {
    let data = tempfile::tempdir().unwrap();
    // Nobody listens there: what is sent stays in the outbox.
    let text = format!(
        "data = {:?}\n[record]\nmin_free = \"1MB\"\n[dispatch.desk]\ntype = \"webhook\"\n\
         url = \"http://127.0.0.1:1/alerts\"\n[cameras.forest-1]\nurl = \"rtsp://127.0.0.1:1/\"\nscene = \"forest-fire\"",
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
    Bench { config, sinks: Sinks { store, ring, dispatch, health }, data }
}

impl Bench {
    /// An analysis that watches the forest, and where looks go in.
    fn start(&self) -> (Arc<Analysis>, mpsc::Sender<Looked>) {
        let (looks, found) = mpsc::channel(4);
        let Sinks { store, ring, dispatch, health } = self.sinks.clone();
        let analysis = Analysis::start(store, ring, dispatch, health, found);
        analysis.watch(self.config.cameras["forest-1"].clone());
        (analysis, looks)
    }

    fn alerts(&self) -> Vec<Alert> {
        self.sinks.store.alerts(&Filter { limit: 100, ..Filter::default() }).unwrap().items
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
    let snapshot = bench.sinks.store.snapshot(&alert.id).unwrap().unwrap();
    assert_eq!(image::load_from_memory(&snapshot).unwrap().width(), 64);
    assert_eq!(bench.sinks.store.outbox_state("desk").unwrap().1, 1);
    let detections = bench.sinks.store.detections(&Filter { limit: 100, ..Filter::default() }).unwrap();
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
async fn what_the_store_refuses_waits_and_is_stored_later() {
    let bench = bench();
    let (analysis, looks) = bench.start();
    let sabotage = rusqlite::Connection::open(bench.data.path().join("state.db")).unwrap();
    sabotage.execute_batch("ALTER TABLE alerts RENAME TO away").unwrap();
    burn(&looks, 0).await;
    let health = &bench.sinks.health;
    for _ in 0..600 {
        if health.snapshot().get(SUBJECT).is_some_and(|state| state.severity == Severity::Failed) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(health.snapshot()[SUBJECT].severity, Severity::Failed);
    assert_eq!(bench.sinks.store.outbox_state("desk").unwrap().1, 0);
    sabotage.execute_batch("ALTER TABLE away RENAME TO alerts").unwrap();
    assert_eq!(bench.alert(|_| true).await.revision, 1);
    assert!(analysis.stop(Duration::from_secs(30)).await);
}
