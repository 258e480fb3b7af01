//! [`Rotation`]: a new secret beside the old one, until the new one is known to be good and the old one is no longer needed.

use std::{collections::BTreeMap, fmt};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::{Connection, ConnectionError, ConnectionTerms, ConnectionValue, FieldValue, OAuth2, SecretReference};
use crate::time::Timestamp;

/// Secrets of a connection by field, and when they end: what a rotation puts in the place of others.
///
/// Fields are those of the connection: `secret_text`; `password` and `username`; those of a custom connection; `client_secret`
/// of an OAuth 2.0 client. What is not named stays as it is.
#[derive(Default)]
pub struct NewSecrets {
    pub(super) fields: BTreeMap<String, FieldValue>,
    expires: Option<Timestamp>,
}

impl NewSecrets {
    /// None so far, without an end.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With this value of a field. Of a clear field, such as the id of an access key, it is no secret.
    #[must_use]
    pub fn with(mut self, field: impl Into<String>, secret: SecretString) -> Self {
        self.fields.insert(field.into(), FieldValue::Secret(secret));
        self
    }

    /// With a secret that is kept elsewhere.
    #[must_use]
    pub fn with_reference(mut self, field: impl Into<String>, reference: SecretReference) -> Self {
        self.fields.insert(field.into(), FieldValue::Reference(reference));
        self
    }

    /// With a field as it was kept.
    #[must_use]
    pub fn with_value(mut self, field: impl Into<String>, value: FieldValue) -> Self {
        self.fields.insert(field.into(), value);
        self
    }

    /// Good until then, as the issuer says: [`ConnectionTerms::expires`]. `None`: until somebody says otherwise.
    #[must_use]
    pub fn with_expiry(self, expires: Option<Timestamp>) -> Self {
        Self { expires, ..self }
    }

    /// The fields, for who keeps them.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &FieldValue)> {
        self.fields.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// When they end.
    #[must_use]
    pub const fn expires(&self) -> Option<Timestamp> {
        self.expires
    }

    /// Where those are kept that are kept elsewhere.
    pub fn references(&self) -> impl Iterator<Item = (&str, &SecretReference)> {
        self.fields().filter_map(|(name, value)| match value {
            FieldValue::Reference(reference) => Some((name, reference)),
            FieldValue::Clear(_) | FieldValue::Secret(_) => None,
        })
    }

    fn secrets(&self) -> impl Iterator<Item = &SecretString> {
        self.fields.values().filter_map(|value| match value {
            FieldValue::Secret(secret) => Some(secret),
            FieldValue::Clear(_) | FieldValue::Reference(_) => None,
        })
    }

    fn resolved(self, resolve: &impl Fn(&SecretReference) -> Option<SecretString>) -> Self {
        let fields = self.fields.into_iter().map(|(name, value)| match value {
            FieldValue::Reference(reference) => match resolve(&reference) {
                Some(secret) => (name, FieldValue::Secret(secret)),
                None => (name, FieldValue::Reference(reference)),
            },
            other => (name, other),
        });
        Self { fields: fields.collect(), ..self }
    }
}

/// A change of a connection's secrets that is not through.
#[derive(Debug)]
pub enum Rotation {
    /// The new ones are beside those in use.
    Staged {
        /// The new ones.
        secrets: NewSecrets,
        /// Since when.
        since: Timestamp,
        /// When they were found good.
        verified: Option<Timestamp>,
    },
    /// The new ones are in use, and the old ones are kept for a while.
    Retiring {
        /// The old ones.
        secrets: NewSecrets,
        /// Since when.
        since: Timestamp,
        /// Until when.
        until: Timestamp,
    },
}

impl Rotation {
    /// The secrets that are not in use.
    #[must_use]
    pub const fn secrets(&self) -> &NewSecrets {
        match self {
            Self::Staged { secrets, .. } | Self::Retiring { secrets, .. } => secrets,
        }
    }

