//! [`Explore`]: a flow, its surroundings, and how far to look.

use std::{fmt, sync::Arc, time::Duration};

use ap_core::{
    capability::{HttpRequest, HttpResponse},
    connection::Connection,
    piece::Piece,
};
use serde_json::{Value, json};

use super::{
    SimError,
    dice::Dice,
    fault::{Fault, Plan},
    history::Fnv,
    invariants::invariants,
    mutant::Mutant,
    peer::default_response,
    report::{Failure, Report, Violation},
    scenario::{Scenario, Setup},
    world::{Played, paused, play},
};

/// Starts to describe an exploration of `flow`: the JSON that [`create_flow`] takes.
///
/// [`create_flow`]: crate::session::ProjectSession::create_flow
pub fn explore(flow: &Value) -> Explore {
    Explore {
        scenario: Scenario {
            flow: flow.clone(),
            subflows: Vec::new(),
            pieces: Vec::new(),
            connections: Vec::new(),
            payload: json!({}),
            deliveries: 1,
            workers: 2,
            lease: Duration::from_secs(10),
            horizon: Duration::from_secs(3_600),
            lifetime: Duration::ZERO,
            respond: Arc::new(default_response),
            script: Arc::new(|_, params| Ok(params.clone())),
            counts: false,
            mutant: None,
        },
        duplicates: 1,
        seed: 1,
        max_schedules: 2_000,
    }
}

/// An exploration to be. Made by [`explore`].
#[derive(Debug)]
#[must_use = "nothing is explored until `run` is called"]
pub struct Explore {
    scenario: Scenario,
    duplicates: u32,
    seed: u64,
    max_schedules: usize,
}

impl Explore {
    /// Adds pieces. Their actions run as they are; whenever one acts outside, the call is a point and is written down.
    pub fn pieces(mut self, pieces: impl IntoIterator<Item = Arc<dyn Piece>>) -> Self {
        self.scenario.pieces.extend(pieces);
        self
    }

    /// Adds a flow that the explored one, or one added later, starts: where the text `sim:name` stands, its id is put.
    pub fn subflow(mut self, name: &str, flow: &Value) -> Self {
        self.scenario.subflows.push((name.to_owned(), flow.clone()));
        self
    }

    /// Adds a connection. Its secrets are never opened.
    pub fn connection(mut self, connection: Connection) -> Self {
        self.scenario.connections.push(connection);
        self
    }

    /// Sets what each delivery brings: the body of a webhook, or the payload of a run started by hand. Default: `{}`.
    pub fn payload(mut self, payload: Value) -> Self {
        self.scenario.payload = payload;
        self
    }

    /// Sets how many different deliveries come at about the same time. Default: 1. Clamped to 1 to 100.
    pub fn deliveries(mut self, deliveries: usize) -> Self {
        self.scenario.deliveries = deliveries.clamp(1, 100);
        self
    }

    /// Sets how many further copies of each delivery may come, soon or late. Default: 1. Clamped to 0 to 10.
    pub fn duplicates(mut self, duplicates: u32) -> Self {
        self.duplicates = duplicates.min(10);
        self
    }

    /// Sets how many workers share the store. Default: 2. Clamped to 1 to 8. A single one has the store to itself and
    /// knows at its start that its predecessor is dead, as on SQLite.
    pub fn workers(mut self, workers: usize) -> Self {
        self.scenario.workers = workers.clamp(1, 8);
        self
    }

    /// Sets how long a lease is. Default: 10 s. Clamped to 1 s to 10 min.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.scenario.lease = lease.clamp(Duration::from_secs(1), Duration::from_secs(600));
        self
    }

    /// Sets how long a schedule may take before it counts as stuck, in simulated time. Default: 1 h. A flow with long
    /// pauses needs more.
    pub fn horizon(mut self, horizon: Duration) -> Self {
        self.scenario.horizon = horizon;
        self
    }

    /// Sets how long a world goes on at least, in simulated time: for flows that a schedule starts. Default: until all
    /// deliveries are made and all runs are over.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.scenario.lifetime = lifetime;
        self
    }

    /// Sets what peers answer to HTTP requests of pieces. It must depend on the request alone. Default: 200 with
    /// `{"id": "simulated"}`. Credentials in the request are placeholder text.
    pub fn http(mut self, respond: impl Fn(&HttpRequest) -> HttpResponse + Send + Sync + 'static) -> Self {
        self.scenario.respond = Arc::new(respond);
        self
    }

    /// Sets what stands in for scripts, and for expressions in templates, from source and parameters to the result or to the
    /// message of what is thrown; the parameters of an expression are its variables. It must depend on these alone. Default:
    /// the result is the parameters.
    pub fn script(mut self, script: impl Fn(&str, &Value) -> Result<Value, String> + Send + Sync + 'static) -> Self {
        self.scenario.script = Arc::new(script);
        self
    }

    /// Has every script add one to a value of the project's key-value store besides, as scripts do: it reads it, and writes one
    /// more. In the end it has to be the number of scripts that succeeded. Default: they leave the store alone.
    pub fn scripts_count(mut self) -> Self {
        self.scenario.counts = true;
        self
    }

    /// Sets the seed from which everything follows. Default: 1.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets how many schedules are played at most. Default: 2,000. What is left over when every point was tried with every
    /// fault is spent on schedules with several faults; what does not suffice for that is spent on a sample.
    pub fn max_schedules(mut self, schedules: usize) -> Self {
        self.max_schedules = schedules.max(1);
        self
    }

    /// Puts a defect into the store, to see it caught.
    pub fn mutant(mut self, mutant: Mutant) -> Self {
        self.scenario.mutant = Some(mutant);
        self
    }

    /// Sets up the store, and plays one schedule without faults to learn how many points there are.
    ///
    /// # Errors
    /// [`SimError`] if the flow cannot be published or the world cannot be set up.
    ///
    /// # Panics
    /// Inside an asynchronous task: a simulation brings its own.
    pub fn prepare(self) -> Result<Prepared, SimError> {
        let Self { scenario, duplicates, seed, max_schedules } = self;
        let setup = paused()?.block_on(scenario.set_up())?;
        let quiet = play(&scenario, &setup, seed, Plan::default())?;
        Ok(Prepared { scenario, setup, points: quiet.points, duplicates, seed, max_schedules })
    }

    /// Explores, until a promise is broken or there is nothing left to play.
    ///
    /// # Errors
    /// As [`Explore::prepare`]. A broken promise is no error but part of the report.
    ///
    /// # Panics
    /// As [`Explore::prepare`].
    pub fn run(self) -> Result<Report, SimError> {
        self.prepare()?.run()
    }
}

