//! Stub.
/// Properties.
#[derive(Clone, Debug)]
pub struct Properties;
/// Auth.
#[derive(Clone, Debug)]
pub struct AuthSchema;
