//! Holding what the senders, the peer and the database say against each other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::{Duration, Instant},
};

use ap_core::{
    id::RunId,
    run::{RunStatus, StepErrorKind},
    store::PageRequest,
};
use ap_runtime::{
    engine::RunView,
    session::ProjectSession,
    store::{RunFilter, RunRecord, ValueScope},
};
use futures_util::{StreamExt, stream};
use serde_json::Value;

use crate::{
    flows::{COUNTER, Kind, delivery_of},
    host::{Host, Setup},
    load::{Ack, Book, Load},
    peer::{Books, Peer},
    store::Store,
};

/// What was found.
#[derive(Debug, Default)]
pub struct Verdict {
    acknowledged: usize,
    runs: usize,
    deliveries: usize,
    effects: u64,
    repeats: u64,
    duplicate_answers: usize,
    interrupted: usize,
    unanswered: u64,
    lost: usize,
    duplicate_runs: usize,
    duplicate_effects: usize,
    stuck: usize,
    unknown_keyed: usize,
    /// Steps that counted in the key-value store.
    counted: usize,
    /// Of which there were runs.
    kinds: BTreeSet<Kind>,
    integrity: Vec<String>,
    /// Everything that should not be, the figures above included.
    problems: Vec<String>,
}

/// The runs there are, each with its delivery.
type Runs = BTreeMap<RunId, (String, RunView)>;

impl Verdict {
    /// Waits until every run has ended, and looks at everything.
    pub async fn of(host: &Host, setup: &Setup, load: &Load, peer: &Peer, quiet: Duration) -> Self {
        let admin = host.admin(setup.project);
        let mut verdict = Self::default();
        let runs = verdict.settle(&admin, quiet).await;
        let (book, books) = (load.book(), peer.books());
        verdict.count(&runs, &book, &books);
        verdict.check_acknowledgements(&runs, &book, &books);
        verdict.check_runs(&runs, &book, &books);
        verdict.check_effects(&runs, &books);
        verdict.check_counter(&admin, &runs).await;
        verdict
    }

    /// Takes in what the database itself says, now that nobody has it open, and what it said when it was found.
    pub async fn add_database(&mut self, store: &Store, found: Vec<String>) {
        self.integrity = found;
        self.integrity.extend(store.integrity());
        if self.integrity.iter().any(|line| line != "ok") {
            self.problems.push(format!("the database is damaged: {:?}", self.integrity));
        }
        for (table, expected) in [("ap_runs", self.runs), ("ap_deliveries", self.deliveries)] {
            let rows = store.rows(table).await;
            if rows != expected {
                self.problems.push(format!("`{table}` has {rows} rows, and {expected} were seen through the session"));
            }
        }
    }

    /// Takes in how many deliveries nobody ever acknowledged.
    pub fn add_left_unacknowledged(&mut self, left: usize) {
        if left > 0 {
            self.problems.push(format!("{left} deliveries were never acknowledged"));
        }
    }

    /// Acknowledged deliveries whose run is not there.
    pub fn lost(&self) -> usize {
        self.lost
    }

    /// Nothing is as it should not be; `again` says how to see it again.
    pub fn assert(&self, again: &str) {
        let shown: Vec<_> = self.problems.iter().take(20).collect();
        let count = self.problems.len();
        assert!(count == 0, "{again}: {count} problems, the first: {shown:#?}\n{self}");
        assert!(self.acknowledged > 0, "{again}: nothing was acknowledged");
    }

    /// What was never put to the test was not proven.
    pub fn assert_put_to_the_test(&self, crashes: u64) {
        if crashes >= 50 {
            assert!(self.repeats > 0, "no effect was repeated: no crash fell between an act and its record");
            assert!(self.interrupted > 0, "no unkeyed effect was interrupted");
            assert!(self.duplicate_answers > 0, "no delivery was recognised as a duplicate");
            assert!(self.unanswered > 0, "no request was cut off");
            assert_eq!(self.kinds.len(), Kind::ALL.len(), "only these ran: {:?}", self.kinds);
        }
    }

