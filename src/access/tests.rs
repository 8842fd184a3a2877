use super::*;
use crate::config::Secret;

fn config(anonymous: &str) -> Config {
    let text = format!(
        "[auth]\nanonymous = \"{anonymous}\"\n\
         [cameras.gate-1]\nurl = \"rtsp://h/1\"\ngroups = [\"school\"]\n\
         [cameras.gate-2]\nurl = \"rtsp://h/2\"\ngroups = [\"school\", \"north\"]\n\
         [cameras.road-1]\nurl = \"rtsp://h/3\"\n"
    );
    crate::config::file::parse("t.toml".as_ref(), text).unwrap()
}

fn access() -> (tempfile::TempDir, Arc<Store>, Access) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let access = Access::new(store.clone(), &config("none"), Health::default());
    (folder, store, access)
}

fn by() -> By {
    By { name: "test".to_owned(), address: None }
}

fn address() -> IpAddr {
    IpAddr::from([192, 0, 2, 7])
}

fn token(access: &Access, role: Role, cameras: Option<&[&str]>) -> String {
    let cameras = cameras.map(|ids| ids.iter().map(|id| (*id).to_owned()).collect());
    access.create_token(NewToken { cameras, ..NewToken::of(role) }, &by()).unwrap().1
}

fn new_person(name: &str, role: Role, cameras: Option<&[&str]>) -> people::NewPerson {
    let cameras = cameras.map(|ids| ids.iter().map(|id| (*id).to_owned()).collect());
    people::NewPerson { name: name.to_owned(), role, cameras, password: Secret::new("correct horse") }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

#[test]
fn roles_allow_what_they_say_and_nothing_else() {
    use Action::*;
    let every = Action::ALL;
    for (role, allowed) in [
        (Role::Viewer, &[Live][..]),
        (Role::Operator, &[Live, Recordings, Alerts, Channels, Metrics][..]),
        (Role::Dispatch, &[Alerts, Transition][..]),
        (Role::Admin, &every[..]),
    ] {
        for action in every {
            assert_eq!(role.allows(action), allowed.contains(&action), "{role:?} {action:?}");
        }
        assert_eq!(Role::named(role.name()), Some(role));
        assert_eq!(serde_json::json!(role), role.name());
    }
    for action in every {
        assert_eq!(
            (Action::named(action.name()), serde_json::json!(action)),
            (Some(action), action.name().into())
        );
    }
}

#[test]
fn camera_limits_hold() {
    let person =
        Person { role: Role::Admin, cameras: Some(vec!["gate-1".to_owned()]), ..Person::anonymous() };
    assert!(person.may(Action::Live, Some("gate-1")));
    assert!(!person.may(Action::Live, Some("gate-2")));
    assert!(person.may(Action::Alerts, None));
    assert!(!person.may(Action::Metrics, None));
    assert!(!person.may(Action::Configure, None));
}

#[test]
fn a_token_opens_by_bearer_and_basic() {
    let (_folder, _store, access) = access();
    let token = token(&access, Role::Operator, Some(&["gate-1"]));
    assert!(token.starts_with("lt_") && token.len() > 40, "{token}");
    let person = access.authorization(Some(&format!("Bearer {token}"))).unwrap();
    assert_eq!((person.role, person.cameras.as_deref()), (Role::Operator, Some(&["gate-1".to_owned()][..])));
    assert_eq!(access.authorization(Some(&format!("bearer  {token}"))).unwrap(), person);
    assert_eq!(access.authorization(Some(&basic("token", &token))).unwrap(), person);
    assert_eq!(access.authorization(None), Err(Denied::SignIn));
    for header in [
        "",
        "Bearer",
        "Bearer ",
        "Bearer lt_nothing",
        "Basic !!!",
        "Digest username=\"token\"",
        &basic("admin", &token),
        &basic("token", ""),
        &basic("li", "lk_key"),
        &format!("Bearer {}", "x".repeat(100_000)),
        &format!("Basic {}", "QUFB".repeat(100_000)),
    ] {
        assert_eq!(access.authorization(Some(header)), Err(Denied::Unknown), "{header:.40}");
    }
}

#[test]
fn anonymous_may_watch_where_that_is_allowed_and_a_wrong_token_is_still_wrong() {
    let (_folder, _store, access) = access();
    access.reconfigure(&config("viewer"));
    let person = access.authorization(None).unwrap();
    assert!(person.may(Action::Live, Some("gate-1")) && !person.may(Action::Recordings, Some("gate-1")));
    assert_eq!(access.authorization(Some("Bearer lt_wrong")), Err(Denied::Unknown));
    access.reconfigure(&config("none"));
    assert_eq!(access.authorization(None), Err(Denied::SignIn));
}

#[tokio::test]
async fn revoked_and_expired_tokens_open_nothing() {
    let (_folder, _store, access) = access();
    let text = token(&access, Role::Admin, None);
    let session = access.sign_in_by_token(&text, address()).await.unwrap().value;
    assert!(access.token(&text).is_ok());
    assert!(access.session(&session).is_ok());
    let id = access.tokens().unwrap()[0].id.clone();
    assert!(access.revoke_token(&id, &by()).unwrap());
    assert!(!access.revoke_token(&id, &by()).unwrap(), "once");
    assert_eq!(access.token(&text), Err(Denied::Unknown));
    assert_eq!(access.session(&session), Err(Denied::Unknown), "a session ends with its token");

    let soon = Timestamp::now() + Duration::from_millis(300);
    let new = NewToken { expires: Some(soon), ..NewToken::of(Role::Admin) };
    let (_, text) = access.create_token(new, &by()).unwrap();
    let first = access.token(&text);
    let session = access.sign_in_by_token(&text, address()).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(access.token(&text), Err(Denied::Unknown), "remembered or not (first: {first:?})");
    if let Ok(session) = session {
        assert_eq!(access.session(&session.value), Err(Denied::Unknown));
    }
}

#[test]
fn another_process_creates_and_revokes_tokens_while_this_one_runs() {
    let (folder, _store, access) = access();
    let other = Access::new(Store::open(folder.path()).unwrap(), &config("none"), Health::default());
    let token = token(&other, Role::Viewer, None);
    assert!(access.token(&token).is_ok());
    other.revoke_token(&other.tokens().unwrap()[0].id, &by()).unwrap();
    std::thread::sleep(BELIEVED + Duration::from_millis(100));
    assert_eq!(access.token(&token), Err(Denied::Unknown));
}

#[tokio::test]
async fn sessions_open_and_close() {
    let (_folder, _store, access) = access();
    let refused = access.sign_in_by_token("lt_wrong", address()).await;
    assert!(matches!(refused, Err(Refused::Denied(Denied::Unknown))));
    let text = token(&access, Role::Viewer, None);
    let session = access.sign_in_by_token(&text, address()).await.unwrap().value;
    let (by_session, by_token) = (access.session(&session).unwrap(), access.token(&text).unwrap());
    assert_eq!((by_session.name, by_session.role), (by_token.name, by_token.role));
    assert_eq!(access.session(&text), Err(Denied::Unknown), "a token is no session");
    assert_eq!(access.token(&session), Err(Denied::Unknown), "and a session no token");
    access.sign_out(&session, by()).await.unwrap();
    assert_eq!(access.session(&session), Err(Denied::Unknown));
}

#[tokio::test]
async fn people_sign_in_and_every_change_of_them_ends_their_sessions() {
    let (_folder, store, access) = access();
    access.add_person(new_person("root-admin", Role::Admin, None), by()).await.unwrap();
    let (account, key) =
        access.add_person(new_person("li", Role::Operator, Some(&["group:school"])), by()).await.unwrap();
    assert!(account.has_stream_key && key.starts_with("lk_"));
    let sign_in = |password: &'static str| access.sign_in("li", Secret::new(password), address());
    assert!(matches!(sign_in("wrong password").await, Err(Refused::Wrong)));
    assert!(matches!(
        access.sign_in("nobody", Secret::new("correct horse"), address()).await,
        Err(Refused::Wrong)
    ));
    let opened = sign_in("correct horse").await.unwrap();
    let person = access.session(&opened.value).unwrap();
    assert_eq!(person.cameras.as_deref(), Some(&["gate-1".to_owned(), "gate-2".to_owned()][..]));
    assert!(person.may(Action::Recordings, Some("gate-2")) && !person.may(Action::Live, Some("road-1")));
    // A session lives in the database, as a hash.
    assert!(store.session(&hash(&opened.value)).unwrap().is_some());
    assert!(access.authorization(Some(&basic("li", &key))).is_err(), "stream keys are for RTSP");
    assert!(access.authorization(Some(&basic("li", "correct horse"))).is_err());

    let change = |change: people::Change| access.change_person("li", change, None, by());
    let role = || people::Change { role: Some(Role::Viewer), ..Default::default() };
    let mut password = "correct horse";
    for (what, is_new_password) in [
        (role(), false),
        (people::Change { cameras: Some(None), ..Default::default() }, false),
        (people::Change { password: Some(Secret::new("battery staple")), ..Default::default() }, true),
    ] {
        let opened = sign_in(password).await.unwrap();
        assert!(access.session(&opened.value).is_ok());
        change(what).await.unwrap();
        assert_eq!(access.session(&opened.value), Err(Denied::Unknown));
        if is_new_password {
            assert!(matches!(sign_in(password).await, Err(Refused::Wrong)));
            password = "battery staple";
        }
    }
    let opened = sign_in(password).await.unwrap();
    change(people::Change { disabled: Some(true), ..Default::default() }).await.unwrap();
    assert_eq!(access.session(&opened.value), Err(Denied::Unknown));
    assert!(matches!(sign_in(password).await, Err(Refused::Wrong)));
    let revision = access.account("li").unwrap().unwrap().revision;
    let stale = access.change_person("li", role(), Some(revision - 1), by()).await;
    assert!(matches!(stale, Err(Refused::People(crate::store::PeopleError::Stale))));
    access.remove_person("li", Some(revision), by()).await.unwrap();
    assert_eq!(access.people().unwrap().len(), 1);
    // The last administrator stays.
    for demoted in [role(), people::Change { disabled: Some(true), ..Default::default() }] {
        assert!(access.change_person("root-admin", demoted, None, by()).await.is_err());
    }
    assert!(access.remove_person("root-admin", None, by()).await.is_err());
    assert_eq!(store.verify_audit().unwrap().broken, None);
}

#[tokio::test]
async fn sessions_end_when_they_are_old_or_idle() {
    let (_folder, store, access) = access();
    let text = token(&access, Role::Viewer, None);
    let id = access.tokens().unwrap()[0].id.clone();
    let entry = audit::entry(&by(), audit::Event::SignIn, "session", "");
    let now = Timestamp::now();
    let open = |value: &str, seen: Timestamp, expires: Timestamp| {
        let (person, token) = (None, Some(id.clone()));
        let row =
            crate::store::SessionRow { sha256: hash(value), person, token, opened: seen, seen, expires };
        store.open_session(&row, &entry).unwrap();
        access.session(value).is_ok()
    };
    let minute = Duration::from_secs(60);
    assert!(open("fresh", now, now + minute));
    assert!(open("used lately", now - (IDLE - minute), now + minute));
    assert!(store.session(&hash("used lately")).unwrap().unwrap().seen >= now, "its use is noted");
    assert!(!open("idle", now - IDLE, now + minute));
    assert!(!open("old", now, now));
    assert!(access.token(&text).is_ok());
}

#[tokio::test]
async fn guessing_is_slowed_down_and_success_ends_that() {
    let (_folder, _store, access) = access();
    access.add_person(new_person("li", Role::Viewer, None), by()).await.unwrap();
    let guess = |password: &'static str| access.sign_in("li", Secret::new(password), address());
    let mut waits = 0;
    for _ in 0..8 {
        match guess("wrong password").await {
            Err(Refused::Wrong) => {}
            Err(Refused::Wait(_)) => waits += 1,
            other => panic!("{:?}", other.map(|_| ())),
        }
    }
    assert_eq!(waits, 4);
    assert!(matches!(guess("correct horse").await, Err(Refused::Wait(_))), "right, but too early");
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert!(guess("correct horse").await.is_ok());
    assert!(matches!(guess("wrong password").await, Err(Refused::Wrong)), "counted from the beginning");
}

#[tokio::test]
async fn the_set_up_token_makes_one_administrator() {
    let (_folder, _store, access) = access();
    let first = access.open_setup().unwrap().unwrap();
    let token = access.open_setup().unwrap().unwrap();
    assert!(access.awaits_setup().unwrap());
    let set_up = |token: String, name: &'static str| {
        let access = access.clone();
        async move {
            let set_up = access.set_up(&token, new_person(name, Role::Admin, None), address()).await;
            set_up.map(|(opened, key)| (opened, key.starts_with("lk_")))
        }
    };
    assert!(
        matches!(set_up(first, "li").await, Err(Refused::Denied(Denied::Unknown))),
        "each start has its own"
    );
    assert!(matches!(set_up(token.clone(), "a b").await, Err(Refused::Invalid(_))));
    let (opened, has_key) = set_up(token.clone(), "li").await.unwrap();
    assert!(has_key);
    assert_eq!((opened.person.name.as_str(), opened.person.role), ("li", Role::Admin));
    assert!(access.session(&opened.value).is_ok());
    let late = set_up(token, "wang").await;
    assert!(matches!(late, Err(Refused::People(crate::store::PeopleError::NotFirst))), "once");
    assert!(!access.awaits_setup().unwrap());
    assert_eq!(access.open_setup().unwrap(), None);
}

