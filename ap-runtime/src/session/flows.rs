//! Flows: drafts, published versions, rolling back.

use ap_auth::{
    audit::AuditEvent,
    authorizer::Authorized,
    permission::{FlowPublish, FlowRead, FlowWrite, PermissionMarker},
};
use ap_core::{
    flow::{Diagnostic, Diagnostics, FlowDefinition, TriggerDefinition, TriggerKind, ValidFlow},
    id::{FlowId, FlowVersionId, ProjectId},
    nearest::nearest_match,
    store::{Entity, Page, PageRequest, Precondition, Revision, Sealed, StoreError},
    time::Timestamp,
};
use ap_crypto::{token::generate_token, vault::TenantKeys};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use super::{ProjectSession, PublishReport, SessionError, records_failed, scripts};
use crate::{
    journal::RunError,
    records::{self, FlowDetail},
    store::{FlowRecord, FlowVersionRecord, FlowWrite as WriteSet, TriggerChange, VersionState},
    trigger::{Schedule, change_for},
    webhook::{TOKEN_PREFIX, token_hash},
};

/// A flow, without its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct FlowSummary {
    /// Its id.
    pub id: FlowId,
    /// Name for people.
    pub display_name: String,
    /// Whether its trigger may start runs.
    pub enabled: bool,
    /// The version runs are started with.
    pub published: Option<FlowVersionId>,
    /// The version edits go to.
    pub draft: Option<FlowVersionId>,
    /// When it was created.
    pub created: Timestamp,
    /// When it was last written.
    pub updated: Timestamp,
    /// Its revision: what [`ProjectSession::update_flow`] asks for.
    pub revision: Revision,
}

/// A version of a flow, without its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct VersionSummary {
    /// Its id.
    pub id: FlowVersionId,
    /// Counts from 1 within the flow.
    pub number: u32,
    /// `DRAFT` or `LOCKED`.
    pub state: &'static str,
    /// When it was created.
    pub created: Timestamp,
}

impl ProjectSession {
    /// Creates a flow with a first draft. Needs `flow.write`.
    ///
    /// `source` is the flow's JSON as in the guide. It must be well-formed; whether it can be executed is checked by
    /// [`ProjectSession::publish_flow`].
    ///
    /// # Errors
    /// [`SessionError::InvalidFlow`] with every finding; [`SessionError`] lists the rest.
    pub async fn create_flow(&self, source: &[u8]) -> Result<FlowSummary, SessionError> {
        let proof = self.authorize::<FlowWrite, _>(())?;
        let definition = self.parse(source)?;
        let kernel = &self.session.parts.kernel;
        let (keys, now) = (self.keys().await?, kernel.clock.now());
        let id = FlowId::from_parts(now, kernel.id_entropy().map_err(records_failed)?);
        let webhook_token = generate_token(TOKEN_PREFIX, &*kernel.entropy).map_err(records_failed)?;
        let detail = FlowDetail { display_name: definition.display_name().to_owned(), webhook_token, versions: 1 };
        let draft = self.new_draft(&keys, id, 1, source, now)?;
        let flow = FlowRecord {
            id,
            project: proof.target(),
            created: now,
            updated: now,
            revision: Revision::FIRST,
            enabled: false,
            published: None,
            draft: Some(draft.id),
            webhook: token_hash(kernel, detail.webhook_token.expose_secret()),
            generation: 1,
            sealed: records::seal_flow(&keys, (id, proof.target()), Revision::FIRST, &detail, &*kernel.entropy)?,
        };
        let event = AuditEvent::of(&proof, now).with_resource(id).with_resource(draft.id);
        let write = WriteSet {
            flow: flow.clone(),
            precondition: Precondition::Absent,
            versions: vec![(draft, Precondition::Absent)],
            trigger: TriggerChange::Keep,
        };
        kernel.backend.write_flow(write, &[kernel.seal_event(&keys, &event)?]).await?;
        Ok(summary(&flow, detail.display_name))
    }

