//! Rules for files.

use ap_core::store::{Entity, Sealed, StoreError};
use bytes::Bytes;

use super::{
    Harness,
    sample::{END, audit, change, entry, file, open, project_id, published, running, trail},
};
use crate::store::{RunChange, RunCommit};

/// A file comes back bit for bit, once it is stored and until it is deleted.
pub async fn a_file_is_kept_until_it_is_deleted(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let project = published(backend, 1).await.project;
    let mut large = file(1, project, None);
    let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(1_000_000).collect();
    large.sealed = Sealed::from_bytes(Bytes::from(bytes));
    backend.write_file(large.clone(), &[audit(1, project)]).await.expect("written");
    assert_eq!(backend.file(large.id, project).await.expect("the file"), large);
    let again = backend.write_file(file(1, project, None), &[audit(2, project)]).await;
    assert!(matches!(again, Err(StoreError::AlreadyExists { entity: Entity::File })), "{again:?}");
    assert_eq!(backend.file(large.id, project).await.expect("the file"), large);
    let homeless = backend.write_file(file(2, project_id(9), None), &[]).await;
    assert!(matches!(homeless, Err(StoreError::NotFound { entity: Entity::Project })), "{homeless:?}");

    backend.delete_file(large.id, project, &[audit(3, project)]).await.expect("deleted");
    let gone = backend.file(large.id, project).await;
    assert!(matches!(gone, Err(StoreError::NotFound { entity: Entity::File })), "{gone:?}");
    let gone = backend.delete_file(large.id, project, &[audit(4, project)]).await;
    assert!(matches!(gone, Err(StoreError::NotFound { entity: Entity::File })), "{gone:?}");
    assert_eq!(trail(backend, project).await, [1, 3]);
}

/// Files of a run come with the entries that refer to them, and outlive the run.
pub async fn a_commit_brings_its_files(harness: &impl Harness) {
    let bench = open(harness).await;
    let backend = &*bench.backend;
    let flow = published(backend, 1).await;
    let held = running(backend, 1, &flow).await;
    let files = [1, 2].map(|number| file(number, flow.project, Some(held)));
    let commit = RunCommit::new(held, RunChange::Stay).with_entries(vec![entry(1)]);
    backend.commit(RunCommit { files: files.to_vec(), ..commit }, &[]).await.expect("a commit");
    change(backend, held, END).await;
    for stored in files {
        assert_eq!(backend.file(stored.id, flow.project).await.expect("the file"), stored);
    }
}
