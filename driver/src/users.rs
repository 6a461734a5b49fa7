//! What each user holds.

use crate::array::Array;
use crate::errno::Errno;

#[derive(Clone, Copy, Debug)]
struct User {
    uid: u32,
    pages: usize,
}

/// Users that hold something, in the order of their numbers.
#[derive(Debug, Default)]
pub struct Users {
    users: Array<User>,
}

impl Users {
    /// Nobody holds anything.
    pub const fn new() -> Self {
        Self {
            users: Array::new(),
        }
    }

    /// Pages that the user holds. O(log users).
    pub fn held(&self, uid: u32) -> usize {
        self.find(uid)
            .ok()
            .and_then(|at| self.users.get(at))
            .map_or(0, |user| user.pages)
    }

    /// Adds pages, where that is at most `limit` together. O(users) for a new user.
    ///
    /// # Errors
    /// `Dquot` beyond the limit, `Nomem`; nothing changed.
    pub fn charge(&mut self, uid: u32, pages: usize, limit: usize) -> Result<(), Errno> {
        let held = self.held(uid).checked_add(pages).ok_or(Errno::Dquot)?;
        if held > limit {
            return Err(Errno::Dquot);
        }
        match self.find(uid) {
            Ok(at) => {
                if let Some(user) = self.users.get_mut(at) {
                    user.pages = held;
                }
                Ok(())
            }
            Err(at) => self.users.insert(at, User { uid, pages }),
        }
    }

    /// Takes pages off; a user without any is forgotten.
    pub fn release(&mut self, uid: u32, pages: usize) {
        let Ok(at) = self.find(uid) else { return };
        let Some(user) = self.users.get_mut(at) else {
            return;
        };
        user.pages = user.pages.saturating_sub(pages);
        if user.pages == 0 {
            self.users.remove(at);
        }
    }

    fn find(&self, uid: u32) -> Result<usize, usize> {
        self.users.binary_search_by_key(&uid, |user| user.uid)
    }
}
