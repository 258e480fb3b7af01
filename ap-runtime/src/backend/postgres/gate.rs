//! Gates: how many runs of a key are under way, and which wait before it. Whoever looks holds the gate's lock.

use ap_core::{id::ProjectId, store::LookupHash};

use super::{
    link::Transaction,
    value::{Columns, Id},
};
use crate::store::Gate;

impl Transaction<'_> {
    /// Whether one more run may pass; `leaving` others are about to leave.
    pub(super) async fn has_room(&mut self, project: ProjectId, gate: &Gate, leaving: u64) -> sqlx::Result<bool> {
        Ok(self.past_gate(project, gate.key).await?.saturating_sub(leaving) < u64::from(gate.limit))
    }

    /// Lets waiting runs pass, in order, as long as the next one's own limit allows.
    pub(super) async fn promote(&mut self, project: ProjectId, key: LookupHash) -> sqlx::Result<()> {
        let mut past = self.past_gate(project, key).await?;
        loop {
            let waiting = sqlx::query(NEXT)
                .bind(Id::from(project))
                .bind(key.0.as_slice())
                .bind(AT_ONCE)
                .fetch_all(&mut *self.connection)
                .await?;
            let mut passing = Vec::new();
            for row in &waiting {
                let mut columns = Columns::of(row);
                let (id, limit): (Id, i32) = (columns.value()?, columns.value()?);
                if past >= u64::try_from(limit).unwrap_or(0) {
                    break;
                }
                past += 1;
                passing.push(id);
            }
            let all = passing.len() == usize::try_from(AT_ONCE).unwrap_or(0);
            if !passing.is_empty() {
                sqlx::query(PASS)
                    .bind(Id::from(project))
                    .bind(passing)
                    .bind(self.now.as_micros())
                    .execute(&mut *self.connection)
                    .await?;
            }
            if !all {
                return Ok(());
            }
        }
    }

    async fn past_gate(&mut self, project: ProjectId, key: LookupHash) -> sqlx::Result<u64> {
        let row = sqlx::query(PAST).bind(Id::from(project)).bind(key.0.as_slice());
        Columns::of(&row.fetch_one(&mut *self.connection).await?).count()
    }
}

const PAST: &str = "SELECT count(*) FROM ap_runs \
    WHERE project = $1 AND gate = $2 AND passed AND finished IS NULL AND gate IS NOT NULL";
const NEXT: &str = "SELECT id, gate_limit FROM ap_runs \
    WHERE project = $1 AND gate = $2 AND NOT passed AND finished IS NULL AND gate IS NOT NULL \
    ORDER BY priority DESC, created, id LIMIT $3 FOR NO KEY UPDATE";
const PASS: &str = "UPDATE ap_runs SET passed = true, ready = due IS NULL OR due <= $3, \
    due = CASE WHEN due > $3 THEN due END WHERE project = $1 AND id = ANY ($2)";
/// Waiting runs looked at in one go.
const AT_ONCE: i64 = 64;
