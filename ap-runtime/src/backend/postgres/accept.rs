//! Acceptance one by one: rate limits, gates, throttles and debounces.

use ap_core::{
    audit::AuditRecord,
    id::{ProjectId, RunId},
    run::RunStatus,
    store::{LookupHash, Revision, StoreError},
    time::Timestamp,
};
use async_trait::async_trait;

use super::{
    link::{Failure, Lock, Transaction, Work},
    rows::{NewRun, Stored},
    value::{Columns, Id},
};
use crate::store::{Accept, Accepted, Debounce, Pace, RunControl};

/// Accepts one run.
pub(super) struct AcceptOne<'a>(pub(super) &'a Accept, pub(super) &'a [AuditRecord]);

#[async_trait]
impl Work for AcceptOne<'_> {
    type Output = Accepted;

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<Accepted, Failure> {
        transaction.lock(&locks(self.0)).await?;
        let accepted = transaction.accept(self.0, false).await?;
        if matches!(accepted, Accepted::Created { .. }) {
            transaction.insert_audit(self.1).await?;
        }
        Ok(accepted)
    }
}

/// What an acceptance has to lock, before anything else.
pub(super) fn locks(accept: &Accept) -> Vec<Lock> {
    let project = accept.run.project;
    let RunControl { gate, throttle, rate_limit, debounce, .. } = &accept.control;
    let mut locks = Vec::new();
    locks.extend(gate.map(|gate| Lock::Gate(project, gate.key)));
    locks.extend(throttle.iter().chain(rate_limit).map(|pace| Lock::Pace(project, pace.key)));
    locks.extend(debounce.map(|debounce| Lock::Debounce(project, debounce.key)));
    locks
}

/// A debounced run that waits for quiet.
struct Waiting {
    run: RunId,
    /// When the first of its series came.
    first: Timestamp,
    due: Timestamp,
    stored: Stored,
}

