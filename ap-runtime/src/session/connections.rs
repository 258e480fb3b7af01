//! Connections: those of a project.

use ap_auth::{
    audit::AuditEvent,
    permission::{ConnectionDelete, ConnectionRead, ConnectionReveal, ConnectionWrite},
};
use ap_core::{
    connection::{
        Connection, ConnectionError, ConnectionStatus, ConnectionTerms, FaultReason, Field, OAuthTokens, Origin,
        Placement, Rotation, RotationStatus, SecretReference,
    },
    id::{ConnectionId, FlowId},
    property::Properties,
    scope::Scope,
    store::{Entity, Page, PageRequest, Precondition, Revision, StoreError},
    time::Timestamp,
};
use ap_crypto::{
    connection::{decode_connection, encode_connection},
    vault::TenantKeys,
};
use serde::Serialize;
use serde_json::Value;

use super::{ProjectSession, Session, SessionError, records_failed};
use crate::{credentials::Found, records, store::ConnectionRecord};

/// What can be seen of a connection: everything but its secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ConnectionSummary {
    /// Its id.
    pub id: ConnectionId,
    /// The name flows use; what the reference product calls the external id.
    pub name: String,
    /// Its terms: name for people, pieces, end, and whether scripts see its secrets.
    pub terms: ConnectionTerms,
    /// Wire name of its type.
    pub type_name: &'static str,
    /// How it stands now.
    pub status: ConnectionStatus,
    /// What the provider said against it.
    pub fault: Option<FaultReason>,
    /// When its access token ends, if it has one that does.
    pub token_expires: Option<Timestamp>,
    /// Whether it is the platform's, lent to the project.
    pub of_platform: bool,
    /// Names of its clear fields.
    pub clear_fields: Vec<String>,
    /// Names of its secret fields.
    pub secret_fields: Vec<String>,
    /// Where its secrets may be put.
    pub placements: Vec<Placement>,
    /// The origins its secrets may be sent to.
    pub origins: Vec<Origin>,
    /// The change of its secrets that is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotation: Option<RotationStatus>,
    /// When it was last written.
    pub updated: Timestamp,
    /// Its revision.
    pub revision: Revision,
}

/// A flow that names a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ConnectionUsage {
    /// The flow.
    pub flow: FlowId,
    /// Whether its draft names it.
    pub draft: bool,
    /// Whether its published version does.
    pub published: bool,
}

/// What to do with a connection that flows still name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfUsed {
    /// Delete it; the flows fail where they use it.
    DeleteAnyway,
    /// Keep it.
    Refuse,
}

impl ProjectSession {
    /// Stores a connection under its name, replacing one that has it. Needs `connection.write`; for one that is revealed to code,
    /// or was, `connection.reveal` as well.
    ///
    /// Runs under way use the new value with their next request. The name is the host's external id as well: writing under it
    /// again is an upsert. The definition of an OAuth 2.0 client that brings no tokens keeps those of the same client (id, token
    /// endpoint and grant).
    ///
    /// # Errors
    /// [`SessionError::InvalidConnection`] if the token endpoint of an OAuth 2.0 client is at another provider than the page that
    /// owners are sent to; [`SessionError::InvalidArgument`] for a predefined connection, which is the platform's to write, and for one that refers to
    /// secrets of the host;
    /// [`StoreError::Conflict`] if somebody else wrote it at the same time; [`SessionError`] lists the rest.
    pub async fn put_connection(&self, connection: &Connection) -> Result<ConnectionId, SessionError> {
        let proof = self.authorize::<ConnectionWrite, _>(())?;
        let keys = self.keys().await?;
        let owner = Scope::from(proof.target());
        let existing = self.session.own(&keys, owner, connection.name()).await?;
        if connection.terms().predefined {
            return Err(predefined(connection.name()));
        }
        if references(connection).next().is_some() {
            // Whoever could name a secret of the host could send it somewhere.
            let reason =
                "only connections that the host writes may refer to its secrets: give the value itself".to_owned();
            return Err(SessionError::InvalidArgument { reason });
        }
        if let Some(Found { connection, .. }) = &existing {
            refuse_predefined(connection)?;
        }
        self.session.check_provider(owner, connection)?;
        let was_revealed = existing.as_ref().is_some_and(|found| found.connection.terms().reveal_to_code);
        let event = AuditEvent::of(&proof, self.session.parts.kernel.clock.now());
        let event = if connection.terms().reveal_to_code || was_revealed {
            let _reveal = self.authorize::<ConnectionReveal, _>(())?;
            event.with_detail("revealToCode", connection.terms().reveal_to_code)
        } else {
            event
        };
        let _forget = self.session.parts.routes.forget_afterwards(proof.target());
        self.session.write(&keys, owner, existing, connection, event).await
    }