    /// Replaces the draft of a flow, or starts one beside the published version. Needs `flow.write`.
    ///
    /// `revision` is the flow's as last read: if somebody else wrote it since, nothing happens.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]; [`SessionError::InvalidFlow`] with every finding; [`SessionError`] lists the rest.
    pub async fn update_flow(
        &self,
        id: FlowId,
        revision: Revision,
        source: &[u8],
    ) -> Result<FlowSummary, SessionError> {
        let proof = self.authorize::<FlowWrite, _>(id)?;
        let definition = self.parse(source)?;
        let mut change = self.change(&proof).await?;
        if change.flow.revision != revision {
            return Err(StoreError::Conflict { entity: Entity::Flow, current: change.flow.revision }.into());
        }
        let kernel = &self.session.parts.kernel;
        let (version, precondition) = match change.flow.draft {
            Some(draft) => {
                let stored = kernel.backend.flow_version(draft, proof.target()).await?;
                let precondition = Precondition::Revision(stored.revision);
                (self.reseal(&change.keys, stored, VersionState::Draft, source)?, precondition)
            }
            None => {
                change.detail.versions += 1;
                let now = kernel.clock.now();
                let draft = self.new_draft(&change.keys, id, change.detail.versions, source, now)?;
                change.flow.draft = Some(draft.id);
                (draft, Precondition::Absent)
            }
        };
        change.detail.display_name = definition.display_name().to_owned();
        self.write(change, &proof, vec![(version, precondition)], Effect::Draft).await
    }

    /// Checks the draft as a whole, locks it and makes it what runs are started with. Needs `flow.publish`.
    ///
    /// Runs under way keep the version they were started with; the report says which of them the change would concern, if
    /// the caller has `run.read`. The flow is enabled, and its schedule or poll begins.
    ///
    /// # Errors
    /// [`SessionError::InvalidFlow`] with every finding; [`StoreError::NotFound`] if there is no draft; [`SessionError`]
    /// lists the rest.
    pub async fn publish_flow(&self, id: FlowId) -> Result<PublishReport, SessionError> {
        let proof = self.authorize::<FlowPublish, _>(id)?;
        let mut change = self.change(&proof).await?;
        let draft = change.flow.draft.take().ok_or(StoreError::NotFound { entity: Entity::FlowVersion })?;
        let kernel = &self.session.parts.kernel;
        let stored = kernel.backend.flow_version(draft, proof.target()).await?;
        let source = records::open_flow_version(&change.keys, &stored)?;
        let valid = self.check(&source).await?;
        let precondition = Precondition::Revision(stored.revision);
        let locked = self.reseal(&change.keys, stored, VersionState::Locked, &source)?;
        change.flow.published = Some(draft);
        change.flow.enabled = true;
        let trigger = change_for(valid.trigger(), kernel.clock.now());
        let flow = self.write(change, &proof, vec![(locked, precondition)], Effect::Route(trigger)).await?;
        Ok(self.report(flow, &valid).await)
    }

    /// Makes an earlier locked version what runs are started with again. Needs `flow.publish`. A draft stays as it is.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if the flow has no such locked version; [`SessionError::InvalidFlow`] if it cannot be
    /// executed any more; [`SessionError`] lists the rest.
    pub async fn roll_back_flow(&self, id: FlowId, version: FlowVersionId) -> Result<FlowSummary, SessionError> {
        let proof = self.authorize::<FlowPublish, _>(id)?;
        let mut change = self.change(&proof).await?;
        let stored = self.session.parts.kernel.backend.flow_version(version, proof.target()).await?;
        if stored.flow != id || stored.state != VersionState::Locked {
            return Err(StoreError::NotFound { entity: Entity::FlowVersion }.into());
        }
        let valid = self.check(&records::open_flow_version(&change.keys, &stored)?).await?;
        change.flow.published = Some(version);
        let trigger = match change.flow.enabled {
            true => change_for(valid.trigger(), self.session.parts.kernel.clock.now()),
            false => at_rest(valid.trigger(), self.session.parts.kernel.clock.now()),
        };
        self.write(change, &proof, Vec::new(), Effect::Route(trigger)).await
    }

