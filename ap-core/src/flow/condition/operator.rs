//! [`Operator`]: what a condition asks, with its wire name.

use std::fmt;

use crate::nearest::nearest_match;

/// How an operator reads its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arity {
    One,
    Two,
}

macro_rules! operators {
    ($($(#[$doc:meta])+ $name:ident = $wire:literal, $arity:ident;)+) => {
        /// What a condition asks of its operands, once they are resolved.
        ///
        /// The first 22 are the reference product's, with its semantics, quirks of JavaScript included; the `STRICT_…`
        /// ones are ours and fail on an operand of another type instead of guessing.
        ///
        /// * **Text** operators turn everything else into compact JSON first (null into nothing; object keys in
        ///   alphabetical order), and compare in lower case unless `caseSensitive`.
        /// * **Number** operators apply JavaScript's `Number()` to both sides: `''`, white space, null, `false` and `[]`
        ///   are 0, `true` is 1, `'0x10'` is 16. A side that is not a number keeps its value, so that two texts compare
        ///   by their UTF-16 code units, and a text with a number never holds. Whole numbers beyond 2^53 are rounded.
        /// * **Date** operators read ISO 8601 text (`2026-05-01`, `2026-05-01T12:00`, with or without an offset; year
        ///   and year-month alone too) and numbers as milliseconds since 1970, and compare milliseconds. Whatever else
        ///   makes them false. Text without an offset is UTC here, the server's zone in the reference product, which also
        ///   reads other spellings.
        /// * **List** operators read text as JSON first.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Operator {
            $($(#[$doc])+ $name,)+
        }

        impl Operator {
            /// Every operator, those of the reference product first.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The wire name.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $wire),+ }
            }

            const fn arity(self) -> Arity {
                match self { $(Self::$name => Arity::$arity),+ }
            }
        }
    };
}

operators! {
    /// The first text holds the second.
    TextContains = "TEXT_CONTAINS", Two;
    /// The first text does not hold the second.
    TextDoesNotContain = "TEXT_DOES_NOT_CONTAIN", Two;
    /// Both texts are equal.
    TextExactlyMatches = "TEXT_EXACTLY_MATCHES", Two;
    /// The texts differ.
    TextDoesNotExactlyMatch = "TEXT_DOES_NOT_EXACTLY_MATCH", Two;
    /// The first text begins with the second. (The reference product's spelling.)
    TextStartsWith = "TEXT_START_WITH", Two;
    /// The first text does not begin with the second.
    TextDoesNotStartWith = "TEXT_DOES_NOT_START_WITH", Two;
    /// The first text ends with the second.
    TextEndsWith = "TEXT_ENDS_WITH", Two;
    /// The first text does not end with the second.
    TextDoesNotEndWith = "TEXT_DOES_NOT_END_WITH", Two;
    /// JavaScript's `>` after `Number()`.
    NumberIsGreaterThan = "NUMBER_IS_GREATER_THAN", Two;
    /// JavaScript's `<` after `Number()`.
    NumberIsLessThan = "NUMBER_IS_LESS_THAN", Two;
    /// JavaScript's `==` after `Number()`.
    NumberIsEqualTo = "NUMBER_IS_EQUAL_TO", Two;
    /// JavaScript's truthiness: neither false, 0, null nor empty text. The text `"false"` **is** true.
    BooleanIsTrue = "BOOLEAN_IS_TRUE", One;
    /// The opposite of `BOOLEAN_IS_TRUE`.
    BooleanIsFalse = "BOOLEAN_IS_FALSE", One;
    /// The first moment is earlier.
    DateIsBefore = "DATE_IS_BEFORE", Two;
    /// Both moments are the same millisecond.
    DateIsEqual = "DATE_IS_EQUAL", Two;
    /// The first moment is later.
    DateIsAfter = "DATE_IS_AFTER", Two;
    /// An item of the first equals the second as text. What is no list is a list of one.
    ListContains = "LIST_CONTAINS", Two;
    /// No item of the first equals the second as text.
    ListDoesNotContain = "LIST_DOES_NOT_CONTAIN", Two;
    /// A list, or text that is a JSON list, without items. False for whatever is no list.
    ListIsEmpty = "LIST_IS_EMPTY", One;
    /// A list, or text that is a JSON list, with items. False for whatever is no list.
    ListIsNotEmpty = "LIST_IS_NOT_EMPTY", One;
    /// Neither missing nor null nor empty text; 0 and false exist. A path that leads to nothing is no error here.
    Exists = "EXISTS", One;
    /// The opposite of `EXISTS`.
    DoesNotExist = "DOES_NOT_EXIST", One;
    /// The boolean true; an error if it is no boolean.
    StrictBooleanIsTrue = "STRICT_BOOLEAN_IS_TRUE", One;
    /// The boolean false; an error if it is no boolean.
    StrictBooleanIsFalse = "STRICT_BOOLEAN_IS_FALSE", One;
    /// `>` of two JSON numbers, exact for whole ones; an error if a side is no number.
    StrictNumberIsGreaterThan = "STRICT_NUMBER_IS_GREATER_THAN", Two;
    /// `<` of two JSON numbers, exact for whole ones; an error if a side is no number.
    StrictNumberIsLessThan = "STRICT_NUMBER_IS_LESS_THAN", Two;
    /// `=` of two JSON numbers, exact for whole ones; an error if a side is no number.
    StrictNumberIsEqualTo = "STRICT_NUMBER_IS_EQUAL_TO", Two;
    /// `DATE_IS_BEFORE`; an error if a side is no date.
    StrictDateIsBefore = "STRICT_DATE_IS_BEFORE", Two;
    /// `DATE_IS_EQUAL`; an error if a side is no date.
    StrictDateIsEqual = "STRICT_DATE_IS_EQUAL", Two;
    /// `DATE_IS_AFTER`; an error if a side is no date.
    StrictDateIsAfter = "STRICT_DATE_IS_AFTER", Two;
    /// A list without items; an error if it is no list. Text is never read as JSON.
    StrictListIsEmpty = "STRICT_LIST_IS_EMPTY", One;
    /// A list with items; an error if it is no list. Text is never read as JSON.
    StrictListIsNotEmpty = "STRICT_LIST_IS_NOT_EMPTY", One;
}

impl Operator {
    /// The operator of a wire name.
    #[must_use]
    pub fn from_wire(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|operator| operator.as_str() == name)
    }

    /// Whether it reads a second value.
    #[must_use]
    pub const fn is_binary(self) -> bool {
        matches!(self.arity(), Arity::Two)
    }

    /// The operator whose wire name an unknown one most likely meant.
    pub(super) fn nearest(name: &str) -> Option<&'static str> {
        nearest_match(name, Self::ALL.iter().map(|operator| operator.as_str()))
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_names_read_back_and_differ() {
        for operator in Operator::ALL {
            assert_eq!(Operator::from_wire(operator.as_str()), Some(*operator));
        }
        assert_eq!(Operator::ALL.len(), 32);
        assert_eq!(Operator::from_wire("TEXT_STARTS_WITH"), None);
        assert_eq!(Operator::nearest("TEXT_STARTS_WITH"), Some("TEXT_START_WITH"));
    }
}
