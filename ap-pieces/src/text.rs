//! The piece `text`: putting text together and taking it apart.
//!
//! Characters are Unicode scalar values: no result is ever cut inside one, but a letter and a combining mark behind it
//! count as two.

use std::sync::Arc;

use ap_core::{
    piece::{Action, Piece, Trigger},
    property::{AuthSchema, Property, PropertyKind},
    run::StepError,
};
use serde_json::Value;

use crate::{
    input::{self, wrong},
    pure::Pure,
};

/// The piece `text`.
#[derive(Clone, Copy, Debug)]
pub struct Text;

impl Piece for Text {
    fn name(&self) -> &str {
        "text"
    }

    fn display_name(&self) -> &str {
        "Text"
    }

    fn description(&self) -> &str {
        "Puts text together and takes it apart."
    }

    fn auth(&self) -> Option<AuthSchema> {
        None
    }

    fn actions(&self) -> Vec<Arc<dyn Action>> {
        vec![
            concat_action(),
            split_action(),
            replace_action(),
            case_action(),
            trim_action(),
            truncate_action(),
            mask_action(),
        ]
    }

    fn triggers(&self) -> Vec<Arc<dyn Trigger>> {
        Vec::new()
    }
}

fn text_property() -> Property {
    Property::new("text", "Text", PropertyKind::LongText).describe("The text to work on.").required()
}

fn concat_action() -> Arc<dyn Action> {
    Pure::action(
        "concat",
        "Concatenate",
        "Joins texts; the whole comes out, at most 10 MiB.",
        [
            Property::new("texts", "Texts", PropertyKind::array(PropertyKind::LongText))
                .describe("The texts, in order.")
                .required(),
            Property::new("separator", "Separator", PropertyKind::LongText)
                .describe("What stands between two texts.")
                .default(""),
        ],
        concat,
    )
}

fn split_action() -> Arc<dyn Action> {
    Pure::action(
        "split",
        "Split",
        "Takes a text apart; an array of at most 100000 parts comes out.",
        [
            text_property(),
            Property::new("separator", "Separator", PropertyKind::LongText)
                .describe("What stands between two parts, taken literally; not empty.")
                .required(),
        ],
        split,
    )
}

fn replace_action() -> Arc<dyn Action> {
    Pure::action(
        "replace",
        "Replace",
        "Replaces what it finds, taken literally and from the left; the text comes out, at most 10 MiB.",
        [
            text_property(),
            Property::new("find", "Find", PropertyKind::LongText)
                .describe("The text to find; not empty, no pattern.")
                .required(),
            Property::new("replacement", "Replacement", PropertyKind::LongText)
                .describe("What is put in its place.")
                .default(""),
            Property::new("firstOnly", "First only", PropertyKind::Checkbox)
                .describe("Whether only the first occurrence is replaced.")
                .default(false),
        ],
        replace,
    )
}

fn case_action() -> Arc<dyn Action> {
    Pure::action(
        "case",
        "Change case",
        "Changes the case of letters by the Unicode rules that hold for every language; the text comes out.",
        [
            text_property(),
            Property::new(
                "to",
                "To",
                PropertyKind::StaticDropdown { options: &["lower", "upper", "title", "sentence"] },
            )
            .describe("`title` raises the first letter of each word, `sentence` that of the text; both lower the rest.")
            .required(),
        ],
        case,
    )
}

fn trim_action() -> Arc<dyn Action> {
    Pure::action(
        "trim",
        "Trim",
        "Removes white space at the ends; the text comes out.",
        [
            text_property(),
            Property::new("side", "Side", PropertyKind::StaticDropdown { options: &["both", "start", "end"] })
                .describe("At which end.")
                .default("both"),
        ],
        trim,
    )
}

fn truncate_action() -> Arc<dyn Action> {
    Pure::action(
        "truncate",
        "Truncate",
        "Cuts a text that is too long; the text comes out.",
        [
            text_property(),
            Property::new("length", "Length", PropertyKind::whole(0, 10_485_760))
                .describe("Longest result, the suffix included. Unit: characters.")
                .required(),
            Property::new("suffix", "Suffix", PropertyKind::ShortText)
                .describe("What a cut text ends in.")
                .default("…"),
        ],
        truncate,
    )
}

