//! [`RunCredentials`]: puts the secrets of one run into its requests, outside the pieces.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use ap_core::{
    capability::HttpError,
    connection::{Connection, Field, Origin, Placement},
    id::ConnectionId,
    json::{self, DuplicateKeys, JsonLimits},
    time::Timestamp,
};
use ap_crypto::{
    placeholder::{CredentialRef, find_placeholders},
    redact::{RedactError, Redactor},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, header::AUTHORIZATION};
use secrecy::{ExposeSecret, SecretString};
use url::form_urlencoded;

use super::{
    mark::MarkedText,
    place::{self, PlaceError},
    refusal::{ambiguous_body, encoded_query, unreadable_body},
    url::CheckedUrl,
};

/// The opened connections of one run, and the placeholder texts that stand for them in that run alone.
///
/// The secrets are wiped when this is dropped: keep it as long as an attempt, not as long as the run.
#[derive(Default)]
pub struct RunCredentials {
    pub(super) connections: Arc<[RunConnection]>,
    /// Placeholder text → index of the connection, and what of it is meant.
    pub(super) placeholders: Arc<BTreeMap<String, (usize, Stands)>>,
    pub(super) redactor: Arc<Redactor>,
    /// Placeholder text → why nothing can be put in its place now.
    pub(super) unusable: Arc<BTreeMap<String, String>>,
    /// The connections that may be used; `None` for all.
    pub(super) named: Option<BTreeSet<ConnectionId>>,
}

/// One opened connection of a run.
#[derive(Debug)]
pub struct RunConnection {
    /// Its id, for the audit.
    pub id: ConnectionId,
    /// Its name, secrets, placements and origins.
    pub connection: Connection,
    /// The texts of this run's [`CredentialRef`]s that stand for it. Any other text is never recognised.
    pub placeholders: Vec<(String, Stands)>,
}

/// What a placeholder stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stands {
    /// A secret field.
    Field(String),
    /// The whole connection: all its placements as [`PreparedRequest::credential`], its only secret inside text.
    Whole,
}

/// A request on its way out, as the author wrote it: placeholders where secrets will be.
#[derive(Clone)]
pub struct PreparedRequest {
    /// What it does.
    pub method: Method,
    /// When it is sent: what signatures say.
    pub at: Timestamp,
    /// Where it goes. Judged already.
    pub url: CheckedUrl,
    /// Header fields.
    pub headers: HeaderMap,
    /// The body, if any.
    pub body: Option<Bytes>,
    /// Placeholder of the connection whose placements are to be applied.
    pub credential: Option<String>,
    /// The signatures that were made for it, by connection: whoever has one may send the request again.
    pub signatures: Vec<(String, SecretString)>,
}

/// One secret that was put into a request: what the audit records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialUse {
    /// The connection.
    pub connection: ConnectionId,
    /// Its name.
    pub name: String,
    /// Where the request goes.
    pub origin: Origin,
    /// Where in the request the secret is.
    pub place: Place,
}

/// A place in a request that can hold a secret, or what was made with it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// A member of the JSON body, by RFC 6901 pointer.
    Body(String),
    /// A header field, by lower-case name.
    Header(String),
    /// The log-in of a protocol other than HTTP.
    Login,
    /// A query parameter, by name.
    Query(String),
    /// A signature; the secret itself is not sent.
    Signature,
}

impl RunCredentials {
    /// Takes the connections of one run.
    ///
    /// # Errors
    /// [`RedactError`] if the secrets cannot be searched for in responses: then nothing may be sent with them.
    pub fn new(connections: Vec<RunConnection>) -> Result<Self, RedactError> {
        Self::masking(connections, &[])
    }

    /// As [`RunCredentials::new`]; secrets that are no longer to be used, with the names of their connections, are masked as well.
    pub(crate) fn masking(
        connections: Vec<RunConnection>,
        others: &[(String, SecretString)],
    ) -> Result<Self, RedactError> {
        let secrets = connections.iter().flat_map(|bound| {
            let name = bound.connection.name();
            let fields = bound.connection.value().fields().into_iter().filter_map(|(_, field)| match field {
                Field::Secret(secret) => Some(secret),
                Field::Clear(_) => None,
            });
            // Those that no request carries are searched for as well.
            fields.chain(bound.connection.hidden_secrets()).map(move |secret| (name, secret)).collect::<Vec<_>>()
        });
        let others = others.iter().map(|(name, secret)| (name.as_str(), secret));
        let redactor = Redactor::new(secrets.chain(others))?;
        let placeholders = connections
            .iter()
            .enumerate()
            .flat_map(|(index, bound)| {
                let texts = bound.placeholders.iter();
                texts.map(move |(text, stands)| (text.clone(), (index, stands.clone())))
            })
            .collect();
        Ok(Self {
            connections: connections.into(),
            placeholders: Arc::new(placeholders),
            redactor: Arc::new(redactor),
            ..Self::default()
        })
    }

    /// The connection that a placeholder of this run stands for, whether for all of it or for a field.
    #[cfg(any(feature = "tls", feature = "objects"))]
    pub(super) fn connection(&self, placeholder: &str) -> Option<&RunConnection> {
        self.placeholders.get(placeholder).and_then(|(index, _)| self.connections.get(*index))
    }

    /// Masks the secrets of these connections in anything that leaves the run.
    #[must_use]
    pub fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    /// Whether `text` holds a placeholder of this run.
    #[must_use]
    pub fn mentioned_in(&self, text: &str) -> bool {
        self.known(text).next().is_some() || self.unusable_in(text).is_some()
    }

