//! The root key.

use std::{collections::BTreeMap, slice};

use ap_core::store::StoreError;

use super::{Events, RootStatus};
use crate::{journal::RunError, kernel::Kernel};

/// Wraps every stored key under the root key of this runtime; returns how many were not. Afterwards no other root key opens
/// anything here.
pub(crate) async fn rotate_root(kernel: &Kernel, events: Events<'_>) -> Result<u64, RunError> {
    let mut rewrapped = 0;
    loop {
        let (mut behind, mut missed, before) = (None, 0_u64, rewrapped);
        loop {
            let page = kernel.backend.key_page(behind, PAGE).await?;
            let Some(last) = page.last() else { break };
            behind = Some(last.id);
            for row in &page {
                let Some(new) = kernel.keyring.rewrap(row, &*kernel.entropy)? else { continue };
                match kernel.backend.replace_key(row, new, &[]).await {
                    Ok(()) => rewrapped += 1,
                    // Changed or deleted in the meantime: looked at once more.
                    Err(StoreError::Conflict { .. } | StoreError::NotFound { .. }) => missed += 1,
                    Err(error) => return Err(error.into()),
                }
            }
            tracing::debug!(rewrapped, "the rotation of the root key goes on");
        }
        let pass = rotate_subjects(kernel).await?;
        (rewrapped, missed) = (rewrapped + pass.0, missed + pass.1);
        if missed == 0 && before == rewrapped {
            break;
        }
    }
    let event = events("finished", Some(kernel.keyring.root_id())).with_detail("rewrapped", rewrapped);
    let audit = kernel.audit_record(&event).await?;
    kernel.backend.append_audit(slice::from_ref(&audit)).await?;
    kernel.keyring.forget_previous();
    tracing::info!(root = %kernel.keyring.root_id(), rewrapped, "every stored key is under this root key");
    Ok(rewrapped)
}

/// Wraps every key of a data subject under the root key of this runtime; returns how many were not, and how many others changed
/// meanwhile.
async fn rotate_subjects(kernel: &Kernel) -> Result<(u64, u64), RunError> {
    let (mut behind, mut rewrapped, mut missed) = (None, 0, 0);
    loop {
        let page = kernel.backend.subject_key_page(behind, PAGE).await?;
        let Some(last) = page.last() else { return Ok((rewrapped, missed)) };
        behind = last.scope.project().map(|project| (project, last.id));
        for stored in &page {
            let keys = kernel.keyring.tenant(stored.scope).await?;
            let Some(new) = kernel.keyring.rewrap_subject_key(&keys, stored, &*kernel.entropy)? else { continue };
            match kernel.backend.replace_subject_key(stored, new).await {
                Ok(()) => rewrapped += 1,
                Err(StoreError::Conflict { .. } | StoreError::NotFound { .. }) => missed += 1,
                Err(error) => return Err(error.into()),
            }
        }
        tracing::debug!(rewrapped, "the rotation of the root key goes on with keys of data subjects");
    }
}

/// Which root keys the stored keys are wrapped under.
pub(crate) async fn root_status(kernel: &Kernel) -> Result<RootStatus, RunError> {
    let root = kernel.keyring.root_id();
    let mut status = RootStatus { root, wrapped: 0, others: BTreeMap::new() };
    let mut count = |under| {
        if under == root {
            status.wrapped += 1;
        } else {
            *status.others.entry(under).or_default() += 1;
        }
    };
    let mut behind = None;
    loop {
        let page = kernel.backend.key_page(behind, PAGE).await?;
        let Some(last) = page.last() else { break };
        behind = Some(last.id);
        page.iter().for_each(|row| count(row.parent));
    }
    let mut behind = None;
    loop {
        let page = kernel.backend.subject_key_page(behind, PAGE).await?;
        let Some(last) = page.last() else { return Ok(status) };
        behind = last.scope.project().map(|project| (project, last.id));
        page.iter().for_each(|key| count(key.root));
    }
}

/// Keys read at once.
const PAGE: u32 = 500;
