//! The only way out of the host's process, and the only room that opens a credential.
//!
//! | Module | What it holds |
//! | --- | --- |
//! | [`address`], [`name`], [`url`] | which addresses, names and URLs may be reached: pure functions |
//! | [`guard`] | [`guard::EgressPolicy`], the [`guard::Resolver`] seam, and the one guard every protocol goes through |
pub mod address;
pub mod guard;
pub mod name;
pub mod url;

mod capability;
pub use capability::Egress;
