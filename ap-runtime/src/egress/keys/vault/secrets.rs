//! [`VaultSecrets`]: secrets of connections that Vault keeps.

use async_trait::async_trait;
use http::Method;
use secrecy::SecretString;

use super::{Vault, answer};
use crate::{
    egress::keys::{is_below, of_secret},
    secret::{SecretError, SecretResolver},
};

/// Secrets in Vault's KV version 2, `vault:<mount>/data/<path>#<field>`: a field that is text, of the newest version or, with
/// `vault:<mount>/data/<path>?version=<number>#<field>`, of that one. The path is the one of Vault's API. Comes from
/// [`Vault::secrets`].
#[derive(Clone, Debug)]
pub struct VaultSecrets {
    vault: Vault,
    below: Vec<String>,
}

impl Vault {
    /// Gives secrets below these paths, such as `secret/data/flows`, to connections of the host that refer to them.
    ///
    /// # Security
    /// What else the token may read cannot be referred to. Leave out where the root key is.
    #[must_use]
    pub fn secrets<P: Into<String>>(&self, below: impl IntoIterator<Item = P>) -> VaultSecrets {
        VaultSecrets { vault: self.clone(), below: below.into_iter().map(Into::into).collect() }
    }
}

#[async_trait]
impl SecretResolver for VaultSecrets {
    fn scheme(&self) -> &str {
        "vault"
    }

    fn check(&self, path: &str) -> Result<(), SecretError> {
        let place = Place::parse(path).ok_or(SecretError::Malformed { fix: FORM })?;
        if is_below(place.path, &self.below) { Ok(()) } else { Err(SecretError::Denied) }
    }

    async fn resolve(&self, path: &str) -> Result<SecretString, SecretError> {
        self.check(path)?;
        let place = Place::parse(path).ok_or(SecretError::Malformed { fix: FORM })?;
        let asked = async {
            let mut url = self.vault.url(&[place.path])?;
            url.set_query(place.version.map(|version| format!("version={version}")).as_deref());
            let answer = self.vault.ask((Method::GET, url), None).await?;
            let text = answer::text(&answer, &["data", "data", place.field]);
            text.ok_or_else(|| self.vault.client.malformed("a text in the field"))
        };
        let text = asked.await.map_err(|error| of_secret(&error, ("vault", path)))?;
        Ok(SecretString::from(text.as_str()))
    }
}

/// What a reference says.
#[derive(Debug, PartialEq, Eq)]
struct Place<'p> {
    /// Of the API, with mount and `data`.
    path: &'p str,
    version: Option<u64>,
    field: &'p str,
}

impl<'p> Place<'p> {
    fn parse(reference: &'p str) -> Option<Self> {
        let (place, field) = reference.split_once('#')?;
        let (path, version) = match place.split_once('?') {
            Some((path, query)) => {
                let digits = query.strip_prefix("version=")?;
                let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
                (path, Some(digits.parse().ok().filter(|_| plain)?))
            }
            None => (place, None),
        };
        let (mount, below) = path.split_once("/data/")?;
        let stays = |part: &str| part.split('/').all(|segment| !matches!(segment, "" | "." | ".."));
        let good = stays(mount) && stays(below) && !field.is_empty() && !field.contains('#');
        good.then_some(Self { path, version, field })
    }
}

const FORM: &str = "write `vault:<mount>/data/<path>#<field>`, as in `vault:secret/data/crm#token`, and `?version=<number>` before \
                    `#` for one of its versions";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_paths_of_the_api_with_a_field() {
        let place = |path, version, field| Some(Place { path, version, field });
        for (text, expected) in [
            ("secret/data/crm#token", place("secret/data/crm", None, "token")),
            ("a/b/data/c/data/d?version=3#api_key", place("a/b/data/c/data/d", Some(3), "api_key")),
            ("secret/data/a.b/c-d#f/g?h", place("secret/data/a.b/c-d", None, "f/g?h")),
        ] {
            assert_eq!(Place::parse(text), expected, "{text}");
        }
        for wrong in [
            "",
            "secret/crm#token",
            "secret/data/crm",
            "secret/data/crm#",
            "secret/data/crm#a#b",
            "secret/data/#token",
            "/data/crm#token",
            "secret/data/../sys#token",
            "../data/crm#token",
            "secret/data/a//b#token",
            "secret/data/crm?version=#token",
            "secret/data/crm?version=0#token",
            "secret/data/crm?version=+3#token",
            "secret/data/crm?version=3&list=true#token",
            "secret/data/crm?list=true#token",
            "secret/data/crm?version=99999999999999999999#token",
        ] {
            assert_eq!(Place::parse(wrong), None, "{wrong}");
        }
    }
}
