//! Permission that lasts: streams and downloads that outlive the request that opened them.

use std::time::{Duration, Instant};

use super::{Access, Action, Denied, Person};

/// Between two looks; a revocation takes hold within 30 s wherever it was made.
const EVERY: Duration = Duration::from_secs(10);

/// While the database does not answer, what was allowed stays allowed so long: a full disk must not blacken the walls
/// of screens, and a revocation must not wait for ever.
const DOUBT: Duration = Duration::from_secs(900);

/// What somebody was allowed, asked about again and again. Denied and unknown are two things.
pub struct Standing {
    access: Access,
    person: Person,
    action: Action,
    camera: Option<String>,
    asked: Instant,
    certain: Instant,
}

impl Access {
    /// For what has just been allowed and lasts.
    pub fn standing(&self, person: Person, action: Action, camera: Option<&str>) -> Standing {
        let now = Instant::now();
        let camera = camera.map(str::to_owned);
        Standing { access: self.clone(), person, action, camera, asked: now, certain: now }
    }
}

impl Standing {
    /// Whether it is still allowed. Cheap to call often: asks the store when it is time.
    pub async fn holds(&mut self) -> bool {
        let now = Instant::now();
        if now.duration_since(self.asked) < EVERY {
            return true;
        }
        self.asked = now;
        let proof = self.person.proof.clone();
        let answer = self.access.off_thread(move |access| access.ask(&proof)).await;
        self.judge(answer, now)
    }

    fn judge(&mut self, answer: Result<Person, Denied>, now: Instant) -> bool {
        match answer {
            Err(Denied::CannotTell) => now.duration_since(self.certain) < DOUBT,
            Err(_) => false,
            Ok(person) => {
                self.certain = now;
                self.person = person;
                self.person.may(self.action, self.camera.as_deref())
            }
        }
    }

    /// Who it is, as last known: other cameras may have joined their group.
    pub fn person(&self) -> &Person {
        &self.person
    }

    /// Waits until it is no longer allowed.
    pub async fn ended(mut self) {
        while self.holds().await {
            tokio::time::sleep(EVERY).await;
        }
    }
}

#[cfg(test)]
impl Standing {
    pub(super) fn ask_now(&mut self) {
        self.asked = self.asked.checked_sub(EVERY).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Role;

    #[test]
    fn doubt_is_not_denial_for_a_while() {
        let access = Access::simulated(None);
        let viewer = Person::anonymous();
        let mut standing = access.standing(viewer.clone(), Action::Live, Some("gate-1"));
        let start = standing.certain;
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        assert!(standing.judge(Ok(viewer.clone()), after(10)));
        assert!(standing.judge(Err(Denied::CannotTell), after(20)));
        assert!(standing.judge(Err(Denied::CannotTell), after(10 + DOUBT.as_secs() - 1)));
        assert!(!standing.judge(Err(Denied::CannotTell), after(10 + DOUBT.as_secs())));
        assert!(standing.judge(Ok(viewer.clone()), after(2_000)));
        assert!(standing.judge(Err(Denied::CannotTell), after(2_010)), "certain again");
        for denied in [Denied::Unknown, Denied::SignIn, Denied::Forbidden] {
            assert!(!standing.judge(Err(denied), after(2_020)));
        }
        let elsewhere = Person { cameras: Some(vec!["gate-2".to_owned()]), ..viewer.clone() };
        assert!(!standing.judge(Ok(elsewhere), after(2_030)));
        assert!(!standing.judge(Ok(Person { role: Role::Dispatch, ..viewer }), after(2_040)));
    }
}
