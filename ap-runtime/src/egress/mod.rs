//! The only way out of the host's process, and the only room that opens a credential.
//!
//! | Module | What it holds |
//! | --- | --- |
//! | [`address`], [`name`], [`url`] | which addresses, names and URLs may be reached: pure functions |
//! | [`guard`] | [`guard::EgressPolicy`], the [`guard::Resolver`] seam, and the one guard every protocol goes through |
//! | [`credential`] | [`credential::RunCredentials`]: placeholders become secrets, in declared places of bound origins |
//! | `http` | the HTTP client pieces get (feature `http`) |
pub mod address;
pub mod credential;
pub mod guard;
pub mod name;
pub mod url;

#[cfg(feature = "http")]
pub mod http;

mod capability;
#[cfg(feature = "http")]
mod header;
mod mark;
mod place;
#[cfg(feature = "http")]
mod redirect;
mod reveal;
pub use self::capability::Egress;
