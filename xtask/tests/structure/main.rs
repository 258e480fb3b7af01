//! What must hold of the workspace as a whole: which crate may use which, and which file may do what.
//!
//! Every rule is a function that returns what breaks it, and is shown to be able to fail by a bad sample.
#![expect(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "test support")]

mod licences;
mod packages;
mod rules;
mod sources;