/// What the guide's examples do to fields of these names before they log them (§4.3, §7.1).
fn mask_action() -> Arc<dyn Action> {
    Pure::action(
        "mask",
        "Mask",
        "Makes personal data fit to be logged or shown; the masked text comes out, and `***` for what is not of that kind.",
        [
            text_property(),
            Property::new(
                "kind",
                "Kind",
                PropertyKind::StaticDropdown { options: &["email", "creditCard", "ssn", "password"] },
            )
            .describe(
                "What the text is. Left are: of `email` two characters and the domain, of `creditCard` and `ssn` the last four \
                 digits, of `password` nothing.",
            )
            .required(),
        ],
        mask,
    )
}

fn concat(input: Value) -> Result<Value, StepError> {
    let separator = input::text(&input, "separator");
    let texts: Vec<&str> = input::items(&input, "texts").iter().filter_map(Value::as_str).collect();
    let separators = separator.len().saturating_mul(texts.len().saturating_sub(1));
    input::check_size(texts.iter().map(|text| text.len()).fold(separators, usize::saturating_add))?;
    Ok(texts.join(separator).into())
}

fn split(input: Value) -> Result<Value, StepError> {
    let separator = input::text(&input, "separator");
    if separator.is_empty() {
        return Err(wrong("separator", "must not be empty"));
    }
    let parts: Vec<Value> = input::text(&input, "text").split(separator).take(MAX_PARTS + 1).map(Value::from).collect();
    if parts.len() > MAX_PARTS {
        return Err(wrong("text", format_args!("has more than {MAX_PARTS} parts")));
    }
    Ok(parts.into())
}

fn replace(input: Value) -> Result<Value, StepError> {
    let (text, find) = (input::text(&input, "text"), input::text(&input, "find"));
    let replacement = input::text(&input, "replacement");
    if find.is_empty() {
        return Err(wrong("find", "must not be empty"));
    }
    let most = if input::flag(&input, "firstOnly") { 1 } else { usize::MAX };
    // The size is known before anything is allocated.
    let count = text.matches(find).take(most).count();
    let kept = text.len() - count * find.len();
    input::check_size(count.saturating_mul(replacement.len()).saturating_add(kept))?;
    Ok(text.replacen(find, replacement, most).into())
}

fn case(input: Value) -> Result<Value, StepError> {
    let text = input::text(&input, "text");
    input::check_size(text.len())?;
    let changed = match input::text(&input, "to") {
        "lower" => text.to_lowercase(),
        "upper" => text.to_uppercase(),
        "title" => text.split_inclusive(char::is_whitespace).map(raise_first).collect(),
        _ => raise_first(text),
    };
    // A letter can become three times as long, such as `ΐ` in upper case.
    input::check_size(changed.len())?;
    Ok(changed.into())
}

/// The first letter or digit in upper case, everything behind it in lower case.
fn raise_first(text: &str) -> String {
    let Some((start, first)) = text.char_indices().find(|(_, char)| char.is_alphanumeric()) else {
        return text.to_owned();
    };
    let (before, rest) = text.split_at(start);
    // Lowered together with its first letter, so that a final sigma knows that it ends a word.
    let lowered = rest.to_lowercase();
    let lowered_first: usize = first.to_lowercase().map(char::len_utf8).sum();
    let behind = lowered.get(lowered_first..).unwrap_or_default();
    format!("{before}{}{behind}", first.to_uppercase())
}

fn trim(input: Value) -> Result<Value, StepError> {
    let text = input::text(&input, "text");
    Ok(match input::text(&input, "side") {
        "start" => text.trim_start(),
        "end" => text.trim_end(),
        _ => text.trim(),
    }
    .into())
}

fn truncate(input: Value) -> Result<Value, StepError> {
    let (text, suffix) = (input::text(&input, "text"), input::text(&input, "suffix"));
    let length = input.get("length").and_then(Value::as_u64).and_then(|length| usize::try_from(length).ok());
    let length = length.unwrap_or_default();
    if text.chars().nth(length).is_none() {
        return Ok(text.into());
    }
    let kept = length.saturating_sub(suffix.chars().count());
    Ok(text.chars().take(kept).chain(suffix.chars()).take(length).collect::<String>().into())
}