    /// What can be seen of it.
    #[must_use]
    pub fn status(&self) -> RotationStatus {
        let fields = self.secrets().fields.keys().cloned().collect();
        match self {
            Self::Staged { since, verified, .. } => RotationStatus {
                state: if verified.is_some() { RotationState::Verified } else { RotationState::Pending },
                fields,
                since: *since,
                verified: *verified,
                retires: None,
            },
            Self::Retiring { since, until, .. } => RotationStatus {
                state: RotationState::Retiring,
                fields,
                since: *since,
                verified: None,
                retires: Some(*until),
            },
        }
    }

    /// When the old secrets are to be erased.
    #[must_use]
    pub const fn retires(&self) -> Option<Timestamp> {
        match self {
            Self::Retiring { until, .. } => Some(*until),
            Self::Staged { .. } => None,
        }
    }

    fn map_secrets(self, change: impl FnOnce(NewSecrets) -> NewSecrets) -> Self {
        match self {
            Self::Staged { secrets, since, verified } => Self::Staged { secrets: change(secrets), since, verified },
            Self::Retiring { secrets, since, until } => Self::Retiring { secrets: change(secrets), since, until },
        }
    }
}

/// How far a rotation is. Wire names are `PENDING`, `VERIFIED` and `RETIRING`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum RotationState {
    /// The new secrets are there, and nobody knows whether they are good.
    Pending,
    /// They were found good.
    Verified,
    /// They are in use, and the old ones are still there.
    Retiring,
}

/// What can be seen of a rotation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RotationStatus {
    /// How far it is.
    pub state: RotationState,
    /// Names of the fields that change.
    pub fields: Vec<String>,
    /// Since when it is as it is.
    pub since: Timestamp,
    /// When the new secrets were found good.
    pub verified: Option<Timestamp>,
    /// When the old secrets are erased.
    pub retires: Option<Timestamp>,
}

impl Connection {
    /// The change of its secrets that is under way.
    #[must_use]
    pub const fn rotation(&self) -> Option<&Rotation> {
        self.rotation.as_ref()
    }

    /// The same connection with another rotation, or none, as it was stored.
    ///
    /// # Errors
    /// [`ConnectionError::Field`] if its secrets could not be this connection's.
    pub fn with_rotation(self, rotation: Option<Rotation>) -> Result<Self, ConnectionError> {
        if let Some(rotation) = &rotation {
            self.value.check_change(rotation.secrets())?;
        }
        Ok(Self { rotation, ..self })
    }

    /// Takes the rotation out.
    #[must_use]
    pub fn into_rotation(self) -> Option<Rotation> {
        self.rotation
    }

    /// With new secrets beside those in use. Where they may go, and for which pieces they are, stays as it is.
    ///
    /// # Errors
    /// [`ConnectionError::Field`] names the field that the connection does not have, that says where it is and not who, or whose
    /// value cannot be; or says that nothing would change.
    pub fn staging(self, secrets: NewSecrets, now: Timestamp) -> Result<Self, ConnectionError> {
        let NewSecrets { fields, expires } = secrets;
        let fields = fields.into_iter().map(|(name, value)| match (self.value.is_clear(&name), value) {
            (true, FieldValue::Secret(text)) => (name, FieldValue::Clear(text.expose_secret().to_owned())),
            (_, value) => (name, value),
        });
        let secrets = NewSecrets { fields: fields.collect(), expires };
        if secrets.fields.is_empty() {
            return refuse("fields", "a rotation names at least one field with its new value");
        }
        if let Some(name) = secrets.fields.keys().find(|name| PLACES.contains(&name.as_str())) {
            return refuse(
                name,
                "says where the connection leads, which a rotation does not change: replace the connection",
            );
        }
        self.value.check_change(&secrets)?;
        let staged = Self { rotation: Some(Rotation::Staged { secrets, since: now, verified: None }), ..self };
        // As it would be, checked like any other; and back.
        let tried = staged.swapped()?;
        if tried.same_in_rotation() {
            return refuse("fields", "the new values are those in use: nothing would change");
        }
        tried.value.check()?;
        tried.placements.iter().try_for_each(|placement| placement.check(&tried.value))?;
        tried.swapped()
    }