    /// As [`ProjectSession::put_connection`], from JSON: see [`Connection::from_json`] for its forms. Which fields of a
    /// `CUSTOM_AUTH` connection are secret says the piece that `pieceName` names, if it says so.
    ///
    /// # Errors
    /// [`SessionError::InvalidConnection`] names the member at fault; as [`ProjectSession::put_connection`] besides.
    pub async fn put_connection_json(&self, name: &str, json: &[u8]) -> Result<ConnectionId, SessionError> {
        let kernel = &self.session.parts.kernel;
        let schema = self.custom_auth_of(json);
        self.put_connection(&Connection::from_json(name, json, schema.as_ref(), kernel.clock.now())?).await
    }

    /// Lists the project's own connections, without their secrets. Needs `connection.read`.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn connections(&self, page: &PageRequest) -> Result<Page<ConnectionSummary>, SessionError> {
        let proof = self.authorize::<ConnectionRead, _>(())?;
        let keys = self.keys().await?;
        self.session.summaries(&keys, proof.target().into(), page).await
    }

    /// Lists the platform's connections that the project may use. Needs `connection.read`.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn shared_connections(&self, page: &PageRequest) -> Result<Page<ConnectionSummary>, SessionError> {
        let proof = self.authorize::<ConnectionRead, _>(())?;
        let kernel = &self.session.parts.kernel;
        let keys = self.keys().await?;
        let platform = kernel.keyring.tenant(self.session.parts.platform.into()).await?;
        let Page { items, next } = kernel.backend.shared_connections(proof.target(), page).await?;
        let now = kernel.clock.now();
        let summaries = items.iter().map(|(shared, record)| {
            let connection = records::open_shared_connection((&keys, &platform), (shared, record))?;
            Ok(summary(record, &connection, now))
        });
        Ok(Page { items: summaries.collect::<Result<_, SessionError>>()?, next })
    }

    /// Shows one connection, the project's own or one it may use. Needs `connection.read`.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`SessionError`] lists the rest.
    pub async fn connection(&self, name: &str) -> Result<ConnectionSummary, SessionError> {
        let proof = self.authorize::<ConnectionRead, _>(())?;
        let kernel = &self.session.parts.kernel;
        let keys = self.keys().await?;
        let found = kernel.find_connection(&keys, proof.target(), name).await?.ok_or(NOT_FOUND)?;
        Ok(summary(&found.record, &found.connection, kernel.clock.now()))
    }

    /// Gives a connection another name for people. Flows go on using [`ConnectionSummary::name`]. Needs `connection.write`.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`SessionError`] lists the rest.
    pub async fn rename_connection(&self, name: &str, display_name: &str) -> Result<(), SessionError> {
        let proof = self.authorize::<ConnectionWrite, _>(())?;
        let keys = self.keys().await?;
        let owner = Scope::from(proof.target());
        let found = self.session.own(&keys, owner, name).await?.ok_or(NOT_FOUND)?;
        refuse_predefined(&found.connection)?;
        let terms = ConnectionTerms { display_name: Some(display_name.to_owned()), ..found.connection.terms().clone() };
        let Found { record, connection } = found;
        let connection = connection.with_terms(terms)?;
        let event =
            AuditEvent::of(&proof, self.session.parts.kernel.clock.now()).with_detail("displayName", display_name);
        self.session.rewrite(&keys, record, &connection, event).await
    }

    /// Deletes the project's connection of this name. Needs `connection.delete`.
    ///
    /// # Errors
    /// [`SessionError::ConnectionInUse`] if drafts or published versions name it, unless that is no matter;
    /// [`StoreError::NotFound`]; [`SessionError`] lists the rest.
    pub async fn delete_connection(&self, name: &str, if_used: IfUsed) -> Result<(), SessionError> {
        let proof = self.authorize::<ConnectionDelete, _>(())?;
        let kernel = &self.session.parts.kernel;
        let (keys, project) = (self.keys().await?, proof.target());
        let found = self.session.own(&keys, project.into(), name).await?.ok_or(NOT_FOUND)?;
        refuse_predefined(&found.connection)?;
        let used = self.usage(&keys, name).await?;
        if if_used == IfUsed::Refuse && !used.is_empty() {
            return Err(SessionError::ConnectionInUse { flows: used.iter().map(|usage| usage.flow).collect() });
        }
        let event = AuditEvent::of(&proof, kernel.clock.now())
            .with_resource(found.record.id)
            .with_detail("name", name)
            .with_detail("flows", used.len() as u64);
        let audit = [kernel.seal_event(&keys, &event)?];
        let _forget = self.session.parts.routes.forget_afterwards(project);
        let (id, revision) = (found.record.id, found.record.revision);
        kernel.backend.delete_connection(id, project.into(), revision, &audit).await?;
        Ok(())
    }

    /// Which flows name a connection, in their draft or published version. Needs `connection.read`.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn connection_usage(&self, name: &str) -> Result<Vec<ConnectionUsage>, SessionError> {
        let _proof = self.authorize::<ConnectionRead, _>(())?;
        let keys = self.keys().await?;
        self.usage(&keys, name).await
    }

    async fn usage(&self, keys: &TenantKeys, name: &str) -> Result<Vec<ConnectionUsage>, SessionError> {
        let backend = &self.session.parts.kernel.backend;
        let (mut page, mut used) = (PageRequest::first(PageRequest::MAX_LIMIT), Vec::new());
        loop {
            let Page { items, next } = backend.flows(self.project, &page).await?;
            for flow in items {
                let mut names = [false; 2];
                for (version, named) in [flow.draft, flow.published].into_iter().zip(&mut names) {
                    let Some(version) = version else { continue };
                    let record = match backend.flow_version(version, self.project).await {
                        Ok(record) => record,
                        // It was changed in this instant.
                        Err(StoreError::NotFound { .. }) => continue,
                        Err(error) => return Err(error.into()),
                    };
                    let source = records::open_flow_version(keys, &record)?;
                    *named = serde_json::from_slice(&source).is_ok_and(|source| names_connection(&source, name));
                }
                let [draft, published] = names;
                if draft || published {
                    used.push(ConnectionUsage { flow: flow.id, draft, published });
                }
            }
            match next {
                Some(cursor) => page = page.after(cursor),
                None => return Ok(used),
            }
        }
    }

    /// Names of all connections the project may use.
    pub(super) async fn connection_names(&self) -> Result<Vec<String>, SessionError> {
        let kernel = &self.session.parts.kernel;
        let keys = self.keys().await?;
        let (mut page, mut names) = (PageRequest::first(PageRequest::MAX_LIMIT), Vec::new());
        loop {
            let Page { items, next } = kernel.backend.connections(self.project.into(), &page).await?;
            for record in &items {
                names.push(records::open_listed_connection(&keys, record)?.name().to_owned());
            }
            match next {
                Some(cursor) => page = page.after(cursor),
                None => break,
            }
        }
        let platform = kernel.keyring.tenant(self.session.parts.platform.into()).await?;
        let mut page = PageRequest::first(PageRequest::MAX_LIMIT);
        loop {
            let Page { items, next } = kernel.backend.shared_connections(self.project, &page).await?;
            for (shared, record) in &items {
                let connection = records::open_shared_connection((&keys, &platform), (shared, record))?;
                names.push(connection.name().to_owned());
            }
            match next {
                Some(cursor) => page = page.after(cursor),
                None => return Ok(names),
            }
        }
    }

    /// What the piece that the JSON names says about the fields of its connections.
    fn custom_auth_of(&self, json: &[u8]) -> Option<Properties> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Named {
            piece_name: String,
        }
        let Named { piece_name } = serde_json::from_slice(json).ok()?;
        let name = piece_name.strip_prefix("@activepieces/piece-").unwrap_or(&piece_name);
        self.session.parts.kernel.pieces.piece(name)?.custom_auth()
    }
}