    /// Every placeholder of this run.
    pub(crate) fn placeholders(&self) -> impl Iterator<Item = &str> {
        self.placeholders.keys().chain(self.unusable.keys()).map(String::as_str)
    }

    /// Whether the connection this placeholder stands for puts a secret into the body.
    #[must_use]
    pub fn places_in_body(&self, placeholder: &str) -> bool {
        let bound = self.placeholders.get(placeholder).and_then(|(index, _)| self.connections.get(*index));
        bound.is_some_and(|bound| {
            bound.connection.placements().iter().any(|placement| matches!(placement, Placement::Body { .. }))
        })
    }

    /// Puts the secrets in: those of [`PreparedRequest::credential`] wherever its connection places them, those of
    /// placeholders inside header values (also of basic authentication, in base64), query values and strings of a JSON body where
    /// the connection declares exactly that place. Placeholders of other runs are text like any other.
    ///
    /// After an error the request must not be sent.
    ///
    /// # Errors
    /// [`HttpError::Credential`] names connection and place, and says what to declare.
    pub fn apply(&self, request: &mut PreparedRequest) -> Result<Vec<CredentialUse>, HttpError> {
        let mut uses = Vec::new();
        self.refuse_unusable(request)?;
        self.refuse_elsewhere(request)?;
        self.fill_headers(request, &mut uses)?;
        self.fill_basic(request, &mut uses)?;
        self.fill_query(request, &mut uses)?;
        self.fill_body(request, &mut uses)?;
        if let Some(text) = request.credential.take() {
            let Some((index, _)) = self.placeholders.get(&text) else {
                return Err(refuse("the request names a credential this run does not have"));
            };
            if let Some(bound) = self.connections.get(*index) {
                bound.place_all(request, &mut uses)?;
            }
        }
        self.check_uses(&uses)?;
        Ok(uses)
    }

    /// Places no connection can declare.
    fn refuse_elsewhere(&self, request: &PreparedRequest) -> Result<(), HttpError> {
        let url = request.url.as_url();
        let elsewhere = |place: &str| {
            Err(refuse(format!(
                "a credential stands in the {place}; it may go to a header, a query value or a JSON body"
            )))
        };
        let host = url.host_str().unwrap_or_default(); // Lower-cased by the parser; paths may be percent-encoded.
        let lower = |text: &str| text.contains(CredentialRef::PREFIX) && self.any_in_lower_case(text);
        if lower(host) {
            return elsewhere("host");
        }
        if self.mentioned_in(&place::percent_decoded(url.path())) {
            return elsewhere("path");
        }
        if url.fragment().is_some_and(|fragment| self.mentioned_in(&place::percent_decoded(fragment))) {
            return elsewhere("fragment");
        }
        if request.headers.keys().any(|name| lower(name.as_str())) {
            return elsewhere("name of a header");
        }
        Ok(())
    }

    fn any_in_lower_case(&self, text: &str) -> bool {
        self.placeholders.keys().any(|placeholder| text.contains(&placeholder.to_ascii_lowercase()))
    }

    fn fill_headers(&self, request: &mut PreparedRequest, uses: &mut Vec<CredentialUse>) -> Result<(), HttpError> {
        for (name, value) in &mut request.headers {
            let Ok(text) = value.to_str() else { continue };
            let mut filled = Vec::new();
            for (range, bound, stands) in self.known(text) {
                let place = Place::Header(name.as_str().to_owned());
                let (field, secret) = bound.secret(stands)?;
                if !bound.declares_header(name, field, text, &range) {
                    return Err(bound.undeclared(&place, field));
                }
                uses.push(bound.used(request.url.origin(), place)?);
                filled.push((range, secret));
            }
            if !filled.is_empty() {
                *value = place::header_value(text, &filled).map_err(|error| in_header(name, error))?;
            }
        }
        Ok(())
    }

    fn fill_query(&self, request: &mut PreparedRequest, uses: &mut Vec<CredentialUse>) -> Result<(), HttpError> {
        let Some(query) = request.url.as_url().query().map(str::to_owned) else { return Ok(()) };
        let mut found = false;
        let mut parts = Vec::new();
        for part in query.split('&') {
            let (name, value) = place::decoded_pair(part);
            if self.mentioned_in(&name) {
                return Err(refuse("a credential stands in the name of a query parameter; it may only be a value"));
            }
            let (raw_name, raw) = part.split_once('=').unwrap_or((part, ""));
            let mut filled = Vec::new();
            for (range, bound, stands) in self.known(raw) {
                if place::cuts_percent_escape(raw, range.start) {
                    return Err(refuse("a percent escape in the query runs into a credential"));
                }
                let place = Place::Query(name.to_string());
                let (field, secret) = bound.secret(stands)?;
                let declared = |placement: &Placement| matches!(placement, Placement::Query { name: at, field: of } if *at == *name && of == field);
                if !bound.connection.placements().iter().any(declared) {
                    return Err(bound.undeclared(&place, field));
                }
                place::fits_query(uses, secret.expose_secret()).map_err(|error| bound.cannot(&place, error))?;
                uses.push(bound.used(request.url.origin(), place)?);
                filled.push((range, secret));
            }
            if filled.is_empty() {
                if self.mentioned_in(&value) {
                    return Err(encoded_query());
                }
                parts.push(part.to_owned());
                continue;
            }
            found = true;
            let rest: Vec<_> = place::around(raw, &filled).collect();
            if self.mentioned_in(&place::percent_decoded(&rest.join("="))) {
                return Err(encoded_query());
            }
            let value = place::filled(raw, &filled, |secret, out| {
                out.extend(form_urlencoded::byte_serialize(secret.as_bytes()).flat_map(str::bytes))
            });
            parts.push(format!("{raw_name}={}", String::from_utf8_lossy(&value)));
        }
        if found {
            request.url = request.url.clone().with_query(&parts.join("&"));
        }
        Ok(())
    }

