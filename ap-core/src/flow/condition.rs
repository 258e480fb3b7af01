//! [`BranchCondition`]: what a branch asks, as one template or as groups of [`Condition`]s.

mod coerce;
mod evaluate;
mod operator;

use serde_json::{Map, Value};

pub use self::operator::Operator;
use self::{coerce::is_truthy, evaluate::Mismatch};
use super::Diagnostic;
use crate::{
    expr::{Environment, ResolveError, Template},
    nearest::nearest_match,
};

/// What a branch asks.
///
/// Three spellings parse: one token (`"{{steps.check.output.ok}}"`, `"{{trigger.body.total > 5}}"`), a literal `true` or `false`, and groups of
/// conditions (`[[{firstValue, operator, secondValue}]]`).
#[derive(Clone, Debug, PartialEq)]
pub enum BranchCondition {
    /// Holds if in one group all conditions hold: outer "or", inner "and".
    ///
    /// No group at all is false; an empty group is true. Every operand is resolved, whatever the others hold.
    Groups(Vec<Vec<Condition>>),
    /// Holds if the resolved value is true for JavaScript: neither false, 0, null nor empty text.
    ///
    /// Prefer a value that is a boolean: the text `"false"` and an empty list are true.
    Truthy(Template),
}

/// One question about one or two values.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// The value asked about. Wire name: `firstValue`.
    pub first_value: Template,
    /// What is asked. Wire name: `operator`.
    pub operator: Operator,
    /// What it is compared with; `None` for unary operators, null for a binary one. Wire name: `secondValue`.
    pub second_value: Option<Template>,
    /// Whether upper and lower case differ. Default: false. Wire name: `caseSensitive`.
    pub case_sensitive: bool,
}

/// Why a condition has no answer. For the flow's author.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConditionError {
    /// An operand did not resolve.
    #[error("an operand of the condition did not resolve")]
    Resolve {
        /// Pointer of the operand, relative to the branch condition.
        pointer: String,
        /// Why.
        #[source]
        source: ResolveError,
    },
    /// An operand of a strict operator is of another type.
    #[error("`{operator}` reads {expected}, but the value is {found}")]
    Type {
        /// Pointer of the operand, relative to the branch condition.
        pointer: String,
        /// The operator.
        operator: Operator,
        /// The type it reads.
        expected: &'static str,
        /// The type of the value.
        found: &'static str,
    },
}

impl BranchCondition {
    /// Parses the condition that stands at `pointer` in the flow. Of a unary operator `secondValue` is not read.
    ///
    /// # Errors
    /// Every flaw; reading stops at the condition in which their number reaches 100.
    pub fn parse(value: &Value, pointer: &str) -> Result<Self, Vec<Diagnostic>> {
        let mut found = Vec::new();
        let parsed = match value {
            Value::String(_) => parse_token(value, pointer, &mut found),
            Value::Bool(_) => operand(value, pointer, &mut found).map(Self::Truthy),
            Value::Array(groups) => parse_groups(groups, pointer, &mut found).map(Self::Groups),
            Value::Null | Value::Number(_) | Value::Object(_) => {
                found.push(Diagnostic::error(
                    pointer,
                    "condition.type",
                    format!("a condition cannot be {}", type_name(value)),
                    "write one token, such as `{{steps.check.output.ok}}`, or groups of conditions: `[[{…}]]`",
                ));
                None
            }
        };
        match parsed {
            Some(parsed) if found.is_empty() => Ok(parsed),
            _ => Err(found),
        }
    }

    /// Whether the condition holds. Every operand is resolved.
    ///
    /// # Errors
    /// [`ConditionError`]: the first operand without an answer, in the order of the condition.
    pub fn evaluate(&self, environment: &dyn Environment) -> Result<bool, ConditionError> {
        match self {
            Self::Truthy(template) => resolve(template, environment, String::new).map(|value| is_truthy(&value)),
            Self::Groups(groups) => {
                let mut any = false;
                for (outer, group) in groups.iter().enumerate() {
                    let mut all = true;
                    for (inner, condition) in group.iter().enumerate() {
                        all &= condition.evaluate(environment, (outer, inner))?;
                    }
                    any |= all;
                }
                Ok(any)
            }
        }
    }

