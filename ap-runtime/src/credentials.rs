//! The connections of a run: looked up by name when they are needed, held no longer than that.

use std::{collections::BTreeSet, sync::Arc};

use ap_auth::{
    audit::AuditEvent,
    principal::{Actor, Identity},
};
use ap_core::{
    audit::{AuditOutcome, AuditRecord},
    connection::{ACCESS_TOKEN, Connection, ConnectionStatus, Field, Renewal, SecretReference},
    flow::{ConnectionUse, StepKind, ValidFlow},
    id::{ConnectionId, FlowId, ProjectId, RunId},
    piece::ActionError,
    run::{StepError, StepErrorKind, StepPath},
    scope::Scope,
    store::{Revision, StoreError},
};
use ap_crypto::vault::TenantKeys;
use serde_json::Value;

use crate::{
    egress::credential::{KEY_PIECE, RunConnection, RunCredentials, Stands},
    engine::{ConnectionView, ConnectionViews},
    journal::RunError,
    kernel::Kernel,
    records,
    secret::{Remembered, Unresolved},
    store::{Claimed, ConnectionRecord},
};

/// Looks up the connections of one run. A clone goes its own way from there.
#[derive(Clone)]
pub(crate) struct CredentialLoader {
    claimed: Claimed,
    names: BTreeSet<String>,
    /// What the steps' templates name; none for what is no step.
    flow: Option<ValidFlow>,
    /// The connections of the last look-up, as the run sees them.
    seen: Vec<Seen>,
    current: Arc<RunCredentials>,
    /// Shared by all that came from one loader.
    remembered: Remembered,
}

/// A connection, as the run sees it. Holds no secret.
#[derive(Clone)]
struct Seen {
    id: ConnectionId,
    owner: Scope,
    revision: Revision,
    name: String,
    view: ConnectionView,
    pieces: Vec<String>,
    revealed: bool,
    status: ConnectionStatus,
    /// What the provider said against it.
    fault: Option<String>,
    due: bool,
    /// Secrets that are kept elsewhere and not known now.
    elsewhere: Vec<SecretReference>,
    /// The same of secrets that are not in use: they are masked, and nobody waits for them.
    beside: Vec<SecretReference>,
    /// Why what was found elsewhere is of no use.
    unusable: Option<Unresolved>,
}

/// A connection that was looked up, and whose it is.
pub(crate) struct Found {
    pub(crate) record: ConnectionRecord,
    pub(crate) connection: Connection,
}

