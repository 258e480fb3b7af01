//! Stub.
/// C.
#[derive(Clone, Debug, PartialEq)]
pub struct BranchCondition;
/// C.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition;
/// C.
#[derive(Clone, Debug, PartialEq)]
pub struct ConditionError;
/// C.
#[derive(Clone, Debug, PartialEq)]
pub struct Operator;
