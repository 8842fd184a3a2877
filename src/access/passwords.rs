//! Passwords: which are taken, and how they are hashed (argon2id, 19 MiB, two passes, one lane).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

use argon2::password_hash::phc::{Output, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use subtle::ConstantTimeEq;
use tokio::sync::oneshot;

use crate::config::Secret;

/// Characters of the shortest password.
pub const SHORTEST: usize = 10;

/// Bytes of the longest.
pub const LONGEST: usize = 1024;

/// Different characters of the simplest.
const DIFFERENT: usize = 5;

/// What guessers try first: these, with digits and signs before or behind them or not.
const GUESSED_FIRST: [&str; 17] = [
    "",
    "password",
    "passw0rd",
    "p@ssw0rd",
    "p@ssword",
    "admin",
    "administrator",
    "qwerty",
    "qwertyuiop",
    "qwertyuiopasdfghjkl",
    "asdfghjkl",
    "q2w3e4r5t",
    "qaz2wsx3edc",
    "letmein",
    "welcome",
    "iloveyou",
    "woaini",
];

/// Hashes at once: each costs 19 MiB and a core for some 30 ms, and whoever reaches the box may ask for one.
const AT_ONCE: usize = 2;

/// Those that wait: as many as have a turn before an HTTP client is answered that it took too long.
const WAITING: usize = 1024;

/// From this size on the system's allocator always maps memory of its own and gives it back when it is freed. Smaller
/// pieces stay with the heap of the thread that had them, and every thread has one.
const MAPPED: usize = 33 << 20;

/// Hashes passwords, a few at a time.
#[derive(Default)]
pub struct Passwords {
    line: Arc<Mutex<Line>>,
}

/// Who waits, and how many are at it.
#[derive(Default)]
struct Line {
    hashing: usize,
    arrivals: u64,
    waiting: BTreeMap<(Turn, u64), Job>,
}

type Job = Box<dyn FnOnce(&mut Memory) + Send>;

/// Who is next: known ones before strangers, then who has failed less, then who came first. Of too many the last is sent
/// away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn {
    pub stranger: bool,
    pub failures: u32,
}

impl Turn {
    /// Of whoever has signed in already.
    pub const FIRST: Turn = Turn { stranger: false, failures: 0 };
}

/// Too many are being hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

impl Passwords {
    /// Whether this is the password that `hash` was made of. Nobody's hash is compared all the same, so that time does
    /// not tell who exists.
    pub async fn verify(&self, password: Secret, hash: Option<String>, turn: Turn) -> Result<bool, Busy> {
        self.run(turn, move |memory| {
            let known = hash.is_some();
            memory.matches(&password, hash.as_deref().unwrap_or(&NOBODY)) && known
        })
        .await
    }

    pub async fn hash(&self, password: Secret) -> Result<String, Busy> {
        self.run(Turn::FIRST, move |memory| memory.hash(&password)).await
    }

    async fn run<T: Send + 'static>(
        &self,
        turn: Turn,
        work: impl FnOnce(&mut Memory) -> T + Send + 'static,
    ) -> Result<T, Busy> {
        let (answer, answered) = oneshot::channel();
        let job = move |memory: &mut Memory| {
            // Who has left meanwhile costs nothing.
            if !answer.is_closed() {
                let _ = answer.send(work(memory));
            }
        };
        if lock(&self.line).join(turn, Box::new(job)) {
            let line = self.line.clone();
            tokio::task::spawn_blocking(move || hash_while_somebody_waits(&line));
        }
        answered.await.map_err(|_| Busy)
    }
}

impl Line {
    /// True where another place is free for it.
    fn join(&mut self, turn: Turn, job: Job) -> bool {
        self.arrivals += 1;
        self.waiting.insert((turn, self.arrivals), job);
        if self.waiting.len() > WAITING {
            self.waiting.pop_last();
        }
        let free = self.hashing < AT_ONCE;
        self.hashing += usize::from(free);
        free
    }

    /// What a place does next; it is given up where nobody waits.
    fn next(&mut self) -> Option<Job> {
        let next = self.waiting.pop_first();
        self.hashing -= usize::from(next.is_none());
        next.map(|(_, job)| job)
    }
}

