//! The other product's JSON, read into types that are wiped.

use std::{collections::BTreeMap, fmt};

use secrecy::SecretString;
use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use zeroize::Zeroizing;

use crate::hex::decode_hex;

/// What a row holds.
#[derive(Deserialize)]
pub(super) struct Stored<'a> {
    pub(super) iv: &'a str,
    pub(super) data: &'a str,
    #[serde(rename = "authTag", default)]
    pub(super) auth_tag: Option<&'a str>,
}

/// What was encrypted. Whatever else is in it is of no use here.
#[derive(Deserialize)]
pub(super) struct Wire {
    pub(super) r#type: String,
    #[serde(default)]
    pub(super) secret_text: Option<Text>,
    #[serde(default)]
    pub(super) username: Option<Text>,
    #[serde(default)]
    pub(super) password: Option<Text>,
    #[serde(default)]
    pub(super) props: Option<BTreeMap<String, Scalar>>,
    #[serde(default)]
    pub(super) client_id: Option<Text>,
    #[serde(default)]
    pub(super) client_secret: Option<Text>,
    #[serde(default)]
    pub(super) token_url: Option<Text>,
    #[serde(default)]
    pub(super) redirect_url: Option<Text>,
    #[serde(default)]
    pub(super) access_token: Option<Text>,
    #[serde(default)]
    pub(super) refresh_token: Option<Text>,
    #[serde(default)]
    pub(super) token_type: Option<Text>,
    #[serde(default)]
    pub(super) scope: Option<Text>,
    #[serde(default)]
    pub(super) grant_type: Option<Text>,
    #[serde(default)]
    pub(super) authorization_method: Option<Text>,
    #[serde(default)]
    pub(super) claimed_at: Option<Seconds>,
    #[serde(default)]
    pub(super) expires_in: Option<Seconds>,
}

/// A text that is wiped.
pub(super) struct Text(Zeroizing<String>);

impl Text {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn is(&self, wanted: &str) -> bool {
        *self.0 == wanted
    }

    pub(super) fn into_clear(mut self) -> String {
        std::mem::take(&mut *self.0)
    }

    pub(super) fn into_secret(mut self) -> SecretString {
        // The same allocation, if it is as long as the text; else what is left of it is wiped with the secret.
        SecretString::from(std::mem::take(&mut *self.0).into_boxed_str())
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Scalar::deserialize(deserializer)? {
            Scalar::Text(text) => Ok(text),
            Scalar::Missing | Scalar::Nested => Err(de::Error::custom("not a text")),
        }
    }
}

/// A value of a form's field.
pub(super) enum Scalar {
    /// Null.
    Missing,
    /// An array or object.
    Nested,
    /// A text, or a number or flag as text.
    Text(Text),
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl ScalarVisitor {
    fn text<E>(text: impl fmt::Display) -> Result<Scalar, E> {
        Ok(Scalar::Text(Text(Zeroizing::new(text.to_string()))))
    }
}

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Scalar, E> {
        Self::text(flag)
    }

    fn visit_i64<E>(self, number: i64) -> Result<Scalar, E> {
        Self::text(number)
    }

    fn visit_u64<E>(self, number: u64) -> Result<Scalar, E> {
        Self::text(number)
    }

    fn visit_f64<E>(self, number: f64) -> Result<Scalar, E> {
        Self::text(number)
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
        Self::text(text)
    }

    fn visit_unit<E>(self) -> Result<Scalar, E> {
        Ok(Scalar::Missing)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Scalar, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Nested)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Scalar, A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Nested)
    }
}

/// A number of seconds, also with a fraction or as text; `None` for whatever else stands there.
pub(super) struct Seconds(pub(super) Option<u64>);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Scalar::Text(text) = Scalar::deserialize(deserializer)? else { return Ok(Self(None)) };
        let whole = text.0.split('.').next().unwrap_or_default();
        Ok(Self(whole.parse().ok()))
    }
}

pub(super) fn from_hex(digits: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(vec![0; digits.len() / 2]);
    decode_hex(digits.as_bytes(), &mut bytes).then_some(bytes)
}

pub(super) fn array_from_hex<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    decode_hex(digits.as_bytes(), &mut bytes).then_some(bytes)
}