    /// Whether the secrets beside those in use are the same.
    fn same_in_rotation(&self) -> bool {
        let Some(rotation) = &self.rotation else { return false };
        rotation.secrets().fields().all(|(name, other)| match (self.value.current(name), other) {
            (Some(Current::Clear(one)), FieldValue::Clear(two)) => one == two,
            (Some(Current::Secret(one)), FieldValue::Secret(two)) => one.expose_secret() == two.expose_secret(),
            (Some(Current::Reference(one)), FieldValue::Reference(two)) => one == two,
            _ => false,
        })
    }

    /// As it would be with the staged secrets, and those in use beside them: to find out whether the new ones are good.
    ///
    /// # Errors
    /// [`ConnectionError::Field`] if they are not this connection's.
    pub fn with_staged(self) -> Result<Self, ConnectionError> {
        match self.rotation {
            Some(Rotation::Staged { .. }) => Ok(Self { fault: None, ..self.swapped()? }),
            _ => Ok(self),
        }
    }

    /// With the staged secrets found good, if they are those that were staged at `since`.
    #[must_use]
    pub fn with_verified(self, since: Timestamp, now: Timestamp) -> Self {
        let rotation = match self.rotation {
            Some(Rotation::Staged { secrets, since: of, .. }) if of == since => {
                Some(Rotation::Staged { secrets, since, verified: Some(now) })
            }
            other => other,
        };
        Self { rotation, ..self }
    }

    /// With the staged secrets in use, and the old ones kept until then.
    ///
    /// # Errors
    /// As [`Connection::with_staged`].
    pub fn activated(self, now: Timestamp, until: Timestamp) -> Result<Self, ConnectionError> {
        let Some(Rotation::Staged { .. }) = self.rotation else { return Ok(self) };
        let changed = self.swapped()?;
        let rotation = match changed.rotation {
            Some(Rotation::Staged { secrets, .. }) if now < until => {
                Some(Rotation::Retiring { secrets, since: now, until })
            }
            _ => None,
        };
        Ok(Self { rotation, fault: None, ..changed })
    }

    /// With the secrets of before the rotation, and no others.
    ///
    /// # Errors
    /// As [`Connection::with_staged`].
    pub fn rolled_back(self) -> Result<Self, ConnectionError> {
        let back = match self.rotation {
            Some(Rotation::Retiring { .. }) => Self { fault: None, ..self.swapped()? },
            _ => self,
        };
        Ok(Self { rotation: None, ..back })
    }

    /// With the secrets of before the rotation in use, for those who may still use them at `now`: while they retire.
    #[must_use]
    pub fn with_retiring(self, now: Timestamp) -> Option<Self> {
        match self.rotation {
            Some(Rotation::Retiring { until, .. }) if now < until => self.swapped().ok(),
            _ => None,
        }
    }

    /// Whether `other` has the same secrets in the same fields.
    #[must_use]
    pub fn has_secrets_of(&self, other: &Self) -> bool {
        let clear = |connection: &Self| {
            let fields = connection.value.fields();
            let names = fields.iter().map(|(name, _)| (*name).to_owned());
            names.chain(connection.value.references().map(|(name, _)| name.to_owned())).collect::<Vec<_>>()
        };
        if let (Some(one), Some(two)) = (self.oauth(), other.oauth()) {
            let same = match (one.client_secret(), two.client_secret()) {
                (Some(one), Some(two)) => one.expose_secret() == two.expose_secret(),
                (None, None) => true,
                _ => false,
            };
            return same && one.client_secret_from() == two.client_secret_from();
        }
        let names = clear(self);
        names == clear(other)
            && names.iter().all(|name| match (self.value.current(name), other.value.current(name)) {
                (Some(Current::Clear(one)), Some(Current::Clear(two))) => one == two,
                (Some(Current::Secret(one)), Some(Current::Secret(two))) => one.expose_secret() == two.expose_secret(),
                (Some(Current::Reference(one)), Some(Current::Reference(two))) => one == two,
                _ => false,
            })
    }