    async fn settle(&mut self, admin: &ProjectSession, quiet: Duration) -> Runs {
        let until = Instant::now() + quiet;
        let looked_at = stream::iter(all_runs(admin).await).map(|record| async move {
            let left = until.saturating_duration_since(Instant::now());
            let status = admin.wait_for_run(record.id, left).await.unwrap();
            (record.id, status, admin.run(record.id).await)
        });
        // Side by side, because each look is written down.
        let looked_at: Vec<_> = looked_at.buffered(64).collect().await;
        let mut runs = Runs::new();
        for (id, status, view) in looked_at {
            if !status.is_terminal() {
                self.stuck += 1;
                self.problems.push(format!("{id} is stuck as {status}"));
            }
            match view {
                Ok(view) => {
                    let delivery = delivery_of(&view.trigger).to_owned();
                    runs.insert(id, (delivery, view));
                }
                Err(error) => self.problems.push(format!("{id} cannot be read: {error}")),
            }
        }
        runs
    }

    fn count(&mut self, runs: &Runs, book: &Book, books: &Books) {
        self.runs = runs.len();
        self.acknowledged = book.acks.len();
        self.effects = books.effects.values().sum();
        self.repeats = books.repeats;
        self.unanswered = book.unanswered;
        self.duplicate_answers = book.acks.values().flatten().filter(|ack| ack.body["duplicate"] == true).count();
        self.problems.extend(book.surprises.iter().map(|what| format!("a surprising answer: {what}")));
    }

    /// What was acknowledged is there, and is what was said.
    fn check_acknowledgements(&mut self, runs: &Runs, book: &Book, books: &Books) {
        for (delivery, acks) in &book.acks {
            let mut lost = false;
            for ack in acks {
                match ack.run.map(|run| (run, runs.get(&run))) {
                    Some((run, Some((of, view)))) if of == delivery => {
                        self.check_answer(delivery, run, ack, view, books);
                    }
                    Some((_, Some((of, _)))) => {
                        self.problems.push(format!("{delivery} was answered with the run of {of}"));
                    }
                    Some((run, None)) => {
                        lost = true;
                        self.problems.push(format!("{delivery} was acknowledged with {run}, which is lost"));
                    }
                    None if runs.values().any(|(of, _)| of == delivery) => {}
                    None => {
                        lost = true;
                        self.problems.push(format!("{delivery} was acknowledged, and has no run"));
                    }
                }
            }
            self.lost += usize::from(lost);
            let first = acks.iter().filter(|ack| ack.body["duplicate"] == false).count();
            if first > 1 {
                self.problems.push(format!("{delivery} was {first} times said to be new"));
            }
        }
    }

    fn check_answer(&mut self, delivery: &str, run: RunId, ack: &Ack, view: &RunView, books: &Books) {
        let agrees = match ack.status {
            200 => view.reply.as_ref().is_some_and(|reply| *reply.body == ack.body),
            500 => view.status == RunStatus::Failed && view.reply.is_none(),
            _ => true,
        };
        let kind = Kind::of(delivery);
        let expected = if ack.status != 200 {
            ack.body.clone()
        } else if kind.is_unkeyed() {
            // The peer keeps no record of which answer it gave to whom.
            kind.reply(delivery, &ack.body["answer"])
        } else {
            let first = books.keys.get(&format!("{run}/act"));
            kind.reply(delivery, first.map_or(&Value::Null, |first| &first["answer"]))
        };
        if !agrees || ack.body != expected {
            let (told, stored) = (&ack.body, &view.reply);
            self.problems.push(format!("{delivery} was told {told}, should be {expected}, stored is {stored:?}"));
        }
    }