    fn fill_body(&self, request: &mut PreparedRequest, uses: &mut Vec<CredentialUse>) -> Result<(), HttpError> {
        let Some(text) = request.body.as_deref().and_then(|body| std::str::from_utf8(body).ok()) else { return Ok(()) };
        let found: Vec<_> = self.known(text).collect();
        // Without an escape, what is not in the text is in none of its strings either.
        if self.placeholders.is_empty() || (found.is_empty() && !text.contains('\\')) {
            return Ok(());
        }
        let ranges: Vec<_> = found.iter().map(|(range, ..)| range.clone()).collect();
        let marked = MarkedText::new(text, &ranges);
        let json = match json::parse(marked.as_str().as_bytes(), &body_limits()) {
            Ok(json) => json,
            // Nothing is filled in, so it does not matter how the peer reads it.
            Err(_) if found.is_empty() => return Ok(()),
            Err(error) => return Err(unreadable_body(&error)),
        };
        let mut met = vec![false; found.len()];
        place::walk_strings(&json, &mut |pointer, string| {
            if self.mentioned_in(string) {
                return Err(refuse("a credential is spelled with escapes in the JSON body; write its text as it is"));
            }
            for mark in marked.marks_in(string) {
                let (_, bound, stands) = mark.and_then(|index| found.get(index)).ok_or_else(ambiguous_body)?;
                let pointer = pointer.ok_or_else(|| {
                    refuse("a credential stands in the name of a JSON member; it may only be in a value")
                })?;
                let seen = mark.and_then(|index| met.get_mut(index)).ok_or_else(ambiguous_body)?;
                if std::mem::replace(seen, true) {
                    return Err(ambiguous_body());
                }
                let place = Place::Body(pointer.to_owned());
                let (field, _) = bound.secret(stands)?;
                let declared = |placement: &Placement| matches!(placement, Placement::Body { pointer: at, field: of } if at == pointer && of == field);
                if !bound.connection.placements().iter().any(declared) {
                    return Err(bound.undeclared(&place, field));
                }
                uses.push(bound.used(request.url.origin(), place)?);
            }
            Ok(())
        })?;
        if !met.into_iter().all(|met| met) {
            return Err(ambiguous_body());
        }
        if found.is_empty() {
            return Ok(());
        }
        let mut filled = Vec::with_capacity(found.len());
        for (range, bound, stands) in found {
            filled.push((range, bound.secret(stands)?.1));
        }
        request.body = Some(Bytes::from_owner(place::filled(text, &filled, place::json_escape)));
        Ok(())
    }

    /// A connection whose placeholder stands in `text` and that is not for `piece`.
    pub(crate) fn not_for(&self, piece: &str, text: &str) -> Option<String> {
        let serves = |pieces: &[String]| pieces.is_empty() || pieces.iter().any(|one| one == piece);
        let bound = self.known(text).map(|(_, bound, _)| &bound.connection);
        bound
            .filter(|connection| !serves(&connection.terms().pieces))
            .map(|connection| connection.name().to_owned())
            .next()
    }

    /// The secret that exactly this placeholder stands for, to be used as a key by code.
    pub(crate) fn key_for_code(&self, placeholder: &str) -> Option<Result<SecretString, HttpError>> {
        let known = self.placeholders.contains_key(placeholder) || self.unusable.contains_key(placeholder);
        known.then(|| self.key(placeholder).cloned())
    }

    /// The secret that exactly this placeholder stands for, to be used as a key.
    pub(super) fn key(&self, placeholder: &str) -> Result<&SecretString, HttpError> {
        if let Some(refused) = self.unusable(placeholder) {
            return Err(refused);
        }
        let known = self.placeholders.get(placeholder);
        let found = known.and_then(|(index, stands)| Some((self.connections.get(*index)?, stands)));
        let (bound, stands) = found.ok_or_else(|| {
            refuse("a key is the placeholder of a credential that this run has, and nothing beside it")
        })?;
        // Signing what a flow likes is as good as having the secret, wherever it serves to sign: nobody falls into that.
        if !bound.connection.terms().pieces.iter().any(|piece| piece == KEY_PIECE) {
            let name = bound.connection.name();
            return Err(refuse(format!(
                "connection `{name}` is no key: name `{KEY_PIECE}` among the pieces it is for"
            )));
        }
        self.check_use(bound)?;
        Ok(bound.secret(stands)?.1)
    }

    /// The placeholders of this run in `text`, from left to right. Of two that overlap only the first: what is left of the other
    /// once that is filled in is no placeholder any more.
    pub(super) fn known<'s>(
        &'s self,
        text: &'s str,
    ) -> impl Iterator<Item = (std::ops::Range<usize>, &'s RunConnection, &'s Stands)> + 's {
        let mut end = 0;
        find_placeholders(text).filter_map(move |range| {
            let (index, stands) = self.placeholders.get(text.get(range.clone())?)?;
            let bound = self.connections.get(*index)?;
            if range.start < end {
                return None;
            }
            end = range.end;
            Some((range, bound, stands))
        })
    }
}

