//! The executor: carries out what the engine asks for, and makes it durable first.
//!
//! [`driver`](self) takes one run from event to event under its lease; `worker` holds what this process executes and is the
//! one file of the executor that spawns tasks; `loops` claims, keeps leases alive, listens for hints and fires triggers;
//! `admission` says which runs need not queue, `report` what the store hears of the worker.

mod admission;
mod attempt;
mod carry;
mod credential;
mod driver;
mod loops;
mod outside;
mod pause;
mod report;
mod script;
mod shares;
mod worker;

pub(crate) use attempt::trial;
pub(crate) use script::source_of as script_of;
pub(crate) use worker::{Submission, Worker};
