//! What each operator holds of two resolved values.

use std::cmp::Ordering;

use serde_json::Value;

use super::{
    Operator,
    coerce::{Comparable, comparison_text, is_truthy, number_order, to_milliseconds},
};
use crate::json::{self, JsonLimits};

/// The operand that is not of the type a strict operator reads.
#[derive(Debug, PartialEq)]
pub(super) enum Mismatch {
    First { expected: &'static str },
    Second { expected: &'static str },
}

/// Whether `operator` holds. Unary operators ignore `second`.
pub(super) fn holds(operator: Operator, first: &Value, second: &Value, case_sensitive: bool) -> Result<bool, Mismatch> {
    use Operator as Op;
    let text = |holds: fn(&str, &str) -> bool| {
        holds(&comparison_text(first, case_sensitive), &comparison_text(second, case_sensitive))
    };
    let number = |order| Comparable::of(first).order(&Comparable::of(second)) == Some(order);
    let date = |order| match (to_milliseconds(first), to_milliseconds(second)) {
        (Some(first), Some(second)) => first.cmp(&second) == order,
        _ => false,
    };
    Ok(match operator {
        Op::TextContains => text(|first, second| first.contains(second)),
        Op::TextDoesNotContain => !text(|first, second| first.contains(second)),
        Op::TextExactlyMatches => text(|first, second| first == second),
        Op::TextDoesNotExactlyMatch => !text(|first, second| first == second),
        Op::TextStartsWith => text(|first, second| first.starts_with(second)),
        Op::TextDoesNotStartWith => !text(|first, second| first.starts_with(second)),
        Op::TextEndsWith => text(|first, second| first.ends_with(second)),
        Op::TextDoesNotEndWith => !text(|first, second| first.ends_with(second)),
        Op::NumberIsGreaterThan => number(Ordering::Greater),
        Op::NumberIsLessThan => number(Ordering::Less),
        Op::NumberIsEqualTo => Comparable::of(first).equals(&Comparable::of(second)),
        Op::BooleanIsTrue => is_truthy(first),
        Op::BooleanIsFalse => !is_truthy(first),
        Op::DateIsBefore => date(Ordering::Less),
        Op::DateIsEqual => date(Ordering::Equal),
        Op::DateIsAfter => date(Ordering::Greater),
        Op::ListContains => list_contains(first, second, case_sensitive),
        Op::ListDoesNotContain => !list_contains(first, second, case_sensitive),
        Op::ListIsEmpty => list_length(first) == Some(0),
        Op::ListIsNotEmpty => list_length(first).is_some_and(|length| length > 0),
        Op::Exists => exists(first),
        Op::DoesNotExist => !exists(first),
        Op::StrictBooleanIsTrue => strict(first, "a boolean", Value::as_bool)?,
        Op::StrictBooleanIsFalse => !strict(first, "a boolean", Value::as_bool)?,
        Op::StrictNumberIsGreaterThan => strict_number(first, second)? == Some(Ordering::Greater),
        Op::StrictNumberIsLessThan => strict_number(first, second)? == Some(Ordering::Less),
        Op::StrictNumberIsEqualTo => strict_number(first, second)? == Some(Ordering::Equal),
        Op::StrictDateIsBefore => strict_date(first, second)? == Ordering::Less,
        Op::StrictDateIsEqual => strict_date(first, second)? == Ordering::Equal,
        Op::StrictDateIsAfter => strict_date(first, second)? == Ordering::Greater,
        Op::StrictListIsEmpty => strict(first, "a list", Value::as_array)?.is_empty(),
        Op::StrictListIsNotEmpty => !strict(first, "a list", Value::as_array)?.is_empty(),
    })
}

fn exists(value: &Value) -> bool {
    !value.is_null() && value.as_str() != Some("")
}

fn list_contains(list: &Value, wanted: &Value, case_sensitive: bool) -> bool {
    let wanted = comparison_text(wanted, case_sensitive);
    let parsed = list.as_str().and_then(parse_text);
    let list = parsed.as_ref().unwrap_or(list);
    match list {
        Value::Array(items) => items.iter().any(|item| comparison_text(item, case_sensitive) == wanted),
        single => comparison_text(single, case_sensitive) == wanted,
    }
}

/// The number of items of a list or of text that is a JSON list.
fn list_length(value: &Value) -> Option<usize> {
    match value {
        Value::Array(items) => Some(items.len()),
        Value::String(text) => parse_text(text)?.as_array().map(Vec::len),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
    }
}

/// Text as JSON, under the limits of a payload.
fn parse_text(text: &str) -> Option<Value> {
    json::parse(text.as_bytes(), &JsonLimits::payload()).ok()
}

fn strict<'v, T>(first: &'v Value, expected: &'static str, read: fn(&'v Value) -> Option<T>) -> Result<T, Mismatch> {
    read(first).ok_or(Mismatch::First { expected })
}

