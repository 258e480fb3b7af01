//! [`Secrets`]: what one redactor looks for, known to the whole process as long as it exists.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use super::matcher::Matcher;

/// What one redactor looks for.
pub(super) struct Secrets {
    /// What is shown in the place of each.
    pub(super) markers: Vec<String>,
    pub(super) matcher: Matcher,
    number: u64,
}

#[derive(Default)]
struct Live {
    /// By number, so that the oldest comes first.
    secrets: BTreeMap<u64, Weak<Secrets>>,
    last: u64,
}

static LIVE: Mutex<Live> = Mutex::new(Live { secrets: BTreeMap::new(), last: 0 });

impl Secrets {
    pub(super) fn new(markers: Vec<String>, matcher: Matcher) -> Arc<Self> {
        let mut live = lock();
        live.last += 1;
        let secrets = Arc::new(Self { markers, matcher, number: live.last });
        live.secrets.insert(secrets.number, Arc::downgrade(&secrets));
        secrets
    }
}

impl Drop for Secrets {
    fn drop(&mut self) {
        lock().secrets.remove(&self.number);
    }
}

/// All that exist now, the oldest first.
pub(super) fn all() -> Vec<Arc<Secrets>> {
    // None of them is dropped while the lock is held: dropping takes it.
    let live = lock();
    live.secrets.values().filter_map(Weak::upgrade).collect()
}

fn lock() -> MutexGuard<'static, Live> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}