    /// Lets the flow's trigger start runs, or stops that. Needs `flow.publish`. Runs under way go on.
    ///
    /// # Errors
    /// [`SessionError::NotPublished`] when enabling a flow without a published version; [`SessionError`] lists the rest.
    pub async fn set_flow_enabled(&self, id: FlowId, enabled: bool) -> Result<FlowSummary, SessionError> {
        let proof = self.authorize::<FlowPublish, _>(id)?;
        let mut change = self.change(&proof).await?;
        if enabled && change.flow.published.is_none() {
            return Err(SessionError::NotPublished);
        }
        change.flow.enabled = enabled;
        let kernel = &self.session.parts.kernel;
        let trigger = match change.flow.published {
            None => TriggerChange::Remove,
            Some(version) if enabled => {
                let valid = kernel.flow_version(version, proof.target()).await?;
                change_for(valid.trigger(), kernel.clock.now())
            }
            // Whoever holds it must not fire it any more, and a poll goes on from where it stands when it is enabled again.
            Some(version) => match kernel.flow_version(version, proof.target()).await {
                Ok(valid) => at_rest(valid.trigger(), kernel.clock.now()),
                // A flow that cannot be executed here any more can still be stopped.
                Err(_) => TriggerChange::Remove,
            },
        };
        self.write(change, &proof, Vec::new(), Effect::Route(trigger)).await
    }

    /// Gives the flow a new webhook token; the old URL leads nowhere from now on. Needs `flow.write`.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn rotate_webhook_token(&self, id: FlowId) -> Result<SecretString, SessionError> {
        let proof = self.authorize::<FlowWrite, _>(id)?;
        let mut change = self.change(&proof).await?;
        let kernel = &self.session.parts.kernel;
        let token = generate_token(TOKEN_PREFIX, &*kernel.entropy).map_err(records_failed)?;
        change.flow.webhook = token_hash(kernel, token.expose_secret());
        change.detail.webhook_token = token.clone();
        self.write(change, &proof, Vec::new(), Effect::Token).await?;
        Ok(token)
    }

    /// The token of the flow's webhook URL: `…/{token}`, or `…/{token}/sync` to wait for the reply. Needs `flow.write`,
    /// because whoever knows it can call; the audit trail has `flow.webhook.reveal`.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn webhook_token(&self, id: FlowId) -> Result<SecretString, SessionError> {
        let proof = self.authorize::<FlowWrite, _>(id)?;
        let change = self.change(&proof).await?;
        let kernel = &self.session.parts.kernel;
        let event = AuditEvent::by(proof.actor(), "flow.webhook.reveal", proof.scope(), kernel.clock.now());
        // Written down before it is given away.
        kernel.backend.append_audit(&[kernel.seal_event(&change.keys, &event.with_resource(id))?]).await?;
        Ok(change.detail.webhook_token)
    }

    /// Reads a flow. Needs `flow.read`.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn flow(&self, id: FlowId) -> Result<FlowSummary, SessionError> {
        let proof = self.authorize::<FlowRead, _>(id)?;
        let change = self.change(&proof).await?;
        Ok(summary(&change.flow, change.detail.display_name))
    }

    /// Lists flows. Needs `flow.read`.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn flows(&self, page: &PageRequest) -> Result<Page<FlowSummary>, SessionError> {
        let proof = self.authorize::<FlowRead, _>(())?;
        let keys = self.keys().await?;
        let Page { items, next } = self.session.parts.kernel.backend.flows(proof.target(), page).await?;
        let summaries = items.iter().map(|flow| Ok(summary(flow, records::open_flow(&keys, flow)?.display_name)));
        Ok(Page { items: summaries.collect::<Result<_, SessionError>>()?, next })
    }

    /// Lists the versions of a flow. Needs `flow.read`.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn flow_versions(&self, id: FlowId, page: &PageRequest) -> Result<Page<VersionSummary>, SessionError> {
        let proof = self.authorize::<FlowRead, _>(id)?;
        let backend = &self.session.parts.kernel.backend;
        let Page { items, next } = backend.flow_versions(proof.resource(), proof.target(), page).await?;
        let summary = |version: FlowVersionRecord| VersionSummary {
            id: version.id,
            number: version.number,
            state: version.state.as_str(),
            created: version.created,
        };
        Ok(Page { items: items.into_iter().map(summary).collect(), next })
    }

    /// The JSON of a version, as it was stored. Needs `flow.read`. Holds names of connections, never credentials.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn flow_source(&self, id: FlowVersionId) -> Result<Vec<u8>, SessionError> {
        let proof = self.authorize::<FlowRead, _>(id)?;
        let keys = self.keys().await?;
        let record = self.session.parts.kernel.backend.flow_version(proof.resource(), proof.target()).await?;
        Ok(records::open_flow_version(&keys, &record)?.to_vec())
    }
}

