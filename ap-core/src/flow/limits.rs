//! Stub.
/// L.
#[derive(Clone, Debug)]
pub struct FlowLimits;
