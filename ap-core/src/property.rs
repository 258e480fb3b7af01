//! What the settings of a step may hold: [`Properties`], checked when a flow is published and again when a step runs.
//!
//! The type names on the wire (`SHORT_TEXT`, `STATIC_DROPDOWN`, …) are the reference product's; `CONNECTION` is ours.

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    connection::ConnectionValue,
    flow::Diagnostic,
    nearest::nearest_match,
    run::{StepError, StepErrorKind},
};

/// The settings of one action or trigger, in the order in which an editor shows them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Properties(Vec<Property>);

impl Properties {
    /// A list of properties; of two with one name the first counts.
    pub fn new(properties: impl IntoIterator<Item = Property>) -> Self {
        Self(properties.into_iter().collect())
    }

    /// Every property, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Property> {
        self.0.iter()
    }

    /// The property of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Property> {
        self.0.iter().find(|property| property.name == name)
    }

    /// Checks settings as their author wrote them: templates are not resolved yet, so text that holds `{{` is taken on
    /// trust and checked by [`Properties::validate`] once it has a value. `pointer` is the place of `settings` in the
    /// flow (RFC 6901).
    ///
    /// Rules: `property.required`, `property.type`, `property.unknown`.
    #[must_use]
    pub fn check_settings(&self, settings: &Map<String, Value>, pointer: &str) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        for (name, value) in settings {
            let place = member(pointer, name);
            match self.get(name) {
                Some(property) => property.check(value, &place, &mut found),
                None => found.push(Diagnostic::error(
                    &place,
                    "property.unknown",
                    format!("there is no property `{}`", shown(name)),
                    self.unknown_fix(name),
                )),
            }
        }
        for property in self.0.iter().filter(|property| property.is_missing(settings)) {
            found.push(Diagnostic::error(
                pointer,
                "property.required",
                format!("property `{}` is required", property.name),
                format!("add `{}`: {}", property.name, property.kind),
            ));
        }
        found
    }

    /// Checks a resolved input, and fills in the defaults.
    ///
    /// What is null counts as left out, except for [`PropertyKind::Json`], where null is a value. Conversions, all of
    /// them the reference product's: text that is a JSON number becomes a number where one is wanted, the texts `true`
    /// and `false` become a checkbox's value, and numbers and booleans become text. Nothing else is converted.
    ///
    /// # Errors
    /// A [`StepErrorKind::Input`] error that names every property at fault; its detail holds one reason per property.
    pub fn validate(&self, input: Value) -> Result<Value, StepError> {
        let Value::Object(mut given) = input else {
            return Err(StepError::new(StepErrorKind::Input, "the settings of the step must be an object"));
        };
        let mut valid = Map::new();
        let mut wrong: Vec<(String, String)> = Vec::new();
        for property in &self.0 {
            let missing = property.is_missing(&given);
            let value =
                given.remove(property.name).filter(|value| property.kind == PropertyKind::Json || !value.is_null());
            match value.map(|value| property.kind.accept(value)) {
                Some(Ok(value)) => drop(valid.insert(property.name.to_owned(), value)),
                Some(Err(problem)) => wrong.push((property.name.to_owned(), problem)),
                None if missing => wrong.push((property.name.to_owned(), "is required".to_owned())),
                None => {
                    if let Some(default) = &property.default {
                        valid.insert(property.name.to_owned(), default.clone());
                    }
                }
            }
        }
        wrong.extend(given.keys().map(|name| (shown(name), "is not a property of this action".to_owned())));
        if wrong.is_empty() { Ok(Value::Object(valid)) } else { Err(input_error(&wrong)) }
    }

    fn unknown_fix(&self, name: &str) -> String {
        match nearest_match(name, self.0.iter().map(|property| property.name)) {
            Some(near) => format!("did you mean `{near}`?"),
            None if self.0.is_empty() => "remove it: there are no properties here".to_owned(),
            None => {
                let names: Vec<_> = self.0.iter().map(|property| format!("`{}`", property.name)).collect();
                format!("use one of {}", names.join(", "))
            }
        }
    }
}

