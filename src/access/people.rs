//! People: making, changing and removing them, their stream keys, and the first of them all.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use subtle::ConstantTimeEq;

use super::audit::{Event, entry};
use super::{
    Access, By, Denied, Hash, Opened, Refused, Role, Token, digest, hash, passwords, presented, random_text,
};
use crate::config::Secret;
use crate::store::{PeopleError, PersonRow, StoreError};

/// Before the name of a group of cameras, where cameras are named.
pub const GROUP: &str = "group:";

/// Names that the audit trail and Basic sign-in use themselves.
const RESERVED: [&str; 6] = ["token", "anonymous", "link", "system", "unknown", "root"];

const LONGEST_NAME: usize = 64;

/// How long the set-up token of a start is good.
const SETUP_LIFE: Duration = Duration::from_secs(24 * 3600);

/// A person as others may see them.
#[derive(Clone, Debug, PartialEq, serde::Serialize, utoipa::ToSchema)]
pub struct Account {
    pub name: String,
    pub role: Role,
    /// Camera ids and `group:NAME`; null: every camera.
    pub cameras: Option<Vec<String>>,
    pub disabled: bool,
    /// Whether there is a stream key, for RTSP.
    pub has_stream_key: bool,
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    /// Counts changes; the number inside the `ETag`.
    pub revision: u64,
}

/// Somebody to be.
#[derive(Debug)]
pub struct NewPerson {
    pub name: String,
    pub role: Role,
    /// `None`: every camera.
    pub cameras: Option<Vec<String>>,
    pub password: Secret,
}

/// What to change of somebody.
#[derive(Debug, Default)]
pub struct Change {
    pub role: Option<Role>,
    /// `Some(None)`: every camera.
    pub cameras: Option<Option<Vec<String>>>,
    pub disabled: Option<bool>,
    pub password: Option<Secret>,
}

/// A token that makes the first administrator; kept as its hash.
pub struct Setup {
    token: Hash,
    until: Instant,
}

impl Account {
    fn of(row: PersonRow) -> Option<Account> {
        Some(Account {
            role: Role::named(&row.role)?,
            name: row.name,
            cameras: row.cameras,
            disabled: row.disabled,
            has_stream_key: row.stream_key.is_some(),
            created: row.created,
            revision: row.revision,
        })
    }
}

impl Access {
    /// Everyone, by name.
    pub fn people(&self) -> Result<Vec<Account>, StoreError> {
        Ok(self.kept()?.0.people()?.into_iter().filter_map(Account::of).collect())
    }

    pub fn account(&self, name: &str) -> Result<Option<Account>, StoreError> {
        Ok(self.kept()?.0.person(name)?.and_then(Account::of))
    }

    /// Adds somebody, and gives back their stream key, which is shown once.
    pub async fn add_person(&self, new: NewPerson, by: By) -> Result<(Account, String), Refused> {
        self.add(new, by, false).await
    }

    async fn add(&self, new: NewPerson, by: By, first: bool) -> Result<(Account, String), Refused> {
        check_name(&new.name).map_err(Refused::Invalid)?;
        passwords::check(&new.name, new.password.expose()).map_err(Refused::Invalid)?;
        self.check_cameras(new.cameras.as_deref())?;
        let password = self.inner.passwords.hash(new.password).await?;
        let key = stream_key();
        let row = PersonRow {
            role: new.role.name().to_owned(),
            cameras: new.cameras,
            password,
            stream_key: Some(digest::ha1(&new.name, &key)),
            disabled: false,
            created: Timestamp::now(),
            revision: 1,
            name: new.name,
        };
        self.blocking(move |access| {
            let detail = format!("added, {}", access_in_words(&row.role, row.cameras.as_deref()));
            let entry = entry(&by, Event::Change, format!("user/{}", row.name), detail);
            access.kept()?.0.add_person(&row, first, &entry)?;
            let account = Account::of(row).ok_or(PeopleError::Missing)?;
            Ok((account, key))
        })
        .await
    }

