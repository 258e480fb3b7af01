//! Acceptance: duplicates, stale routes, rate limits, gates, throttles and debounces.

use ap_core::{
    audit::AuditRecord,
    id::{KeyId, ProjectId, RunId},
    run::RunStatus,
    store::LookupHash,
    time::Timestamp,
};
use rusqlite::params;

use super::{
    gate,
    project::{append, audit_bytes},
    row::uint,
    run::{append_entry, end_run, entry_bytes},
    subject::{add_key, missing_key},
    writer::{Failure, Operation, Transaction},
};
use crate::store::{Accept, Accepted, Debounce, Pace};

/// Creates a run, unless something is against it.
pub(super) struct AcceptRun {
    pub(super) accept: Accept,
    pub(super) audit: Vec<AuditRecord>,
}

impl Operation for AcceptRun {
    type Output = Accepted;

    fn bytes(&self) -> usize {
        entry_bytes(std::slice::from_ref(&self.accept.entry)) + audit_bytes(&self.audit)
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<Accepted, Failure> {
        accept(transaction, &self.accept, &self.audit)
    }
}

/// Creates the run, or says why not; what keeps it from being created has written nothing.
pub(super) fn accept(
    transaction: &Transaction<'_>,
    accept: &Accept,
    audit: &[AuditRecord],
) -> Result<Accepted, Failure> {
    let missing = missing_key(transaction, accept)?;
    match terms(transaction, accept, false)? {
        Ok(terms) => {
            if let Some(key) = missing {
                add_key(transaction, accept.run.project, key)?;
            }
            let leased = create(transaction, accept, &terms)?;
            append(transaction, audit)?;
            Ok(Accepted::Created { leased })
        }
        Err(refused) => Ok(refused),
    }
}

/// What remembers when the next of a key would be due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PaceKind {
    RateLimit = 0,
    Throttle = 1,
    Queue = 2,
}

/// On which terms a run is created.
#[derive(Default)]
pub(super) struct Terms {
    due: Option<Timestamp>,
    passed: bool,
    paces: Vec<(PaceKind, LookupHash, Timestamp)>,
    former: Option<Former>,
    /// When the first of the series came, and until when the run waits for quiet.
    series: Option<(Timestamp, Timestamp)>,
}

/// A debounced run that still waits.
struct Former {
    run: RunId,
    first: Timestamp,
    due: Timestamp,
    gate: Option<LookupHash>,
    passed: bool,
}

/// On which terms the run would be created, or why it would not. A patient one waits where another would be refused for the
/// rate limit or skipped at the gate.
pub(super) fn terms(
    transaction: &Transaction<'_>,
    accept: &Accept,
    patient: bool,
) -> rusqlite::Result<Result<Terms, Accepted>> {
    let (project, control, now) = (accept.run.project, &accept.control, transaction.now);
    if let Some(dedupe) = &accept.dedupe
        && let Some(run) = delivered(transaction, project, &dedupe.key)?
    {
        return Ok(Err(Accepted::Duplicate(run)));
    }
    if !is_open(transaction, accept)? {
        return Ok(Err(Accepted::Stale));
    }
    let mut terms = Terms::default();
    let mut due = now;
    if let Some(limit) = &control.rate_limit {
        let start = terms.pace(transaction, project, PaceKind::RateLimit, limit)?;
        if start > now && !patient {
            return Ok(Err(Accepted::Limited { retry: start }));
        }
        due = due.max(start);
    }
    if let Some(debounce) = &control.debounce {
        let former = waiting_for_quiet(transaction, project, debounce)?;
        let first = former.as_ref().map_or(now, |former| former.first);
        let until = now.saturating_add(debounce.delay).min(first.saturating_add(debounce.max_wait));
        due = due.max(until);
        terms.series = Some((first, until));
        terms.former = former;
    }
    let former = terms.former.as_ref();
    terms.passed = match &control.gate {
        Some(gate) => {
            let leaves = former.is_some_and(|former| former.passed && former.gate == Some(gate.key));
            gate::has_room(transaction, project, gate, u32::from(leaves))?
        }
        None => true,
    };
    if !terms.passed && !patient && control.gate.is_some_and(|gate| gate.skip) {
        return Ok(Err(Accepted::Skipped));
    }
    match (&control.throttle, former.map(|former| former.due)) {
        (Some(_), Some(taken)) => due = due.max(taken),
        (Some(pace), None) => due = due.max(terms.pace(transaction, project, PaceKind::Throttle, pace)?),
        (None, _) => {}
    }
    terms.due = (due > now).then_some(due);
    Ok(Ok(terms))
}