fn strict_number(first: &Value, second: &Value) -> Result<Option<Ordering>, Mismatch> {
    let expected = "a number";
    let first = first.as_number().ok_or(Mismatch::First { expected })?;
    let second = second.as_number().ok_or(Mismatch::Second { expected })?;
    Ok(number_order(first, second))
}

fn strict_date(first: &Value, second: &Value) -> Result<Ordering, Mismatch> {
    let expected = "an ISO 8601 date or a number of milliseconds";
    let first = to_milliseconds(first).ok_or(Mismatch::First { expected })?;
    let second = to_milliseconds(second).ok_or(Mismatch::Second { expected })?;
    Ok(first.cmp(&second))
}

#[cfg(test)]
mod tests {
    use Operator as Op;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Checks rows of first value, second value, what the operator holds and, if given, what its opposite holds.
    fn table(operator: Op, opposite: Option<Op>, rows: &[(Value, Value, bool)]) {
        for (first, second, expected) in rows {
            assert_eq!(holds(operator, first, second, false), Ok(*expected), "{first} {operator} {second}");
            if let Some(opposite) = opposite {
                assert_eq!(holds(opposite, first, second, false), Ok(!expected), "{first} {opposite} {second}");
            }
        }
    }

    #[test]
    fn text_contains() {
        table(
            Op::TextContains,
            Some(Op::TextDoesNotContain),
            &[
                (json!("Hello World"), json!("WORLD"), true),
                (json!("Hello"), json!("x"), false),
                (json!("Hello"), json!(""), true),
                (json!({"a": [1.0, "B"]}), json!("[1,\"b\"]"), true),
                (json!(1234), json!(23), true),
                (json!(true), json!("TRU"), true),
                (Value::Null, json!("null"), false),
            ],
        );
    }

    #[test]
    fn text_exactly_matches() {
        table(
            Op::TextExactlyMatches,
            Some(Op::TextDoesNotExactlyMatch),
            &[
                (json!("A"), json!("a"), true),
                (json!("a "), json!("a"), false),
                (json!(1.0), json!("1"), true),
                (Value::Null, json!(""), true),
                (json!(["A"]), json!("[\"a\"]"), true),
            ],
        );
    }

    #[test]
    fn text_starts_with() {
        table(
            Op::TextStartsWith,
            Some(Op::TextDoesNotStartWith),
            &[
                (json!("Abc"), json!("aB"), true),
                (json!("abc"), json!("b"), false),
                (json!([1]), json!("["), true),
                (json!(""), json!(""), true),
            ],
        );
    }

    #[test]
    fn text_ends_with() {
        table(
            Op::TextEndsWith,
            Some(Op::TextDoesNotEndWith),
            &[(json!("abC"), json!("Bc"), true), (json!("abc"), json!("b"), false), (json!(120), json!(20), true)],
        );
    }

    #[test]
    fn case_counts_only_if_asked() {
        for (operator, second) in [
            (Op::TextContains, "B"),
            (Op::TextExactlyMatches, "ABC"),
            (Op::TextStartsWith, "A"),
            (Op::TextEndsWith, "C"),
            (Op::ListContains, "ABC"),
        ] {
            assert_eq!(holds(operator, &json!("abc"), &json!(second), false), Ok(true), "{operator}");
            assert_eq!(holds(operator, &json!("abc"), &json!(second), true), Ok(false), "{operator}");
        }
    }

    #[test]
    fn number_is_greater_than() {
        table(
            Op::NumberIsGreaterThan,
            None,
            &[
                (json!(2), json!(1), true),
                (json!("10"), json!("9"), true),
                (json!(1), json!(1.0), false),
                (json!("0x10"), json!(15), true),
                (json!(1), json!(""), true),
                (json!(1), Value::Null, true),
                (json!(true), json!(false), true),
                (json!("b"), json!("a"), true),
                (json!("b"), json!(1), false),
                (json!("\u{ff5e}"), json!("\u{1f600}"), true),
                (json!([3]), json!(2), true),
            ],
        );
    }

    #[test]
    fn number_is_less_than() {
        table(
            Op::NumberIsLessThan,
            None,
            &[
                (json!(1), json!(2), true),
                (json!(" 1 "), json!(2), true),
                (json!(-1), json!("  "), true),
                (json!("a"), json!("b"), true),
                (json!("a"), json!("10"), false),
                (json!("10"), json!("a"), false),
                (json!({}), json!("b"), true),
                (json!(2), json!(2), false),
            ],
        );
    }