    /// Every secret that no request carries and no output may show: those of a client, and those beside the ones in use.
    pub fn hidden_secrets(&self) -> impl Iterator<Item = &SecretString> {
        let beside = self.rotation.iter().flat_map(|rotation| rotation.secrets().secrets());
        self.value.hidden_secrets().chain(beside)
    }

    /// Where secrets are kept that are not in use.
    pub fn references_in_rotation(&self) -> impl Iterator<Item = &SecretReference> {
        self.rotation.iter().flat_map(|rotation| rotation.secrets().references().map(|(_, reference)| reference))
    }

    pub(super) fn with_resolved_rotation(self, resolve: &impl Fn(&SecretReference) -> Option<SecretString>) -> Self {
        let rotation = self.rotation.map(|rotation| rotation.map_secrets(|secrets| secrets.resolved(resolve)));
        Self { rotation, ..self }
    }

    /// The secrets in use and those beside them change places.
    fn swapped(self) -> Result<Self, ConnectionError> {
        let Some(rotation) = self.rotation else { return Ok(self) };
        let mut taken = NewSecrets::default();
        let rotation = rotation.map_secrets(|secrets| std::mem::replace(&mut taken, secrets));
        let NewSecrets { fields, expires } = taken;
        let (value, old) = self.value.exchange(fields)?;
        let old = NewSecrets { fields: old, expires: self.terms.expires };
        // Tokens of OAuth 2.0 have a time of their own.
        let expires = if matches!(value, ConnectionValue::OAuth2(_)) { self.terms.expires } else { expires };
        let terms = ConnectionTerms { expires, ..self.terms };
        Ok(Self { value, terms, rotation: Some(rotation.map_secrets(|_| old)), ..self })
    }
}

