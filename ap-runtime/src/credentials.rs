//! The connections of a run: looked up by name when they are needed, held no longer than that.

use std::{collections::BTreeSet, sync::Arc};

use ap_auth::{
    audit::AuditEvent,
    principal::{Actor, Identity},
};
use ap_core::{
    audit::AuditRecord,
    connection::{Connection, Field},
    flow::ValidFlow,
    id::ConnectionId,
    store::StoreError,
};
use ap_crypto::vault::TenantKeys;
use serde_json::Value;

use crate::{
    egress::credential::{RunConnection, RunCredentials, Stands},
    engine::{ActionCall, ConnectionView, ConnectionViews},
    journal::RunError,
    kernel::Kernel,
    records,
    store::Claimed,
};

/// Looks up the connections of one run.
pub(crate) struct CredentialLoader {
    claimed: Claimed,
    names: BTreeSet<String>,
    /// The connections of the last look-up, as the run sees them.
    seen: Vec<(ConnectionId, String, ConnectionView)>,
    current: Arc<RunCredentials>,
}

impl CredentialLoader {
    /// For the connections that the steps of `flow` name; those of its trigger are the door's.
    pub(crate) fn new(claimed: Claimed, flow: &ValidFlow) -> Self {
        let steps = flow.connections().iter().filter(|used| used.pointer.starts_with("/steps"));
        let names = steps.map(|used| used.name.clone()).collect();
        Self { claimed, names, seen: Vec::new(), current: Arc::default() }
    }

    /// For the connections that the trigger of `flow` names: a poll's. `claimed` stands in for a run.
    pub(crate) fn for_trigger(claimed: Claimed, flow: &ValidFlow) -> Self {
        let trigger = flow.connections().iter().filter(|used| !used.pointer.starts_with("/steps"));
        let names = trigger.map(|used| used.name.clone()).collect();
        Self { claimed, names, seen: Vec::new(), current: Arc::default() }
    }

    /// Reads the connections anew: one that was replaced or deleted meanwhile is so from the next request on.
    pub(crate) async fn refresh(&mut self, kernel: &Kernel, keys: &TenantKeys) -> Result<(), RunError> {
        if self.names.is_empty() {
            return Ok(());
        }
        let (mut seen, mut bound) = (Vec::new(), Vec::new());
        for name in &self.names {
            let hash = records::connection_name(keys, name);
            let record = match kernel.backend.connection(hash, self.claimed.lease.project).await {
                Ok(record) => record,
                // A template that reads it says so, with the step and the place.
                Err(StoreError::NotFound { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            let connection = records::open_connection(keys, &record, name)?;
            let view = self.view(keys, record.id, &connection);
            let placeholders = placeholders(&view);
            seen.push((record.id, name.clone(), view));
            bound.push(RunConnection { id: record.id, connection, placeholders });
        }
        self.seen = seen;
        self.current = Arc::new(RunCredentials::new(bound)?);
        Ok(())
    }

    /// The connections as they were at the last look-up.
    pub(crate) fn current(&self) -> Arc<RunCredentials> {
        Arc::clone(&self.current)
    }

    /// What the flow may see of its connections.
    pub(crate) fn views(&self) -> ConnectionViews {
        self.seen.iter().map(|(_, name, view)| (name.clone(), view.clone())).collect()
    }

    /// One audit record per connection whose placeholder stands in the input of `call`: written before it is used.
    pub(crate) fn audit_uses(
        &self,
        kernel: &Kernel,
        keys: &TenantKeys,
        call: &ActionCall,
    ) -> Result<Vec<AuditRecord>, RunError> {
        self.audit_uses_in(kernel, keys, &call.input, |event| {
            event
                .with_resource(self.claimed.lease.run)
                .with_detail("step", call.path.as_str())
                .with_detail("attempt", u64::from(call.attempt))
        })
    }

    /// One audit record per connection whose placeholder stands in `input`, told where by `by_whom`.
    pub(crate) fn audit_uses_in(
        &self,
        kernel: &Kernel,
        keys: &TenantKeys,
        input: &Value,
        by_whom: impl Fn(AuditEvent) -> AuditEvent,
    ) -> Result<Vec<AuditRecord>, RunError> {
        let used = self.seen.iter().filter(|(_, _, view)| mentions(input, view));
        used.map(|(id, name, _)| {
            let scope = self.claimed.lease.project.into();
            let event = AuditEvent::by(&Actor::new(Identity::Engine), "connection.use", scope, kernel.clock.now())
                .with_resource(id)
                .with_detail("name", name.as_str());
            kernel.seal_event(keys, &by_whom(event))
        })
        .collect()
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
        ConnectionView {
            // No field has an empty name, so the whole cannot be mistaken for one.
            whole: placeholder(""),
            fields: shown.collect(),
            secret: secret.map(|(name, _)| (*name).to_owned()).collect(),
        }
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
    match value {
        Value::String(text) => {
            text.contains(&view.whole)
                || view.secret.iter().filter_map(|field| view.fields.get(field)).any(|secret| text.contains(secret))
        }
        Value::Array(items) => items.iter().any(|item| mentions(item, view)),
        Value::Object(members) => members.values().any(|member| mentions(member, view)),
        _ => false,
    }
}
