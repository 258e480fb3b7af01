//! Simulation: crashes, faults and deliveries of *your own* flow, explored in a test.
//!
//! [`explore`] takes a flow and plays it in many worlds. Each world has two or more workers, real
//! [`Runtime`](crate::runtime::Runtime)s with the engine and executor of production, on one shared memory backend. Time,
//! randomness, storage and the world outside are the simulation's; one `u64` decides them all, so a seed that fails once
//! fails always.
//!
//! # What is modelled
//!
//! * **Points.** Every call that may change the store, and every call of an action that acts outside. Each may meet each
//!   [`Fault`]: the worker dies before or after it, or in the middle of a batch of which some calls happen; it fails, having
//!   happened or not; it is late; the worker is suspended for longer than its lease and goes on as a zombie; clocks jump;
//!   the store is out of reach.
//! * **Death** is that of `kill -9`: nothing of a dead worker reaches anybody, except what was on its way already. Another
//!   incarnation starts some time later, with empty memory.
//! * **Durability.** What the store acknowledged stays. What was under way when its worker died happens or does not.
//! * **Deliveries** come several at a time, again at once, again late, and again whenever the sender got no answer.
//! * **Peers** are the pieces you give, with HTTP and scripts replaced by functions. Every effect is written down.
//! * **Promises.** After each schedule, once faults have stopped, every [`Invariant`] is checked on everything that was
//!   observed at the seams and on what the store holds.
//! * **Defects.** A [`Mutant`] is a store with a defect. Each is caught, or the promises would be worth nothing.
//!
//! # What is not
//!
//! * Disks, SQL and networks: whether a backend keeps what it acknowledges is for the conformance suite and for tests that
//!   kill real processes.
//! * Threads: a world is single-threaded, so data races are out of its reach. Calls overtake each other by simulated latency.
//! * Byzantine faults: whoever answers tells the truth, late or never.
//! * Egress: no socket is opened, no credential is; both have tests of their own.
//!
//! # Examples
//! ```
//! use ap_runtime::sim::explore;
//! use serde_json::json;
//!
//! // In a `#[test]`, without a tokio runtime around it.
//! let flow = json!({
//!     "displayName": "New contact",
//!     "triggers": [{ "name": "hook", "type": "webhook", "settings": { "authentication": { "type": "NONE" } } }],
//!     "steps": [
//!         { "name": "check", "type": "code", "settings": {
//!             "sourceCode": { "code": "export const code = ({ contact }) => contact" },
//!             "input": { "contact": "{{trigger.body}}" } } },
//!         { "name": "answer", "type": "respond", "settings": { "status": 201, "body": "{{steps.check.output}}" } },
//!     ],
//! });
//! let report = explore(&flow)
//!     .payload(json!({ "email": "ada@example.com" }))
//!     .duplicates(1)
//!     .seed(7)
//!     .max_schedules(100)
//!     .run()?;
//! report.assert_clean();
//! assert!(report.faults() > 0);
//! # Ok::<(), ap_runtime::sim::SimError>(())
//! ```

mod backend;
mod clock;
mod dice;
mod explore;
mod fault;
mod history;
mod invariants;
mod life;
mod mutant;
mod peer;
mod report;
mod scenario;
mod shared;
mod wakeup;
mod world;

use ap_core::{flow::Diagnostics, store::StoreError};
use ap_crypto::error::KeyError;

pub use self::{
    explore::{Explore, Prepared, explore},
    fault::{Fault, Plan},
    invariants::{Invariant, invariants},
    mutant::Mutant,
    report::{Failure, Report, Violation},
};
use crate::{config::LimitError, runtime::BuildError, session::SessionError};

/// Why a world could not be set up or judged. For the host developer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimError {
    /// A runtime could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The flow is not valid.
    #[error("the flow is not valid: {0}")]
    Flow(Diagnostics),
    /// Keys could not be opened.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// An option is out of range.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// No tokio runtime could be started.
    #[error("no tokio runtime could be started")]
    Runtime(#[source] std::io::Error),
    /// The flow could not be created or published.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The store could not be read in the end.
    #[error(transparent)]
    Store(#[from] StoreError),
}