/// Creates the run on these terms; returns whether it is leased.
pub(super) fn create(transaction: &Transaction<'_>, accept: &Accept, terms: &Terms) -> Result<bool, Failure> {
    let Accept { run, dedupe, control, entry, lease, .. } = accept;
    let now = transaction.now;
    if let Some(dedupe) = dedupe {
        transaction.run(
            "INSERT INTO ap_deliveries (project, key, run, expires) VALUES (?, ?, ?, ?) \
             ON CONFLICT (project, key) DO UPDATE SET run = excluded.run, expires = excluded.expires",
            params![run.project.as_bytes(), dedupe.key.0, run.id.as_bytes(), dedupe.expires.as_micros()],
        )?;
    }
    for (kind, key, next) in &terms.paces {
        remember(transaction, run.project, *kind, key, *next)?;
    }
    // The new run takes the place of the one it replaces before others move up.
    let left = match &terms.former {
        Some(former) => end_run(transaction, run.project, former.run, RunStatus::Canceled, now)?,
        None => None,
    };
    let at_once = terms.passed && terms.due.is_none();
    let lease = lease.filter(|_| at_once);
    transaction.run(
        INSERT_RUN,
        params![
            run.project.as_bytes(),
            run.id.as_bytes(),
            run.flow.as_bytes(),
            run.version.as_bytes(),
            run.parent.as_ref().map(RunId::as_bytes),
            if lease.is_some() { "RUNNING" } else { "QUEUED" },
            run.created.as_micros(),
            i64::from(lease.is_some()),
            lease.map(|lease| now.saturating_add(lease).as_micros()),
            control.priority,
            at_once && lease.is_none(),
            terms.due.map(Timestamp::as_micros),
            control.gate.map(|gate| gate.key.0),
            control.gate.map(|gate| gate.limit),
            terms.passed,
            control.debounce.map(|debounce| debounce.key.0),
            terms.series.map(|(first, _)| first.as_micros()),
            terms.series.map(|(_, until)| until.as_micros()),
            run.subject.as_ref().map(KeyId::as_bytes),
        ],
    )?;
    append_entry(transaction, transaction.connection.last_insert_rowid(), entry)?;
    if let Some(gate) = left {
        gate::promote(transaction, run.project, &gate)?;
    }
    Ok(lease.is_some())
}

/// Whether the flow still takes what was decided on.
pub(super) fn is_open(transaction: &Transaction<'_>, accept: &Accept) -> rusqlite::Result<bool> {
    let run = &accept.run;
    transaction.exists(
        OPEN_FLOW,
        params![run.project.as_bytes(), run.flow.as_bytes(), run.version.as_bytes(), uint(accept.generation)?],
    )
}

/// When the next of a key would be due.
pub(super) fn remembered(
    transaction: &Transaction<'_>,
    project: ProjectId,
    kind: PaceKind,
    key: &LookupHash,
) -> rusqlite::Result<Option<Timestamp>> {
    transaction.row(
        "SELECT due FROM ap_paces WHERE project = ? AND kind = ? AND key = ?",
        params![project.as_bytes(), kind as i64, key.0],
        |columns| columns.time(),
    )
}

/// Remembers when the next of a key would be due.
pub(super) fn remember(
    transaction: &Transaction<'_>,
    project: ProjectId,
    kind: PaceKind,
    key: &LookupHash,
    due: Timestamp,
) -> rusqlite::Result<()> {
    transaction.run(
        "INSERT INTO ap_paces (project, kind, key, due) VALUES (?, ?, ?, ?) \
         ON CONFLICT (project, kind, key) DO UPDATE SET due = excluded.due",
        params![project.as_bytes(), kind as i64, key.0, due.as_micros()],
    )?;
    Ok(())
}

impl Terms {
    /// When a pace lets the run start; what it is to remember is kept.
    fn pace(
        &mut self,
        transaction: &Transaction<'_>,
        project: ProjectId,
        kind: PaceKind,
        pace: &Pace,
    ) -> rusqlite::Result<Timestamp> {
        let (start, next) = pace.next(remembered(transaction, project, kind, &pace.key)?, transaction.now);
        self.paces.push((kind, pace.key, next));
        Ok(start)
    }
}

/// The run that a delivery made that is not forgotten yet.
fn delivered(transaction: &Transaction<'_>, project: ProjectId, key: &LookupHash) -> rusqlite::Result<Option<RunId>> {
    transaction.row(
        "SELECT run FROM ap_deliveries WHERE project = ? AND key = ? AND expires > ?",
        params![project.as_bytes(), key.0, transaction.now.as_micros()],
        |columns| columns.id(RunId::from_slice),
    )
}

/// The run of this key that still waits for quiet.
fn waiting_for_quiet(
    transaction: &Transaction<'_>,
    project: ProjectId,
    debounce: &Debounce,
) -> rusqlite::Result<Option<Former>> {
    let now = transaction.now.as_micros();
    transaction.row(WAITING_FOR_QUIET, params![project.as_bytes(), debounce.key.0, now, now], |columns| {
        Ok(Former {
            run: columns.id(RunId::from_slice)?,
            first: columns.time()?,
            due: columns.time()?,
            gate: columns.maybe_hash()?,
            passed: columns.flag()?,
        })
    })
}

pub(super) const INSERT_RUN: &str = "INSERT INTO ap_runs (project, id, flow, version, parent, status, created, epoch, lease, \
    priority, ready, due, gate, gate_limit, passed, debounce, debounce_since, debounce_until, subject) \
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
pub(super) const OPEN_FLOW: &str =
    "SELECT 1 FROM ap_flows WHERE project = ? AND id = ? AND enabled = 1 AND published = ? AND generation = ?";
pub(super) const WAITING_FOR_QUIET: &str = "SELECT id, debounce_since, due, gate, passed FROM ap_runs INDEXED BY ap_runs_debounce \
    WHERE project = ? AND debounce = ? AND debounce_until > ? AND finished IS NULL AND status = 'QUEUED' AND due > ? \
    ORDER BY debounce_until DESC LIMIT 1";
