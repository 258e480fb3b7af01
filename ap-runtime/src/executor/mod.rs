//! The executor: carries out what the engine asks for, and makes it durable first.
//!
//! [`driver`](self) takes one run from event to event under its lease; `worker` holds what this process executes and is the
//! one file of the executor that spawns tasks; `loops` claims, keeps leases alive, listens for hints and fires triggers;
//! `evaluate` has the expressions of templates evaluated; `admission` says which runs need not queue, `report` what the store hears of the worker,
//! `keep` what is kept of a run, `values` what its scripts store.

mod admission;
mod attempt;
mod carry;
mod credential;
mod driver;
mod evaluate;
mod keep;
mod loops;
mod outside;
mod pause;
mod report;
mod script;
mod shares;
mod under_way;
mod values;
mod worker;

pub(crate) use attempt::trial;
pub(crate) use evaluate::{evaluate, redacted};
pub(crate) use script::{sandbox_language, source_of as script_of};
pub(crate) use values::{StepValues, check_key};
pub(crate) use worker::{Submission, Worker};