/// An exploration whose world is set up.
#[derive(Debug)]
pub struct Prepared {
    scenario: Scenario,
    setup: Setup,
    points: u64,
    duplicates: u32,
    seed: u64,
    max_schedules: usize,
}

impl Prepared {
    /// How many points a schedule without faults has: writes to the store, and calls of actions that act outside.
    #[must_use]
    pub const fn points(&self) -> u64 {
        self.points
    }

    /// Plays what [`Explore::run`] plays.
    ///
    /// # Errors
    /// [`SimError`].
    pub fn run(&self) -> Result<Report, SimError> {
        let mut report = Report::new(self.points);
        let every = self.every_single_fault();
        report.exhaustive = every.len() < self.max_schedules;
        let dice = Dice::new(self.seed, PLANS);
        if report.exhaustive {
            for plan in std::iter::once(Plan::default()).chain(every) {
                self.play_into(&mut report, self.seed, plan)?;
                if !report.is_clean() {
                    return Ok(report);
                }
            }
        }
        while report.schedules < self.max_schedules && report.is_clean() {
            let seed = dice.next();
            self.play_into(&mut report, seed, self.plan(seed))?;
        }
        Ok(report)
    }

    /// Plays the one schedule that follows from `seed`.
    ///
    /// # Errors
    /// [`SimError`].
    pub fn run_seed(&self, seed: u64) -> Result<Report, SimError> {
        let mut report = Report::new(self.points);
        self.play_into(&mut report, seed, self.plan(seed))?;
        Ok(report)
    }

    /// What goes wrong in the schedule that follows from `seed`.
    #[must_use]
    pub fn plan(&self, seed: u64) -> Plan {
        // Recovery has points of its own, behind those of the quiet schedule.
        let points = self.points + self.points / 2 + 4;
        Plan::throw(&Dice::new(seed, PLANS), points, self.duplicates, self.scenario.lease)
    }

    /// Every fault at every point, each with no, an early and a late copy of every delivery.
    fn every_single_fault(&self) -> Vec<Plan> {
        let long = self.scenario.lease * 2;
        let mut copies = vec![Vec::new()];
        if self.duplicates > 0 {
            copies.push(vec![Duration::from_millis(1); self.duplicates as usize]);
            copies.push(vec![long; self.duplicates as usize]);
        }
        let mut plans: Vec<Plan> =
            copies.iter().map(|copies| Plan { duplicates: copies.clone(), ..Plan::default() }).collect();
        for point in 0..self.points {
            for fault in Fault::each(long) {
                plans.extend(copies.iter().map(|copies| Plan::single(point, fault, copies.clone())));
            }
        }
        plans
    }

    fn play_into(&self, report: &mut Report, seed: u64, plan: Plan) -> Result<(), SimError> {
        let played = play(&self.scenario, &self.setup, seed, plan.clone())?;
        report.schedules += 1;
        report.faults += plan.fault_count();
        report.points += played.points;
        let mut hash = Fnv(report.hash);
        hash.add(&played.history.hash().to_le_bytes());
        report.hash = hash.0;
        if !judge(&played).is_empty() {
            report.failures.push(self.shrink(seed, plan, played)?);
        }
        Ok(())
    }

    /// Leaves out of a plan whatever is not needed for the violation.
    fn shrink(&self, seed: u64, mut plan: Plan, mut played: Played) -> Result<Failure, SimError> {
        let mut violations = judge(&played);
        let broken = violations.first().map(|violation| violation.invariant);
        let mut tries = 0;
        'smaller: loop {
            for smaller in plan.smaller() {
                tries += 1;
                if tries > MOST_SHRINKING {
                    break 'smaller;
                }
                let again = play(&self.scenario, &self.setup, seed, smaller.clone())?;
                let still = judge(&again);
                if still.iter().any(|violation| Some(violation.invariant) == broken) {
                    (plan, played, violations) = (smaller, again, still);
                    continue 'smaller;
                }
            }
            break;
        }
        let hash = played.history.hash();
        let trace = played.history.observed.iter().map(|(at, seen)| format!("{:>9} ms  {seen:?}", at.as_millis()));
        Ok(Failure { seed, plan, violations, trace: trace.collect(), hash })
    }
}

/// What of a schedule breaks a promise.
fn judge(played: &Played) -> Vec<Violation> {
    let mut found = Vec::new();
    for invariant in invariants() {
        let mut details = Vec::new();
        (invariant.check)(&played.history, &mut details);
        found.extend(details.into_iter().map(|detail| Violation { invariant: invariant.name, detail }));
    }
    found
}

impl fmt::Display for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} points, {} workers", self.points, self.scenario.workers)
    }
}

/// Purpose of dice.
const PLANS: u64 = 3;
/// Schedules that may be played to make a failing one smaller.
const MOST_SHRINKING: usize = 200;
