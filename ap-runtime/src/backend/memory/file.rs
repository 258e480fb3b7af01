//! Files.

use ap_core::{
    audit::AuditRecord,
    id::{FileId, ProjectId},
    store::{Entity, StoreError},
};
use async_trait::async_trait;

use super::MemoryBackend;
use crate::store::{FileRecord, FileStore};

#[async_trait]
impl FileStore for MemoryBackend {
    async fn write_file(&self, file: FileRecord, audit: &[AuditRecord]) -> Result<(), StoreError> {
        let mut state = self.lock();
        state.check_exists(file.project)?;
        let key = (file.project, file.id);
        if state.files.contains_key(&key) {
            return Err(StoreError::AlreadyExists { entity: Entity::File });
        }
        state.append_audit(audit)?;
        state.files.insert(key, file);
        Ok(())
    }

    async fn file(&self, id: FileId, project: ProjectId) -> Result<FileRecord, StoreError> {
        self.lock().files.get(&(project, id)).cloned().ok_or(StoreError::NotFound { entity: Entity::File })
    }

    async fn delete_file(&self, id: FileId, project: ProjectId, audit: &[AuditRecord]) -> Result<(), StoreError> {
        let mut state = self.lock();
        if !state.files.contains_key(&(project, id)) {
            return Err(StoreError::NotFound { entity: Entity::File });
        }
        state.append_audit(audit)?;
        state.files.remove(&(project, id));
        Ok(())
    }
}
