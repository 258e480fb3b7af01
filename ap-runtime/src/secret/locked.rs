//! [`LockedSecret`]: a secret that stays in memory for longer than a request.

use secrecy::SecretString;
use zeroize::{Zeroize, Zeroizing};

/// A secret in pages of its own, which are wiped when it is dropped and, as far as the system allows it, never swapped out.
///
/// Without one of the features that bring a secret manager it is wiped, and nothing else.
pub(super) struct LockedSecret {
    /// More than the secret, which begins at `start`: where a page does.
    bytes: Zeroizing<Vec<u8>>,
    start: usize,
    length: usize,
    /// Dropped after the bytes were wiped, before they are freed.
    #[cfg(feature = "locked-memory")]
    guard: Option<region::LockGuard>,
}

impl LockedSecret {
    pub(super) fn new(secret: &str) -> Self {
        // Nobody else's bytes are in its pages: to unlock them would unlock those, and the system does not count.
        #[cfg(feature = "locked-memory")]
        let page = region::page::size();
        #[cfg(not(feature = "locked-memory"))]
        let page = 1;
        let room = secret.len().max(1).next_multiple_of(page);
        let bytes = Zeroizing::new(vec![0; room + page - 1]);
        let start = match bytes.as_ptr().align_offset(page) {
            start if start < page => start,
            // Allowed by its contract, and seen nowhere: then it is not locked.
            _ => 0,
        };
        let mut locked = Self {
            #[cfg(feature = "locked-memory")]
            guard: bytes.get(start..start + room).and_then(lock),
            start,
            length: 0,
            bytes,
        };
        if let Some(place) = locked.bytes.get_mut(start..start + secret.len()) {
            place.copy_from_slice(secret.as_bytes());
            locked.length = secret.len();
        }
        locked
    }

    /// A copy, to be used and wiped.
    pub(super) fn to_secret(&self) -> SecretString {
        let text = self.bytes.get(self.start..self.start + self.length).unwrap_or_default();
        SecretString::from(std::str::from_utf8(text).unwrap_or_default())
    }

    /// Whether its pages are held in memory.
    #[cfg(all(test, feature = "locked-memory"))]
    fn is_locked(&self) -> bool {
        self.guard.is_some()
    }
}

impl Drop for LockedSecret {
    fn drop(&mut self) {
        self.bytes.as_mut_slice().zeroize();
        #[cfg(feature = "locked-memory")]
        drop(self.guard.take());
    }
}

/// Locks the pages of `place`, unless the system does not let this process have more of them: that is said once.
#[cfg(feature = "locked-memory")]
fn lock(place: &[u8]) -> Option<region::LockGuard> {
    use std::sync::Once;

    static TOLD: Once = Once::new();
    match region::lock(place.as_ptr(), place.len()) {
        Ok(guard) => Some(guard),
        Err(error) => {
            TOLD.call_once(|| {
                tracing::warn!(%error, "secrets cannot be kept out of swap: raise the limit on locked memory (RLIMIT_MEMLOCK)");
            });
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_secret_comes_back_as_it_was() {
        for text in ["", "k", "canary-secret", &"x".repeat(4096), &"y".repeat(16 << 10)] {
            assert_eq!(LockedSecret::new(text).to_secret().expose_secret(), text);
        }
    }

    #[cfg(all(feature = "locked-memory", target_os = "linux"))]
    #[test]
    fn its_pages_are_locked_while_it_lives() {
        let locked = || {
            let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
            let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).expect("a line");
            line.trim().trim_end_matches(" kB").trim().parse::<usize>().expect("a number")
        };
        let (one, two) = (LockedSecret::new("canary-one"), LockedSecret::new("canary-two"));
        // A system that allows none has none; other tests lock pages, too.
        let page = region::page::size() / 1024;
        assert!(!two.is_locked() || locked() >= 2 * page);
        drop(one);
        assert!(!two.is_locked() || locked() >= page, "one secret unlocked the page of another");
    }
}
