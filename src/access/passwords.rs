//! Passwords: which are taken, and how they are hashed (argon2id, 19 MiB, two passes, one lane).

use std::sync::{Arc, LazyLock};

use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::Semaphore;

use crate::config::Secret;

/// Characters of the shortest password.
pub const SHORTEST: usize = 10;

/// Bytes of the longest.
const LONGEST: usize = 1024;

/// Hashes at once: each costs 19 MiB and a core for some 30 ms, and whoever reaches the box may ask for one.
const AT_ONCE: usize = 2;

/// Those that wait; more are sent away.
const WAITING: usize = 16;

/// Hashes passwords, a few at a time.
pub struct Passwords {
    hashing: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

/// Too many are being hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

impl Default for Passwords {
    fn default() -> Passwords {
        Passwords {
            hashing: Arc::new(Semaphore::new(AT_ONCE)),
            places: Arc::new(Semaphore::new(AT_ONCE + WAITING)),
        }
    }
}

impl Passwords {
    /// Whether this is the password that `hash` was made of. Nobody's hash is compared all the same, so that time does
    /// not tell who exists.
    pub async fn verify(&self, password: Secret, hash: Option<String>) -> Result<bool, Busy> {
        self.run(move || {
            let known = hash.is_some();
            let hash = hash.as_deref().unwrap_or(&NOBODY);
            argon2().verify_password(password.expose().as_bytes(), hash).is_ok() && known
        })
        .await
    }

    pub async fn hash(&self, password: Secret) -> Result<String, Busy> {
        self.run(move || hash(&password)).await
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Busy> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| Busy)?;
        let turn = self.hashing.clone().acquire_owned().await.map_err(|_| Busy)?;
        // A client that leaves does not end the work: its place must not be free before.
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop((turn, place));
            done
        });
        done.await.map_err(|_| Busy)
    }
}

/// The rules, told where they are broken.
pub fn check(name: &str, password: &str) -> Result<(), String> {
    let length = password.chars().count();
    if length < SHORTEST {
        return Err(format!("password: {length} characters are too few; at least {SHORTEST}"));
    }
    if password.len() > LONGEST {
        return Err(format!("password: longer than {LONGEST} bytes"));
    }
    if password.to_lowercase().replace(&name.to_lowercase(), "").chars().count() < SHORTEST / 2 {
        return Err("password: it is little more than the name".to_owned());
    }
    Ok(())
}

/// Blocks, for some 30 ms.
pub fn hash(password: &Secret) -> String {
    let salt: [u8; 16] = rand::random();
    match argon2().hash_password_with_salt(password.expose().as_bytes(), &salt) {
        Ok(hash) => hash.to_string(),
        // Lengths are checked before; what is no hash is matched by no password.
        Err(error) => {
            tracing::error!("a password cannot be hashed: {error}");
            String::new()
        }
    }
}

static NOBODY: LazyLock<String> = LazyLock::new(|| hash(&Secret::new(super::random_text())));

fn argon2() -> Argon2<'static> {
    let params = Params::new(19 * 1024, 2, 1, None).unwrap_or(Params::DEFAULT);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn passwords_are_argon2id_and_nobody_costs_the_same_time() {
        let passwords = Passwords::default();
        let hash = passwords.hash(Secret::new("correct horse")).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_ne!(hash, passwords.hash(Secret::new("correct horse")).await.unwrap(), "salted");
        let verify = |password: &str, hash: Option<&str>| {
            passwords.verify(Secret::new(password), hash.map(str::to_owned))
        };
        assert_eq!(verify("correct horse", Some(&hash)).await, Ok(true));
        assert_eq!(verify("correct hors", Some(&hash)).await, Ok(false));
        assert_eq!(verify("", Some("")).await, Ok(false), "what is no hash opens nothing");
        let began = Instant::now();
        assert_eq!(verify("correct horse", Some(&hash)).await, Ok(true));
        let known = began.elapsed();
        let began = Instant::now();
        assert_eq!(verify("correct horse", None).await, Ok(false));
        assert!(began.elapsed() > known / 5, "{:?} and {known:?}", began.elapsed());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn few_are_hashed_at_once_and_many_are_sent_away() {
        let passwords = Arc::new(Passwords::default());
        let all = (0..100).map(|_| {
            let passwords = passwords.clone();
            tokio::spawn(async move { passwords.hash(Secret::new("correct horse")).await.is_ok() })
        });
        let done =
            futures::future::join_all(all).await.into_iter().filter(|done| matches!(done, Ok(true))).count();
        assert!((AT_ONCE..=90).contains(&done), "{done}");
        assert!(passwords.hash(Secret::new("correct horse")).await.is_ok(), "places come free");
    }

    #[test]
    fn rules() {
        assert!(check("li", "correct horse").is_ok() && check("li", "delicious!").is_ok());
        assert!(check("li", "a小柳看山看水看云啊").is_ok(), "characters, not bytes");
        assert!(check("li", "short").unwrap_err().contains("at least 10"));
        assert!(check("administrator", "Administrator").is_err());
        assert!(check("administrator", "administrator1").is_err());
        assert!(check("li", &"x".repeat(2000)).is_err());
    }
}
