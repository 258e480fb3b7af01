//! Stub.
/// P.
pub fn parse() {}