#[tokio::test]
async fn a_database_that_does_not_answer_denies_nobody_who_is_inside() {
    let (folder, _store, access) = access();
    let text = token(&access, Role::Viewer, None);
    let mut standing = access.standing(access.token(&text).unwrap(), Action::Live, Some("gate-1"));
    let broken = rusqlite::Connection::open(folder.path().join("state.db")).unwrap();
    broken.execute_batch("ALTER TABLE tokens RENAME TO away").unwrap();
    access.forget();
    assert_eq!(access.token(&text), Err(Denied::CannotTell));
    assert_eq!(access.who(Some(format!("Bearer {text}")), None).await, (Err(Denied::CannotTell), true));
    standing.ask_now();
    assert!(standing.holds().await);
    broken.execute_batch("ALTER TABLE away RENAME TO tokens; DELETE FROM tokens").unwrap();
    standing.ask_now();
    assert!(!standing.holds().await);
}

#[test]
fn scopes_and_groups_narrow_a_token() {
    let (_folder, _store, access) = access();
    let new = |scopes: &[Action], cameras: &str| NewToken {
        scopes: Some(scopes.to_vec()),
        cameras: Some(vec![cameras.to_owned()]),
        ..NewToken::of(Role::Operator)
    };
    let (_, text) = access.create_token(new(&[Action::Live], "group:north"), &by()).unwrap();
    let person = access.token(&text).unwrap();
    assert!(person.may(Action::Live, Some("gate-2")));
    assert!(!person.may(Action::Live, Some("gate-1")) && !person.may(Action::Recordings, Some("gate-2")));
    for refused in [new(&[Action::Configure], "gate-1"), new(&[], "gate-9"), new(&[], "group:nowhere")] {
        assert!(matches!(access.create_token(refused, &by()), Err(Refused::Invalid(_))));
    }
}