    /// One run per delivery, and each ended as it should.
    fn check_runs(&mut self, runs: &Runs, book: &Book, books: &Books) {
        let (mut of_delivery, mut called) = (BTreeMap::<&str, usize>::new(), BTreeMap::<RunId, usize>::new());
        for (id, (delivery, view)) in runs {
            match view.parent {
                None => *of_delivery.entry(delivery).or_default() += 1,
                Some(parent) => *called.entry(parent).or_default() += 1,
            }
            if !book.sent.contains_key(delivery) {
                self.problems.push(format!("{id} is of `{delivery}`, which nobody sent"));
                continue;
            }
            let unknown = view.error.as_ref().is_some_and(|error| error.kind == StepErrorKind::OutcomeUnknown);
            let kind = Kind::of(delivery);
            self.kinds.insert(kind);
            let effects = |label: &String| books.effects.get(label).copied().unwrap_or_default();
            let counts: Vec<u64> = kind.labels(delivery).iter().map(effects).collect();
            let well = match (view.status, kind) {
                (RunStatus::Succeeded, _) => counts.iter().all(|count| *count == 1),
                (RunStatus::Failed, kind) if kind.is_unkeyed() => unknown && counts.iter().all(|count| *count <= 1),
                _ => false,
            };
            self.interrupted += usize::from(unknown && kind.is_unkeyed());
            self.unknown_keyed += usize::from(unknown && !kind.is_unkeyed());
            if !well {
                let error = view.error.as_ref();
                self.problems.push(format!("{id} of {delivery}: {}, {error:?}, effects {counts:?}", view.status));
            }
        }
        for (id, (delivery, _)) in runs.iter().filter(|(_, (_, view))| view.parent.is_none()) {
            let (calls, expected) = (called.remove(id).unwrap_or_default(), Kind::of(delivery).calls());
            self.duplicate_runs += calls.saturating_sub(expected);
            if calls != expected {
                self.problems.push(format!("{id} of {delivery} called {calls} runs"));
            }
        }
        self.problems.extend(called.keys().map(|parent| format!("{parent} called a run, and is not there")));
        self.deliveries = of_delivery.len();
        for (delivery, count) in of_delivery.into_iter().filter(|(_, count)| *count > 1) {
            self.duplicate_runs += count - 1;
            self.problems.push(format!("{delivery} has {count} runs"));
        }
    }

    /// Every step that counted is counted once.
    async fn check_counter(&mut self, admin: &ProjectSession, runs: &Runs) {
        let counts =
            |view: &RunView| view.steps.iter().any(|step| step.path.as_str() == "count" && step.output.is_some());
        let counted = runs.values().filter(|(_, view)| counts(view)).count();
        let stored = admin.stored_value(ValueScope::Project, COUNTER).await.unwrap();
        let stored = stored.map_or(0, |found| found.value.as_u64().unwrap_or_default());
        if stored != counted as u64 {
            self.problems.push(format!("the counter is {stored}, and {counted} steps have counted"));
        }
        self.counted = counted;
    }

    /// The peer did nothing twice, and nothing that belongs to no run.
    fn check_effects(&mut self, runs: &Runs, books: &Books) {
        let deliveries: BTreeSet<&str> = runs.values().map(|(delivery, _)| delivery.as_str()).collect();
        for (label, count) in &books.effects {
            if *count > 1 {
                self.duplicate_effects += 1;
                self.problems.push(format!("the peer did {label} {count} times"));
            }
            if !deliveries.contains(label.split('/').next().unwrap_or_default()) {
                self.problems.push(format!("the peer did {label} for no run"));
            }
        }
        for key in books.keys.keys() {
            let run = key.split('/').next().and_then(|run| run.parse::<RunId>().ok());
            if !run.is_some_and(|run| runs.contains_key(&run)) {
                self.problems.push(format!("the key {key} belongs to no run"));
            }
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} deliveries acknowledged ({} requests cut off, {} duplicates recognised), {} runs, {} effects ({} repeated \
             under their key, {} unkeyed of unknown outcome); acknowledged lost {}, duplicate runs {}, duplicate effects \
             {}, keyed of unknown outcome {}, stuck {}, counted {}; integrity {:?}; problems {}",
            self.acknowledged,
            self.unanswered,
            self.duplicate_answers,
            self.runs,
            self.effects,
            self.repeats,
            self.interrupted,
            self.lost,
            self.duplicate_runs,
            self.duplicate_effects,
            self.unknown_keyed,
            self.stuck,
            self.counted,
            self.integrity,
            self.problems.len(),
        )
    }
}

async fn all_runs(admin: &ProjectSession) -> Vec<RunRecord> {
    let (mut page, mut runs) = (PageRequest::first(PageRequest::MAX_LIMIT), Vec::new());
    loop {
        let found = admin.runs(RunFilter::default(), &page).await.unwrap();
        runs.extend(found.items);
        match found.next {
            Some(cursor) => page = page.after(cursor),
            None => return runs,
        }
    }
}