    #[test]
    fn number_is_equal_to() {
        table(
            Op::NumberIsEqualTo,
            None,
            &[
                (json!(1), json!("1.0"), true),
                (json!(""), json!(0), true),
                (Value::Null, json!(0), true),
                (json!([]), json!(false), true),
                (json!("abc"), json!("abc"), true),
                (json!("abc"), json!("ABC"), false),
                (json!("abc"), json!(0), false),
                (json!({"a": 1}), json!({"a": 1}), false),
                (json!(9_007_199_254_740_993_u64), json!(9_007_199_254_740_992_u64), true),
            ],
        );
    }

    #[test]
    fn boolean_is_true() {
        let none = Value::Null;
        let rows = [json!(true), json!("false"), json!("0"), json!(" "), json!(-1), json!([]), json!({})];
        table(Op::BooleanIsTrue, Some(Op::BooleanIsFalse), &rows.map(|first| (first, none.clone(), true)));
        let rows = [json!(false), json!(""), json!(0), json!(-0.0), none.clone()];
        table(Op::BooleanIsTrue, Some(Op::BooleanIsFalse), &rows.map(|first| (first, none.clone(), false)));
    }

    #[test]
    fn dates_compare_by_millisecond_and_are_false_when_invalid() {
        let early = json!("2026-05-01");
        for (operator, second, expected) in [
            (Op::DateIsBefore, json!("2026-05-01T00:00:00.001Z"), true),
            (Op::DateIsBefore, early.clone(), false),
            (Op::DateIsEqual, json!("2026-05-01T02:00+02:00"), true),
            (Op::DateIsEqual, json!(1_777_593_600_000_i64), true),
            (Op::DateIsEqual, json!("2026-05-02"), false),
            (Op::DateIsAfter, json!("2026-04-30T23:59"), true),
            (Op::DateIsAfter, early.clone(), false),
        ] {
            assert_eq!(holds(operator, &early, &second, false), Ok(expected), "{operator} {second}");
        }
        for operator in [Op::DateIsBefore, Op::DateIsEqual, Op::DateIsAfter] {
            for invalid in [json!("soon"), json!(""), Value::Null, json!(true), json!([1])] {
                assert_eq!(holds(operator, &early, &invalid, false), Ok(false), "{operator} {invalid}");
                assert_eq!(holds(operator, &invalid, &invalid, false), Ok(false), "{operator} {invalid}");
            }
        }
    }

    #[test]
    fn list_contains_compares_items_as_text() {
        table(
            Op::ListContains,
            Some(Op::ListDoesNotContain),
            &[
                (json!(["A", "b"]), json!("a"), true),
                (json!(["ab"]), json!("a"), false),
                (json!([1, 2.0]), json!("2"), true),
                (json!([[1]]), json!("[1]"), true),
                (json!("[\"a\",1]"), json!(1), true),
                (json!("5"), json!(5), true),
                (json!("plain"), json!("PLAIN"), true),
                (json!({"a": 1}), json!("{\"a\":1}"), true),
                (json!([]), json!(""), false),
            ],
        );
    }

    #[test]
    fn list_is_empty_is_false_with_its_opposite_for_what_is_no_list() {
        table(
            Op::ListIsEmpty,
            Some(Op::ListIsNotEmpty),
            &[
                (json!([]), Value::Null, true),
                (json!(" [ ] "), Value::Null, true),
                (json!([0]), Value::Null, false),
                (json!("[0]"), Value::Null, false),
            ],
        );
        for other in [json!(""), json!("x"), json!("{}"), json!({}), json!(0), Value::Null] {
            assert_eq!(holds(Op::ListIsEmpty, &other, &Value::Null, false), Ok(false), "{other}");
            assert_eq!(holds(Op::ListIsNotEmpty, &other, &Value::Null, false), Ok(false), "{other}");
        }
    }

    #[test]
    fn zero_and_false_exist() {
        let none = Value::Null;
        let there = [json!(0), json!(false), json!(" "), json!([]), json!({})];
        table(Op::Exists, Some(Op::DoesNotExist), &there.map(|first| (first, none.clone(), true)));
        let absent = [json!(""), none.clone()];
        table(Op::Exists, Some(Op::DoesNotExist), &absent.map(|first| (first, none.clone(), false)));
    }