impl Kernel {
    /// The connection that a project calls so: its own, else one of the platform that it was given.
    pub(crate) async fn find_connection(
        &self,
        keys: &TenantKeys,
        project: ProjectId,
        name: &str,
    ) -> Result<Option<Found>, RunError> {
        match self.backend.connection(records::connection_name(keys, name), project.into()).await {
            Ok(record) => {
                let connection = records::open_connection(keys, &record, name)?;
                return Ok(Some(Found { record, connection }));
            }
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let shared = self.backend.shared_connection(records::shared_connection_name(keys, name), project).await;
        let (shared, record) = match shared {
            Ok(found) => found,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let platform = self.keyring.tenant(record.owner).await?;
        let connection = records::open_shared_connection((keys, &platform), (&shared, &record))?;
        if connection.name() != name {
            return Err(ap_crypto::error::VaultError::Unopenable.into());
        }
        Ok(Some(Found { record, connection }))
    }
}

impl Kernel {
    /// The same connection with every secret that is kept elsewhere.
    pub(crate) async fn with_secrets(&self, connection: Connection) -> Result<Connection, Unresolved> {
        let connection = self.secrets.with_known(connection, self.clock.now())?;
        let elsewhere: Vec<SecretReference> = connection.value().references().map(|(_, of)| of.clone()).collect();
        if elsewhere.is_empty() {
            return Ok(connection);
        }
        match self.secrets.fetch(&*self.clock, &elsewhere).await.pop() {
            Some(unresolved) => Err(unresolved),
            None => self.secrets.with_known(connection, self.clock.now()),
        }
    }
}

impl CredentialLoader {
    /// For the connections that the steps of `flow` name; those of its trigger are the door's.
    pub(crate) fn new(claimed: Claimed, flow: &ValidFlow) -> Self {
        let steps = flow.connections().iter().filter(|used| used.pointer.starts_with("/steps"));
        let names = steps.map(|used| used.name.clone()).collect();
        Self { flow: Some(flow.clone()), ..Self::of_names(claimed, names) }
    }

    /// The flow of the run.
    pub(crate) const fn flow(&self) -> FlowId {
        self.claimed.flow
    }

    /// For the connections that the trigger of `flow` names: a poll's. `claimed` stands in for a run.
    pub(crate) fn for_trigger(claimed: Claimed, flow: &ValidFlow) -> Self {
        let trigger = flow.connections().iter().filter(|used| !used.pointer.starts_with("/steps"));
        Self::of_names(claimed, trigger.map(|used| used.name.clone()).collect())
    }

    /// For these connections; `claimed` stands in for a run.
    pub(crate) fn of_names(claimed: Claimed, names: BTreeSet<String>) -> Self {
        let (seen, current, remembered) = (Vec::new(), Arc::default(), Remembered::default());
        Self { claimed, names, flow: None, seen, current, remembered }
    }

    /// Reads the connections anew: one that was replaced or deleted meanwhile is so from the next request on.
    pub(crate) async fn refresh(&mut self, kernel: &Kernel, keys: &TenantKeys) -> Result<(), RunError> {
        if self.names.is_empty() {
            return Ok(());
        }
        let now = kernel.clock.now();
        let (mut seen, mut bound, mut unusable) = (Vec::new(), Vec::new(), Vec::new());
        for name in &self.names {
            // A template that reads what is not there says so, with the step and the place.
            let Some(found) = kernel.find_connection(keys, self.claimed.lease.project, name).await? else { continue };
            let Found { record, connection } = found;
            let view = self.view(keys, record.id, &connection);
            let placeholders = placeholders(&view);
            let renewal = connection.oauth().map(|oauth| oauth.renewal(now));
            let mut one = Seen {
                id: record.id,
                owner: record.owner,
                revision: record.revision,
                name: name.clone(),
                view,
                pieces: connection.terms().pieces.clone(),
                revealed: connection.terms().reveal_to_code,
                status: connection.status(now),
                fault: connection.fault().map(|fault| fault.reason.to_string()),
                due: matches!(renewal, Some(Renewal::Due { .. })),
                elsewhere: Vec::new(),
                beside: Vec::new(),
                unusable: None,
            };
            let kept_elsewhere: Vec<String> =
                connection.value().references().map(|(name, _)| name.to_owned()).collect();
            match kernel.secrets.with_known(connection, now) {
                Ok(connection) => {
                    self.remembered.add(&connection, &kept_elsewhere);
                    one.beside = connection.references_in_rotation().cloned().collect();
                    one.elsewhere = connection.value().references().map(|(_, of)| of.clone()).collect();
                    bound.push(RunConnection { id: record.id, connection, placeholders });
                }
                Err(error) => {
                    let reason = one.no_secret(&error).message;
                    unusable.extend(placeholders.into_iter().map(|(text, _)| (text, reason.clone())));
                    one.unusable = Some(error);
                }
            }
            seen.push(one);
        }
        self.seen = seen;
        let current = RunCredentials::masking(bound, &self.remembered.all())?;
        self.current = Arc::new(if unusable.is_empty() { current } else { current.with_unusable(unusable) });
        Ok(())
    }

    /// What `piece` needs to act on `input`: every connection that stands there is good, and tokens that are due are renewed.
    /// Returns the credentials of this very attempt.
    ///
    /// # Errors
    /// What the step fails with, before anything was sent: [`StepErrorKind::Connection`] if somebody has to do something about
    /// the connection, [`StepErrorKind::OutcomeTransient`] if trying again may help.
    pub(crate) async fn ready(
        &mut self,
        kernel: &Arc<Kernel>,
        keys: &TenantKeys,
        (piece, input): (&str, &Value),
    ) -> Result<Arc<RunCredentials>, ActionError> {
        self.make_ready(kernel, keys, Purpose::Piece(piece), input).await.map(|(ready, _)| ready)
    }

    /// As [`CredentialLoader::ready`], for no piece: to find out whether the connection is good.
    pub(crate) async fn ready_to_check(
        &mut self,
        kernel: &Arc<Kernel>,
        keys: &TenantKeys,
        input: &Value,
    ) -> Result<Arc<RunCredentials>, ActionError> {
        self.make_ready(kernel, keys, Purpose::Check, input).await.map(|(ready, _)| ready)
    }

    /// As [`CredentialLoader::ready`], for a script that may reach hosts. It may never use what stands in its parameters, so a
    /// connection that is not good fails nothing here unless the script is shown its secrets: using it is refused, with the reason.
    pub(crate) async fn ready_for_script(
        &mut self,
        kernel: &Arc<Kernel>,
        keys: &TenantKeys,
        (step, params): (&str, &Value),
    ) -> Result<Arc<RunCredentials>, ActionError> {
        self.ready_for_code(kernel, keys, Purpose::OutsideScript(step), params).await
    }

    /// As [`CredentialLoader::ready_for_script`], for a script that reaches nothing: what it is neither shown nor given as a key is
    /// of no matter to it.
    pub(crate) async fn ready_to_reveal(
        &mut self,
        kernel: &Arc<Kernel>,
        keys: &TenantKeys,
        (step, params): (&str, &Value),
    ) -> Result<Arc<RunCredentials>, ActionError> {
        self.ready_for_code(kernel, keys, Purpose::Script(step), params).await
    }

    async fn ready_for_code(
        &mut self,
        kernel: &Arc<Kernel>,
        keys: &TenantKeys,
        purpose: Purpose<'_>,
        params: &Value,
    ) -> Result<Arc<RunCredentials>, ActionError> {
        let (ready, unresolved) = self.make_ready(kernel, keys, purpose, params).await?;
        let fault = |seen: &Seen| {
            if seen.status != ConnectionStatus::Active {
                return Some(seen.not_good());
            }
            unresolved.iter().find(|of| seen.elsewhere.contains(&of.reference)).map(|of| seen.no_secret(of))
        };
        let faulty = self.seen.iter().filter_map(|seen| Some((seen, fault(seen)?.message)));
        let unusable: Vec<_> = faulty
            .flat_map(|(seen, reason)| {
                placeholders(&seen.view).into_iter().map(move |(text, _)| (text, reason.clone()))
            })
            .collect();
        Ok(if unusable.is_empty() { ready } else { Arc::new(ready.with_unusable(unusable)) })
    }

    async fn make_ready(
        &mut self,
        kernel: &Arc<Kernel>,
        keys: &TenantKeys,
        purpose: Purpose<'_>,
        input: &Value,
    ) -> Result<(Arc<RunCredentials>, Vec<Unresolved>), ActionError> {
        let good = |seen: &Seen| seen.status == ConnectionStatus::Active && seen.unusable.is_none();
        let concerned = |seen: &&Seen| match purpose {
            Purpose::Check | Purpose::Piece(_) => mentions(input, &seen.view),
            Purpose::Script(step) => self.names(seen, step, input) && (seen.revealed || (seen.is_key() && good(seen))),
            Purpose::OutsideScript(step) => self.names(seen, step, input) && (seen.revealed || good(seen)),
        };
        let dispensable =
            |seen: &Seen| matches!(purpose, Purpose::OutsideScript(_) | Purpose::Script(_)) && !seen.revealed;
        // A key is there to be used, and it may be there in a moment.
        let may_wait = |seen: &Seen, unresolved: &Unresolved| {
            dispensable(seen) && !(seen.is_key() && unresolved.error.is_retryable())
        };
        let used: Vec<Seen> = self.seen.iter().filter(concerned).cloned().collect();
        for seen in &used {
            if let Purpose::Piece(piece) = purpose
                && !seen.serves(piece)
            {
                return Err(seen.not_for(piece).into());
            }
            if seen.status != ConnectionStatus::Active {
                return Err(seen.not_good().into());
            }
            if let Some(unresolved) = &seen.unusable {
                return Err(seen.no_secret(unresolved).into());
            }
        }
        // Also of connections that are not used here: what comes back is searched for the secrets of all.
        let references = self.seen.iter().flat_map(|seen| seen.elsewhere.iter().chain(&seen.beside));
        let elsewhere: BTreeSet<_> = references.cloned().collect();
        let elsewhere = Vec::from_iter(elsewhere);
        let unresolved = kernel.secrets.fetch(&*kernel.clock, &elsewhere).await;
        let mut renewed = !elsewhere.is_empty();
        for seen in &used {
            let mut of_it = unresolved.iter().filter(|unresolved| seen.elsewhere.contains(&unresolved.reference));
            if let Some(unresolved) = of_it.find(|unresolved| !may_wait(seen, unresolved)) {
                return Err(seen.no_secret(unresolved).into());
            }
            if seen.due {
                match kernel.renew_connection(seen.owner, &seen.name).await {
                    Ok(_) => renewed = true,
                    Err(_) if dispensable(seen) => {}
                    Err(failed) => return Err(failed.of_step(&seen.name)),
                }
            }
        }
        if renewed {
            let names: Vec<&str> = used.iter().map(|seen| seen.name.as_str()).collect();
            self.refresh(kernel, keys).await.map_err(|error| {
                tracing::warn!(%error, "connections cannot be read after a renewal");
                StepError::new(StepErrorKind::OutcomeTransient, "a connection cannot be read now")
            })?;
            // What was found elsewhere may be no secret at all.
            for seen in self.seen.iter().filter(|seen| names.contains(&seen.name.as_str()) && !dispensable(seen)) {
                if let Some(unresolved) = &seen.unusable {
                    return Err(seen.no_secret(unresolved).into());
                }
            }
        }
        Ok((self.current(), unresolved))
    }

    /// Why `piece` may not act on `input`, if a connection stands there that is not for it, and what the audit says of that.
    pub(crate) fn denied(
        &self,
        (kernel, keys): (&Kernel, &TenantKeys),
        (piece, input): (&str, &Value),
        by_whom: impl Fn(AuditEvent) -> AuditEvent,
    ) -> Result<Option<(StepError, AuditRecord)>, RunError> {
        let mut used = self.seen.iter().filter(|seen| mentions(input, &seen.view));
        let Some(seen) = used.find(|seen| !seen.serves(piece)) else { return Ok(None) };
        let event = by_whom(self.event(kernel, "connection.use", seen)).with_detail("piece", piece);
        let error = seen.not_for(piece);
        let event = event.with_outcome(AuditOutcome::Denied, &error.message);
        Ok(Some((error, kernel.seal_event(keys, &event)?)))
    }

    /// One audit record per connection whose secrets the parameters of a script will show it.
    pub(crate) fn audit_reveals(
        &self,
        kernel: &Kernel,
        keys: &TenantKeys,
        (path, attempt, params): (&StepPath, u32, &Value),
    ) -> Result<Vec<AuditRecord>, RunError> {
        let revealed = self.seen.iter().filter(|seen| seen.revealed && mentions(params, &seen.view));
        revealed
            .map(|seen| {
                let event = self.event(kernel, "connection.reveal", seen);
                let event = event.with_resource(self.claimed.lease.run).with_detail("step", path.as_str());
                kernel.seal_event(keys, &event.with_detail("attempt", u64::from(attempt)))
            })
            .collect()
    }

    /// The placeholder that stands for the whole of this connection, if it is there.
    pub(crate) fn whole(&self, name: &str) -> Option<&str> {
        self.seen.iter().find(|seen| seen.name == name).map(|seen| seen.view.whole.as_str())
    }

    /// The revision at which a connection was looked up last.
    pub(crate) fn revision(&self, name: &str) -> Option<Revision> {
        self.seen.iter().find(|seen| seen.name == name).map(|seen| seen.revision)
    }

    /// The connections as they were at the last look-up.
    pub(crate) fn current(&self) -> Arc<RunCredentials> {
        Arc::clone(&self.current)
    }

    /// What the flow may see of its connections.
    pub(crate) fn views(&self) -> ConnectionViews {
        self.seen.iter().map(|seen| (seen.name.clone(), seen.view.clone())).collect()
    }

    /// One audit record per connection that an attempt may use, see [`CredentialLoader::named`]: written before it does.
    pub(crate) fn audit_uses(
        &self,
        kernel: &Kernel,
        keys: &TenantKeys,
        (path, attempt, input): (&StepPath, u32, &Value),
    ) -> Result<Vec<AuditRecord>, RunError> {
        let used = self.seen.iter().filter(|seen| self.names(seen, path.step_name(), input));
        let record = |seen: &Seen| {
            let event = self.event(kernel, "connection.use", seen).with_resource(self.claimed.lease.run);
            let event = event.with_detail("step", path.as_str()).with_detail("attempt", u64::from(attempt));
            kernel.seal_event(keys, &event)
        };
        used.map(record).collect()
    }

    /// The connections that an attempt of a step may use: those whose placeholders stand in its input as they are, and those whose
    /// secrets its templates read, whatever they make of the text.
    pub(crate) fn named(&self, step: &str, input: &Value) -> BTreeSet<ConnectionId> {
        self.seen.iter().filter(|seen| self.names(seen, step, input)).map(|seen| seen.id).collect()
    }

    /// As [`CredentialLoader::named`], those that are for `piece`.
    pub(crate) fn named_for(&self, piece: &str, step: &str, input: &Value) -> BTreeSet<ConnectionId> {
        let serves = |seen: &&Seen| seen.serves(piece) && self.names(seen, step, input);
        self.seen.iter().filter(serves).map(|seen| seen.id).collect()
    }

    fn names(&self, seen: &Seen, step: &str, input: &Value) -> bool {
        let step = self.flow.as_ref().and_then(|flow| Some((flow, flow.step(step)?)));
        let mut read = step.map(|(flow, step)| flow.connections_of(&step.name)).unwrap_or_default().iter();
        read.any(|used| seen.is_read_by(used)) || mentions(input, &seen.view)
    }

    /// One audit record per connection whose placeholder stands in `input`, told where by `by_whom`.
    pub(crate) fn audit_uses_in(
        &self,
        kernel: &Kernel,
        keys: &TenantKeys,
        input: &Value,
        by_whom: impl Fn(AuditEvent) -> AuditEvent,
    ) -> Result<Vec<AuditRecord>, RunError> {
        let used = self.seen.iter().filter(|seen| mentions(input, &seen.view));
        used.map(|seen| kernel.seal_event(keys, &by_whom(self.event(kernel, "connection.use", seen)))).collect()
    }

    fn event(&self, kernel: &Kernel, action: &str, seen: &Seen) -> AuditEvent {
        let scope = self.claimed.lease.project.into();
        AuditEvent::by(&Actor::new(Identity::Engine), action, scope, kernel.clock.now())
            .with_resource(seen.id)
            .with_detail("name", seen.name.as_str())
    }

    fn view(&self, keys: &TenantKeys, id: ConnectionId, connection: &Connection) -> ConnectionView {
        let run = self.claimed.lease.run;
        let placeholder = |field: &str| keys.placeholder(run, id, field).to_string();
        let fields = connection.value().fields();
        let shown = fields.iter().map(|(name, field)| {
            let text = match field {
                Field::Clear(text) => (*text).to_owned(),
                Field::Secret(_) => placeholder(name),
            };
            ((*name).to_owned(), text)
        });
        let secret = fields.iter().filter(|(_, field)| matches!(field, Field::Secret(_)));
        let mut view = ConnectionView {
            // No field has an empty name, so the whole cannot be mistaken for one.
            whole: placeholder(""),
            fields: shown.collect(),
            secret: secret.map(|(name, _)| (*name).to_owned()).collect(),
        };
        for (name, _) in connection.value().references() {
            view.fields.insert(name.to_owned(), placeholder(name));
            view.secret.push(name.to_owned());
        }
        if let Some(oauth) = connection.oauth() {
            // There from the beginning, so that a run that waits for its owner's consent can go on; also as the guide spells it.
            let token = placeholder(ACCESS_TOKEN);
            let expires = oauth.tokens().map(|tokens| tokens.expires_text().to_owned()).unwrap_or_default();
            let known =
                [(ACCESS_TOKEN, &token), ("accessToken", &token), ("expiresAt", &expires), ("expires_at", &expires)];
            view.fields.extend(known.map(|(name, text)| (name.to_owned(), text.clone())));
            view.secret = vec![ACCESS_TOKEN.to_owned()];
        }
        view
    }
}

impl Seen {
    /// Whether the template reads a secret of it, or all of it.
    fn is_read_by(&self, used: &ConnectionUse) -> bool {
        let secret = |field: &String| {
            let text = self.view.fields.get(field);
            // Some are there under several names.
            text.is_some() && self.view.secret.iter().any(|secret| self.view.fields.get(secret) == text)
        };
        used.name == self.name && used.field.as_ref().is_none_or(secret)
    }

    /// Whether scripts may use it as a key.
    fn is_key(&self) -> bool {
        self.pieces.iter().any(|piece| piece == KEY_PIECE)
    }

    fn serves(&self, piece: &str) -> bool {
        self.pieces.is_empty() || self.pieces.iter().any(|allowed| allowed == piece)
    }

    fn not_for(&self, piece: &str) -> StepError {
        let (name, pieces) = (&self.name, self.pieces.join("`, `"));
        let message = format!(
            "connection `{name}` is not for the piece `{piece}`, only for `{pieces}`: add the piece to the connection, or use \
             another one"
        );
        StepError::new(StepErrorKind::Connection, message)
    }

    fn no_secret(&self, unresolved: &Unresolved) -> StepError {
        let again = unresolved.error.is_retryable();
        let kind = if again { StepErrorKind::OutcomeTransient } else { StepErrorKind::Connection };
        StepError::new(kind, format!("connection `{}` cannot be used: {unresolved}", self.name))
    }

    fn not_good(&self) -> StepError {
        let name = &self.name;
        let message = match self.status {
            ConnectionStatus::Missing => {
                format!("connection `{name}` is not connected yet: its owner must authorise it")
            }
            ConnectionStatus::Expired => format!("connection `{name}` has expired: connect it again"),
            _ => {
                let fault = self.fault.as_deref().unwrap_or("it is in error");
                format!("connection `{name}` cannot be used ({fault}): connect it again, or replace its credential")
            }
        };
        StepError::new(StepErrorKind::Connection, message)
    }
}

/// The credentials of one connection alone, and the placeholder of it.
pub(crate) fn credentials_of(
    keys: &TenantKeys,
    (id, connection): (ConnectionId, Connection),
    run: RunId,
) -> Result<(Arc<RunCredentials>, String), RunError> {
    let whole = keys.placeholder(run, id, "").to_string();
    let bound = RunConnection { id, connection, placeholders: vec![(whole.clone(), Stands::Whole)] };
    Ok((Arc::new(RunCredentials::new(vec![bound])?), whole))
}

/// What connections are made ready for.
#[derive(Clone, Copy)]
enum Purpose<'a> {
    Check,
    /// A script that may reach hosts, in this step.
    OutsideScript(&'a str),
    Piece(&'a str),
    /// A script that reaches nothing, in this step.
    Script(&'a str),
}

/// The piece whose action a step calls.
pub(crate) fn piece_of<'f>(flow: &'f ValidFlow, step: &str) -> Option<&'f str> {
    match &flow.step(step)?.kind {
        StepKind::Piece(step) => Some(&step.piece),
        _ => None,
    }
}

/// Every placeholder text of a connection, and what it stands for.
fn placeholders(view: &ConnectionView) -> Vec<(String, Stands)> {
    let fields =
        view.secret.iter().filter_map(|name| Some((view.fields.get(name)?.clone(), Stands::Field(name.clone()))));
    fields.chain([(view.whole.clone(), Stands::Whole)]).collect()
}

/// Whether a placeholder of the connection stands somewhere in `value`.
fn mentions(value: &Value, view: &ConnectionView) -> bool {
    let stands_in = |text: &str| {
        text.contains(&view.whole)
            || view.secret.iter().filter_map(|field| view.fields.get(field)).any(|secret| text.contains(secret))
    };
    match value {
        Value::String(text) => stands_in(text),
        Value::Array(items) => items.iter().any(|item| mentions(item, view)),
        // A name is text as well: whoever gets the value gets it.
        Value::Object(members) => members.iter().any(|(name, member)| stands_in(name) || mentions(member, view)),
        _ => false,
    }
}