/// One setting.
///
/// # Examples
/// ```
/// use ap_core::property::{Properties, Property, PropertyKind};
///
/// let properties = Properties::new([
///     Property::new("url", "URL", PropertyKind::ShortText).describe("Where to send the request.").required(),
///     Property::new("timeout", "Timeout", PropertyKind::whole(1, 300_000)).default(30_000),
/// ]);
/// let input = properties.validate(serde_json::json!({ "url": "https://api.example" }))?;
/// assert_eq!(input["timeout"], 30_000);
/// # Ok::<(), ap_core::run::StepError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Property {
    /// What the settings call it.
    pub name: &'static str,
    /// Name for people.
    pub display_name: &'static str,
    /// What it does, with its unit.
    pub description: &'static str,
    /// What it holds.
    #[serde(flatten)]
    pub kind: PropertyKind,
    /// Whether a step must give it.
    pub required: bool,
    /// What counts when a step does not.
    #[serde(rename = "defaultValue", skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
    /// Whether its value is private: masked in logs, and what the step puts out with it.
    pub sensitive: bool,
}

impl Property {
    /// An optional property without default, not sensitive, without description.
    #[must_use]
    pub const fn new(name: &'static str, display_name: &'static str, kind: PropertyKind) -> Self {
        Self { name, display_name, description: "", kind, required: false, default: None, sensitive: false }
    }

    /// Says what it does.
    #[must_use]
    pub fn describe(self, description: &'static str) -> Self {
        Self { description, ..self }
    }

    /// Makes it required.
    #[must_use]
    pub fn required(self) -> Self {
        Self { required: true, ..self }
    }

    /// Sets what counts when a step does not give it. Must be a value its kind accepts; it is used as it is.
    #[must_use]
    pub fn default(self, value: impl Into<Value>) -> Self {
        Self { default: Some(value.into()), ..self }
    }

    /// Marks its value as private.
    #[must_use]
    pub fn sensitive(self) -> Self {
        Self { sensitive: true, ..self }
    }

    fn is_missing(&self, given: &Map<String, Value>) -> bool {
        let absent = match given.get(self.name) {
            None => true,
            Some(value) => value.is_null() && self.kind != PropertyKind::Json,
        };
        self.required && absent
    }

    fn check(&self, value: &Value, place: &str, found: &mut Vec<Diagnostic>) {
        if !value.is_null() {
            self.kind.check(self.name, value, place, found);
        }
    }
}

/// What a property holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", rename_all_fields = "camelCase", tag = "type")]
#[non_exhaustive]
pub enum PropertyKind {
    /// A list, every item of one kind.
    Array {
        /// What an item holds.
        items: Box<PropertyKind>,
    },
    /// Yes or no. The texts `true` and `false` are taken as well.
    Checkbox,
    /// A connection, written `{{connections.name}}`; at run time its placeholder text, never its credential.
    Connection,
    /// Any JSON value, null included; text stays text.
    Json,
    /// Text of any length. Numbers and booleans are taken as their JSON text.
    LongText,
    /// A number. Text that is a JSON number is taken as well.
    Number {
        /// Smallest value.
        #[serde(skip_serializing_if = "Option::is_none")]
        min: Option<f64>,
        /// Largest value.
        #[serde(skip_serializing_if = "Option::is_none")]
        max: Option<f64>,
        /// Whether it must be whole; `3.0` is taken as 3.
        whole: bool,
    },
    /// A JSON object with any members.
    Object,
    /// One line of text; line breaks are not checked. Otherwise as [`PropertyKind::LongText`].
    ShortText,
    /// One of a few texts, spelled exactly so.
    StaticDropdown {
        /// The texts.
        options: &'static [&'static str],
    },
}

impl PropertyKind {
    /// A list of `items`.
    #[must_use]
    pub fn array(items: Self) -> Self {
        Self::Array { items: Box::new(items) }
    }

    /// Any number.
    #[must_use]
    pub const fn number() -> Self {
        Self::Number { min: None, max: None, whole: false }
    }

    /// A whole number from `min` to `max`.
    #[must_use]
    pub fn whole(min: i32, max: i32) -> Self {
        Self::Number { min: Some(min.into()), max: Some(max.into()), whole: true }
    }

