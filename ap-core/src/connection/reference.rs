//! [`SecretReference`]: where a secret is kept that a connection does not hold itself.

use std::fmt;

use secrecy::SecretString;

use super::{Connection, ConnectionError, ConnectionValue, FieldValue};

/// A place in a secret manager of the host: `scheme:path`, such as `env:STRIPE_KEY`, `file:stripe/key`,
/// `vault:secret/data/crm?version=3#token` or `aws-sm:prod/crm#token`. Not secret itself. What schemes there are, and what paths mean, is the host's to say.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretReference(String);

impl SecretReference {
    /// Reads a reference: a scheme of 1 to 16 lower-case letters, digits and `-`, a colon, and a path of 1 to 512 visible ASCII
    /// characters.
    ///
    /// # Errors
    /// [`ConnectionError::Reference`].
    pub fn parse(text: &str) -> Result<Self, ConnectionError> {
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let good = text.split_once(':').is_some_and(|(scheme, path)| {
            (1..=16).contains(&scheme.len())
                && scheme.bytes().all(letter)
                && (1..=512).contains(&path.len())
                && path.bytes().all(|byte| byte.is_ascii_graphic())
        });
        // Not repeated: somebody may have written the secret itself.
        if good { Ok(Self(text.to_owned())) } else { Err(ConnectionError::Reference) }
    }

    /// What stands before the colon.
    #[must_use]
    pub fn scheme(&self) -> &str {
        self.0.split_once(':').map_or("", |(scheme, _)| scheme)
    }

    /// What stands behind it.
    #[must_use]
    pub fn path(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, path)| path)
    }

    /// The whole text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SecretReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ConnectionValue {
    /// Where secrets are kept that are in no field, as [`ConnectionValue::hidden_secrets`] are: that of an OAuth 2.0 client.
    pub fn hidden_references(&self) -> impl Iterator<Item = &SecretReference> {
        let oauth = match self {
            Self::OAuth2(oauth) => oauth.client_secret_from(),
            _ => None,
        };
        oauth.into_iter()
    }

    /// Fields whose secrets are kept elsewhere. They are no [`ConnectionValue::fields`] before they are resolved.
    pub fn references(&self) -> impl Iterator<Item = (&str, &SecretReference)> {
        let fields = match self {
            Self::CustomAuth { fields } => Some(fields),
            _ => None,
        };
        fields.into_iter().flatten().filter_map(|(name, field)| match field {
            FieldValue::Reference(reference) => Some((name.as_str(), reference)),
            FieldValue::Clear(_) | FieldValue::Secret(_) => None,
        })
    }
}

impl Connection {
    /// The same connection with secrets in the place of those references that `resolve` knows, those of a rotation included.
    ///
    /// # Errors
    /// [`ConnectionError::Field`] if one is no secret that could be kept, say because it is too short.
    pub fn with_resolved(
        self,
        resolve: impl Fn(&SecretReference) -> Option<SecretString>,
    ) -> Result<Self, ConnectionError> {
        let resolving = self.with_resolved_rotation(&resolve);
        let value = match resolving.value {
            ConnectionValue::CustomAuth { fields } => {
                let resolved = fields.into_iter().map(|(name, field)| match field {
                    FieldValue::Reference(reference) => match resolve(&reference) {
                        Some(secret) => (name, FieldValue::Secret(secret)),
                        None => (name, FieldValue::Reference(reference)),
                    },
                    other => (name, other),
                });
                let value = ConnectionValue::CustomAuth { fields: resolved.collect() };
                value.check()?;
                value
            }
            ConnectionValue::OAuth2(oauth) => {
                let value = ConnectionValue::OAuth2(Box::new(oauth.with_resolved(resolve)));
                value.check()?;
                value
            }
            other => other,
        };
        Ok(Self { value, ..resolving })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::{Field, Placement};

    #[test]
    fn references_have_a_scheme_and_a_path() {
        let reference = SecretReference::parse("aws-sm:prod/crm:token").expect("valid");
        assert_eq!((reference.scheme(), reference.path()), ("aws-sm", "prod/crm:token"));
        for wrong in ["", "env", ":x", "env:", "Env:X", "env:a b", "env:caf\u{e9}", &format!("env:{}", "x".repeat(513))]
        {
            assert_eq!(SecretReference::parse(wrong), Err(ConnectionError::Reference), "{wrong}");
        }
        assert!(SecretReference::parse(&format!("env:{}", "x".repeat(512))).is_ok());
    }

    #[test]
    fn a_reference_becomes_a_secret_in_its_place() {
        let reference = SecretReference::parse("env:KEY").expect("valid");
        let fields = [("key".to_owned(), FieldValue::Reference(reference))].into();
        let connection = Connection::new("api", ConnectionValue::CustomAuth { fields }, vec![], vec![]).expect("valid");
        assert_eq!(connection.placements(), [Placement::Bearer { field: "key".to_owned() }]);
        assert!(connection.value().fields().is_empty() && connection.value().references().count() == 1);
        let connection = connection.with_resolved(|_| None).expect("nothing changes");
        let resolved = connection.with_resolved(|_| Some("canary-key".into())).expect("long enough");
        assert!(matches!(resolved.value().fields().as_slice(), [("key", Field::Secret(_))]));
        let reference = SecretReference::parse("env:KEY").expect("valid");
        let fields = [("key".to_owned(), FieldValue::Reference(reference))].into();
        let connection = Connection::new("api", ConnectionValue::CustomAuth { fields }, vec![], vec![]).expect("valid");
        assert!(connection.with_resolved(|_| Some("short".into())).is_err());
    }
}