/// A field as it is.
enum Current<'a> {
    Clear(&'a str),
    Reference(&'a SecretReference),
    Secret(&'a SecretString),
}

impl ConnectionValue {
    fn current(&self, name: &str) -> Option<Current<'_>> {
        match self {
            Self::BasicAuth { username, password } => match name {
                "username" => Some(Current::Clear(username)),
                "password" => Some(Current::Secret(password)),
                _ => None,
            },
            Self::CustomAuth { fields } => fields.get(name).map(|field| match field {
                FieldValue::Clear(text) => Current::Clear(text),
                FieldValue::Reference(reference) => Current::Reference(reference),
                FieldValue::Secret(secret) => Current::Secret(secret),
            }),
            Self::OAuth2(oauth) if name == CLIENT_SECRET => match (oauth.client_secret_from(), oauth.client_secret()) {
                (Some(reference), _) => Some(Current::Reference(reference)),
                (None, Some(secret)) => Some(Current::Secret(secret)),
                (None, None) => None,
            },
            Self::SecretText { secret } if name == "secret_text" => Some(Current::Secret(secret)),
            Self::OAuth2(_) | Self::SecretText { .. } => None,
        }
    }

    fn is_clear(&self, name: &str) -> bool {
        matches!(self.current(name), Some(Current::Clear(_)))
    }

    /// Whether these could stand in the place of its own.
    fn check_change(&self, secrets: &NewSecrets) -> Result<(), ConnectionError> {
        for (name, value) in secrets.fields() {
            let fits = match (self.current(name), value) {
                (None, _) => {
                    let reason = "is no field of this connection that a rotation could change";
                    return refuse(name, reason);
                }
                (Some(Current::Clear(_)), FieldValue::Clear(_))
                | (Some(Current::Secret(_) | Current::Reference(_)), FieldValue::Secret(_)) => true,
                (Some(Current::Secret(_) | Current::Reference(_)), FieldValue::Reference(_)) => {
                    // Others hold their secrets themselves: with one that is kept elsewhere they are of another type.
                    matches!(self, Self::CustomAuth { .. } | Self::OAuth2(_))
                }
                _ => false,
            };
            if !fits {
                return refuse(name, "cannot be kept elsewhere in a connection of this type: replace the connection");
            }
        }
        Ok(())
    }

    /// With these in the place of its own, which are given back.
    fn exchange(
        self,
        new: BTreeMap<String, FieldValue>,
    ) -> Result<(Self, BTreeMap<String, FieldValue>), ConnectionError> {
        let mut old = BTreeMap::new();
        let mut value = self;
        for (name, new) in new {
            let before = match (&mut value, new) {
                (Self::BasicAuth { username, .. }, FieldValue::Clear(text)) if name == "username" => {
                    FieldValue::Clear(std::mem::replace(username, text))
                }
                (Self::BasicAuth { password, .. }, FieldValue::Secret(secret)) if name == "password" => {
                    FieldValue::Secret(std::mem::replace(password, secret))
                }
                (Self::CustomAuth { fields }, new) => match fields.insert(name.clone(), new) {
                    Some(before) => before,
                    None => return refuse(&name, "is no field of this connection"),
                },
                (Self::OAuth2(oauth), new) if name == CLIENT_SECRET => match oauth.exchange_client_secret(new) {
                    Some(before) => before,
                    None => return refuse(&name, "is no field of this connection"),
                },
                (Self::SecretText { secret }, FieldValue::Secret(new)) if name == "secret_text" => {
                    FieldValue::Secret(std::mem::replace(secret, new))
                }
                _ => return refuse(&name, "is no field of this connection"),
            };
            old.insert(name, before);
        }
        Ok((value, old))
    }
}

impl OAuth2 {
    /// Puts another secret, or where it is kept, in the place of the client's.
    fn exchange_client_secret(&mut self, new: FieldValue) -> Option<FieldValue> {
        let before = match (self.client_secret_from.take(), self.client_secret.take()) {
            (Some(reference), _) => FieldValue::Reference(reference),
            (None, Some(secret)) => FieldValue::Secret(secret),
            (None, None) => return None,
        };
        match new {
            FieldValue::Secret(secret) => self.client_secret = Some(secret),
            FieldValue::Reference(reference) => self.client_secret_from = Some(reference),
            FieldValue::Clear(_) => return None,
        }
        Some(before)
    }
}

impl fmt::Debug for NewSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.fields.keys().collect();
        f.debug_struct("NewSecrets").field("fields", &names).field("expires", &self.expires).finish()
    }
}

fn refuse<T>(field: &str, reason: &str) -> Result<T, ConnectionError> {
    let field = field.chars().filter(|char| !char.is_control()).take(64).collect();
    Err(ConnectionError::Field { field, reason: reason.to_owned() })
}