    /// Every template in it, with its pointer relative to the condition.
    pub fn templates(&self) -> impl Iterator<Item = (String, &Template)> {
        let (whole, groups) = match self {
            Self::Truthy(template) => (Some((String::new(), template)), &[][..]),
            Self::Groups(groups) => (None, groups.as_slice()),
        };
        let conditions = groups.iter().enumerate().flat_map(|(outer, group)| {
            group.iter().enumerate().map(move |(inner, condition)| ((outer, inner), condition))
        });
        whole.into_iter().chain(conditions.flat_map(|(place, condition)| {
            let second = condition.second_value.as_ref().map(|second| (operand_pointer(place, SECOND_VALUE), second));
            std::iter::once((operand_pointer(place, FIRST_VALUE), &condition.first_value)).chain(second)
        }))
    }
}

impl Condition {
    fn evaluate(&self, environment: &dyn Environment, place: (usize, usize)) -> Result<bool, ConditionError> {
        let first = resolve(&self.first_value, environment, || operand_pointer(place, FIRST_VALUE));
        let asks_existence = matches!(self.operator, Operator::Exists | Operator::DoesNotExist);
        let first = match first {
            Err(ConditionError::Resolve {
                source: ResolveError::Missing { .. } | ResolveError::Undefined { .. },
                ..
            }) if asks_existence && self.first_value.is_token() => Value::Null,
            other => other?,
        };
        let second = match &self.second_value {
            Some(second) => resolve(second, environment, || operand_pointer(place, SECOND_VALUE))?,
            None => Value::Null,
        };
        evaluate::holds(self.operator, &first, &second, self.case_sensitive).map_err(|mismatch| {
            let (name, value, expected) = match mismatch {
                Mismatch::First { expected } => (FIRST_VALUE, &first, expected),
                Mismatch::Second { expected } => (SECOND_VALUE, &second, expected),
            };
            let pointer = operand_pointer(place, name);
            ConditionError::Type { pointer, operator: self.operator, expected, found: type_name(value) }
        })
    }
}

impl ConditionError {
    /// Pointer of the operand, relative to the branch condition.
    #[must_use]
    pub fn pointer(&self) -> &str {
        match self {
            Self::Resolve { pointer, .. } | Self::Type { pointer, .. } => pointer,
        }
    }

    /// What to do.
    #[must_use]
    pub fn fix(&self) -> String {
        match self {
            Self::Resolve { source, .. } => source.fix(),
            Self::Type { expected, .. } => {
                format!("pass {expected}, or use the operator without `STRICT_`, which converts")
            }
        }
    }
}

fn resolve(
    template: &Template,
    environment: &dyn Environment,
    pointer: impl FnOnce() -> String,
) -> Result<Value, ConditionError> {
    template.resolve(environment).map_err(|source| ConditionError::Resolve { pointer: pointer(), source })
}

fn parse_token(value: &Value, pointer: &str, found: &mut Vec<Diagnostic>) -> Option<BranchCondition> {
    let template = operand(value, pointer, found)?;
    if template.is_token() {
        return Some(BranchCondition::Truthy(template));
    }
    let (rule, message) = match template.as_literal() {
        Some(_) => ("condition.constant", "a text that reads nothing never changes its answer"),
        None => ("condition.text", "a token with text beside it is true whatever the token holds"),
    };
    let fix = "write exactly one token, such as `{{path}}` or `{{path > 5}}`, or compare with `[[{firstValue, operator, secondValue}]]`";
    found.push(Diagnostic::error(pointer, rule, message, fix));
    None
}

fn parse_groups(groups: &[Value], pointer: &str, found: &mut Vec<Diagnostic>) -> Option<Vec<Vec<Condition>>> {
    let mut parsed = Vec::with_capacity(groups.len());
    for (outer, group) in groups.iter().enumerate() {
        let place = format!("{pointer}/{outer}");
        let Value::Array(conditions) = group else {
            found.push(Diagnostic::error(
                &place,
                "condition.group",
                format!("a group must be a list of conditions, not {}", type_name(group)),
                "wrap it in a list: in `[[a, b], [c]]` a and b must both hold, or c",
            ));
            if found.len() >= MAX_DIAGNOSTICS {
                return None;
            }
            continue;
        };
        let mut all = Vec::with_capacity(conditions.len());
        for (inner, condition) in conditions.iter().enumerate() {
            all.extend(parse_condition(condition, &format!("{place}/{inner}"), found));
            if found.len() >= MAX_DIAGNOSTICS {
                return None;
            }
        }
        parsed.push(all);
    }
    Some(parsed)
}