fn hash_while_somebody_waits(line: &Mutex<Line>) {
    let mut memory = Memory::new();
    loop {
        let next = lock(line).next();
        let Some(job) = next else { return };
        job(&mut memory);
    }
}

fn lock(line: &Mutex<Line>) -> MutexGuard<'_, Line> {
    line.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// What a place hashes with, for as long as somebody waits.
struct Memory(Vec<Block>);

impl Memory {
    fn new() -> Memory {
        Memory(Vec::with_capacity(MAPPED / Block::SIZE))
    }

    /// As a PHC string.
    fn hash(&mut self, password: &Secret) -> String {
        let salt: [u8; 16] = rand::random();
        let hash = self.digest(password, &salt, &params());
        // Lengths are checked before; what is no hash is matched by no password.
        hash.map(|hash| hash.to_string()).unwrap_or_else(|error| {
            tracing::error!("a password cannot be hashed: {error}");
            String::new()
        })
    }

    fn matches(&mut self, password: &Secret, hash: &str) -> bool {
        let Ok(kept) = PasswordHash::new(hash) else { return false };
        let (Some(salt), Ok(params)) = (kept.salt, Params::try_from(&kept)) else { return false };
        let shown = self.digest(password, &salt, &params);
        shown.is_ok_and(|shown| bool::from(shown.to_string().as_bytes().ct_eq(hash.as_bytes())))
    }

    fn digest(
        &mut self,
        password: &Secret,
        salt: &[u8],
        params: &Params,
    ) -> argon2::password_hash::Result<PasswordHash> {
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
        self.0.resize(params.block_count(), Block::default());
        let mut hash = [0; Params::DEFAULT_OUTPUT_LEN];
        argon2.hash_password_into_with_memory(
            password.expose().as_bytes(),
            salt,
            &mut hash,
            &mut self.0[..],
        )?;
        Ok(PasswordHash {
            algorithm: Algorithm::Argon2id.ident(),
            version: Some(Version::V0x13.into()),
            params: params.try_into()?,
            salt: Some(Salt::new(salt)?),
            hash: Some(Output::new(&hash)?),
        })
    }
}

static NOBODY: LazyLock<String> = LazyLock::new(|| Memory::new().hash(&Secret::new(super::random_text())));

