//! The key of one tenant.

use std::{collections::BTreeSet, slice, time::Duration};

use ap_core::{id::KeyId, scope::Scope, store::StoreError, time::Timestamp};
use ap_crypto::{
    envelope,
    error::{KeyError, VaultError},
    keyring::{KeyKind, WrappedKey},
    vault::TenantKeys,
};

use super::{Events, KeyStatus, RETIRED_KEPT, RotationOptions, RotationReport};
use crate::{
    journal::RunError,
    kernel::Kernel,
    records,
    store::{CellTable, ResealedCell},
};

/// Rotates the key of a tenant, or goes on with a rotation that was begun.
pub(crate) async fn rotate_tenant(
    kernel: &Kernel,
    scope: Scope,
    options: RotationOptions,
    events: Events<'_>,
) -> Result<RotationReport, RunError> {
    let rows = kernel.backend.keys(scope).await?;
    keep_subkeys(kernel, scope, &rows).await?;
    let keys = data_keys(&rows);
    if let [only] = keys.as_slice() {
        let now = kernel.clock.now();
        let created = after(only.created, now);
        let id = KeyId::from_parts(now, kernel.id_entropy()?);
        let row = kernel.keyring.new_data_key(scope, id, created, &*kernel.entropy)?;
        let audit = kernel.audit_record(&events("started", Some(id))).await?;
        kernel.backend.insert_key(row, slice::from_ref(&audit)).await?;
        tracing::info!(%scope, key = %id, "a tenant has a new key");
    }
    finish(kernel, scope, options, events).await
}

/// Makes the oldest key of a rotation that is under way the one that seals, and brings everything back under it.
pub(crate) async fn turn_back(
    kernel: &Kernel,
    scope: Scope,
    options: RotationOptions,
    events: Events<'_>,
) -> Result<Option<RotationReport>, RunError> {
    let rows = kernel.backend.keys(scope).await?;
    let keys = data_keys(&rows);
    let (Some(oldest), Some(newest)) = (keys.first(), keys.last()) else {
        return Err(KeyError::NoKey { scope }.into());
    };
    if oldest.id == newest.id {
        return Ok(None);
    }
    keep_subkeys(kernel, scope, &rows).await?;
    let row = kernel.keyring.renew(oldest, after(newest.created, kernel.clock.now()), &*kernel.entropy)?;
    let audit = kernel.audit_record(&events("turned back", Some(oldest.id))).await?;
    kernel.backend.replace_key(oldest, row, slice::from_ref(&audit)).await?;
    tracing::info!(%scope, key = %oldest.id, "a rotation is turned back");
    finish(kernel, scope, options, events).await.map(Some)
}

/// Where the key of a tenant stands.
pub(crate) async fn status(kernel: &Kernel, scope: Scope) -> Result<KeyStatus, RunError> {
    let rows = kernel.backend.keys(scope).await?;
    let keys = data_keys(&rows);
    let current = keys.last().ok_or(KeyError::NoKey { scope })?.id;
    let mut remaining = 0;
    for table in CellTable::ALL {
        remaining += kernel.backend.count_cells(table, current, scope).await?;
    }
    let retired = rows.iter().filter(|row| row.kind == KeyKind::Retired).count();
    Ok(KeyStatus { current, older: count(keys.len()).saturating_sub(1), retired: count(retired), remaining })
}

/// Tenants whose rotation is under way or was cut off, of all that there are.
pub(crate) async fn unfinished(kernel: &Kernel) -> Result<Vec<Scope>, RunError> {
    let (mut seen, mut found) = (BTreeSet::new(), BTreeSet::new());
    let mut behind = None;
    loop {
        let page = kernel.backend.key_page(behind, PAGE).await?;
        let Some(last) = page.last() else { return Ok(found.into_iter().collect()) };
        behind = Some(last.id);
        for row in page.iter().filter(|row| row.kind == KeyKind::Data) {
            if !seen.insert(row.scope) {
                found.insert(row.scope);
            }
        }
    }
}

/// Brings every cell under the newest key, retires the others, and deletes what has been retired long enough.
async fn finish(
    kernel: &Kernel,
    scope: Scope,
    options: RotationOptions,
    events: Events<'_>,
) -> Result<RotationReport, RunError> {
    let mut report = RotationReport { key: KeyId::from_u128(0), resealed: 0, damaged: 0, retired: 0, deleted: 0 };
    // Somebody may hold what this process, or the one before it, replaced just now. By our own clock: that of whoever made the key
    // may have been ahead.
    let (mut last_change, mut current) = (kernel.clock.now(), None);
    loop {
        kernel.keyring.reload(scope).await?;
        let rows = kernel.backend.keys(scope).await?;
        let keys = data_keys(&rows);
        let Some((newest, older)) = keys.split_last() else { return Err(KeyError::NoKey { scope }.into()) };
        if current.replace(newest.id) != Some(newest.id) {
            last_change = kernel.clock.now();
        }
        let settled = last_change.saturating_add(options.grace);
        let is_settled = kernel.clock.now() >= settled;
        let pass = sweep(kernel, scope, newest.id, options.batch).await?;
        (report.key, report.damaged) = (newest.id, pass.damaged);
        report.resealed += pass.resealed;
        if pass.changed() {
            last_change = kernel.clock.now();
            // As long as others write under the old key there is something to be found; to look for it all the time helps nobody.
            kernel.clock.sleep_until(last_change.saturating_add(options.grace.min(PAUSE))).await;
            continue;
        }
        if !older.is_empty() {
            if !is_settled {
                kernel.clock.sleep_until(settled).await;
                continue;
            }
            report.retired += retire(kernel, older, events).await?;
            // Once more: what was written late is found under the retired key.
            continue;
        }
        report.deleted += delete_old(kernel, &rows, &pass.named, events).await?;
        tracing::info!(%scope, key = %report.key, resealed = report.resealed, damaged = report.damaged, "a rotation is done");
        return Ok(report);
    }
}