impl Session {
    /// Whether a project's owners may be sent where this connection sends them; the platform's own word counts.
    pub(super) fn check_provider(&self, owner: Scope, connection: &Connection) -> Result<(), ConnectionError> {
        let of_project = owner.project().is_some() && !connection.terms().predefined;
        let Some(app) = connection.oauth().and_then(|oauth| oauth.app()).filter(|_| of_project) else { return Ok(()) };
        let checked = self.parts.kernel.providers.check(app);
        checked.map_err(|reason| ConnectionError::Field { field: "tokenUrl".to_owned(), reason })
    }

    /// What `owner` itself has under this name.
    pub(super) async fn own(&self, keys: &TenantKeys, owner: Scope, name: &str) -> Result<Option<Found>, SessionError> {
        match self.parts.kernel.backend.connection(records::connection_name(keys, name), owner).await {
            Ok(record) => {
                let connection = records::open_connection(keys, &record, name)?;
                Ok(Some(Found { record, connection }))
            }
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a connection over what is there, or anew.
    pub(super) async fn write(
        &self,
        keys: &TenantKeys,
        owner: Scope,
        existing: Option<Found>,
        connection: &Connection,
        event: AuditEvent,
    ) -> Result<ConnectionId, SessionError> {
        let kernel = &self.parts.kernel;
        check_references(self, references(connection))?;
        let now = kernel.clock.now();
        let mut kept = None;
        let (id, created, precondition) = match existing {
            Some(Found { record, connection: old }) => {
                kept = with_what_stays(owner, old, connection)?;
                (record.id, record.created, Precondition::Revision(record.revision))
            }
            None => {
                let entropy = kernel.id_entropy().map_err(records_failed)?;
                (ConnectionId::from_parts(now, entropy), now, Precondition::Absent)
            }
        };
        let connection = kept.as_ref().unwrap_or(connection);
        let name = records::connection_name(keys, connection.name());
        let revision = precondition.resulting_revision();
        let sealed = records::seal_connection(keys, (id, owner), revision, connection, &*kernel.entropy)?;
        let due = connection.rotation().and_then(Rotation::retires);
        let record = ConnectionRecord { id, owner, name, created, updated: now, due, revision, sealed };
        let event = event
            .with_resource(id)
            .with_detail("name", connection.name())
            .with_detail("type", connection.value().type_name())
            .with_detail("revision", revision.0);
        let audit = [kernel.seal_event(keys, &event)?];
        kernel.backend.write_connection(record, precondition, &audit).await?;
        Ok(id)
    }

    /// Writes the next revision of a connection that was read.
    pub(super) async fn rewrite(
        &self,
        keys: &TenantKeys,
        record: ConnectionRecord,
        connection: &Connection,
        event: AuditEvent,
    ) -> Result<(), SessionError> {
        let kernel = &self.parts.kernel;
        let precondition = Precondition::Revision(record.revision);
        let next = kernel.resealed(keys, record, connection)?;
        let event = event
            .with_resource(next.id)
            .with_detail("name", connection.name())
            .with_detail("revision", next.revision.0);
        let audit = [kernel.seal_event(keys, &event)?];
        kernel.backend.write_connection(next, precondition, &audit).await?;
        Ok(())
    }

    /// One page of what `owner` has.
    pub(super) async fn summaries(
        &self,
        keys: &TenantKeys,
        owner: Scope,
        page: &PageRequest,
    ) -> Result<Page<ConnectionSummary>, SessionError> {
        let kernel = &self.parts.kernel;
        let Page { items, next } = kernel.backend.connections(owner, page).await?;
        let now = kernel.clock.now();
        let summaries =
            items.iter().map(|record| Ok(summary(record, &records::open_listed_connection(keys, record)?, now)));
        Ok(Page { items: summaries.collect::<Result<_, SessionError>>()?, next })
    }
}

pub(super) fn summary(record: &ConnectionRecord, connection: &Connection, now: Timestamp) -> ConnectionSummary {
    let names = |wanted: fn(&Field<'_>) -> bool| -> Vec<String> {
        let fields = connection.value().fields().into_iter().filter(|(_, field)| wanted(field));
        fields.map(|(name, _)| name.to_owned()).collect()
    };
    ConnectionSummary {
        id: record.id,
        name: connection.name().to_owned(),
        terms: connection.terms().clone(),
        type_name: connection.value().type_name(),
        status: connection.status(now),
        fault: connection.fault().map(|fault| fault.reason),
        token_expires: connection.oauth().and_then(|oauth| oauth.tokens()).and_then(OAuthTokens::expires),
        of_platform: record.owner.project().is_none(),
        clear_fields: names(|field| matches!(field, Field::Clear(_))),
        secret_fields: {
            let elsewhere = connection.value().references().map(|(name, _)| name.to_owned());
            names(|field| matches!(field, Field::Secret(_))).into_iter().chain(elsewhere).collect()
        },
        placements: connection.placements().to_vec(),
        origins: connection.origins().to_vec(),
        rotation: connection.rotation().map(Rotation::status),
        updated: record.updated,
        revision: record.revision,
    }
}

/// `new` with what stays of `old`: its tokens, and a rotation that is under way, if `new` has the secrets that are in use.
fn with_what_stays(owner: Scope, old: Connection, new: &Connection) -> Result<Option<Connection>, SessionError> {
    if old.rotation().is_none() || !old.has_secrets_of(new) {
        return with_grant_of(owner, old, new);
    }
    // A connection has no other way to be copied.
    let copy = |connection: &Connection| decode_connection(&encode_connection(connection)?);
    let rotation = copy(&old)?.into_rotation();
    let kept = match with_grant_of(owner, old, new)? {
        Some(kept) => kept,
        None => copy(new)?,
    };
    Ok(Some(kept.with_rotation(rotation)?))
}

/// `new` with the tokens of `old`, if it brings none and is the same client: whoever writes a definition again, say at every start
/// of the host, must not undo what an owner consented to.
///
/// A project's own definition must be the same in all that says where tokens go, too: whoever may write connections must not
/// send away what somebody else consented to. The platform may.
fn with_grant_of(owner: Scope, old: Connection, new: &Connection) -> Result<Option<Connection>, SessionError> {
    let of_platform = owner.project().is_none() || new.terms().predefined;
    if !of_platform && !old.is_same_definition(new) {
        return Ok(None);
    }
    let (Some(old), Some(oauth)) = (old.into_oauth(), new.oauth()) else { return Ok(None) };
    if oauth.tokens().is_some() {
        return Ok(None);
    }
    let Some(tokens) = old.into_tokens_for(oauth) else { return Ok(None) };
    // A connection has no other way to be copied.
    let copy = decode_connection(&encode_connection(new)?)?;
    Ok(Some(copy.map_oauth(|oauth| oauth.with_tokens(tokens))?))
}

/// Every reference of a connection, with the field that it stands in.
pub(super) fn references(connection: &Connection) -> impl Iterator<Item = (&str, &SecretReference)> {
    let hidden = connection.value().hidden_references().map(|reference| ("client_secret", reference));
    connection.value().references().chain(hidden)
}

/// Whether the host's resolvers could be asked for them.
pub(super) fn check_references<'r>(
    session: &Session,
    references: impl Iterator<Item = (&'r str, &'r SecretReference)>,
) -> Result<(), ConnectionError> {
    for (field, reference) in references {
        session.parts.kernel.secrets.check(reference).map_err(|error| ConnectionError::Field {
            field: field.to_owned(),
            // Not repeated: somebody may have written the secret itself.
            reason: format!("refers to a secret of `{}`: {error}", reference.scheme()),
        })?;
    }
    Ok(())
}

pub(super) fn refuse_predefined(connection: &Connection) -> Result<(), SessionError> {
    if connection.terms().predefined { Err(predefined(connection.name())) } else { Ok(()) }
}

fn predefined(name: &str) -> SessionError {
    let reason = format!("connection `{name}` is predefined: only the platform writes and deletes those");
    SessionError::InvalidArgument { reason }
}

/// Whether any text of a flow reads the connection, in a template or in a script: `connections.name`, `connections?.name` or
/// `connections['name']`. In doubt it does.
fn names_connection(source: &Value, name: &str) -> bool {
    match source {
        Value::String(text) => text.match_indices(ROOT).any(|(at, _)| {
            let rest = text.get(at + ROOT.len()..).unwrap_or_default().trim_start();
            let rest = rest.strip_prefix('?').unwrap_or(rest);
            let rest = rest.strip_prefix('.').unwrap_or(rest).trim_start();
            let quoted =
                rest.strip_prefix('[').map(str::trim_start).and_then(|rest| rest.strip_prefix(['\'', '"', '`']));
            let token = quoted.unwrap_or(rest);
            let end = token.find(|char: char| !char.is_ascii_alphanumeric() && char != '_' && char != '-');
            let token = token.get(..end.unwrap_or(token.len())).unwrap_or_default();
            // `a-1` may be the connection `a-1`, or `a` less one.
            token == name || token.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'))
        }),
        Value::Array(items) => items.iter().any(|item| names_connection(item, name)),
        Value::Object(members) => members.values().any(|member| names_connection(member, name)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

const ROOT: &str = "connections";
pub(super) const NOT_FOUND: StoreError = StoreError::NotFound { entity: Entity::Connection };

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_way_to_name_a_connection_is_seen() {
        for text in [
            "{{connections.api}}",
            "Bearer {{ connections.api.token }}",
            "{{connections['api'].token}}",
            "{{ connections[ \"api\" ] }}",
            "{{connections?.api?.token}}",
            "const { token } = params.connections.api;",
            "{{connections.api-1}}",
        ] {
            assert!(names_connection(&json!({ "a": [{ "b": text }] }), "api"), "{text}");
        }
        for text in
            ["{{connections.apis}}", "{{connections.api_2}}", "{{connection.api}}", "connections", "{{steps.api}}"]
        {
            assert!(!names_connection(&json!([text]), "api"), "{text}");
        }
    }
}