#[tokio::test]
async fn players_prove_a_stream_key_and_never_a_password() {
    let (_folder, _store, access) = access();
    let (_, key) = access.add_person(new_person("li", Role::Viewer, Some(&["gate-1"])), by()).await.unwrap();
    let ask = |header: String| {
        let access = access.clone();
        async move {
            access.player(&mut Challenge::default(), Some(&header), address(), "DESCRIBE", |_| true).await
        }
    };
    let person = ask(basic("li", &key)).await.unwrap();
    assert_eq!((person.name.as_str(), person.role), ("li", Role::Viewer));
    for (user, shown) in [("li", "correct horse"), ("li", ""), ("wang", &*key), ("", ""), ("token", &*key)] {
        assert_eq!(ask(basic(user, shown)).await, Err(Denied::Unknown), "{user}");
    }
    let mut standing = access.standing(person, Action::Live, Some("gate-1"));
    assert!(standing.holds().await);
    let new = access.new_stream_key("li", by()).await.unwrap();
    assert_eq!(ask(basic("li", &key)).await, Err(Denied::Unknown));
    assert!(ask(basic("li", &new)).await.is_ok());
}

#[test]
fn the_database_holds_no_token() {
    let (folder, store, access) = access();
    let token = token(&access, Role::Admin, None);
    drop((access, store));
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(token.len()).any(|window| window == token.as_bytes()));
    }
}

#[tokio::test]
async fn simulated_cameras_ask_for_their_own_credentials() {
    async fn ask(access: &Access, header: Option<&str>) -> Result<Person, Denied> {
        access.player(&mut Challenge::default(), header, address(), "DESCRIBE", |_| true).await
    }
    let open = Access::simulated(None);
    assert!(ask(&open, None).await.is_ok() && ask(&open, Some(&basic("x", "y"))).await.is_ok());
    let shut = Access::simulated(Some(("admin".to_owned(), "p:w".to_owned())));
    assert_eq!(ask(&shut, None).await, Err(Denied::SignIn));
    let person = ask(&shut, Some(&basic("admin", "p:w"))).await.unwrap();
    assert!(person.may(Action::Live, None) && shut.ask(&person.proof).is_ok());
    assert_eq!(ask(&shut, Some(&basic("admin", "p"))).await, Err(Denied::Unknown));
    assert_eq!(ask(&shut, Some("Bearer admin:p:w")).await, Err(Denied::Unknown));
    assert!(shut.create_token(NewToken::of(Role::Admin), &by()).is_err());
}