fn mask(input: Value) -> Result<Value, StepError> {
    let text = input::text(&input, "text");
    let digits = text.chars().filter(char::is_ascii_digit).count();
    let plain = text.chars().all(|char| char.is_ascii_digit() || matches!(char, ' ' | '-'));
    Ok(match input::text(&input, "kind") {
        _ if text.is_empty() => String::new(),
        "email" => match text.rsplit_once('@') {
            // A name of one letter would be shown whole.
            Some((name, domain)) if name.chars().count() >= 2 => {
                format!("{}***@{domain}", name.chars().take(2).collect::<String>())
            }
            Some((_, domain)) => format!("***@{domain}"),
            None => "***".to_owned(),
        },
        // ISO/IEC 7812: 8 to 19 digits; of 12 or more, the last four are what receipts show.
        "creditCard" if plain && (12..=19).contains(&digits) => format!("****-****-****-{}", last_four(text)),
        "ssn" if plain && digits == 9 => format!("***-**-{}", last_four(text)),
        "password" => "[REDACTED]".to_owned(),
        _ => "***".to_owned(),
    }
    .into())
}

fn last_four(text: &str) -> String {
    let mut digits: Vec<char> = text.chars().rev().filter(char::is_ascii_digit).take(4).collect();
    digits.reverse();
    digits.into_iter().collect()
}

const MAX_PARTS: usize = 100_000;

#[cfg(test)]
mod tests {
    use ap_core::run::StepErrorKind;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{input::MAX_OUTPUT_BYTES, testing::run};

    async fn ok(action: &str, input: Value) -> Value {
        run(&Text, action, input).await.expect("runs")
    }

    async fn refused(action: &str, input: Value) {
        assert_eq!(run(&Text, action, input).await.expect_err("fails").error.kind, StepErrorKind::Input);
    }

    #[tokio::test]
    async fn texts_are_joined() {
        assert_eq!(ok("concat", json!({ "texts": ["a", 1, true, "é"] })).await, json!("a1trueé"));
        assert_eq!(ok("concat", json!({ "texts": ["a", "", "b"], "separator": ", " })).await, json!("a, , b"));
        assert_eq!(ok("concat", json!({ "texts": [], "separator": "," })).await, json!(""));
        refused("concat", json!({ "texts": [{}] })).await;
    }

    #[tokio::test]
    async fn joining_is_limited_one_below_at_and_above() {
        for (bytes, accepted) in [(MAX_OUTPUT_BYTES - 2, true), (MAX_OUTPUT_BYTES - 1, true), (MAX_OUTPUT_BYTES, false)]
        {
            let input = json!({ "texts": ["x".repeat(bytes), ""], "separator": "-" });
            assert_eq!(run(&Text, "concat", input).await.is_ok(), accepted, "{bytes}");
        }
    }

    #[tokio::test]
    async fn text_is_taken_apart_literally() {
        assert_eq!(ok("split", json!({ "text": "a.b..c", "separator": "." })).await, json!(["a", "b", "", "c"]));
        assert_eq!(ok("split", json!({ "text": "", "separator": "," })).await, json!([""]));
        refused("split", json!({ "text": "a", "separator": "" })).await;
    }

    #[tokio::test]
    async fn parts_are_limited_one_below_at_and_above() {
        for (separators, accepted) in [(MAX_PARTS - 2, true), (MAX_PARTS - 1, true), (MAX_PARTS, false)] {
            let input = json!({ "text": ",".repeat(separators), "separator": "," });
            assert_eq!(run(&Text, "split", input).await.is_ok(), accepted, "{separators}");
        }
    }

    #[tokio::test]
    async fn replacing_takes_no_patterns() {
        let input = json!({ "text": "a.b.c", "find": ".", "replacement": "$0\\1" });
        assert_eq!(ok("replace", input).await, json!("a$0\\1b$0\\1c"));
        let input = json!({ "text": "aaa", "find": "aa", "replacement": "b", "firstOnly": true });
        assert_eq!(ok("replace", input).await, json!("ba"));
        assert_eq!(ok("replace", json!({ "text": "日本", "find": "日" })).await, json!("本"));
        refused("replace", json!({ "text": "a", "find": "" })).await;
    }

    #[tokio::test]
    async fn replacing_cannot_blow_up() {
        let input = json!({ "text": "a".repeat(100_000), "find": "a", "replacement": "x".repeat(100_000) });
        refused("replace", input).await;
    }