/// What one look at every cell came to.
#[derive(Default)]
struct Pass {
    resealed: u64,
    /// Written by somebody else in the meantime.
    missed: u64,
    damaged: u64,
    /// The keys that damaged cells name.
    named: BTreeSet<KeyId>,
}

impl Pass {
    const fn changed(&self) -> bool {
        self.resealed + self.missed > 0
    }
}

async fn sweep(kernel: &Kernel, scope: Scope, current: KeyId, batch: u32) -> Result<Pass, RunError> {
    let keys = kernel.keyring.with_retired(scope).await?;
    let mut pass = Pass::default();
    for table in CellTable::ALL {
        let mut behind = None;
        loop {
            let cells = kernel.backend.cells(table, current, behind.take(), batch, scope).await?;
            let Some(last) = cells.last() else { break };
            behind = Some(last.key.clone());
            let mut changes = Vec::with_capacity(cells.len());
            for cell in cells {
                match reseal(kernel, &keys, scope, &cell) {
                    Ok(Some(new)) => changes.push(ResealedCell { key: cell.key, old: cell.sealed, new }),
                    Ok(None) => {}
                    Err(VaultError::Unopenable) => {
                        tracing::error!(%scope, table = table.as_str(), key = ?cell.key, "a rotation leaves a damaged cell");
                        pass.damaged += 1;
                        pass.named.extend(envelope::key_id(&cell.sealed));
                    }
                    Err(error) => return Err(RunError::Seal(error)),
                }
            }
            let replaced = kernel.backend.reseal_cells(&changes, scope).await?;
            pass.resealed += replaced;
            pass.missed += (changes.len() as u64).saturating_sub(replaced);
            tracing::debug!(%scope, table = table.as_str(), resealed = pass.resealed, "a rotation goes on");
        }
    }
    Ok(pass)
}

fn reseal(
    kernel: &Kernel,
    keys: &TenantKeys,
    scope: Scope,
    cell: &crate::store::SealedCell,
) -> Result<Option<ap_core::store::Sealed>, VaultError> {
    let mut buffer = Vec::new();
    keys.reseal(&records::cell(&cell.key, scope, &mut buffer), &cell.sealed, &*kernel.entropy)
}

/// Stores what is derived from the first key, before that key can go.
async fn keep_subkeys(kernel: &Kernel, scope: Scope, rows: &[WrappedKey]) -> Result<(), RunError> {
    let Some(row) = kernel.keyring.look_up_row(scope, rows, &*kernel.entropy)? else { return Ok(()) };
    match kernel.backend.insert_key(row, &[]).await {
        Ok(()) | Err(StoreError::AlreadyExists { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn retire(kernel: &Kernel, older: &[&WrappedKey], events: Events<'_>) -> Result<u32, RunError> {
    let mut retired = 0;
    for key in older {
        let row = kernel.keyring.retire(key, after(key.created, kernel.clock.now()), &*kernel.entropy)?;
        let audit = kernel.audit_record(&events("retired", Some(key.id))).await?;
        match kernel.backend.replace_key(key, row, slice::from_ref(&audit)).await {
            Ok(()) => retired += 1,
            // Another rotation came first; the next pass sees what it did.
            Err(StoreError::Conflict { .. } | StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(retired)
}

/// Deletes keys that were retired long ago, but for those that damaged cells name: who puts back what was there can still have it.
async fn delete_old(
    kernel: &Kernel,
    rows: &[WrappedKey],
    named: &BTreeSet<KeyId>,
    events: Events<'_>,
) -> Result<u32, RunError> {
    let latest = kernel.clock.now().saturating_sub(RETIRED_KEPT);
    let mut deleted = 0;
    for key in rows.iter().filter(|row| row.kind == KeyKind::Retired && row.created <= latest) {
        if named.contains(&key.id) {
            tracing::warn!(scope = %key.scope, key = %key.id, "a retired key is kept: damaged cells name it");
            continue;
        }
        let audit = kernel.audit_record(&events("deleted", Some(key.id))).await?;
        match kernel.backend.delete_key(key, slice::from_ref(&audit)).await {
            Ok(()) => deleted += 1,
            Err(StoreError::Conflict { .. } | StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(deleted)
}

/// The keys that seal or sealed, the newest last.
fn data_keys(rows: &[WrappedKey]) -> Vec<&WrappedKey> {
    let mut keys: Vec<&WrappedKey> = rows.iter().filter(|row| row.kind == KeyKind::Data).collect();
    keys.sort_by_key(|row| (row.created, row.id));
    keys
}

/// Now, and later than `time` whatever the clocks of two machines say.
fn after(time: Timestamp, now: Timestamp) -> Timestamp {
    now.max(time.saturating_add(Duration::from_micros(1)))
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Keys read at once.
const PAGE: u32 = 500;
/// How long a rotation rests after a pass that found something.
const PAUSE: Duration = Duration::from_secs(1);
