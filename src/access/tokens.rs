//! API tokens: for programs, and for players that take no stream key.

use jiff::Timestamp;

use super::audit::{Event, entry};
use super::people::access_in_words;
use super::{Access, Action, By, Refused, Role, digest, hash, random_text};
use crate::store::{StoreError, TokenRow};

/// Whose password a token is where a player knows names and passwords alone.
pub const USER: &str = "token";

const LONGEST_NAME: usize = 100;

/// A token as others may see it: all but its text.
#[derive(Clone, Debug, PartialEq, serde::Serialize, utoipa::ToSchema)]
pub struct Token {
    pub id: String,
    /// What it is for.
    pub name: String,
    pub role: Role,
    /// Camera ids and `group:NAME`; null: every camera.
    pub cameras: Option<Vec<String>>,
    /// What of the role's actions it may do; null: all of them.
    pub scopes: Option<Vec<Action>>,
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    pub created_by: String,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub revoked: Option<Timestamp>,
}

/// A token to be.
#[derive(Clone, Debug)]
pub struct NewToken {
    pub name: String,
    pub role: Role,
    /// `None`: every camera.
    pub cameras: Option<Vec<String>>,
    /// `None`: all that the role may.
    pub scopes: Option<Vec<Action>>,
    /// `None`: never.
    pub expires: Option<Timestamp>,
}

impl NewToken {
    /// All that the role may, at every camera, for ever.
    pub fn of(role: Role) -> NewToken {
        NewToken { name: String::new(), role, cameras: None, scopes: None, expires: None }
    }
}

impl Token {
    fn of(row: TokenRow) -> Option<Token> {
        let scopes = row.actions.map(|names| names.iter().filter_map(|name| Action::named(name)).collect());
        Some(Token {
            id: row.id,
            name: row.name,
            role: Role::named(&row.role)?,
            cameras: row.cameras,
            scopes,
            created: row.created,
            created_by: row.created_by,
            expires: row.expires,
            revoked: row.revoked,
        })
    }
}

impl Access {
    /// Makes a token and gives back its text, which is shown once and never kept. Blocks.
    pub fn create_token(&self, new: NewToken, by: &By) -> Result<(Token, String), Refused> {
        if new.name.chars().count() > LONGEST_NAME || new.name.chars().any(char::is_control) {
            let what = format!("name: at most {LONGEST_NAME} characters, and no control characters");
            return Err(Refused::Invalid(what));
        }
        self.check_cameras(new.cameras.as_deref())?;
        if let Some(foreign) = new.scopes.iter().flatten().find(|action| !new.role.allows(**action)) {
            let what = format!("scopes: the role {} may not {} anyway", new.role.name(), foreign.name());
            return Err(Refused::Invalid(what));
        }
        if new.expires.is_some_and(|expires| expires <= Timestamp::now()) {
            return Err(Refused::Invalid("expires: a time to come was expected".to_owned()));
        }
        let text = format!("lt_{}", random_text());
        let row = TokenRow {
            id: ulid::Ulid::generate().to_string(),
            sha256: hash(&text),
            role: new.role.name().to_owned(),
            cameras: new.cameras,
            created: Timestamp::now(),
            expires: new.expires,
            name: new.name,
            actions: new.scopes.map(|scopes| scopes.iter().map(|action| action.name().to_owned()).collect()),
            created_by: by.name.clone(),
            revoked: None,
            ha1: Some(digest::ha1(USER, &text)),
        };
        let mut detail = format!("created, {}", access_in_words(&row.role, row.cameras.as_deref()));
        if let Some(actions) = &row.actions {
            detail += &format!(", only {}", actions.join(" "));
        }
        let entry = entry(by, Event::Change, format!("token/{}", row.id), detail);
        self.kept()?.0.put_token(&row, &entry)?;
        let token = Token::of(row).ok_or_else(|| Refused::Invalid("role: unknown".to_owned()))?;
        Ok((token, text))
    }

    /// Every token, oldest first. Blocks.
    pub fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        Ok(self.kept()?.0.tokens()?.into_iter().filter_map(Token::of).collect())
    }

    /// Takes a token back, at once; false where there is none of that id. Blocks.
    pub fn revoke_token(&self, id: &str, by: &By) -> Result<bool, StoreError> {
        let entry = entry(by, Event::Change, format!("token/{id}"), "revoked");
        let revoked = self.kept()?.0.revoke_token(id, &entry)?;
        self.forget();
        Ok(revoked)
    }
}