fn parse_condition(value: &Value, pointer: &str, found: &mut Vec<Diagnostic>) -> Option<Condition> {
    let Value::Object(members) = value else {
        found.push(Diagnostic::error(
            pointer,
            "condition.type",
            format!("a condition in a group must be an object, not {}", type_name(value)),
            "write `{\"firstValue\": …, \"operator\": …, \"secondValue\": …}`",
        ));
        return None;
    };
    for name in members.keys().filter(|name| !PROPERTIES.contains(&name.as_str())).take(MAX_DIAGNOSTICS) {
        let fix = match nearest_match(name, PROPERTIES) {
            Some(nearest) => format!("write `{nearest}`"),
            None => format!("remove it; a condition has {}", PROPERTIES.map(|name| format!("`{name}`")).join(", ")),
        };
        found.push(Diagnostic::error(
            pointer,
            "condition.property",
            format!("unknown property `{}`", short(name)),
            fix,
        ));
    }
    let operator = parse_operator(members, pointer, found);
    let first_value = required(members, FIRST_VALUE, pointer, found);
    let second_value = match operator {
        Some(operator) if operator.is_binary() => Some(required(members, SECOND_VALUE, pointer, found)?),
        _ => None,
    };
    let case_sensitive = match members.get(CASE_SENSITIVE) {
        None | Some(Value::Null) => false,
        Some(Value::Bool(flag)) => *flag,
        Some(other) => {
            found.push(Diagnostic::error(
                &format!("{pointer}/{CASE_SENSITIVE}"),
                "condition.type",
                format!("`{CASE_SENSITIVE}` must be a boolean, not {}", type_name(other)),
                "write `true` or `false`",
            ));
            return None;
        }
    };
    Some(Condition { first_value: first_value?, operator: operator?, second_value, case_sensitive })
}

fn parse_operator(members: &Map<String, Value>, pointer: &str, found: &mut Vec<Diagnostic>) -> Option<Operator> {
    let name = match members.get(OPERATOR) {
        Some(Value::String(name)) => name,
        other => {
            let what = other.map_or("missing", type_name);
            found.push(Diagnostic::error(
                pointer,
                "condition.operator",
                format!("`{OPERATOR}` must be the name of an operator; it is {what}"),
                format!("write one such as `{}`", Operator::TextExactlyMatches),
            ));
            return None;
        }
    };
    let operator = Operator::from_wire(name);
    if operator.is_none() {
        let fix = match Operator::nearest(name) {
            Some(nearest) => format!("write `{nearest}`"),
            None => format!("write one such as `{}`", Operator::TextExactlyMatches),
        };
        let place = format!("{pointer}/{OPERATOR}");
        found.push(Diagnostic::error(&place, "condition.operator", format!("unknown operator `{}`", short(name)), fix));
    }
    operator
}

fn required(members: &Map<String, Value>, name: &str, pointer: &str, found: &mut Vec<Diagnostic>) -> Option<Template> {
    match members.get(name) {
        Some(value) => operand(value, &format!("{pointer}/{name}"), found),
        None => {
            let fix = format!("add `\"{name}\"`: a value or a token");
            found.push(Diagnostic::error(pointer, "condition.operand", format!("`{name}` is missing"), fix));
            None
        }
    }
}

fn operand(value: &Value, pointer: &str, found: &mut Vec<Diagnostic>) -> Option<Template> {
    let compiled = Template::compile(value);
    compiled.map_err(|errors| found.extend(errors.iter().map(|error| error.to_diagnostic(pointer)))).ok()
}

