//! Players of RTSP: they prove a stream key or a token, by Digest or Basic, again with each stream that they open.

use std::net::IpAddr;
use std::time::Instant;

use super::{
    Access, Authorization, Challenge, Denied, Keeper, Person, Proof, digest, key_mark, presented, tokens,
};
use crate::store::Ha1;

impl Access {
    /// Whoever sent an RTSP request with this `Authorization` header: a person's stream key, or a token as the password
    /// of the user `token`, by Digest or Basic. `meant` tells whether the address that a Digest header was made for is
    /// the one that is asked for.
    ///
    /// Where too many from `address` were wrong lately it is not told whether this one is right; a key that was right
    /// from there before opens all the same.
    ///
    /// A person's password opens nothing here: players keep what they are given, in files and in command lines.
    pub async fn player(
        &self,
        challenge: &mut Challenge,
        header: Option<&str>,
        address: IpAddr,
        method: &str,
        meant: impl FnOnce(&str) -> bool,
    ) -> Result<Person, Denied> {
        // A player that sends some user name to an open simulated camera gets in as well.
        let Some(header) = header.filter(|_| !matches!(self.inner.keeper, Keeper::Simulated(None))) else {
            return self.off_thread(|access| access.ask(&Proof::Anonymous)).await;
        };
        let shown = self.shown(header);
        let user = shown.as_ref().map_or_else(|_| String::new(), |shown| shown.user().to_owned());
        let judged = match shown {
            Ok(shown) => self.judge(challenge, shown, method, meant).await,
            Err(denied) => Err(denied),
        };
        if let Keeper::Simulated(_) = self.inner.keeper {
            return judged;
        }
        let key = match &judged {
            Ok(person) => person.proof.mark(),
            Err(Denied::Unknown) => None,
            Err(_) => return judged,
        };
        if !self.limits().player(key, address, Instant::now()) {
            return Err(Denied::TooMany);
        }
        if judged.is_err() {
            let access = self.clone();
            let _ = tokio::task::spawn_blocking(move || access.player_failed(&user, address)).await;
        }
        judged
    }

    async fn judge(
        &self,
        challenge: &mut Challenge,
        shown: Authorization,
        method: &str,
        meant: impl FnOnce(&str) -> bool,
    ) -> Result<Person, Denied> {
        let proof = match shown {
            Authorization::Token(token) => Proof::Token(presented(&token)?),
            Authorization::Basic(user, key) => {
                let shown = digest::ha1(&user, &key);
                let keys = self.off_thread(move |access| access.keys(&user)).await?;
                let found = keys.into_iter().find(|(_, ha1)| digest::same(ha1, &shown));
                found.ok_or(Denied::Unknown)?.0
            }
            Authorization::Digest(answer) => {
                let user = answer.user.clone();
                let keys = self.off_thread(move |access| access.keys(&user)).await?;
                let found = keys.into_iter().find(|(_, ha1)| answer.is_right(method, ha1));
                let (proof, _) = found.filter(|_| meant(&answer.uri)).ok_or(Denied::Unknown)?;
                challenge.admit(&answer)?;
                proof
            }
        };
        self.off_thread(move |access| access.ask(&proof)).await
    }

    /// What a player may sign in with as this user, and what each proves. Of nobody one that no key matches, so that
    /// both cost the same.
    fn keys(&self, user: &str) -> Result<Vec<(Proof, Ha1)>, Denied> {
        let store = match &self.inner.keeper {
            Keeper::Box { store, .. } => store,
            Keeper::Simulated(known) => {
                let known = known.iter().filter(|(name, _)| name == user);
                let proof = |ha1: &Ha1| Proof::StreamKey(user.to_owned(), key_mark(ha1));
                return Ok(known.map(|(_, ha1)| (proof(ha1), *ha1)).collect());
            }
        };
        let cannot_tell = |error| {
            tracing::error!("a stream key cannot be looked up: {error}");
            Denied::CannotTell
        };
        if user == tokens::USER {
            let rows = store.tokens().map_err(cannot_tell)?.into_iter().filter(|row| row.revoked.is_none());
            return Ok(rows.filter_map(|row| Some((Proof::Token(row.sha256), row.ha1?))).collect());
        }
        let known = store.person(user).map_err(cannot_tell)?.and_then(|row| row.stream_key);
        let key = known.unwrap_or_else(|| Ha1 { md5: rand::random(), sha256: rand::random() });
        Ok(vec![(Proof::StreamKey(user.to_owned(), key_mark(&key)), key)])
    }
}