/// What a write of a flow means for those who start its runs.
enum Effect {
    /// Nothing.
    Draft,
    /// Another version, or whether there is one at all.
    Route(TriggerChange),
    /// Another webhook token.
    Token,
}

/// The trigger row of a flow that is disabled.
fn at_rest(trigger: &TriggerDefinition, now: Timestamp) -> TriggerChange {
    match trigger.kind {
        // Not due while it is disabled; whoever holds it is fenced off, and its cursor stays.
        TriggerKind::Piece(_) | TriggerKind::Schedule(_) => TriggerChange::Set { due: now, state: None },
        _ => TriggerChange::Remove,
    }
}

/// A flow as read, about to be changed.
struct Change {
    keys: std::sync::Arc<TenantKeys>,
    flow: FlowRecord,
    detail: FlowDetail,
}

impl ProjectSession {
    fn parse(&self, source: &[u8]) -> Result<FlowDefinition, SessionError> {
        FlowDefinition::parse_slice(source, &self.session.parts.kernel.flow_limits).map_err(SessionError::InvalidFlow)
    }

    /// Everything that must hold of a flow before runs may be started with it.
    async fn check(&self, source: &[u8]) -> Result<ValidFlow, SessionError> {
        let kernel = &self.session.parts.kernel;
        let flow = ValidFlow::check(self.parse(source)?, &kernel.pieces, &kernel.flow_limits)
            .map_err(SessionError::InvalidFlow)?;
        let mut findings = scripts::findings(kernel, self.project, &flow).await;
        if let TriggerKind::Schedule(settings) = &flow.trigger().kind {
            findings.extend(Schedule::checked(settings, flow.trigger(), kernel.clock.now()).err());
        }
        if !flow.connections().is_empty() {
            let known = self.connection_names().await?;
            for used in flow.connections() {
                if !known.contains(&used.name) {
                    findings.push(unknown_connection(&used.pointer, &used.name, &known));
                }
            }
        }
        if findings.is_empty() { Ok(flow) } else { Err(SessionError::InvalidFlow(Diagnostics(findings))) }
    }

    async fn change<P>(&self, proof: &Authorized<P, FlowId>) -> Result<Change, SessionError>
    where
        P: PermissionMarker<Target = ProjectId>,
    {
        let keys = self.keys().await?;
        let flow = self.session.parts.kernel.backend.flow(proof.resource(), proof.target()).await?;
        let detail = records::open_flow(&keys, &flow)?;
        Ok(Change { keys, flow, detail })
    }

