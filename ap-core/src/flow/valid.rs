//! Stub.
/// V.
pub struct ValidFlow;
/// V.
pub struct ConnectionUse;