impl RunConnection {
    /// Whether a placement allows `field` in this header. By the bearer placement only as `Bearer <secret>`.
    fn declares_header(&self, name: &HeaderName, field: &str, text: &str, at: &std::ops::Range<usize>) -> bool {
        self.connection.placements().iter().any(|placement| match placement {
            Placement::Header { name: declared, field: of } => {
                of == field && name.as_str().eq_ignore_ascii_case(declared)
            }
            Placement::Bearer { field: of } => {
                let scheme = text.get(..at.start).is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer "));
                of == field && name == AUTHORIZATION && scheme && at.end == text.len()
            }
            _ => false,
        })
    }

    /// The secret a placeholder inside text stands for, with its field.
    pub(super) fn secret(&self, stands: &Stands) -> Result<(&str, &SecretString), HttpError> {
        let found = match stands {
            Stands::Whole => self.connection.value().single_secret(),
            Stands::Field(wanted) => {
                self.connection.value().fields().into_iter().find_map(|(name, field)| match field {
                    Field::Secret(secret) if name == wanted => Some((name, secret)),
                    Field::Secret(_) | Field::Clear(_) => None,
                })
            }
        };
        found.ok_or_else(|| {
            let name = self.connection.name();
            if self.connection.value().references().next().is_some() {
                return refuse(format!(
                    "the secret of connection `{name}` is kept elsewhere and could not be read: try again, or let whoever runs the \
                     product look after it"
                ));
            }
            if self.connection.oauth().is_some_and(|oauth| oauth.tokens().is_none()) {
                return refuse(format!("connection `{name}` is not connected yet: its owner must authorise it"));
            }
            refuse(format!("connection `{name}` has no single secret: write `connections.{name}.` and a secret field"))
        })
    }

    /// A secret field.
    pub(super) fn secret_field(&self, wanted: &str) -> Option<&SecretString> {
        self.connection.value().fields().into_iter().find_map(|(name, field)| match field {
            Field::Secret(secret) if name == wanted => Some(secret),
            Field::Secret(_) | Field::Clear(_) => None,
        })
    }

    /// The text of a field, secret or not.
    pub(super) fn text(&self, wanted: &str) -> Result<&str, HttpError> {
        let fields = self.connection.value().fields();
        let found = fields.into_iter().find(|(name, _)| *name == wanted).map(|(_, field)| match field {
            Field::Clear(text) => text,
            Field::Secret(secret) => secret.expose_secret(),
        });
        found.ok_or_else(|| refuse(format!("connection `{}` has no field `{wanted}`", self.connection.name())))
    }

    /// Records a use, unless the connection is not bound to the origin.
    pub(super) fn used(&self, origin: &Origin, place: Place) -> Result<CredentialUse, HttpError> {
        let name = self.connection.name();
        if self.connection.origins().contains(origin) {
            return Ok(CredentialUse { connection: self.id, name: name.to_owned(), origin: origin.clone(), place });
        }
        Err(refuse(format!(
            "connection `{name}` is not bound to `{}`: add that to the connection's origins to let its secret go there",
            origin.as_str()
        )))
    }

    fn undeclared(&self, place: &Place, field: &str) -> HttpError {
        let name = self.connection.name();
        refuse(format!(
            "connection `{name}` does not allow its field `{field}` in the {place}: declare {} for it",
            place.declaration()
        ))
    }

    pub(super) fn cannot(&self, place: &Place, error: PlaceError) -> HttpError {
        refuse(format!("the secret of connection `{}` cannot go to the {place}: {error}", self.connection.name()))
    }
}

impl Place {
    const fn declaration(&self) -> &'static str {
        match self {
            Self::Body(_) => "a `body` placement with this pointer",
            Self::Header(_) => "a `header` placement (or `bearer`, for `Authorization: Bearer …`)",
            Self::Query(_) => "a `query` placement with this name",
            Self::Login | Self::Signature => "nothing: it is never in text",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body(pointer) => write!(f, "body member `{pointer}`"),
            Self::Header(name) => write!(f, "header `{name}`"),
            Self::Login => f.write_str("log-in"),
            Self::Query(name) => write!(f, "query parameter `{name}`"),
            Self::Signature => f.write_str("signature"),
        }
    }
}

impl fmt::Debug for RunCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunCredentials").field("connections", &self.connections.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for PreparedRequest {
    /// Prints the origin and sizes: everything else may hold a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedRequest")
            .field("url", &self.url)
            .field("headers", &self.headers.len())
            .field("body_bytes", &self.body.as_ref().map(Bytes::len))
            .finish_non_exhaustive()
    }
}

pub(super) fn refuse(reason: impl Into<String>) -> HttpError {
    HttpError::Credential { reason: reason.into() }
}

fn in_header(name: &HeaderName, error: PlaceError) -> HttpError {
    refuse(format!("the credential cannot go to the header `{name}`: {error}"))
}

/// The piece whose connections are keys.
pub(crate) const KEY_PIECE: &str = "crypto";