fn params() -> Params {
    Params::new(19 * 1024, 2, 1, None).unwrap_or(Params::DEFAULT)
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
    if password.chars().collect::<BTreeSet<_>>().len() < DIFFERENT {
        return Err(format!("password: at least {DIFFERENT} different characters were expected"));
    }
    let core = password.trim_matches(|c: char| !c.is_alphabetic()).to_lowercase();
    if GUESSED_FIRST.contains(&core.as_str()) {
        return Err(
            "password: it is one of the first that guessers try; some words that do not belong together \
                    are better"
                .to_owned(),
        );
    }
    Ok(())
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
            passwords.verify(Secret::new(password), hash.map(str::to_owned), Turn::FIRST)
        };
        assert_eq!(verify("correct horse", Some(&hash)).await, Ok(true));
        assert_eq!(verify("correct hors", Some(&hash)).await, Ok(false));
        assert_eq!(verify("", Some("")).await, Ok(false), "what is no hash opens nothing");
        let other = hash.replace("m=19456", "m=64");
        assert_eq!(verify("correct horse", Some(&other)).await, Ok(false));
        let began = Instant::now();
        assert_eq!(verify("correct horse", Some(&hash)).await, Ok(true));
        let known = began.elapsed();
        let began = Instant::now();
        assert_eq!(verify("correct horse", None).await, Ok(false));
        assert!(began.elapsed() > known / 5, "{:?} and {known:?}", began.elapsed());
    }

    /// As the crate that hashes does it by itself.
    #[test]
    fn hashes_are_those_of_others() {
        use argon2::{PasswordHasher, PasswordVerifier};
        let theirs = Argon2::new(Algorithm::Argon2id, Version::V0x13, params());
        let (password, mut memory) = (Secret::new("correct horse"), Memory::new());
        theirs.verify_password(b"correct horse", memory.hash(&password).as_str()).unwrap();
        let hash = theirs.hash_password_with_salt(b"correct horse", b"some other salt.").unwrap().to_string();
        assert!(memory.matches(&password, &hash));
        let costlier = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(32, 3, 1, None).unwrap());
        let hash =
            costlier.hash_password_with_salt(b"correct horse", b"some other salt.").unwrap().to_string();
        assert!(memory.matches(&password, &hash), "other costs, as they may come one day");
    }

    /// Takes every place until the sender is dropped.
    async fn hold(passwords: &Arc<Passwords>) -> std::sync::mpsc::Sender<()> {
        let (ends, ended) = std::sync::mpsc::channel::<()>();
        let ended = Arc::new(Mutex::new(ended));
        for _ in 0..AT_ONCE {
            let (passwords, ended) = (passwords.clone(), ended.clone());
            tokio::spawn(async move {
                passwords.run(Turn::FIRST, move |_| ended.lock().unwrap().recv().is_err()).await
            });
        }
        while lock(&passwords.line).arrivals < AT_ONCE as u64 || !lock(&passwords.line).waiting.is_empty() {
            tokio::task::yield_now().await;
        }
        ends
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_line_is_bounded_and_who_has_failed_most_is_sent_away() {
        let passwords = Arc::new(Passwords::default());
        let ends = hold(&passwords).await;
        let verify = |turn: Turn| {
            let passwords = passwords.clone();
            tokio::spawn(async move { passwords.verify(Secret::new("x"), Some(String::new()), turn).await })
        };
        let guessers: Vec<_> =
            (0..WAITING).map(|n| verify(Turn { stranger: true, failures: 1 + n as u32 % 7 })).collect();
        while lock(&passwords.line).waiting.len() < WAITING {
            tokio::task::yield_now().await;
        }
        let others = [Turn { stranger: true, failures: 0 }, Turn::FIRST].map(verify);
        while guessers.iter().filter(|guesser| guesser.is_finished()).count() < others.len() {
            tokio::task::yield_now().await;
        }
        assert_eq!(lock(&passwords.line).waiting.len(), WAITING);
        let next = lock(&passwords.line).waiting.first_key_value().map(|((turn, _), _)| *turn);
        assert_eq!(next, Some(Turn::FIRST));
        drop(ends);
        for other in others {
            assert_eq!(other.await.unwrap(), Ok(false));
        }
        let mut away = 0;
        for guesser in guessers {
            away += usize::from(guesser.await.unwrap() == Err(Busy));
        }
        assert_eq!(away, 2);
        assert!(passwords.hash(Secret::new("correct horse")).await.is_ok(), "places come free");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_has_left_is_not_hashed_for() {
        let passwords = Arc::new(Passwords::default());
        let ends = hold(&passwords).await;
        let done = Arc::new(Mutex::new(0));
        for _ in 0..100 {
            let done = done.clone();
            let work = passwords.run(Turn::FIRST, move |_| *done.lock().unwrap() += 1);
            assert!(futures::FutureExt::now_or_never(work).is_none());
        }
        drop(ends);
        passwords.hash(Secret::new("correct horse")).await.unwrap();
        assert_eq!(*done.lock().unwrap(), 0);
    }

    #[test]
    fn rules() {
        assert!(check("li", "correct horse").is_ok() && check("li", "delicious!").is_ok());
        assert!(check("li", "a小柳看山看水看云啊").is_ok(), "characters, not bytes");
        assert!(check("li", "short").unwrap_err().contains("at least 10"));
        assert!(check("administrator", "Administrator").is_err());
        assert!(check("administrator", "administrator1").is_err());
        assert!(check("li", &"x".repeat(2000)).is_err());
        for weak in [
            "          ",
            "1234567890",
            "password12",
            "P@ssw0rd2026!",
            "aaaabbbbcccc",
            "1q2w3e4r5t",
            "admin#2024!",
        ] {
            assert!(check("li", weak).is_err(), "{weak:?}");
        }
    }
}