/// What to remember of a pace, and of which kind it is.
type Remembered = (&'static str, LookupHash, Timestamp);

/// On which terms a run is created.
struct Terms {
    due: Timestamp,
    passed: bool,
    paces: Vec<Remembered>,
    superseded: Option<Waiting>,
}

impl Transaction<'_> {
    /// Creates the run of `accept`, or says why not, having written nothing. A patient one waits where another would be refused
    /// for the rate limit or skipped at the gate. The caller has the locks, and writes the audit records.
    pub(super) async fn accept(&mut self, accept: &Accept, patient: bool) -> Result<Accepted, Failure> {
        let run = &accept.run;
        if let Some(dedupe) = accept.dedupe {
            let found = self.find_deliveries(std::iter::once(accept)).await?;
            if let Some(first) = found.get(&(run.project, dedupe.key)) {
                return Ok(Accepted::Duplicate(*first));
            }
        }
        let open = self.open_flows(&[accept]).await?;
        if !open.contains(&(run.project, run.flow, run.version, accept.generation)) {
            return Ok(Accepted::Stale);
        }
        // What a run starts goes by the key of that run, which has not ended, so it is there.
        let missing = if patient { None } else { self.missing_subject_key(accept).await? };
        let terms = match self.terms(accept, patient).await? {
            Ok(terms) => terms,
            Err(refused) => return Ok(refused),
        };
        // Somebody else may have been accepted since; this is the first thing that is written.
        if let Some(dedupe) = accept.dedupe
            && self.use_keys(std::iter::once(accept)).await?.is_empty()
        {
            let found = self.find_deliveries(std::iter::once(accept)).await?;
            let first = found.get(&(run.project, dedupe.key)).copied();
            return first.map(Accepted::Duplicate).ok_or_else(|| Failure::Statement(sqlx::Error::RowNotFound));
        }
        if let Some(key) = missing {
            self.add_subject_key(run.project, key).await?;
        }
        self.create(accept, terms).await
    }

    /// The revision of the flow of an acceptance whose flow is not as it was.
    pub(super) async fn revision_of_flow(&mut self, accept: &Accept) -> sqlx::Result<Revision> {
        let row = sqlx::query("SELECT revision FROM ap_flows WHERE project = $1 AND id = $2")
            .bind(Id::from(accept.run.project))
            .bind(Id::from(accept.run.flow))
            .fetch_optional(&mut *self.connection)
            .await?;
        row.map_or(Ok(Revision(0)), |row| Columns::of(&row).revision())
    }

    async fn terms(&mut self, accept: &Accept, patient: bool) -> sqlx::Result<Result<Terms, Accepted>> {
        let (project, control, now) = (accept.run.project, &accept.control, self.now);
        let (mut due, mut paces) = (now, Vec::new());
        if let Some(limit) = &control.rate_limit {
            let start = self.next_pace(project, RATE_LIMIT, limit, &mut paces).await?;
            if start > now && !patient {
                return Ok(Err(Accepted::Limited { retry: start }));
            }
            due = due.max(start);
        }
        let superseded = match &control.debounce {
            Some(debounce) => self.waiting_for_quiet(project, debounce).await?,
            None => None,
        };
        let passed = match &control.gate {
            Some(gate) => {
                let former = superseded.as_ref().map(|former| former.stored);
                let leaving = former.is_some_and(|run| run.passed && run.gate == Some(gate.key));
                self.has_room(project, gate, u64::from(leaving)).await?
            }
            None => true,
        };
        if !passed && !patient && control.gate.is_some_and(|gate| gate.skip) {
            return Ok(Err(Accepted::Skipped));
        }
        match (&control.throttle, &superseded) {
            (Some(_), Some(former)) => due = due.max(former.due),
            (Some(pace), None) => due = due.max(self.next_pace(project, THROTTLE, pace, &mut paces).await?),
            (None, _) => {}
        }
        if let Some(debounce) = &control.debounce {
            due = due.max(until(debounce, superseded.as_ref(), now));
        }
        Ok(Ok(Terms { due, passed, paces, superseded }))
    }

    async fn create(&mut self, accept: &Accept, terms: Terms) -> Result<Accepted, Failure> {
        let Accept { run, control, entry, lease, .. } = accept;
        let Terms { due, passed, paces, superseded } = terms;
        for (kind, key, due) in paces {
            sqlx::query(REMEMBER_PACE)
                .bind(Id::from(run.project))
                .bind(kind)
                .bind(key.0.as_slice())
                .bind(due.as_micros())
                .execute(&mut *self.connection)
                .await?;
        }
        if let Some(debounce) = &control.debounce {
            sqlx::query(REMEMBER_SERIES)
                .bind(Id::from(run.project))
                .bind(debounce.key.0.as_slice())
                .bind(Id::from(run.id))
                .bind(superseded.as_ref().map_or(self.now, |former| former.first).as_micros())
                .bind(until(debounce, superseded.as_ref(), self.now).as_micros())
                .execute(&mut *self.connection)
                .await?;
        }
        let due = (due > self.now).then_some(due);
        let lease = lease.filter(|_| passed && due.is_none()).map(|lease| self.now.saturating_add(lease));
        let new = NewRun { run, lease, priority: control.priority, due, gate: control.gate, passed };
        self.insert_runs(&[new]).await?;
        self.insert_journal(&[((run.project, run.id), entry)]).await?;
        // After the new run took the place of the one it replaces, others may move up.
        if let Some(former) = superseded {
            let status = RunStatus::Canceled;
            let change = crate::store::RunChange::End { status, at: self.now };
            self.change_runs(&[((run.project, former.run), change, former.stored)]).await?;
        }
        Ok(Accepted::Created { leased: lease.is_some() })
    }

    /// When the next of a pace may start; adds what to remember if it does.
    async fn next_pace(
        &mut self,
        project: ProjectId,
        kind: &'static str,
        pace: &Pace,
        paces: &mut Vec<Remembered>,
    ) -> sqlx::Result<Timestamp> {
        let remembered = self.remembered(project, kind, pace.key).await?;
        let (start, remember) = pace.next(remembered, self.now);
        paces.push((kind, pace.key, remember));
        Ok(start)
    }

    /// What is remembered of a pace.
    pub(super) async fn remembered(
        &mut self,
        project: ProjectId,
        kind: &'static str,
        key: LookupHash,
    ) -> sqlx::Result<Option<Timestamp>> {
        let row = sqlx::query("SELECT due FROM ap_paces WHERE project = $1 AND kind = $2 AND key = $3")
            .bind(Id::from(project))
            .bind(kind)
            .bind(key.0.as_slice())
            .fetch_optional(&mut *self.connection)
            .await?;
        row.map(|row| Columns::of(&row).time()).transpose()
    }

    /// The last run of this key's series, if it still waits.
    async fn waiting_for_quiet(&mut self, project: ProjectId, debounce: &Debounce) -> sqlx::Result<Option<Waiting>> {
        let row = sqlx::query(WAITING)
            .bind(Id::from(project))
            .bind(debounce.key.0.as_slice())
            .bind(self.now.as_micros())
            .fetch_optional(&mut *self.connection)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let mut columns = Columns::of(&row);
        let (run, first, due) = (columns.id::<RunId>()?, columns.time()?, columns.time()?);
        let stored = self.lock_runs([(project, run)]).await?;
        Ok(stored.get(&(project, run)).map(|stored| Waiting { run, first, due, stored: *stored }))
    }
}

/// Until when a debounced run waits.
fn until(debounce: &Debounce, former: Option<&Waiting>, now: Timestamp) -> Timestamp {
    let first = former.map_or(now, |former| former.first);
    now.saturating_add(debounce.delay).min(first.saturating_add(debounce.max_wait))
}

/// The caller's answer if a run it starts met another flow than its own.
pub(super) fn another_flow(current: Revision) -> Failure {
    StoreError::Conflict { entity: ap_core::store::Entity::Flow, current }.into()
}

const RATE_LIMIT: &str = "RATE_LIMIT";
const THROTTLE: &str = "THROTTLE";
pub(super) const REMEMBER_PACE: &str = "INSERT INTO ap_paces (project, kind, key, due) VALUES ($1, $2, $3, $4) \
    ON CONFLICT (project, kind, key) DO UPDATE SET due = excluded.due";
const REMEMBER_SERIES: &str = "INSERT INTO ap_series (project, key, run, first, until) VALUES ($1, $2, $3, $4, $5) \
    ON CONFLICT (project, key) DO UPDATE SET run = excluded.run, first = excluded.first, until = excluded.until";
const WAITING: &str = "SELECT run.id, series.first, run.due \
    FROM ap_series AS series JOIN ap_runs AS run ON run.project = series.project AND run.id = series.run \
    WHERE series.project = $1 AND series.key = $2 AND series.until > $3 AND run.status = 'QUEUED' AND run.due > $3 \
    FOR NO KEY UPDATE OF run";