fn operand_pointer((outer, inner): (usize, usize), name: &str) -> String {
    format!("/{outer}/{inner}/{name}")
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The beginning of an unknown name, for a message.
fn short(name: &str) -> String {
    name.chars().filter(|next| !next.is_control()).take(60).collect()
}

/// Parsing stops when so many flaws were found; the last condition read may add some.
const MAX_DIAGNOSTICS: usize = 100;

const FIRST_VALUE: &str = "firstValue";
const SECOND_VALUE: &str = "secondValue";
const OPERATOR: &str = "operator";
const CASE_SENSITIVE: &str = "caseSensitive";
const PROPERTIES: [&str; 4] = [FIRST_VALUE, OPERATOR, SECOND_VALUE, CASE_SENSITIVE];

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::expr::{Lookup, Path};

    struct Root(Value);

    impl Environment for Root {
        fn lookup<'a>(&'a self, _path: &Path) -> Lookup<'a> {
            Lookup::Found { value: Cow::Borrowed(&self.0), consumed: 1 }
        }
    }

    fn parse(value: &Value) -> BranchCondition {
        BranchCondition::parse(value, "").expect("condition")
    }

    fn evaluate(condition: &Value, root: Value) -> Result<bool, ConditionError> {
        parse(condition).evaluate(&Root(root))
    }

    fn rules(value: &Value) -> Vec<(String, &'static str)> {
        let found = BranchCondition::parse(value, "/c").expect_err("malformed");
        found.into_iter().map(|diagnostic| (diagnostic.pointer, diagnostic.rule)).collect()
    }

    fn fix(value: &Value) -> String {
        BranchCondition::parse(value, "").expect_err("malformed").remove(0).fix
    }

    fn truth(of: bool) -> Value {
        json!({"firstValue": of, "operator": "STRICT_BOOLEAN_IS_TRUE"})
    }

    #[test]
    fn a_token_decides_by_truthiness() {
        for (value, expected) in [
            (json!(true), true),
            (json!("false"), true),
            (json!([]), true),
            (json!(false), false),
            (json!(""), false),
            (json!(0), false),
            (Value::Null, false),
        ] {
            assert_eq!(evaluate(&json!("{{r.x}}"), json!({"x": value})), Ok(expected), "{value}");
        }
        assert_eq!(evaluate(&json!("{{r.y ?? true}}"), json!({})), Ok(true));
        assert_eq!(evaluate(&json!(true), json!({})), Ok(true));
        assert_eq!(evaluate(&json!(false), json!({})), Ok(false));
    }

    #[test]
    fn groups_are_or_of_and() {
        for (groups, expected) in [
            (json!([]), false),
            (json!([[]]), true),
            (json!([[truth(true), truth(false)]]), false),
            (json!([[truth(true), truth(true)]]), true),
            (json!([[truth(false)], [truth(true)]]), true),
            (json!([[truth(false)], [truth(false)]]), false),
            (json!([[truth(false)], []]), true),
        ] {
            assert_eq!(evaluate(&groups, json!({})), Ok(expected), "{groups}");
        }
    }

    #[test]
    fn every_operand_is_resolved() {
        let missing = json!({"firstValue": "{{r.none}}", "operator": "BOOLEAN_IS_TRUE"});
        for groups in [json!([[truth(true)], [missing]]), json!([[truth(false), missing]])] {
            let error = evaluate(&groups, json!({})).expect_err("missing");
            assert!(matches!(error, ConditionError::Resolve { .. }), "{error}");
            assert!(error.fix().contains("??"));
        }
    }

    #[test]
    fn templates_are_compared_by_value() {
        let condition = json!([[{
            "firstValue": "{{r.name}}", "operator": "TEXT_EXACTLY_MATCHES", "secondValue": "a-{{r.n}}",
            "caseSensitive": true,
        }]]);
        assert_eq!(evaluate(&condition, json!({"name": "a-1", "n": 1})), Ok(true));
        assert_eq!(evaluate(&condition, json!({"name": "A-1", "n": 1})), Ok(false));
    }

    #[test]
    fn what_is_missing_does_not_exist() {
        let exists = |first: &str| json!([[{"firstValue": first, "operator": "EXISTS"}]]);
        assert_eq!(evaluate(&exists("{{r.x.y}}"), json!({})), Ok(false));
        assert_eq!(evaluate(&exists("{{r.x}}"), json!({"x": 0})), Ok(true));
        assert!(evaluate(&exists("x{{r.x}}"), json!({})).is_err(), "text around it always exists");
        let absent = json!([[{"firstValue": "{{r.x}}", "operator": "DOES_NOT_EXIST"}]]);
        assert_eq!(evaluate(&absent, json!({})), Ok(true));
    }

    #[test]
    fn a_wrong_type_names_operand_and_operator() {
        let condition = json!([[truth(true), {
            "firstValue": 1, "operator": "STRICT_NUMBER_IS_EQUAL_TO", "secondValue": "{{r.s}}",
        }]]);
        let error = evaluate(&condition, json!({"s": "1"})).expect_err("type");
        assert_eq!(error.pointer(), "/0/1/secondValue");
        assert_eq!(error.to_string(), "`STRICT_NUMBER_IS_EQUAL_TO` reads a number, but the value is a text");
    }

    #[test]
    fn templates_are_listed_with_their_pointers() {
        let condition = parse(&json!([
            [{"firstValue": "{{a}}", "operator": "EXISTS", "secondValue": "{{unread}}"}],
            [truth(true), {"firstValue": "{{b}}", "operator": "TEXT_CONTAINS", "secondValue": "{{c}}"}],
        ]));
        let pointers: Vec<_> = condition.templates().map(|(pointer, _)| pointer).collect();
        assert_eq!(pointers, ["/0/0/firstValue", "/1/0/firstValue", "/1/1/firstValue", "/1/1/secondValue"]);
        assert_eq!(parse(&json!("{{a}}")).templates().map(|(pointer, _)| pointer).collect::<Vec<_>>(), [""]);
    }

    #[test]
    fn malformed_conditions_name_place_and_rule() {
        for (value, expected) in [
            (json!(null), vec![("/c", "condition.type")]),
            (json!(1), vec![("/c", "condition.type")]),
            (json!({}), vec![("/c", "condition.type")]),
            (json!("yes"), vec![("/c", "condition.constant")]),
            (json!("{{true}}"), vec![("/c", "condition.constant")]),
            (json!("{{a}} > 5"), vec![("/c", "condition.text")]),
            (json!("{{a > 5)}}"), vec![("/c", "template.expression")]),
            (json!([truth(true)]), vec![("/c/0", "condition.group")]),
            (json!([[1]]), vec![("/c/0/0", "condition.type")]),
            (json!([[{}]]), vec![("/c/0/0", "condition.operator"), ("/c/0/0", "condition.operand")]),
            (json!([[{"firstValue": 1, "operator": 5}]]), vec![("/c/0/0", "condition.operator")]),
            (json!([[{"firstValue": 1, "operator": "X"}]]), vec![("/c/0/0/operator", "condition.operator")]),
            (json!([[{"firstValue": 1, "operator": "TEXT_CONTAINS"}]]), vec![("/c/0/0", "condition.operand")]),
            (
                json!([[{"firstValue": {"x": ["{{}}"]}, "operator": "EXISTS"}]]),
                vec![("/c/0/0/firstValue/x/0", "template.empty")],
            ),
            (
                json!([[{"firstValue": 1, "operator": "EXISTS", "caseSensitive": "no"}]]),
                vec![("/c/0/0/caseSensitive", "condition.type")],
            ),
            (
                json!([[{"firstValue": 1, "operator": "EXISTS", "casesensitive": true}]]),
                vec![("/c/0/0", "condition.property")],
            ),
        ] {
            let expected: Vec<_> = expected.into_iter().map(|(pointer, rule)| (pointer.to_owned(), rule)).collect();
            assert_eq!(rules(&value), expected, "{value}");
        }
    }

    #[test]
    fn unknown_names_are_answered_with_the_nearest() {
        let operator = |name: &str| json!([[{"firstValue": 1, "operator": name, "secondValue": 2}]]);
        assert_eq!(fix(&operator("TEXT_STARTS_WITH")), "write `TEXT_START_WITH`");
        assert_eq!(fix(&operator("number_is_equal_to")), "write `NUMBER_IS_EQUAL_TO`");
        assert!(fix(&operator("???")).starts_with("write one such as"));
        let property = json!([[{"firstValue": 1, "operator": "EXISTS", "case_sensitive": true}]]);
        assert_eq!(fix(&property), "write `caseSensitive`");
    }

    #[test]
    fn the_number_of_diagnostics_is_bounded() {
        let of = |flaws: usize| json!([vec![json!(1); flaws]]);
        for (flaws, expected) in [(99, 99), (100, 100), (101, 100)] {
            assert_eq!(rules(&of(flaws)).len(), expected);
        }
    }

    proptest! {
        #[test]
        fn no_json_makes_parse_panic(text in r#"[\[\]{}",:0-9a-zA-Z_ ]{0,40}"#, operator in any::<String>()) {
            drop(BranchCondition::parse(&json!(text), ""));
            drop(BranchCondition::parse(&json!([[{"firstValue": text, "operator": operator, "secondValue": text}]]), ""));
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                drop(BranchCondition::parse(&value, ""));
            }
        }

        #[test]
        fn groups_hold_as_a_formula_does(groups in prop::collection::vec(prop::collection::vec(any::<bool>(), 0..4), 0..4)) {
            let condition = Value::from(groups.iter().map(|group| group.iter().copied().map(truth).collect()).collect::<Vec<Value>>());
            let expected = groups.iter().any(|group| group.iter().all(|holds| *holds));
            prop_assert_eq!(evaluate(&condition, json!({})), Ok(expected));
        }
    }
}
