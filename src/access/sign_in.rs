//! Opening and closing sessions: by name and password, or by a token.
//!
//! A session is known by the hash of its cookie's value. It ends after [`LIFE`], after [`IDLE`] without a request, and
//! with any change of what its person may do or signs in with.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use super::audit::{Event, entry};
use super::passwords::Busy;
use super::{Access, By, Denied, Person, Proof, hash, passwords, presented, random_text};
use crate::config::Secret;
use crate::store::{PeopleError, SessionRow, StoreError};

/// From sign-in to the end, however busy.
pub const LIFE: Duration = Duration::from_secs(12 * 3600);

/// From the last request to the end.
pub const IDLE: Duration = Duration::from_secs(2 * 3600);

/// Longer names are nobody's, and cost nothing.
const LONGEST_NAME: usize = 256;

/// A session that was opened: the value of its cookie, which is shown once.
pub struct Opened {
    pub value: String,
    pub person: Person,
    /// False where it lies in memory alone, since the disk is full.
    pub kept: bool,
}

/// Why somebody is not let in, or something about people is not changed.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("name or password is wrong, or the account is disabled")]
    Wrong,
    #[error("too many failures: wait {} s", .0.as_secs().max(1))]
    Wait(Duration),
    #[error("too many sign-ins at once: try again")]
    Busy,
    #[error("{0}")]
    Invalid(String),
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    People(#[from] PeopleError),
}

impl From<Busy> for Refused {
    fn from(_: Busy) -> Refused {
        Refused::Busy
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Refused {
        Refused::People(error.into())
    }
}

impl Access {
    /// Opens a session for whoever has this name and password.
    pub async fn sign_in(&self, name: &str, password: Secret, address: IpAddr) -> Result<Opened, Refused> {
        self.prove(name, password, address).await?;
        let by = By { name: name.to_owned(), address: Some(address) };
        let (person, detail) = (Some(name.to_owned()), "password");
        self.blocking(move |access| access.open(person, None, &by, detail)).await
    }

    /// That somebody has this password, within the limits of guessing.
    pub(super) async fn prove(&self, name: &str, password: Secret, address: IpAddr) -> Result<(), Refused> {
        if name.len() > LONGEST_NAME || password.expose().len() > passwords::LONGEST {
            return Err(Refused::Wrong);
        }
        let asked = name.to_owned();
        let row = self.blocking(move |access| Ok(access.kept()?.0.person(&asked)?)).await?;
        let turn = self.limits().begin(name, address, Instant::now()).map_err(Refused::Wait)?;
        let (hash, enabled) = row.map(|row| (row.password, !row.disabled)).unzip();
        let right = match self.inner.passwords.verify(password, hash, turn).await {
            Ok(right) => right,
            Err(busy) => {
                self.limits().withdraw(name, address);
                return Err(busy.into());
            }
        };
        if !right || enabled != Some(true) {
            self.failed(enabled.map(|_| name), address, "wrong password");
            return Err(Refused::Wrong);
        }
        self.limits().succeeded(name, address, Instant::now());
        Ok(())
    }

    /// Opens a session for the holder of a token.
    pub async fn sign_in_by_token(&self, token: &str, address: IpAddr) -> Result<Opened, Refused> {
        let token = Secret::new(token);
        self.blocking(move |access| {
            let holder = access.token(token.expose()).inspect_err(|denied| {
                if *denied == Denied::Unknown {
                    access.failed(None, address, "unknown token");
                }
            })?;
            let id = holder.name.strip_prefix("token ").ok_or(Denied::Unknown)?.to_owned();
            let by = By { name: holder.name, address: Some(address) };
            access.open(None, Some(id), &by, "token")
        })
        .await
    }

    pub(super) fn open(
        &self,
        person: Option<String>,
        token: Option<String>,
        by: &By,
        detail: &str,
    ) -> Result<Opened, Refused> {
        let value = random_text();
        let now = Timestamp::now();
        let life = SignedDuration::try_from(LIFE).unwrap_or(SignedDuration::ZERO);
        let session =
            SessionRow { sha256: hash(&value), person, token, opened: now, seen: now, expires: now + life };
        let proof = Proof::Session(session.sha256);
        let kept = match self.kept()?.0.open_session(&session, &entry(by, Event::SignIn, "session", detail)) {
            Ok(()) => true,
            Err(full @ StoreError::Full(_)) => {
                self.open_in_memory(session, by, detail, full)?;
                false
            }
            Err(error) => return Err(error.into()),
        };
        let person = self.ask(&proof)?;
        Ok(Opened { value, person, kept })
    }

    /// Ends the session of this cookie, if there is one.
    pub async fn sign_out(&self, value: &str, by: By) -> Result<(), Refused> {
        let Ok(hash) = presented(value) else { return Ok(()) };
        self.blocking(move |access| {
            access.stopgaps().remove(&hash);
            access.kept()?.0.close_session(&hash, &entry(&by, Event::SignOut, "session", ""))?;
            access.forget();
            Ok(())
        })
        .await
    }

    /// Ends every session of the person or token that this cookie's session belongs to.
    pub async fn sign_out_everywhere(&self, value: &str, by: By) -> Result<(), Refused> {
        let Ok(hash) = presented(value) else { return Ok(()) };
        self.blocking(move |access| {
            let held = access.stopgaps().get(&hash).map(|held| held.session.clone());
            let store = access.kept()?.0;
            let Some(own) = held.map_or_else(|| store.session(&hash), |held| Ok(Some(held)))? else {
                return Ok(());
            };
            access
                .stopgaps()
                .retain(|_, held| (&held.session.person, &held.session.token) != (&own.person, &own.token));
            let entry = entry(&by, Event::SignOut, "session", "everywhere");
            store.close_sessions_of(own.person.as_deref(), own.token.as_deref(), &entry)?;
            access.forget();
            Ok(())
        })
        .await
    }

    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Access) -> Result<T, Refused> + Send + 'static,
    ) -> Result<T, Refused> {
        let access = self.clone();
        tokio::task::spawn_blocking(move || work(&access)).await.unwrap_or(Err(Denied::CannotTell.into()))
    }
}