    /// Takes a resolved value, converted where [`Properties::validate`] says so, or says what it must be.
    fn accept(&self, value: Value) -> Result<Value, String> {
        match (self, value) {
            (Self::Array { items }, Value::Array(values)) => values
                .into_iter()
                .enumerate()
                .map(|(index, value)| items.accept(value).map_err(|problem| format!("item {index} {problem}")))
                .collect::<Result<_, _>>()
                .map(Value::Array),
            (Self::Checkbox, Value::String(text)) if text == "true" || text == "false" => {
                Ok(Value::Bool(text == "true"))
            }
            (Self::Checkbox, value @ Value::Bool(_))
            | (Self::Json, value)
            | (Self::Object, value @ Value::Object(_)) => Ok(value),
            (Self::Connection, Value::String(text)) if !text.is_empty() => Ok(Value::String(text)),
            (Self::LongText | Self::ShortText, value @ Value::String(_)) => Ok(value),
            (Self::LongText | Self::ShortText, value @ (Value::Number(_) | Value::Bool(_))) => {
                Ok(Value::String(value.to_string()))
            }
            (Self::Number { min, max, whole }, value) => {
                let number = to_number(value).filter(|number| {
                    number.as_f64().is_some_and(|number| {
                        min.is_none_or(|min| min <= number)
                            && max.is_none_or(|max| number <= max)
                            && (!whole || number.fract() == 0.0)
                    })
                });
                let number = if *whole { number.and_then(to_whole) } else { number };
                number.map(Value::Number).ok_or_else(|| format!("must be {self}"))
            }
            (Self::StaticDropdown { options }, Value::String(text)) if options.contains(&text.as_str()) => {
                Ok(Value::String(text))
            }
            (_, _) => Err(format!("must be {self}")),
        }
    }

    /// Checks an unresolved value of the property `name` at `place`.
    fn check(&self, name: &str, value: &Value, place: &str, found: &mut Vec<Diagnostic>) {
        let template = value.as_str().is_some_and(|text| text.contains("{{"));
        let wrong = match (self, value) {
            (Self::Connection, Value::String(text)) => !is_connection_template(text),
            (_, _) if template => false,
            (Self::Array { items }, Value::Array(values)) => {
                for (index, value) in values.iter().enumerate() {
                    items.check(name, value, &format!("{place}/{index}"), found);
                }
                false
            }
            (_, _) => self.accept(value.clone()).is_err(),
        };
        if wrong {
            let fix = match (self, value) {
                (Self::StaticDropdown { options }, Value::String(text)) => {
                    nearest_match(text, options.iter().copied()).map(|near| format!("did you mean `{near}`?"))
                }
                (_, _) => None,
            };
            let fix = fix.unwrap_or_else(|| format!("give {self}, or a template that resolves to it"));
            found.push(Diagnostic::error(place, "property.type", format!("`{name}` must be {self}"), fix));
        }
    }
}

impl fmt::Display for PropertyKind {
    /// Completes “it must be …”.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Array { items } => write!(f, "an array, each item {items}"),
            Self::Checkbox => f.write_str("true or false"),
            Self::Connection => f.write_str("a connection written as `{{connections.name}}`"),
            Self::Json => f.write_str("a JSON value"),
            Self::LongText | Self::ShortText => f.write_str("text"),
            Self::Number { min, max, whole } => {
                f.write_str(if *whole { "a whole number" } else { "a number" })?;
                match (min, max) {
                    (None, None) => Ok(()),
                    (Some(min), None) => write!(f, " of at least {min}"),
                    (None, Some(max)) => write!(f, " of at most {max}"),
                    (Some(min), Some(max)) => write!(f, " from {min} to {max}"),
                }
            }
            Self::Object => f.write_str("an object"),
            Self::StaticDropdown { options } => {
                let options: Vec<_> = options.iter().map(|option| format!("`{option}`")).collect();
                write!(f, "one of {}", options.join(", "))
            }
        }
    }
}

/// Which connections the actions of a piece take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthSchema {
    /// Accepted types, by wire name: `BASIC_AUTH`, `CUSTOM_AUTH`, `SECRET_TEXT`.
    pub types: &'static [&'static str],
    /// Whether every step must name one.
    pub required: bool,
    /// What it is for.
    pub description: &'static str,
}

impl AuthSchema {
    /// Whether a connection of this type may be used.
    #[must_use]
    pub fn accepts(&self, value: &ConnectionValue) -> bool {
        self.types.contains(&value.type_name())
    }
}

fn input_error(wrong: &[(String, String)]) -> StepError {
    let reasons: Vec<_> = wrong.iter().map(|(name, problem)| format!("property `{name}` {problem}")).collect();
    let detail: Map<_, _> = wrong.iter().map(|(name, problem)| (name.clone(), json!(problem))).collect();
    StepError::new(StepErrorKind::Input, reasons.join("; ")).with_detail(json!({ "properties": detail }))
}

fn to_number(value: Value) -> Option<serde_json::Number> {
    match value {
        Value::Number(number) => Some(number),
        Value::String(text) => serde_json::from_str(text.trim()).ok(),
        _ => None,
    }
}

/// `3.0` as 3; `None` beyond 2^53, where a float no longer says which whole number it is.
fn to_whole(number: serde_json::Number) -> Option<serde_json::Number> {
    if number.is_f64() {
        let float = number.as_f64().filter(|float| float.abs() <= 9_007_199_254_740_992.0)?;
        #[expect(clippy::cast_possible_truncation, reason = "whole and within ±2^53")]
        return Some(serde_json::Number::from(float as i64));
    }
    Some(number)
}