    /// Changes somebody, with `expected` only from that revision on. Their sessions end where it concerns them.
    pub async fn change_person(
        &self,
        name: &str,
        change: Change,
        expected: Option<u64>,
        by: By,
    ) -> Result<Account, Refused> {
        self.check_cameras(change.cameras.as_ref().and_then(Option::as_deref))?;
        let mut done = Vec::new();
        if let Some(role) = change.role {
            done.push(format!("role {}", role.name()));
        }
        if let Some(cameras) = &change.cameras {
            done.push(cameras_in_words(cameras.as_deref()));
        }
        if let Some(disabled) = change.disabled {
            done.push(if disabled { "disabled" } else { "enabled" }.to_owned());
        }
        let password = match change.password {
            None => None,
            Some(password) => {
                passwords::check(name, password.expose()).map_err(Refused::Invalid)?;
                done.push("new password".to_owned());
                Some(self.inner.passwords.hash(password).await?)
            }
        };
        let entry = entry(&by, Event::Change, format!("user/{name}"), done.join(", "));
        let name = name.to_owned();
        self.blocking(move |access| {
            let row = access.kept()?.0.change_person(&name, expected, &entry, |row| {
                if let Some(role) = change.role {
                    row.role = role.name().to_owned();
                }
                if let Some(cameras) = change.cameras {
                    row.cameras = cameras;
                }
                row.disabled = change.disabled.unwrap_or(row.disabled);
                if let Some(password) = password {
                    row.password = password;
                }
            })?;
            access.forget();
            Ok(Account::of(row).ok_or(PeopleError::Missing)?)
        })
        .await
    }

    /// Somebody's own new password, proved by the old one. Ends every session of theirs and opens a new one.
    pub async fn change_password(
        &self,
        name: &str,
        old: Secret,
        new: Secret,
        address: IpAddr,
    ) -> Result<Opened, Refused> {
        self.prove(name, old, address).await?;
        let by = By { name: name.to_owned(), address: Some(address) };
        let change = Change { password: Some(new), ..Change::default() };
        self.change_person(name, change, None, by.clone()).await?;
        let person = Some(name.to_owned());
        self.blocking(move |access| access.open(person, None, &by, "new password")).await
    }

    /// Somebody's own new stream key, proved by their password: who has stolen a session must not get a key that
    /// outlives it.
    pub async fn change_stream_key(
        &self,
        name: &str,
        password: Secret,
        address: IpAddr,
    ) -> Result<String, Refused> {
        self.prove(name, password, address).await?;
        self.new_stream_key(name, By { name: name.to_owned(), address: Some(address) }).await
    }

    /// A new stream key in place of the old one, which opens nothing any more. Shown once.
    pub async fn new_stream_key(&self, name: &str, by: By) -> Result<String, Refused> {
        let key = stream_key();
        let (name, ha1) = (name.to_owned(), digest::ha1(name, &key));
        self.blocking(move |access| {
            let entry = entry(&by, Event::Change, format!("user/{name}"), "new stream key");
            access.kept()?.0.change_person(&name, None, &entry, |row| row.stream_key = Some(ha1))?;
            access.forget();
            Ok(key)
        })
        .await
    }

    pub async fn remove_person(&self, name: &str, expected: Option<u64>, by: By) -> Result<(), Refused> {
        let name = name.to_owned();
        self.blocking(move |access| {
            let entry = entry(&by, Event::Change, format!("user/{name}"), "removed");
            access.kept()?.0.remove_person(&name, expected, &entry)?;
            access.forget();
            Ok(())
        })
        .await
    }

    /// Where neither a person nor a token may do everything yet: a new token that makes the first administrator, to be
    /// shown to whoever has started the box. An earlier one is void.
    pub fn open_setup(&self) -> Result<Option<String>, StoreError> {
        let now = Timestamp::now();
        let may_everything = |token: &Token| {
            token.role == Role::Admin
                && token.cameras.is_none()
                && token.scopes.is_none()
                && token.revoked.is_none()
                && token.expires.is_none_or(|expires| expires > now)
        };
        if self.kept()?.0.has_administrator()? || self.tokens()?.iter().any(may_everything) {
            return Ok(None);
        }
        let token = format!("ls_{}", random_text());
        let setup = Setup { token: hash(&token), until: Instant::now() + SETUP_LIFE };
        *self.setup() = Some(setup);
        Ok(Some(token))
    }

