//! Finding a secret in any form it may have taken.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

use crate::echo;

/// Looks for secrets in all their forms at once.
pub struct Search {
    /// The forms by their first bytes: name, and the whole of it.
    forms: HashMap<[u8; START], Vec<(String, Vec<u8>)>>,
}

impl Search {
    pub fn new<'s>(secrets: impl IntoIterator<Item = (&'s str, &'s str)>) -> Self {
        let mut forms: HashMap<_, Vec<_>> = HashMap::new();
        for (name, secret) in secrets {
            for (form, bytes) in forms_of(secret) {
                let start = *bytes.first_chunk::<START>().expect("a form is long enough to search for");
                forms.entry(start).or_default().push((format!("{name} as {form}"), bytes));
            }
        }
        Self { forms }
    }

    /// For what `other` looks for as well.
    pub fn and(mut self, other: Self) -> Self {
        for (start, forms) in other.forms {
            self.forms.entry(start).or_default().extend(forms);
        }
        self
    }

    /// Names of secrets and forms that are in `hay`.
    pub fn find(&self, hay: &[u8]) -> BTreeSet<String> {
        self.places(hay).into_iter().map(|(name, _)| name.to_owned()).collect()
    }

    /// How often any form of any secret is in `hay`.
    pub fn count(&self, hay: &[u8]) -> usize {
        self.places(hay).len()
    }

    /// Every form that is in `hay`, and where.
    pub fn places(&self, hay: &[u8]) -> Vec<(&str, usize)> {
        let mut found = Vec::new();
        // Most places are ruled out by two bytes, for a fraction of a look-up.
        let mut begins = vec![false; 1 << 16];
        for start in self.forms.keys() {
            begins[usize::from(u16::from_le_bytes([start[0], start[1]]))] = true;
        }
        for (at, pair) in hay.windows(2).enumerate() {
            if !begins[usize::from(u16::from_le_bytes([pair[0], pair[1]]))] {
                continue;
            }
            let Some(start) = hay[at..].first_chunk::<START>() else { break };
            for (name, form) in self.forms.get(start).into_iter().flatten() {
                if hay[at..].starts_with(form) {
                    found.push((name.as_str(), at));
                }
            }
        }
        found
    }

    /// As [`Search::find`], in every string of `value` by itself.
    pub fn find_in_json(&self, value: &Value) -> BTreeSet<String> {
        match value {
            Value::String(text) => self.find(text.as_bytes()),
            Value::Array(items) => items.iter().flat_map(|item| self.find_in_json(item)).collect(),
            Value::Object(members) => {
                let inside = members.iter().flat_map(|(key, member)| {
                    let mut found = self.find_in_json(member);
                    found.extend(self.find(key.as_bytes()));
                    found
                });
                inside.collect()
            }
            _ => BTreeSet::new(),
        }
    }
}

fn forms_of(secret: &str) -> Vec<(String, Vec<u8>)> {
    let json = echo::json_inside(secret);
    let ascii_json: String = json
        .chars()
        .map(|char| if char.is_ascii() { char.to_string() } else { format!("\\u{:04x}", u32::from(char)) })
        .collect();
    let texts = [
        ("text", secret.to_owned()),
        ("JSON", json.clone()),
        ("JSON with escaped slashes", json.replace('/', "\\/")),
        ("ASCII JSON", ascii_json.clone()),
        ("ASCII JSON in upper case", ascii_json.replace("\\u00e9", "\\u00E9")),
        ("ASCII JSON with escaped slashes", ascii_json.replace('/', "\\/")),
        ("percent encoding", echo::percent(secret, |byte| format!("%{byte:02X}"))),
        ("percent encoding in lower case", echo::percent(secret, |byte| format!("%{byte:02x}"))),
        ("percent encoding of everything", secret.bytes().map(|byte| format!("%{byte:02X}")).collect()),
        ("text turned round", secret.chars().rev().collect()),
        ("hex", secret.bytes().map(|byte| format!("{byte:02x}")).collect()),
        ("hex in upper case", secret.bytes().map(|byte| format!("{byte:02X}")).collect()),
    ];
    let mut forms: Vec<(String, Vec<u8>)> =
        texts.into_iter().map(|(name, text)| (name.to_owned(), text.into_bytes())).collect();
    forms.push(("UTF-16LE".to_owned(), echo::utf16(secret, u16::to_le_bytes)));
    forms.push(("UTF-16BE".to_owned(), echo::utf16(secret, u16::to_be_bytes)));
    forms.push(("Latin-1".to_owned(), secret.chars().map(|char| u8::try_from(char).unwrap()).collect()));
    let mut seen = BTreeSet::new();
    forms.retain(|(_, bytes)| seen.insert(bytes.clone()));
    let encoded: Vec<_> = forms
        .iter()
        .filter(|(name, _)| ["text", "JSON", "UTF-16LE", "UTF-16BE"].contains(&name.as_str()))
        .flat_map(|(name, bytes)| {
            (0..3).flat_map(move |shift| {
                [("base64", echo::STANDARD), ("base64url", echo::URL_SAFE)].map(|(alphabet, digits)| {
                    (format!("{alphabet} of {name}, shifted by {shift}"), base64_core(bytes, shift, digits))
                })
            })
        })
        .collect();
    forms.extend(encoded);
    forms
}

/// The digits that depend on `bytes` alone, wherever `shift` bytes more or less stand before, and whatever stands behind.
fn base64_core(bytes: &[u8], shift: usize, digits: &[u8; 64]) -> Vec<u8> {
    let shifted = [&vec![0; shift], bytes].concat();
    let text = echo::base64(&shifted, digits).into_bytes();
    text[(shift * 8).div_ceil(6)..shifted.len() * 8 / 6].to_vec()
}

/// How many bytes of a form are looked up.
const START: usize = 8;