    /// Writes a changed flow with its versions and the audit record of the proof.
    async fn write<P>(
        &self,
        change: Change,
        proof: &Authorized<P, FlowId>,
        versions: Vec<(FlowVersionRecord, Precondition)>,
        effect: Effect,
    ) -> Result<FlowSummary, SessionError>
    where
        P: PermissionMarker<Target = ProjectId>,
    {
        let Change { keys, flow, detail } = change;
        let kernel = &self.session.parts.kernel;
        let precondition = Precondition::Revision(flow.revision);
        let (revision, now) = (precondition.resulting_revision(), kernel.clock.now());
        let sealed = records::seal_flow(&keys, (flow.id, flow.project), revision, &detail, &*kernel.entropy)?;
        let (generation, trigger) = match effect {
            Effect::Draft => (flow.generation, TriggerChange::Keep),
            Effect::Token => (flow.generation + u64::from(self.has_route(&flow).await?), TriggerChange::Keep),
            Effect::Route(trigger) => (flow.generation + 1, trigger),
        };
        let flow = FlowRecord { revision, updated: now, generation, sealed, ..flow };
        let event = AuditEvent::of(proof, now).with_detail("revision", revision.0).with_detail("enabled", flow.enabled);
        let event =
            flow.published.iter().fold(event, |event, version| event.with_detail("published", version.to_string()));
        let audit = [kernel.seal_event(&keys, &event)?];
        let _forget = self.session.parts.routes.forget_afterwards(flow.project);
        kernel.backend.write_flow(WriteSet { flow: flow.clone(), precondition, versions, trigger }, &audit).await?;
        self.session.parts.worker.announce();
        Ok(summary(&flow, detail.display_name))
    }

    /// Whether requests are led to the flow. The generation of one that is started by time stays the same when its token
    /// changes: what is just being fired for it would be lost.
    async fn has_route(&self, flow: &FlowRecord) -> Result<bool, SessionError> {
        let Some(version) = flow.published else { return Ok(true) };
        match self.session.parts.kernel.flow_version(version, flow.project).await {
            Ok(valid) => Ok(!matches!(valid.trigger().kind, TriggerKind::Schedule(_) | TriggerKind::Piece(_))),
            // The token of a flow that cannot be executed here any more can still be changed.
            Err(RunError::Flow(_)) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    fn new_draft(
        &self,
        keys: &TenantKeys,
        flow: FlowId,
        number: u32,
        source: &[u8],
        now: Timestamp,
    ) -> Result<FlowVersionRecord, SessionError> {
        let kernel = &self.session.parts.kernel;
        let id = FlowVersionId::from_parts(now, kernel.id_entropy().map_err(records_failed)?);
        let revision = Revision::FIRST;
        let (project, state) = (self.project, VersionState::Draft);
        let empty = Sealed::from_bytes(bytes::Bytes::new());
        let draft = FlowVersionRecord { id, project, flow, number, state, created: now, revision, sealed: empty };
        let sealed = records::seal_flow_version(keys, &draft, source, &*kernel.entropy)?;
        Ok(FlowVersionRecord { sealed, ..draft })
    }

    /// The version with this content and state, and its next revision.
    fn reseal(
        &self,
        keys: &TenantKeys,
        stored: FlowVersionRecord,
        state: VersionState,
        source: &[u8],
    ) -> Result<FlowVersionRecord, SessionError> {
        let next = FlowVersionRecord { revision: stored.revision.next(), state, ..stored };
        let sealed = records::seal_flow_version(keys, &next, source, &*self.session.parts.kernel.entropy)?;
        Ok(FlowVersionRecord { sealed, ..next })
    }
}

fn summary(flow: &FlowRecord, display_name: String) -> FlowSummary {
    FlowSummary {
        id: flow.id,
        display_name,
        enabled: flow.enabled,
        published: flow.published,
        draft: flow.draft,
        created: flow.created,
        updated: flow.updated,
        revision: flow.revision,
    }
}

fn unknown_connection(pointer: &str, name: &str, known: &[String]) -> Diagnostic {
    let fix = match nearest_match(name, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "create the connection first".to_owned(),
    };
    Diagnostic::error(pointer, "connection.unknown", format!("there is no connection `{name}`"), fix)
}
