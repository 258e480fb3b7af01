//! OAuth 2.0 as a client: authorization, tokens, renewal (RFC 6749, RFC 7636, RFC 9207, RFC 9700).
//!
//! | Module | What it holds |
//! | --- | --- |
//! | `request`, `response`, `state` | what is sent and what comes back: pure functions |
//! | `client` | one exchange with a token endpoint, through the egress guard |
//! | `provider` | whether a token endpoint belongs to the page that owners are sent to |
//! | `renew` | renewal that asks the provider once and never gives a grant up on a guess |
//!
//! # What a provider can do to a grant
//!
//! A refresh token that is used up with every renewal is lost if the provider takes the request and its answer never arrives, or
//! if this process dies between the answer and the commit. Nothing on this side can prevent that: RFC 6749 knows no repeat of
//! a renewal. What can be done is done: the old refresh token is kept until the new one is committed and tried again, which
//! providers with a grace period accept; the commit is repeated for as long as the lease lasts; nothing but the provider's own
//! `invalid_grant`, to the holder of the last lease, at a revision that nobody has changed, puts the connection in error.

pub(crate) mod client;
pub(crate) mod provider;
mod renew;
pub(crate) mod request;
mod response;
pub(crate) mod state;
