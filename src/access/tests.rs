use super::*;

fn access() -> (tempfile::TempDir, Arc<Store>, Access) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let access = Access::new(store.clone(), false);
    (folder, store, access)
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

#[test]
fn roles_allow_what_they_say_and_nothing_else() {
    use Action::*;
    let every = [Live, Recordings, Alerts, Transition, Channels, Metrics, Configure];
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
}

#[test]
fn camera_limits_hold() {
    let person = Person { name: "p".to_owned(), role: Role::Admin, cameras: Some(vec!["gate-1".to_owned()]) };
    assert!(person.may(Action::Live, Some("gate-1")));
    assert!(!person.may(Action::Live, Some("gate-2")));
    assert!(person.may(Action::Alerts, None));
    assert!(!person.may(Action::Metrics, None));
    assert!(!person.may(Action::Configure, None));
}

#[test]
fn a_token_opens_by_bearer_and_basic() {
    let (_folder, _store, access) = access();
    let token = access.create_token(Role::Operator, Some(vec!["gate-1".to_owned()]), None).unwrap();
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
        &format!("Bearer {}", "x".repeat(100_000)),
        &format!("Basic {}", "QUFB".repeat(100_000)),
    ] {
        assert_eq!(access.authorization(Some(header)), Err(Denied::Unknown), "{header:.40}");
    }
}

#[test]
fn anonymous_may_watch_where_that_is_allowed_and_a_wrong_token_is_still_wrong() {
    let (_folder, _store, access) = access();
    access.set_anonymous(true);
    let person = access.authorization(None).unwrap();
    assert!(person.may(Action::Live, Some("gate-1")) && !person.may(Action::Recordings, Some("gate-1")));
    assert_eq!(access.authorization(Some("Bearer lt_wrong")), Err(Denied::Unknown));
    access.set_anonymous(false);
    assert_eq!(access.authorization(None), Err(Denied::SignIn));
}

#[test]
fn revoked_and_expired_tokens_open_nothing() {
    let (_folder, store, access) = access();
    let token = access.create_token(Role::Admin, None, None).unwrap();
    let session = access.sign_in(&token).unwrap();
    assert!(access.token(&token).is_ok());
    assert!(access.session(&session).is_ok());
    assert!(access.revoke_token(&store.tokens().unwrap()[0].id).unwrap());
    assert_eq!(access.token(&token), Err(Denied::Unknown));
    assert_eq!(access.session(&session), Err(Denied::Unknown), "a session ends with its token");

    let soon = Timestamp::now() + Duration::from_millis(300);
    let token = access.create_token(Role::Admin, None, Some(soon)).unwrap();
    let first = access.token(&token);
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(access.token(&token), Err(Denied::Unknown), "remembered or not (first: {first:?})");
}

#[test]
fn another_process_creates_and_revokes_tokens_while_this_one_runs() {
    let (folder, _store, access) = access();
    let other = Access::new(Store::open(folder.path()).unwrap(), false);
    let token = other.create_token(Role::Viewer, None, None).unwrap();
    assert!(access.token(&token).is_ok());
    let Keeper::Tokens(store) = &other.inner.keeper else { unreachable!() };
    other.revoke_token(&store.tokens().unwrap()[0].id).unwrap();
    std::thread::sleep(BELIEVED + Duration::from_millis(100));
    assert_eq!(access.token(&token), Err(Denied::Unknown));
}

#[test]
fn sessions_open_and_close() {
    let (_folder, _store, access) = access();
    assert_eq!(access.sign_in("lt_wrong"), Err(Denied::Unknown));
    let token = access.create_token(Role::Viewer, None, None).unwrap();
    let session = access.sign_in(&token).unwrap();
    assert_eq!(access.session(&session).unwrap(), access.token(&token).unwrap());
    assert_eq!(access.session(&token), Err(Denied::Unknown), "a token is no session");
    assert_eq!(access.token(&session), Err(Denied::Unknown), "and a session no token");
    access.sign_out(&session);
    assert_eq!(access.session(&session), Err(Denied::Unknown));
}

#[test]
fn the_database_holds_no_token() {
    let (folder, store, access) = access();
    let token = access.create_token(Role::Admin, None, None).unwrap();
    drop((access, store));
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(token.len()).any(|window| window == token.as_bytes()));
    }
}

#[test]
fn simulated_cameras_ask_for_their_own_credentials() {
    let open = Access::simulated(None);
    assert!(open.authorization(None).is_ok() && open.authorization(Some(&basic("x", "y"))).is_ok());
    let shut = Access::simulated(Some(("admin".to_owned(), "p:w".to_owned())));
    assert_eq!(shut.authorization(None), Err(Denied::SignIn));
    assert!(shut.authorization(Some(&basic("admin", "p:w"))).unwrap().may(Action::Live, None));
    assert_eq!(shut.authorization(Some(&basic("admin", "p"))), Err(Denied::Unknown));
    assert_eq!(shut.authorization(Some("Bearer admin:p:w")), Err(Denied::Unknown));
    assert!(shut.create_token(Role::Admin, None, None).is_err());
}
