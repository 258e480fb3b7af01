//! [`AwsSecrets`]: secrets of connections that Secrets Manager keeps.

use async_trait::async_trait;
use secrecy::SecretString;
use serde_json::json;

use super::{Aws, answer};
use crate::{
    egress::keys::{is_below, of_secret},
    secret::{SecretError, SecretResolver},
};

/// Secrets in AWS Secrets Manager, by name or ARN: `aws-sm:<id>` for the whole text, `aws-sm:<id>#<key>` for a text in the JSON
/// object that it is; before `#` may stand `?version=<id of a version>` or `?stage=<stage>`, such as `AWSPREVIOUS`. Comes from
/// [`Aws::secrets`].
#[derive(Clone, Debug)]
pub struct AwsSecrets {
    aws: Aws,
    below: Vec<String>,
}

impl Aws {
    /// Gives secrets of these names, and below them (`prod` stands for `prod` and `prod/crm`), to connections of the host that
    /// refer to them. A name and an ARN are two: list what connections are to write.
    ///
    /// # Security
    /// What else the credentials may read cannot be referred to. Leave out where the root key is.
    #[must_use]
    pub fn secrets<P: Into<String>>(&self, below: impl IntoIterator<Item = P>) -> AwsSecrets {
        AwsSecrets { aws: self.clone(), below: below.into_iter().map(Into::into).collect() }
    }
}

#[async_trait]
impl SecretResolver for AwsSecrets {
    fn scheme(&self) -> &str {
        "aws-sm"
    }

    fn check(&self, path: &str) -> Result<(), SecretError> {
        let place = Place::parse(path).ok_or(SecretError::Malformed { fix: FORM })?;
        let of_region = place.region().is_none_or(|region| region == self.aws.region);
        if is_below(place.id, &self.below) && of_region { Ok(()) } else { Err(SecretError::Denied) }
    }

    async fn resolve(&self, path: &str) -> Result<SecretString, SecretError> {
        self.check(path)?;
        let place = Place::parse(path).ok_or(SecretError::Malformed { fix: FORM })?;
        let mut body = json!({ "SecretId": place.id });
        if let (Some((name, value)), Some(members)) = (place.version, body.as_object_mut()) {
            members.insert(name.to_owned(), json!(value));
        }
        let asked = async {
            let answer = self.aws.ask(super::GET_SECRET_VALUE, &body).await?;
            let text = answer::text(&answer, &["SecretString"]);
            let text = text.ok_or_else(|| self.aws.client.malformed("`SecretString`"))?;
            let Some(key) = place.key else { return Ok(text) };
            answer::text(text.as_bytes(), &[key]).ok_or_else(|| self.aws.client.malformed("a text under the key"))
        };
        let text = asked.await.map_err(|error| of_secret(&error, ("aws-sm", path)))?;
        Ok(SecretString::from(text.as_str()))
    }
}

/// What a reference says.
#[derive(Debug, PartialEq, Eq)]
struct Place<'p> {
    id: &'p str,
    /// A member of the request.
    version: Option<(&'static str, &'p str)>,
    key: Option<&'p str>,
}

impl<'p> Place<'p> {
    fn parse(reference: &'p str) -> Option<Self> {
        let (place, key) = match reference.split_once('#') {
            Some((place, key)) => (place, Some(key)),
            None => (reference, None),
        };
        let (id, version) = match place.split_once('?') {
            Some((id, query)) => {
                let (name, value) = query.split_once('=')?;
                let name = match name {
                    "version" => "VersionId",
                    "stage" => "VersionStage",
                    _ => return None,
                };
                (id, Some((name, value)))
            }
            None => (place, None),
        };
        let part = |text: &str, more: &str| {
            (1..=512).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.as_bytes().contains(&byte))
        };
        // What Secrets Manager itself takes.
        let name = id.strip_prefix("arn:").map_or(Some(id), |arn| arn.splitn(6, ':').nth(5))?;
        let good = part(name, "/_+=.@-!")
            && part(id, "/_+=.@-!:")
            && version.is_none_or(|(_, value)| part(value, "/_+=.@-"))
            && key.is_none_or(|key| !key.is_empty() && !key.contains('#'));
        good.then_some(Self { id, version, key })
    }

    /// Of an ARN.
    fn region(&self) -> Option<&'p str> {
        self.id.strip_prefix("arn:")?.split(':').nth(2)
    }
}

const FORM: &str = "write `aws-sm:<name or ARN>#<key>`, as in `aws-sm:prod/crm#token`, without `#<key>` for the whole text, and \
                    `?version=<id>` or `?stage=AWSPREVIOUS` before `#` for another version than the current one";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_names_or_arns_with_a_key() {
        let place = |id, version, key| Some(Place { id, version, key });
        let arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:prod/crm-AbCdEf";
        for (text, expected) in [
            ("prod/crm", place("prod/crm", None, None)),
            ("prod/crm#token", place("prod/crm", None, Some("token"))),
            ("a?stage=AWSPREVIOUS#k", place("a", Some(("VersionStage", "AWSPREVIOUS")), Some("k"))),
            ("a?version=0b6d-1f", place("a", Some(("VersionId", "0b6d-1f")), None)),
            (arn, place(arn, None, None)),
        ] {
            assert_eq!(Place::parse(text), expected, "{text}");
        }
        assert_eq!(Place::parse(arn).and_then(|place| place.region()), Some("eu-central-1"));
        for wrong in
            ["", "#k", "a#", "a#b#c", "a?b=c", "a?version=", "a?stage=x&y=z", "a:b", "arn:aws:x", "a b", "a\"b"]
        {
            assert_eq!(Place::parse(wrong), None, "{wrong}");
        }
    }
}
