//! Which tenants' keys are open, and how fresh they are.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use ap_core::scope::Scope;

use super::Keyring;
use crate::vault::{KeySet, TenantKeys};

/// Open keys by tenant. Of each tenant there is one [`TenantKeys`] at most, so whoever holds it sees new keys.
#[derive(Default)]
pub(super) struct OpenKeys {
    tenants: BTreeMap<Scope, Entry>,
    /// Closed here, but still in somebody's hands.
    held: BTreeMap<Scope, (u64, Weak<TenantKeys>)>,
    tick: u64,
    /// Counts reads of the key table: a read that began earlier never replaces what a later one found.
    tickets: u64,
    /// The ticket from which on keys count as fresh.
    fresh: u64,
}

struct Entry {
    /// The tick of the last use.
    used: u64,
    /// Of the read that it comes from.
    ticket: u64,
    keys: Arc<TenantKeys>,
}

impl OpenKeys {
    pub(super) fn find(&mut self, scope: Scope) -> Option<Arc<TenantKeys>> {
        self.tick += 1;
        let entry = self.tenants.get_mut(&scope)?;
        entry.used = self.tick;
        Some(Arc::clone(&entry.keys))
    }

    /// A tenant's keys, if they are open or in somebody's hands.
    pub(super) fn peek(&self, scope: Scope) -> Option<Arc<TenantKeys>> {
        let open = self.tenants.get(&scope).map(|entry| Arc::clone(&entry.keys));
        open.or_else(|| self.held.get(&scope)?.1.upgrade())
    }

    /// Announces a read of the key table.
    pub(super) const fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    /// Keeps what the read of this ticket found, unless a later one came first; gives the tenant's keys, of which there is
    /// one object, whoever holds it.
    pub(super) fn install(&mut self, scope: Scope, ticket: u64, set: KeySet) -> Arc<TenantKeys> {
        self.tick += 1;
        let used = self.tick;
        if let Some(entry) = self.tenants.get_mut(&scope) {
            entry.used = used;
            if ticket > entry.ticket {
                entry.ticket = ticket;
                entry.keys.replace(set);
            }
            return Arc::clone(&entry.keys);
        }
        let held = self.held.remove(&scope).and_then(|(from, held)| Some((from, held.upgrade()?)));
        let (ticket, keys) = match held {
            Some((from, keys)) if from > ticket => (from, keys),
            Some((_, keys)) => {
                keys.replace(set);
                (ticket, keys)
            }
            None => (ticket, Arc::new(TenantKeys::of(scope, set))),
        };
        if self.tenants.len() >= Keyring::MAX_OPEN_TENANTS
            && let Some(oldest) = self.tenants.iter().min_by_key(|(_, entry)| entry.used).map(|(scope, _)| *scope)
        {
            self.close(oldest);
        }
        self.tenants.insert(scope, Entry { used, ticket, keys: Arc::clone(&keys) });
        keys
    }

    /// Forgets a tenant's keys; whoever holds them keeps them, and they are found again.
    pub(super) fn close(&mut self, scope: Scope) {
        let Some(Entry { ticket, keys, .. }) = self.tenants.remove(&scope) else { return };
        if Arc::strong_count(&keys) > 1 {
            self.held.insert(scope, (ticket, Arc::downgrade(&keys)));
        }
    }

    /// Tenants whose keys are in somebody's hands and were read before the last call of this; those in nobody's hands are
    /// closed instead.
    pub(super) fn stale(&mut self) -> Vec<Scope> {
        let since = std::mem::replace(&mut self.fresh, self.tickets + 1);
        self.held.retain(|_, (_, keys)| keys.strong_count() > 0);
        let old: Vec<Scope> =
            self.tenants.iter().filter(|(_, entry)| entry.ticket < since).map(|(scope, _)| *scope).collect();
        for scope in old {
            self.close(scope);
        }
        self.held.iter().filter(|(_, (ticket, _))| *ticket < since).map(|(scope, _)| *scope).collect()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.tenants.len()
    }
}