const CLIENT_SECRET: &str = "client_secret";
/// Fields that say where a connection leads. Its origins follow from some of them when it is written.
const PLACES: [&str; 7] = ["base_url", "database", "endpoint", "host", "port", "region", "url"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::{ConnectionFault, FaultReason, OAuthApp, Placement};

    const AT: Timestamp = Timestamp::from_millis(1_000);
    const LATER: Timestamp = Timestamp::from_millis(9_000);

    fn text(secret: &str) -> Connection {
        let value = ConnectionValue::SecretText { secret: secret.into() };
        let terms = ConnectionTerms { expires: Some(LATER), ..ConnectionTerms::default() };
        Connection::new("api", value, vec![], vec![]).and_then(|of| of.with_terms(terms)).expect("valid")
    }

    fn in_use(connection: &Connection) -> Vec<String> {
        let fields = connection.value().fields().into_iter().filter_map(|(_, field)| match field {
            crate::connection::Field::Secret(secret) => Some(secret.expose_secret().to_owned()),
            crate::connection::Field::Clear(_) => None,
        });
        fields.collect()
    }

    fn beside(connection: &Connection) -> Vec<String> {
        connection.hidden_secrets().map(|secret| secret.expose_secret().to_owned()).collect()
    }

    fn new_text(secret: &str) -> NewSecrets {
        NewSecrets::new().with("secret_text", secret.into())
    }

    #[test]
    fn a_secret_is_staged_tried_used_and_its_predecessor_retired() {
        let staged = text("old-canary").staging(new_text("new-canary"), AT).expect("staged");
        assert_eq!((in_use(&staged), beside(&staged)), (vec!["old-canary".to_owned()], vec!["new-canary".to_owned()]));
        let status = staged.rotation().map(Rotation::status).expect("under way");
        assert_eq!(
            (status.state, status.fields, status.retires),
            (RotationState::Pending, vec!["secret_text".to_owned()], None)
        );
        let staged = staged.with_verified(LATER, LATER);
        assert_eq!(
            staged.rotation().map(|of| of.status().state),
            Some(RotationState::Pending),
            "another one was verified"
        );
        let verified = staged.with_verified(AT, LATER);
        assert_eq!(verified.rotation().map(|of| of.status().state), Some(RotationState::Verified));
        let fault = ConnectionFault { at: AT, reason: FaultReason::ValidationFailed };
        let active = verified.with_fault(Some(fault)).activated(AT, LATER).expect("active");
        assert_eq!((in_use(&active), beside(&active)), (vec!["new-canary".to_owned()], vec!["old-canary".to_owned()]));
        assert_eq!(
            (active.fault(), active.terms().expires),
            (None, None),
            "the end of the old secret is not the new one's"
        );
        assert_eq!(active.rotation().and_then(Rotation::retires), Some(LATER));
        let back = active.rolled_back().expect("back");
        assert_eq!((in_use(&back), beside(&back)), (vec!["old-canary".to_owned()], vec![]));
        assert_eq!((back.terms().expires, back.rotation().is_none()), (Some(LATER), true));
    }

    #[test]
    fn what_retires_may_be_used_until_then_and_no_grace_keeps_nothing() {
        let active = |until| {
            let staged = text("old-canary").staging(new_text("new-canary"), AT).expect("staged");
            staged.activated(AT, until).expect("active")
        };
        let old = active(LATER).with_retiring(AT).expect("still there");
        assert_eq!(in_use(&old), ["old-canary"]);
        assert!(active(LATER).with_retiring(LATER).is_none());
        assert!(active(AT).rotation().is_none());
        assert!(text("old-canary").with_retiring(AT).is_none());
    }

    #[test]
    fn trying_changes_nothing_else_and_masks_both() {
        let staged = text("old-canary").staging(new_text("new-canary"), AT).expect("staged");
        let tried = staged.with_staged().expect("tried");
        assert_eq!((in_use(&tried), beside(&tried)), (vec!["new-canary".to_owned()], vec!["old-canary".to_owned()]));
        assert!(text("old-canary").with_staged().is_ok_and(|same| in_use(&same) == ["old-canary"]));
    }

    #[test]
    fn what_cannot_be_a_new_secret_is_named() {
        let custom = || {
            let secret = |text: &str| FieldValue::Secret(text.into());
            let clear = |text: &str| FieldValue::Clear(text.to_owned());
            let fields = [("url", clear("https://a.example")), ("id", clear("AKID")), ("key", secret("old-canary"))];
            let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            Connection::new("api", ConnectionValue::CustomAuth { fields }, vec![], vec![]).expect("valid")
        };
        let reference = || SecretReference::parse("env:KEY").expect("valid");
        let changed = custom().staging(NewSecrets::new().with("id", "AK2".into()).with("key", "new-canary".into()), AT);
        let active = changed.expect("staged").activated(AT, LATER).expect("active");
        assert!(matches!(active.value().current("id"), Some(Current::Clear("AK2"))));
        assert_eq!(active.placements(), [Placement::Bearer { field: "key".to_owned() }]);
        assert!(custom().staging(NewSecrets::new().with_reference("key", reference()), AT).is_ok());
        for (connection, new, field) in [
            (text("old-canary"), NewSecrets::new(), "fields"),
            (text("old-canary"), new_text("short"), "secret_text"),
            (text("old-canary"), new_text("old-canary"), "fields"),
            (text("old-canary"), NewSecrets::new().with("password", "new-canary".into()), "password"),
            (text("old-canary"), NewSecrets::new().with_reference("secret_text", reference()), "secret_text"),
            (custom(), NewSecrets::new().with("url", "https://evil.example".into()), "url"),
            (custom(), NewSecrets::new().with_reference("id", reference()), "id"),
            (custom(), NewSecrets::new().with("other", "new-canary".into()), "other"),
        ] {
            let error = connection.staging(new, AT).expect_err(field).to_string();
            assert!(error.contains(&format!("`{field}`")) && !error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn a_clients_secret_changes_and_its_tokens_stay() {
        let app = r#"{ "clientId": "me", "tokenUrl": "https://id.example/token" }"#;
        let app: OAuthApp = serde_json::from_str(app).expect("an app");
        let client = OAuth2::client(app, Some("old-canary".into()));
        let client = Connection::new("api", ConnectionValue::OAuth2(Box::new(client)), vec![], vec![]).expect("valid");
        let reference = SecretReference::parse("vault:a/data/b#c").expect("valid");
        let staged = client.staging(NewSecrets::new().with_reference("client_secret", reference.clone()), AT);
        let staged = staged.expect("staged");
        assert_eq!(staged.references_in_rotation().collect::<Vec<_>>(), [&reference]);
        let active = staged.activated(AT, LATER).expect("active");
        let oauth = active.oauth().expect("a client");
        assert_eq!((oauth.client_secret_from(), oauth.client_secret().is_none()), (Some(&reference), true));
        let back = active.rolled_back().expect("back");
        assert_eq!(back.oauth().and_then(OAuth2::client_secret).map(ExposeSecret::expose_secret), Some("old-canary"));
    }

    #[test]
    fn new_secrets_are_read_from_json() {
        let new = NewSecrets::from_json(br#"{ "type": "x" }"#).expect_err("what is not known").to_string();
        assert!(new.contains("`type`"), "{new}");
        let json = br#"{ "value": { "token": "canary-key" }, "expiresAt": "2030-01-01T00:00:00Z" }"#;
        let new = NewSecrets::from_json(json).expect("valid");
        assert!(new.fields().map(|(name, _)| name).eq(["secret_text"]) && new.expires().is_some());
        let json = br#"{ "props": { "id": 7, "key": { "from": "env:KEY" } }, "client_secret": "canary-key" }"#;
        let new = NewSecrets::from_json(json).expect("valid");
        assert!(new.fields().map(|(name, _)| name).eq(["client_secret", "id", "key"]));
        assert!(!format!("{new:?}").contains("canary"));
        for wrong in [
            &br#"{ "secret_text": true }"#[..],
            br#"{ "password": "canary-1", "props": { "password": "canary-2" } }"#,
            br#"{ "secret_text": { "from": "canary" } }"#,
            b"[]",
        ] {
            let error = NewSecrets::from_json(wrong).expect_err("refused").to_string();
            assert!(!error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn the_same_secrets_are_known_again() {
        assert!(text("old-canary").has_secrets_of(&text("old-canary")));
        assert!(!text("old-canary").has_secrets_of(&text("new-canary")));
    }
}
