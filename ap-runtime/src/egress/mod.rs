//! The only way out of the host's process, and the only room that opens a credential.
//!
//! | Module | What it holds |
//! | --- | --- |
//! | [`address`], [`name`], [`url`] | which addresses, names and URLs may be reached: pure functions |
//! | [`guard`] | [`guard::EgressPolicy`], the [`guard::Resolver`] seam, and the one guard every protocol goes through |
//! | [`credential`] | [`credential::RunCredentials`]: placeholders become secrets, in declared places of bound origins |
//! | `key` | secrets of connections as keys (feature `crypto`) |
//! | `keys` | root keys from services (features `vault`, `aws`) |
//! | `http` | the HTTP client pieces get (feature `http`) |
//! | `mail` | the mail servers pieces get (feature `mail`) |
//! | `objects` | the object stores pieces get (feature `objects`) |
//! | `sql` | the databases pieces get (feature `sql`) |
//! | [`trust`] | authorities that a host trusts beside its machine's |
pub mod address;
pub mod credential;
pub mod guard;
pub mod name;
pub mod trust;
pub mod url;

#[cfg(feature = "http")]
pub mod http;

#[cfg(any(feature = "vault", feature = "aws"))]
pub mod keys;
#[cfg(feature = "mail")]
pub mod mail;
#[cfg(feature = "objects")]
pub mod objects;
#[cfg(feature = "sql")]
pub mod sql;

mod basic;
mod capability;
#[cfg(feature = "tls")]
mod connect;
#[cfg(feature = "http")]
mod header;
#[cfg(feature = "crypto")]
mod key;
mod mark;
mod place;
mod placing;
#[cfg(feature = "http")]
mod redirect;
mod refusal;
mod reveal;
mod scope;
#[cfg(any(feature = "tls", feature = "objects"))]
mod server;
mod sign;
#[cfg(feature = "tls")]
mod tls;
pub(crate) use self::basic::pair_in as basic_pair_in;
pub use self::capability::Egress;
#[cfg(feature = "tls")]
pub use self::tls::TlsSetupError;