    /// Whether a set-up token would be taken. Another process may have made an administrator meanwhile.
    pub fn awaits_setup(&self) -> Result<bool, StoreError> {
        if self.setup().as_ref().is_none_or(|setup| Instant::now() >= setup.until) {
            return Ok(false);
        }
        let done = self.kept()?.0.has_administrator()?;
        if done {
            *self.setup() = None;
        }
        Ok(!done)
    }

    /// Makes the first administrator, signs them in, and gives back their stream key; the token is void afterwards.
    pub async fn set_up(
        &self,
        token: &str,
        new: NewPerson,
        address: IpAddr,
    ) -> Result<(Opened, String), Refused> {
        let shown = presented(token)?;
        // Everybody may know that: who comes too late is told so, whatever they show.
        if self.blocking(|access| Ok(access.kept()?.0.has_administrator()?)).await? {
            return Err(PeopleError::NotFirst.into());
        }
        let right = self
            .setup()
            .as_ref()
            .is_some_and(|setup| bool::from(setup.token.ct_eq(&shown)) && Instant::now() < setup.until);
        if !right {
            self.failed(None, address, "wrong set-up token");
            return Err(Denied::Unknown.into());
        }
        let by = By { name: new.name.clone(), address: Some(address) };
        let person = Some(new.name.clone());
        let (_, stream_key) = self.add(new, by.clone(), true).await?;
        *self.setup() = None;
        let opened = self.blocking(move |access| access.open(person, None, &by, "set-up")).await?;
        Ok((opened, stream_key))
    }

    /// That every name is a configured camera's, or a group's that has one.
    pub(super) fn check_cameras(&self, named: Option<&[String]>) -> Result<(), Refused> {
        let settings = self.inner.settings.load();
        for name in named.unwrap_or_default() {
            let known = match name.strip_prefix(GROUP) {
                Some(group) => settings.groups.contains_key(group),
                None => settings.cameras.contains(name),
            };
            if !known {
                let what = format!(
                    "cameras: there is no {name:?}; an id of [cameras.…] or {GROUP} and a name from a camera's \
                     `groups` was expected"
                );
                return Err(Refused::Invalid(what));
            }
        }
        Ok(())
    }

    fn setup(&self) -> std::sync::MutexGuard<'_, Option<Setup>> {
        self.inner.setup.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn stream_key() -> String {
    format!("lk_{}", random_text())
}

fn check_name(name: &str) -> Result<(), String> {
    let length = name.chars().count();
    // Of two scripts that share no shape: `boss` with a Cyrillic о would be taken for another.
    let letter = |c: char| {
        c.is_ascii_alphanumeric() || matches!(c, '\u{3400}'..='\u{9fff}' | '\u{20000}'..='\u{2ebe0}')
    };
    let well_formed = (1..=LONGEST_NAME).contains(&length)
        && name.starts_with(letter)
        && name.chars().all(|c| letter(c) || matches!(c, '.' | '-' | '_' | '@'));
    if !well_formed {
        return Err(format!(
            "name: 1 to {LONGEST_NAME} letters a to z, Chinese characters, digits and . - _ @ were expected, a letter or \
             digit first"
        ));
    }
    if RESERVED.contains(&name.to_lowercase().as_str()) {
        return Err(format!("name: {name:?} is one that liuta uses itself"));
    }
    Ok(())
}

/// For the audit trail.
pub(super) fn access_in_words(role: &str, cameras: Option<&[String]>) -> String {
    format!("role {role}, {}", cameras_in_words(cameras))
}

fn cameras_in_words(cameras: Option<&[String]>) -> String {
    cameras.map_or_else(|| "every camera".to_owned(), |cameras| format!("cameras {}", cameras.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["li", "李明", "li.ming@example.org", "a", "7"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in [
            "",
            " li",
            "li ming",
            "a:b",
            "a/b",
            "token",
            "Anonymous",
            "-a",
            "a\n",
            "a\"",
            "b\u{43e}ss",
            "\u{ff41}",
            &"x".repeat(65),
        ] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }
}