/// One reading only: a member that is there twice would be judged as one value and may be read as the other.
const fn body_limits() -> JsonLimits {
    JsonLimits::payload().with_max_bytes(usize::MAX).with_duplicate_keys(DuplicateKeys::Refuse)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::egress::guard::EgressPolicy;
    use ap_core::connection::{ConnectionValue, FieldValue};

    pub(crate) const CANARY: &str = "canary/S3cr3t+v4lue";

    /// A placeholder in the exact form; which run made it does not matter here.
    pub(crate) fn placeholder(digit: char) -> String {
        format!("apcred_{}A", digit.to_string().repeat(42))
    }

    pub(crate) fn bound(
        name: &str,
        fields: &[(&str, &str)],
        placements: Vec<Placement>,
        origin: &str,
        placeholders: Vec<(String, Stands)>,
    ) -> RunConnection {
        let secret = |(name, value): &(&str, &str)| ((*name).to_owned(), FieldValue::Secret((*value).into()));
        let value = ConnectionValue::CustomAuth { fields: fields.iter().map(secret).collect() };
        let origins = vec![Origin::of_url(origin).expect("origin")];
        let connection = Connection::new(name, value, placements, origins).expect("connection");
        RunConnection { id: ConnectionId::from_u128(7), connection, placeholders }
    }

    pub(crate) fn one(placements: Vec<Placement>, origin: &str) -> RunCredentials {
        let placeholders =
            vec![(placeholder('w'), Stands::Whole), (placeholder('t'), Stands::Field("token".to_owned()))];
        RunCredentials::new(vec![bound("api", &[("token", CANARY)], placements, origin, placeholders)]).expect("long")
    }

    fn field(make: impl FnOnce(String) -> Placement) -> Vec<Placement> {
        vec![make("token".to_owned())]
    }

    fn query(name: &str) -> Vec<Placement> {
        field(|field| Placement::Query { name: name.to_owned(), field })
    }

    fn header(name: &str) -> Vec<Placement> {
        field(|field| Placement::Header { name: name.to_owned(), field })
    }

    fn body(pointer: &str) -> Vec<Placement> {
        field(|field| Placement::Body { pointer: pointer.to_owned(), field })
    }

    fn request(url: &str, headers: &[(&str, &str)], body: Option<&str>) -> PreparedRequest {
        PreparedRequest {
            method: Method::POST,
            at: Timestamp::EPOCH,
            url: CheckedUrl::parse(url, &EgressPolicy::new()).expect("public"),
            headers: headers
                .iter()
                .map(|(name, value)| (name.parse().expect("name"), value.parse().expect("value")))
                .collect::<Vec<(HeaderName, http::HeaderValue)>>()
                .into_iter()
                .collect(),
            body: body.map(|text| Bytes::copy_from_slice(text.as_bytes())),
            credential: None,
            signatures: Vec::new(),
        }
    }

    fn reason(error: HttpError) -> String {
        assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
        match error {
            HttpError::Credential { reason } => reason,
            other => panic!("{other:?}"),
        }
    }

    const API: &str = "https://api.example";

    #[test]
    fn a_credential_goes_to_every_placement() {
        let placements =
            [vec![], header("X-Key"), query("key"), body("/auth/token"), field(|field| Placement::Bearer { field })]
                .concat();
        let run = one(placements, API);
        for text in [placeholder('w'), placeholder('t')] {
            let mut out = request("https://api.example/p?a=b%2Bc", &[], Some(r#"{"n":1.10}"#));
            out.credential = Some(text);
            let uses = run.apply(&mut out).expect("declared");
            assert_eq!(out.headers["x-key"], CANARY);
            assert_eq!(out.headers["authorization"], format!("Bearer {CANARY}"));
            assert_eq!(out.url.as_url().query(), Some("a=b%2Bc&key=canary%2FS3cr3t%2Bv4lue"));
            assert_eq!(out.body.as_deref(), Some(format!(r#"{{"n":1.10,"auth":{{"token":"{CANARY}"}}}}"#).as_bytes()));
            let places: Vec<_> = uses.iter().map(|used| used.place.to_string()).collect();
            let expected =
                ["header `x-key`", "query parameter `key`", "body member `/auth/token`", "header `authorization`"];
            assert_eq!(places, expected);
            assert!(uses.iter().all(|used| used.name == "api" && used.origin.as_str() == API));
            assert!(out.headers.values().all(http::HeaderValue::is_sensitive));
            assert!(!format!("{out:?} {run:?} {uses:?}").contains("canary"));
        }
    }

    #[test]
    fn basic_takes_both_fields() {
        let value = ConnectionValue::BasicAuth { username: "Aladdin".to_owned(), password: "open sesame".into() };
        let origins = vec![Origin::of_url(API).expect("origin")];
        let connection = Connection::new("login", value, vec![], origins).expect("connection");
        let placeholders = vec![(placeholder('w'), Stands::Whole)];
        let id = ConnectionId::from_u128(1);
        let run = RunCredentials::new(vec![RunConnection { id, connection, placeholders }]).expect("long");
        let mut out = request(API, &[], None);
        out.credential = Some(placeholder('w'));
        assert_eq!(run.apply(&mut out).expect("declared").len(), 1);
        assert_eq!(out.headers["authorization"], "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    }

    #[test]
    fn text_is_filled_where_a_placement_allows_it() {
        let (whole, token) = (placeholder('w'), placeholder('t'));
        let bearer = || field(|field| Placement::Bearer { field });
        for text in [&whole, &token] {
            let fill = |placements, url: &str, headers: &[(&str, &str)], body: Option<&str>| {
                let mut out = request(url, headers, body);
                one(placements, API).apply(&mut out).map(|uses| (out, uses.len())).map_err(reason)
            };
            let ok = |placements, url: &str, headers: &[(&str, &str)], body: Option<&str>| {
                let (out, uses) = fill(placements, url, headers, body).expect("declared");
                assert_eq!(uses, 1);
                out
            };
            let value = format!("Bearer {text}");
            assert_eq!(
                ok(bearer(), API, &[("Authorization", &value)], None).headers["authorization"],
                format!("Bearer {CANARY}")
            );
            let value = format!("key={text};v=1");
            assert_eq!(
                ok(header("x-KEY"), API, &[("X-Key", &value)], None).headers["x-key"],
                format!("key={CANARY};v=1")
            );
            let url = format!("{API}/?x=%20y&k={text}.&z");
            assert_eq!(
                ok(query("k"), &url, &[], None).url.as_url().query(),
                Some("x=%20y&k=canary%2FS3cr3t%2Bv4lue.&z")
            );
            let json = format!(r#"{{"n":12345678901234567890123,"a":["x",{{"b~/":"<{text}>"}}]}}"#);
            let out = ok(body("/a/1/b~0~1"), API, &[], Some(&json));
            assert_eq!(out.body.as_deref(), Some(json.replace(text.as_str(), CANARY).as_bytes()));

            for (placements, url, headers, body, expected) in [
                (
                    bearer(),
                    API.to_owned(),
                    vec![("Authorization", format!("Token {text}"))],
                    None,
                    "header `authorization`",
                ),
                (bearer(), API.to_owned(), vec![("Authorization", text.clone())], None, "header `authorization`"),
                (
                    bearer(),
                    API.to_owned(),
                    vec![("Authorization", format!("Bearer {text} x"))],
                    None,
                    "header `authorization`",
                ),
                (bearer(), API.to_owned(), vec![("X-Key", format!("Bearer {text}"))], None, "header `x-key`"),
                (header("X-Key"), API.to_owned(), vec![("X-Other", text.clone())], None, "header `x-other`"),
                (query("k"), format!("{API}/?other={text}"), vec![], None, "query parameter `other`"),
                (query("k"), format!("{API}/?k=1&K={text}"), vec![], None, "query parameter `K`"),
                (query("k"), format!("{API}/?{text}=1"), vec![], None, "name of a query parameter"),
                (query("k"), format!("{API}/?k=1&%61{}=1", &text[1..]), vec![], None, "name of a query parameter"),
                (query("k"), format!("{API}/{text}"), vec![], None, "path"),
                (query("k"), format!("{API}/x=&%61{}", &text[1..]), vec![], None, "path"),
                (query("k"), format!("{API}/#{text}"), vec![], None, "fragment"),
                (query("k"), format!("https://{text}.api.example/"), vec![], None, "host"),
                (query("k"), API.to_owned(), vec![(text.as_str(), "1".to_owned())], None, "name of a header"),
                (body("/a"), API.to_owned(), vec![], Some(format!(r#"{{"b":"{text}"}}"#)), "body member `/b`"),
                (body("/a"), API.to_owned(), vec![], Some(format!(r#"{{"{text}":1}}"#)), "name of a JSON member"),
                (body("/a"), API.to_owned(), vec![], Some(format!(r#"{{"b":"{text}","b":1,"a":"x"}}"#)), "there twice"),
                (
                    body("/a"),
                    API.to_owned(),
                    vec![],
                    Some(format!(r#"{{"a":{{"b":"{text}"}}}}"#)),
                    "body member `/a/b`",
                ),
                (body("/a"), API.to_owned(), vec![], Some(format!("a={text}")), "no JSON"),
                (
                    bearer(),
                    "https://other.example".to_owned(),
                    vec![("Authorization", format!("Bearer {text}"))],
                    None,
                    "not bound to `https://other.example`",
                ),
                (
                    bearer(),
                    "http://api.example".to_owned(),
                    vec![("Authorization", format!("Bearer {text}"))],
                    None,
                    "not bound to `http://api.example`",
                ),
                (
                    bearer(),
                    "https://api.example:8443".to_owned(),
                    vec![("Authorization", format!("Bearer {text}"))],
                    None,
                    "not bound to",
                ),
                (query("k"), format!("https://api.example.evil.example/?k={text}"), vec![], None, "not bound to"),
            ] {
                let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
                let refused = fill(placements, &url, &headers, body.as_deref()).expect_err(&url);
                assert!(refused.contains(expected), "{url}: {refused}");
            }
        }
    }

    /// `A` may go to the member `/token` of `https://evil.example`, `B` to a header of another origin.
    fn two_owners() -> (RunCredentials, String, String) {
        let (a, b) = (placeholder('a'), placeholder('b'));
        let attacker = [("token", "attackers-own-secret")];
        let connections = vec![
            bound("a", &attacker, body("/token"), "https://evil.example", vec![(a.clone(), Stands::Whole)]),
            bound("b", &[("token", CANARY)], header("X-Key"), API, vec![(b.clone(), Stands::Whole)]),
        ];
        (RunCredentials::new(connections).expect("long"), a, b)
    }

    #[test]
    fn a_body_is_judged_where_each_placeholder_really_stands() {
        let (run, a, b) = two_owners();
        let escaped = |text: &str| format!("\\u0061{}", &text[1..]);
        for (json, expected) in [
            (format!(r#"{{"x":"{b}","token":"{}","x":0}}"#, escaped(&a)), "there twice"),
            (format!(r#"{{"x":"{b}","token":"{a}","x":0}}"#), "there twice"),
            (format!(r#"{{"{b}":1,"token":"{}"}}"#, escaped(&a)), "spelled with escapes"),
            (format!(r#"{{"{b}":1,"token":"{a}"}}"#), "name of a JSON member"),
            (format!(r#"{{"text":"\u000{b}","token":"{}"}}"#, escaped(&a)), "no JSON"),
            (format!(r#"{{"text":"\u00{b}","token":"{a}"}}"#), "no JSON"),
            (format!(r#"{{"text":"\{b}","token":"{a}"}}"#), "no JSON"),
            (format!(r#"{{"token":"{}"}}"#, escaped(&a)), "spelled with escapes"),
            (format!(r#"{{"token":"{a}","{}":1}}"#, escaped(&b)), "spelled with escapes"),
            (format!(r#"{{"token":"{a}{b}"}}"#), "connection `b`"),
            (format!(r#"{{"token":"{a}","x":"{b}"}}"#), "connection `b`"),
            (format!(r#"{{"token":"{b}"}}"#), "connection `b`"),
            (format!(r#"{{"token":1,"token":"{a}"}}"#), "there twice"),
            (format!(r#"{{"x":{{"\u0079":1,"y":2}},"token":"{a}"}}"#), "there twice"),
            (format!(r#"{{"token":{a}}}"#), "no JSON"),
            (format!(r#"{{"token":"{a}"}} {{}}"#), "no JSON"),
        ] {
            let mut out = request("https://evil.example", &[], Some(&json));
            let refused = run.apply(&mut out).map_err(reason).expect_err(&json);
            assert!(refused.contains(expected), "{json}: {refused}");
            assert_eq!(out.body.as_deref(), Some(json.as_bytes()));
        }
    }

    #[test]
    fn a_body_keeps_its_spelling_around_a_secret() {
        let (run, a, _) = two_owners();
        for json in [
            format!(r#" {{"n":1.10,"big":123456789012345678901234567890,"e":1E+2,"token":"{a}","s":"\u00e9\/\n"}} "#),
            format!(r#"{{"token":"\n{a}\u000a{a}","z":["z0"]}}"#),
            format!(r#"{{"\u0074oken":"<{a}>"}}"#),
        ] {
            let mut out = request("https://evil.example", &[], Some(&json));
            let uses = run.apply(&mut out).expect(&json);
            assert_eq!(uses.len(), json.matches(&a).count());
            assert_eq!(out.body.as_deref(), Some(json.replace(&a, "attackers-own-secret").as_bytes()));
        }
        // Nothing to fill in: the body may be anything, and stays as it is.
        for other in [r"no json \", r#"{"a":"\u0061","a":1}"#, r#"{"a":"\n"}"#] {
            let mut out = request(API, &[], Some(other));
            assert_eq!(run.apply(&mut out), Ok(vec![]));
            assert_eq!(out.body.as_deref(), Some(other.as_bytes()));
        }
    }

    #[test]
    fn a_query_value_is_filled_only_where_the_text_stands_as_it_is() {
        let text = placeholder('w');
        let encoded = format!("%61{}", &text[1..]);
        let apply = |query_text: String| {
            let mut out = request(&format!("{API}/?{query_text}"), &[], None);
            one(query("k"), API).apply(&mut out).map(|uses| (out, uses.len())).map_err(reason)
        };
        let secret = "canary%2FS3cr3t%2Bv4lue";
        for (before, after, count) in [
            (format!("a=%20+&k={text}"), format!("a=%20+&k={secret}"), 1),
            (format!("%6B=%2f+x{text}.{text}=%2b"), format!("%6B=%2f+x{secret}.{secret}=%2b"), 2),
            (format!("k=%2522{text}"), format!("k=%2522{secret}"), 1),
        ] {
            let (out, uses) = apply(before).expect("declared");
            assert_eq!((out.url.as_url().query(), uses), (Some(after.as_str()), count));
        }
        for (wrong, expected) in [
            (format!("k={encoded}"), "percent escapes"),
            (format!("other={encoded}"), "percent escapes"),
            (format!("k={text}{encoded}"), "percent escapes"),
            (format!("k={encoded}{text}"), "percent escapes"),
            (format!("k=%{text}"), "runs into"),
            (format!("k=%2{text}"), "runs into"),
            (format!("k=1&{encoded}=1"), "name of a query parameter"),
        ] {
            let refused = apply(wrong.clone()).map(|(_, uses)| uses).expect_err(&wrong);
            assert!(refused.contains(expected), "{wrong}: {refused}");
        }
    }

    #[test]
    fn placeholders_of_other_runs_are_text() {
        let run = one(header("X-Key"), API);
        let foreign = placeholder('f');
        let json = format!(r#"{{"a":"{foreign}"}}"#);
        let url = format!("https://other.example/{foreign}?q={foreign}");
        let mut out = request(&url, &[("X-Key", &foreign)], Some(&json));
        assert_eq!(run.apply(&mut out), Ok(vec![]));
        assert_eq!(out.headers["x-key"], foreign.as_str());
        assert_eq!((out.url.as_url().as_str(), out.body.as_deref()), (url.as_str(), Some(json.as_bytes())));
        out.credential = Some(foreign);
        assert!(reason(run.apply(&mut out).expect_err("unknown")).contains("does not have"));
    }

    /// Whoever writes the URL could else measure the secret by it.
    #[test]
    fn the_length_of_a_url_says_nothing_of_a_secrets_length() {
        let text = placeholder('w');
        let apply = |secret: &str, padding: usize, times: usize| {
            let placeholders = vec![(text.clone(), Stands::Whole)];
            let run = vec![bound("api", &[("token", secret)], query("k"), API, placeholders)];
            let run = RunCredentials::new(run).expect("long");
            let values = vec![format!("k={text}"); times].join("&");
            let url = format!("{API}/?p={}&{values}", "x".repeat(padding));
            let mut in_text = request(&url, &[], None);
            let mut placed = request(&format!("{API}/?p={}", "x".repeat(padding)), &[], None);
            placed.credential = Some(text.clone());
            assert!(run.apply(&mut placed).is_ok() || secret.len() > 2730, "{padding}");
            run.apply(&mut in_text).map(|_| in_text.url.as_url().as_str().len()).map_err(reason)
        };
        // 8 KiB of the author's, and whatever the secret has.
        let longest = 8192 - format!("{API}/?p=&k={text}").len();
        for secret in ["12345678", &"s".repeat(100), &"\u{e9}".repeat(1365)] {
            for padding in [0, 8000, longest] {
                assert!(apply(secret, padding, 1).is_ok(), "{padding}");
            }
        }
        // A secret is too long for any URL or for none, and so many fit into each.
        for padding in [0, 7000] {
            assert_eq!(apply(&"s".repeat(8192), padding, 4).map(|length| length > 4 * 8192), Ok(true));
            assert!(apply(&"s".repeat(8193), padding, 1).expect_err("long").contains("at most 8192 bytes"));
            assert!(apply("12345678", padding, 5).expect_err("many").contains("at most 4 secrets"));
        }
    }

    #[test]
    fn nothing_hides_a_placeholder() {
        let run = one(header("X-Key"), API);
        // What stands before has the form of a placeholder, with the beginning of the live one for its last digits.
        let hidden = format!("apcred_{}{}", "A".repeat(40), placeholder('w'));
        assert!(CredentialRef::looks_like(&hidden[..CredentialRef::BYTES]) && run.mentioned_in(&hidden));
        for (url, headers, body, expected) in [
            (API.to_owned(), vec![("X-Other", hidden.as_str())], None, "header `x-other`"),
            (format!("{API}/{hidden}"), vec![], None, "path"),
            (format!("{API}/?q={hidden}"), vec![], None, "query parameter `q`"),
            (API.to_owned(), vec![], Some(format!(r#"{{"a":"{hidden}"}}"#)), "body member `/a`"),
        ] {
            let refused = run.apply(&mut request(&url, &headers, body.as_deref())).map_err(reason).expect_err(expected);
            assert!(refused.contains(expected), "{refused}");
        }
        let mut out = request(API, &[("X-Key", &hidden)], None);
        assert_eq!(run.apply(&mut out).map(|uses| uses.len()), Ok(1));
        assert_eq!(out.headers["x-key"], format!("apcred_{}{CANARY}", "A".repeat(40)));
    }

    #[test]
    fn of_two_that_overlap_the_first_is_filled() {
        let (one, two) = (format!("apcred_{}apc", "B".repeat(40)), placeholder('w'));
        let placeholders =
            vec![(one.clone(), Stands::Field("token".to_owned())), (two.clone(), Stands::Field("other".to_owned()))];
        let fields = [("token", CANARY), ("other", "another-secret")];
        let run = vec![bound("api", &fields, header("X-Key"), API, placeholders)];
        let run = RunCredentials::new(run).expect("long");
        let text = format!("{}{two}", &one[..47]);
        assert!(text.starts_with(&one) && text.ends_with(&two));
        let mut out = request(API, &[("X-Key", &text)], None);
        assert_eq!(run.apply(&mut out).map(|uses| uses.len()), Ok(1));
        assert_eq!(out.headers["x-key"], format!("{CANARY}{}", &two[3..]));
        assert!(!run.mentioned_in(out.headers["x-key"].to_str().expect("ASCII")));
    }

    #[test]
    fn what_the_request_sets_itself_is_not_overwritten() {
        for (placements, url, headers, body) in [
            (field(|field| Placement::Bearer { field }), API, vec![("authorization", "x")], None),
            (header("X-Key"), API, vec![("x-key", "x")], None),
            (query("k"), "https://api.example/?k=1", vec![], None),
            (query("k"), "https://api.example/?a=1&%6B", vec![], None),
            (body("/a"), API, vec![], Some(r#"{"a":1}"#)),
        ] {
            let mut out = request(url, &headers, body);
            out.credential = Some(placeholder('w'));
            let refused = reason(one(placements, API).apply(&mut out).expect_err("occupied"));
            assert!(refused.contains("already sets it"), "{refused}");
        }
    }

    #[test]
    fn several_secrets_need_a_field() {
        let placements = field(|field| Placement::Header { name: "X-Key".to_owned(), field });
        let fields = [("token", CANARY), ("other", "another-secret")];
        let placeholders = vec![
            (placeholder('w'), Stands::Whole),
            (placeholder('t'), Stands::Field("token".to_owned())),
            (placeholder('o'), Stands::Field("other".to_owned())),
        ];
        let run = RunCredentials::new(vec![bound("api", &fields, placements, API, placeholders)]).expect("long");
        let apply = |text: &str| run.apply(&mut request(API, &[("X-Key", text)], None)).map_err(reason);
        assert!(apply(&placeholder('t')).is_ok());
        assert!(apply(&placeholder('w')).expect_err("two secrets").contains("no single secret"));
        assert!(apply(&placeholder('o')).expect_err("undeclared").contains("field `other`"));
        assert!(run.redactor().contains(b"another-secret") && run.redactor().contains(CANARY.as_bytes()));
    }

    #[test]
    fn secrets_cannot_inject_headers() {
        for secret in ["s3cr3t-canary\r\nX-Evil: 1", "s3cr3t-canary\n", "s3cr3t-canary\0"] {
            let placeholders = vec![(placeholder('w'), Stands::Whole)];
            let connection = bound("api", &[("token", secret)], header("X-Key"), API, placeholders);
            let run = RunCredentials::new(vec![connection]).expect("long");
            let mut whole = request(API, &[], None);
            whole.credential = Some(placeholder('w'));
            assert!(reason(run.apply(&mut whole).expect_err("placed")).contains("visible ASCII"));
            let mut filled = request(API, &[("X-Key", &placeholder('w'))], None);
            assert!(reason(run.apply(&mut filled).expect_err("filled")).contains("visible ASCII"));
        }
    }
}