    #[test]
    fn strict_operators_hold_of_their_own_type() {
        for (operator, first, second, expected) in [
            (Op::StrictBooleanIsTrue, json!(true), json!(0), true),
            (Op::StrictBooleanIsTrue, json!(false), json!(0), false),
            (Op::StrictBooleanIsFalse, json!(false), json!(0), true),
            (Op::StrictBooleanIsFalse, json!(true), json!(0), false),
            (Op::StrictNumberIsGreaterThan, json!(u64::MAX), json!(u64::MAX - 1), true),
            (Op::StrictNumberIsGreaterThan, json!(1), json!(1.0), false),
            (Op::StrictNumberIsLessThan, json!(i64::MIN), json!(0.5), true),
            (Op::StrictNumberIsLessThan, json!(1), json!(1), false),
            (Op::StrictNumberIsEqualTo, json!(1), json!(1.0), true),
            (Op::StrictNumberIsEqualTo, json!(u64::MAX), json!(u64::MAX - 1), false),
            (Op::StrictDateIsBefore, json!("2026"), json!("2027"), true),
            (Op::StrictDateIsBefore, json!("2026"), json!("2026"), false),
            (Op::StrictDateIsEqual, json!("1970"), json!(0), true),
            (Op::StrictDateIsEqual, json!("1970"), json!(1), false),
            (Op::StrictDateIsAfter, json!(1), json!("1970"), true),
            (Op::StrictDateIsAfter, json!(0), json!("1970"), false),
            (Op::StrictListIsEmpty, json!([]), json!(0), true),
            (Op::StrictListIsEmpty, json!([0]), json!(0), false),
            (Op::StrictListIsNotEmpty, json!([0]), json!(0), true),
            (Op::StrictListIsNotEmpty, json!([]), json!(0), false),
        ] {
            assert_eq!(holds(operator, &first, &second, false), Ok(expected), "{first} {operator} {second}");
        }
    }

    #[test]
    fn strict_operators_refuse_another_type() {
        for operator in Op::ALL.iter().filter(|operator| operator.as_str().starts_with("STRICT_")) {
            for first in [json!("false"), json!("[]"), json!("1"), Value::Null, json!({})] {
                let date = operator.as_str().contains("DATE");
                let first = if date { json!("soon") } else { first };
                let refused = holds(*operator, &first, &json!(1), false);
                assert!(matches!(refused, Err(Mismatch::First { .. })), "{first} {operator}: {refused:?}");
            }
        }
        for (operator, first) in [(Op::StrictNumberIsEqualTo, json!(1)), (Op::StrictDateIsEqual, json!("2026"))] {
            let refused = holds(operator, &first, &json!("x"), false);
            assert!(matches!(refused, Err(Mismatch::Second { .. })), "{operator}: {refused:?}");
        }
    }

    fn any_scalar() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[ 0-9a-fxT:Z.+-]{0,20}".prop_map(Value::from),
            prop::collection::vec(any::<String>(), 0..3).prop_map(Value::from),
        ]
    }

    proptest! {
        #[test]
        fn no_lenient_operator_fails_and_opposites_differ(first in any_scalar(), second in any_scalar(), case in any::<bool>()) {
            for operator in Op::ALL.iter().filter(|operator| !operator.as_str().starts_with("STRICT_")) {
                prop_assert!(holds(*operator, &first, &second, case).is_ok());
            }
            for (operator, opposite) in [
                (Op::TextContains, Op::TextDoesNotContain),
                (Op::TextExactlyMatches, Op::TextDoesNotExactlyMatch),
                (Op::TextStartsWith, Op::TextDoesNotStartWith),
                (Op::TextEndsWith, Op::TextDoesNotEndWith),
                (Op::BooleanIsTrue, Op::BooleanIsFalse),
                (Op::ListContains, Op::ListDoesNotContain),
                (Op::Exists, Op::DoesNotExist),
            ] {
                prop_assert_ne!(holds(operator, &first, &second, case), holds(opposite, &first, &second, case));
            }
        }

        #[test]
        fn order_turns_around_with_its_operands(first in any_scalar(), second in any_scalar()) {
            for (less, greater) in [(Op::NumberIsLessThan, Op::NumberIsGreaterThan), (Op::DateIsBefore, Op::DateIsAfter)] {
                prop_assert_eq!(holds(less, &first, &second, true), holds(greater, &second, &first, true));
            }
            for equal in [Op::NumberIsEqualTo, Op::DateIsEqual, Op::TextExactlyMatches] {
                prop_assert_eq!(holds(equal, &first, &second, true), holds(equal, &second, &first, true));
            }
        }

        #[test]
        fn numbers_compare_as_numbers(first in any::<i32>(), second in any::<i32>()) {
            for (lenient, strict, expected) in [
                (Op::NumberIsLessThan, Op::StrictNumberIsLessThan, first < second),
                (Op::NumberIsEqualTo, Op::StrictNumberIsEqualTo, first == second),
            ] {
                prop_assert_eq!(holds(lenient, &json!(first.to_string()), &json!(second), true), Ok(expected));
                prop_assert_eq!(holds(strict, &json!(first), &json!(second), true), Ok(expected));
            }
        }
    }
}