/// Whether `text` is one token that starts at `connections`, so that what it becomes is the vault's to say, not data's.
fn is_connection_template(text: &str) -> bool {
    let inner = text.trim().strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}"));
    inner.is_some_and(|inner| {
        let inner = inner.trim();
        !inner.contains("{{")
            && !inner.contains("}}")
            && inner.strip_prefix("connections").is_some_and(|rest| rest.starts_with(['.', '[']))
    })
}

/// `pointer` extended by a member name (RFC 6901 §3).
fn member(pointer: &str, name: &str) -> String {
    format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// A name of the author's, short and without control characters.
fn shown(name: &str) -> String {
    name.chars().filter(|char| !char.is_control()).take(64).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Properties {
        Properties::new([
            Property::new("method", "Method", PropertyKind::StaticDropdown { options: &["GET", "POST"] })
                .default("GET"),
            Property::new("url", "URL", PropertyKind::ShortText).required(),
            Property::new("timeout", "Timeout", PropertyKind::whole(1, 1000)),
            Property::new("ratio", "Ratio", PropertyKind::number()),
            Property::new("flag", "Flag", PropertyKind::Checkbox),
            Property::new("headers", "Headers", PropertyKind::Object).sensitive(),
            Property::new("tags", "Tags", PropertyKind::array(PropertyKind::ShortText)),
            Property::new("body", "Body", PropertyKind::Json),
            Property::new("connection", "Connection", PropertyKind::Connection),
        ])
    }

    fn rules(settings: Value) -> Vec<(String, &'static str, String)> {
        let Value::Object(settings) = settings else { panic!("an object") };
        let found = sample().check_settings(&settings, "/steps/0/settings");
        found.into_iter().map(|found| (found.pointer, found.rule, found.fix)).collect()
    }

    fn rule_at(settings: Value) -> Vec<(String, &'static str)> {
        rules(settings).into_iter().map(|(pointer, rule, _)| (pointer, rule)).collect()
    }

    #[test]
    fn an_unknown_property_is_named_with_the_nearest() {
        let found = rules(json!({ "metod": "GET", "url": "x" }));
        assert_eq!(
            found,
            [("/steps/0/settings/metod".to_owned(), "property.unknown", "did you mean `method`?".to_owned())]
        );
        let found = rules(json!({ "a/b~c": 1, "url": "x" }));
        assert_eq!(found[0].0, "/steps/0/settings/a~1b~0c");
        assert!(found[0].2.starts_with("use one of `method`, `url`"), "{}", found[0].2);
    }

    #[test]
    fn a_missing_required_property_is_named() {
        let required = || vec![("/steps/0/settings".to_owned(), "property.required")];
        assert_eq!(rule_at(json!({})), required());
        assert_eq!(rule_at(json!({ "url": null })), required());
        assert_eq!(sample().validate(json!({})).expect_err("no url").message, "property `url` is required");
        assert_eq!(sample().validate(json!({ "url": null })).expect_err("no url").kind, StepErrorKind::Input);
    }

    #[test]
    fn literals_of_a_wrong_type_are_found_where_they_stand() {
        for (name, value) in [
            ("method", json!("PATCH")),
            ("method", json!(1)),
            ("timeout", json!(0)),
            ("timeout", json!(1001)),
            ("timeout", json!(1.5)),
            ("timeout", json!("soon")),
            ("timeout", json!("")),
            ("ratio", json!("0x10")),
            ("ratio", json!("NaN")),
            ("flag", json!("yes")),
            ("flag", json!(1)),
            ("headers", json!([])),
            ("headers", json!("{}")),
            ("tags", json!("a")),
            ("connection", json!("apcred_x")),
            ("connection", json!("{{trigger.body.token}}")),
            ("connection", json!("{{connections.a}} {{connections.b}}")),
            ("connection", json!("{{connections.a}}x")),
            ("connection", json!({})),
        ] {
            let settings = json!({ "url": "x", name: value });
            assert_eq!(
                rule_at(settings.clone()),
                [(format!("/steps/0/settings/{name}"), "property.type")],
                "{settings}"
            );
        }
        assert_eq!(
            rule_at(json!({ "tags": ["a", [], "{{x}}", {}], "url": {} })),
            [
                ("/steps/0/settings/tags/1".to_owned(), "property.type"),
                ("/steps/0/settings/tags/3".to_owned(), "property.type"),
                ("/steps/0/settings/url".to_owned(), "property.type"),
            ]
        );
    }

    #[test]
    fn a_dropdown_in_the_wrong_case_is_mended() {
        assert_eq!(rules(json!({ "url": "x", "method": "post" }))[0].2, "did you mean `POST`?");
    }

    #[test]
    fn templates_are_taken_on_trust_until_they_have_a_value() {
        let settings = json!({ "url": "{{a}}", "timeout": "{{b}}", "flag": "{{c}}", "headers": "{{d}}", "tags": "{{e}}",
            "method": "{{f}}", "connection": " {{ connections['x'] }} " });
        assert_eq!(rule_at(settings), []);
        let error =
            sample().validate(json!({ "url": [], "timeout": "soon", "tags": [{}], "other\n": 1 })).expect_err("wrong");
        assert_eq!(
            error.message,
            "property `url` must be text; property `timeout` must be a whole number from 1 to 1000; \
             property `tags` item 0 must be text; property `other` is not a property of this action"
        );
        assert_eq!(error.detail.expect("detail")["properties"]["url"], "must be text");
    }

    #[test]
    fn conversions_are_the_documented_ones() {
        let input =
            json!({ "url": 7, "timeout": " 30 ", "ratio": "-1.5e3", "flag": "false", "body": null, "tags": null });
        assert_eq!(
            sample().validate(input).expect("valid"),
            json!({ "method": "GET", "url": "7", "timeout": 30, "ratio": -1500.0, "flag": false, "body": null })
        );
        assert_eq!(sample().validate(json!({ "url": true, "timeout": 3.0 })).expect("valid")["timeout"], json!(3));
    }

    #[test]
    fn number_limits_hold_one_below_at_and_one_above() {
        for (value, valid) in [(0, false), (1, true), (2, true), (999, true), (1000, true), (1001, false)] {
            assert_eq!(sample().validate(json!({ "url": "x", "timeout": value })).is_ok(), valid, "{value}");
        }
    }

    #[test]
    fn settings_that_are_no_object_are_refused() {
        assert_eq!(sample().validate(json!([])).expect_err("array").kind, StepErrorKind::Input);
    }

    #[test]
    fn the_wire_form_is_stable() {
        let properties = Properties::new([
            Property::new("n", "N", PropertyKind::whole(1, 2)).describe("Some.").default(1),
            Property::new("a", "A", PropertyKind::array(PropertyKind::StaticDropdown { options: &["x"] })).required(),
            Property::new("c", "C", PropertyKind::Connection).sensitive(),
        ]);
        assert_eq!(
            serde_json::to_value(properties).expect("json"),
            json!([
                { "name": "n", "displayName": "N", "description": "Some.", "type": "NUMBER", "min": 1.0, "max": 2.0,
                  "whole": true, "required": false, "defaultValue": 1, "sensitive": false },
                { "name": "a", "displayName": "A", "description": "", "type": "ARRAY",
                  "items": { "type": "STATIC_DROPDOWN", "options": ["x"] }, "required": true, "sensitive": false },
                { "name": "c", "displayName": "C", "description": "", "type": "CONNECTION", "required": false,
                  "sensitive": true },
            ])
        );
    }

    #[test]
    fn an_auth_schema_accepts_its_types_only() {
        let schema = AuthSchema { types: &["SECRET_TEXT"], required: true, description: "" };
        assert!(schema.accepts(&ConnectionValue::SecretText { secret: "12345678".into() }));
        assert!(!schema.accepts(&ConnectionValue::BasicAuth { username: "u".to_owned(), password: "p".into() }));
    }

    proptest! {
        /// What publishing accepts as a literal, running accepts too.
        #[test]
        fn published_literals_run(timeout in -5_i64..1010, ratio: f64, flag in "true|false|yes|", text in "[a-z{}]{0,6}") {
            let settings = json!({ "url": text, "timeout": timeout, "ratio": ratio, "flag": flag });
            let published = rule_at(settings.clone()).is_empty();
            prop_assert_eq!(published, sample().validate(settings).is_ok());
        }

        #[test]
        fn valid_input_is_a_fixed_point(timeout in "[0-9]{1,3}", flag: bool, tags in proptest::collection::vec(".{0,4}", 0..3)) {
            let input = json!({ "url": "x", "timeout": timeout, "flag": flag.to_string(), "tags": tags });
            if let Ok(once) = sample().validate(input) {
                prop_assert_eq!(sample().validate(once.clone()), Ok(once));
            }
        }
    }
}
