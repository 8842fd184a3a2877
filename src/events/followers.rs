//! How many follow, so that one cannot shut out the others, nor strangers the people of the box.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard};

/// Followers that count as one.
const OF_ONE: usize = 16;

/// Followers who have signed in, and others.
const PEOPLE: usize = 256;
const STRANGERS: usize = 128;

/// Whom a follower counts for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    Person(String),
    /// Somebody who has not signed in, by the place that they come from.
    Stranger(IpAddr),
}

/// Why somebody may not follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooMany {
    /// Of this person or place.
    OfOne,
    InAll,
}

/// Those who follow now.
#[derive(Default)]
pub struct Followers(Mutex<HashMap<Who, usize>>);

impl Followers {
    /// One more, until [`leave`](Self::leave).
    pub fn enter(&self, who: &Who) -> Result<(), TooMany> {
        let mut followers = self.lock();
        let of_one = followers.get(who).copied().unwrap_or_default();
        if of_one >= OF_ONE {
            return Err(TooMany::OfOne);
        }
        let is_stranger = |who: &Who| matches!(who, Who::Stranger(_));
        let alike = followers.iter().filter(|(other, _)| is_stranger(other) == is_stranger(who));
        let most = if is_stranger(who) { STRANGERS } else { PEOPLE };
        if alike.map(|(_, count)| count).sum::<usize>() >= most {
            return Err(TooMany::InAll);
        }
        followers.insert(who.clone(), of_one + 1);
        Ok(())
    }

    pub fn leave(&self, who: &Who) {
        let mut followers = self.lock();
        if let Some(count) = followers.get_mut(who) {
            *count -= 1;
            if *count == 0 {
                followers.remove(who);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Who, usize>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_one_nor_many_strangers_take_all_places() {
        let followers = Followers::default();
        let li = Who::Person("li".to_owned());
        let enter = |who: &Who| (0..1_000).map_while(|_| followers.enter(who).ok()).count();
        assert_eq!(enter(&li), OF_ONE);
        assert_eq!(followers.enter(&li), Err(TooMany::OfOne));
        let place = |n: usize| Who::Stranger([192, 0, 2, n as u8].into());
        assert_eq!((0..100).map(|n| enter(&place(n))).sum::<usize>(), STRANGERS);
        assert_eq!(followers.enter(&place(100)), Err(TooMany::InAll));
        let person = |n: usize| Who::Person(n.to_string());
        assert_eq!((0..100).map(|n| enter(&person(n))).sum::<usize>(), PEOPLE - OF_ONE);
        followers.leave(&li);
        assert_eq!(followers.enter(&li), Ok(()));
        (0..OF_ONE).for_each(|_| followers.leave(&li));
        assert!(!followers.lock().contains_key(&li));
    }
}