    #[tokio::test]
    async fn case_follows_unicode() {
        for (text, to, expected) in [
            ("Straße", "upper", "STRASSE"),
            ("ΟΔΥΣΣΕΥΣ", "lower", "οδυσσευς"),
            ("ΟΔΟΣ ΟΔΟΣ", "title", "Οδος Οδος"),
            ("hello  wORLD\nagain", "title", "Hello  World\nAgain"),
            ("«éTÉ» été", "sentence", "«Été» été"),
            ("3 x", "sentence", "3 x"),
            ("ß", "title", "SS"),
            ("İX", "sentence", "İx"),
            ("", "title", ""),
            ("…", "sentence", "…"),
        ] {
            assert_eq!(ok("case", json!({ "text": text, "to": to })).await, json!(expected), "{text} {to}");
        }
        refused("case", json!({ "text": "a", "to": "random" })).await;
    }

    #[tokio::test]
    async fn ends_are_trimmed() {
        let text = "\u{a0}\t a b \n\u{3000}";
        for (side, expected) in [("both", "a b"), ("start", "a b \n\u{3000}"), ("end", "\u{a0}\t a b")] {
            assert_eq!(ok("trim", json!({ "text": text, "side": side })).await, json!(expected));
        }
    }

    #[tokio::test]
    async fn long_text_is_cut_at_a_character() {
        for (length, expected) in [(0, ""), (1, "…"), (2, "日…"), (3, "日本…"), (4, "日本語x"), (5, "日本語x")]
        {
            assert_eq!(
                ok("truncate", json!({ "text": "日本語x", "length": length })).await,
                json!(expected),
                "{length}"
            );
        }
        let input = json!({ "text": "abcdef", "length": 2, "suffix": "..." });
        assert_eq!(ok("truncate", input).await, json!(".."));
    }

    #[tokio::test]
    async fn personal_data_is_masked_as_the_guide_does() {
        for (kind, text, expected) in [
            ("email", "john.doe@example.com", "jo***@example.com"),
            ("email", "jo@example.com", "jo***@example.com"),
            ("email", "\"a@b\"@example.com", "\"a***@example.com"),
            ("email", "j@example.com", "***@example.com"),
            ("email", "@example.com", "***@example.com"),
            ("email", "éàü@example.com", "éà***@example.com"),
            ("email", "no address", "***"),
            ("creditCard", "4111 1111 1111 1234", "****-****-****-1234"),
            ("creditCard", "4111-1111-1111-1234", "****-****-****-1234"),
            ("creditCard", "411111111234", "****-****-****-1234"),
            ("creditCard", "41111111123", "***"),
            ("creditCard", "41111111111111111234", "***"),
            ("creditCard", "card 4111111111111234", "***"),
            ("ssn", "123-45-6789", "***-**-6789"),
            ("ssn", "123456789", "***-**-6789"),
            ("ssn", "12345678", "***"),
            ("ssn", "1234567890", "***"),
            ("password", "hunter2", "[REDACTED]"),
            ("password", "", ""),
        ] {
            assert_eq!(ok("mask", json!({ "text": text, "kind": kind })).await, json!(expected), "{kind} {text}");
        }
        // Numbers come as text.
        assert_eq!(ok("mask", json!({ "text": 123_456_789, "kind": "ssn" })).await, json!("***-**-6789"));
        refused("mask", json!({ "text": "a", "kind": "name" })).await;
    }

    proptest! {
        #[test]
        fn masking_leaves_no_more_than_it_says(text in "\\PC{0,30}", digits in "[0-9]{9,19}") {
            for (kind, most) in [("creditCard", 4), ("ssn", 4), ("password", 0)] {
                for text in [&text, &digits] {
                    let masked = mask(json!({ "text": text, "kind": kind })).expect("masks");
                    let shown = masked.as_str().expect("text").chars().filter(char::is_ascii_digit).count();
                    prop_assert!(shown <= most, "{masked}");
                }
            }
        }

        #[test]
        fn split_and_concat_are_inverse(text in any::<String>(), separator in ".{1,2}") {
            let parts = split(json!({ "text": text, "separator": separator })).expect("few parts");
            let joined = concat(json!({ "texts": parts, "separator": separator }));
            prop_assert_eq!(joined, Ok(Value::from(text)));
        }

        #[test]
        fn truncated_text_is_never_longer(text in any::<String>(), length in 0_usize..20, suffix in ".{0,5}") {
            let cut = truncate(json!({ "text": text, "length": length, "suffix": suffix })).expect("cuts");
            prop_assert!(cut.as_str().expect("text").chars().count() <= length);
        }

        #[test]
        fn changing_case_never_panics(text in any::<String>()) {
            for to in ["lower", "upper", "title", "sentence"] {
                let changed = case(json!({ "text": text, "to": to }));
                prop_assert!(changed.is_ok());
            }
        }
    }
}
