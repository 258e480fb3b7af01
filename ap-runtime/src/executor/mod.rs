//! The executor: carries out what the engine asks for, and makes it durable first.
//!
//! [`driver`](self) takes one run from event to event under its lease; `worker` claims runs, keeps leases alive and is
//! the one file of the runtime that spawns tasks.

mod attempt;
mod carry;
mod driver;
mod outside;
mod worker;

pub(crate) use worker::{Submission, Worker};
