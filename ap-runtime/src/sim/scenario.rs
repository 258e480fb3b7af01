//! [`Scenario`]: what all schedules of one exploration have in common, and the store they start from.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use ap_auth::role::Role;
use ap_core::{
    connection::Connection,
    flow::{FlowDefinition, FlowLimits, TriggerKind, ValidFlow},
    id::{FlowId, FlowVersionId, ProjectId},
    piece::{Piece, PieceSet},
    time::Timestamp,
};
use ap_crypto::{
    key::RootKey,
    keyring::{KeyStore, Keyring},
    provider::MemoryKeyProvider,
    vault::TenantKeys,
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::{
    SimError,
    clock::TrueClock,
    dice::Dice,
    life::Life,
    mutant::Mutant,
    peer::{Respond, Script, SimSandbox, operator},
};
use crate::{
    backend::memory::{MemoryBackend, MemorySnapshot},
    clock::{Clock, TokioClock},
    egress::Egress,
    runtime::Runtime,
    session::{ProjectSession, SessionError},
    webhook::delivery_id,
};

/// What all schedules of one exploration have in common.
pub(super) struct Scenario {
    pub(super) flow: Value,
    /// Flows that it starts, by the names it has for them.
    pub(super) subflows: Vec<(String, Value)>,
    pub(super) pieces: Vec<Arc<dyn Piece>>,
    pub(super) connections: Vec<Connection>,
    pub(super) payload: Value,
    pub(super) deliveries: usize,
    pub(super) workers: usize,
    pub(super) lease: Duration,
    pub(super) horizon: Duration,
    pub(super) lifetime: Duration,
    pub(super) respond: Respond,
    pub(super) script: Script,
    pub(super) counts: bool,
    pub(super) mutant: Option<Mutant>,
}

/// A store with the flow published, and what it takes to use and to judge it.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) snapshot: MemorySnapshot,
    pub(super) project: ProjectId,
    pub(super) flow: FlowId,
    pub(super) flows: BTreeMap<FlowVersionId, Arc<ValidFlow>>,
    pub(super) keys: Arc<TenantKeys>,
    /// How runs are started: by this webhook token, or by hand.
    pub(super) token: Option<SecretString>,
    pub(super) deliveries: Vec<Delivery>,
}

/// One delivery: every copy of it says the same.
#[derive(Clone, Debug)]
pub(super) struct Delivery {
    pub(super) payload: Value,
    /// What makes copies of it one delivery, if anything does.
    pub(super) identity: Option<String>,
}

impl Scenario {
    /// Creates project, connections and flow in a store without faults. Call it under paused tokio time.
    pub(super) async fn set_up(&self) -> Result<Setup, SimError> {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(SET_UP));
        let store = Arc::new(MemoryBackend::new(Arc::clone(&clock)));
        let truth = TrueClock::starting_at(SET_UP);
        let sandbox = SimSandbox { life: Life::new(0, 0, truth), script: Arc::clone(&self.script), counts: false };
        let backend: Arc<dyn crate::store::Backend> = store.clone();
        let runtime = Runtime::builder(backend, MemoryKeyProvider::new(root_key()?))
            .clock(clock)
            .entropy(Arc::new(Dice::new(SET_UP_SEED, 0)))
            .pieces(self.pieces.iter().cloned())
            .sandbox(sandbox)
            .egress(Egress::none())
            .build()
            .await?;
        let platform = operator().with_role(runtime.platform(), Role::Admin);
        let project = runtime.session(platform).create_project("Simulation").await?;
        let admin = runtime.session(operator().with_role(project, Role::Admin)).project(project)?;
        for connection in &self.connections {
            admin.put_connection(connection).await?;
        }
        let mut names = Vec::new();
        let mut flows = BTreeMap::new();
        for (name, source) in &self.subflows {
            let published = self.publish(&admin, &named(source, &names)).await?;
            names.push((format!("{SUBFLOW_PREFIX}{name}"), published.0.to_string()));
            flows.insert(published.1, published.2);
        }
        let (flow, version, valid) = self.publish(&admin, &named(&self.flow, &names)).await?;
        flows.insert(version, Arc::clone(&valid));
        let (webhook, place, count) = match &valid.trigger().kind {
            TriggerKind::Webhook(settings) => (true, settings.dedupe_key.clone(), self.deliveries),
            TriggerKind::Manual => (false, None, self.deliveries),
            _ => (false, None, 0),
        };
        let token = if webhook { Some(admin.webhook_token(flow).await?) } else { None };
        runtime.shutdown(Duration::ZERO).await;
        let keyring = Keyring::new(root_key()?, Arc::clone(&store) as Arc<dyn KeyStore>);
        let keys = keyring.tenant(project.into()).await?;
        let place = place.as_deref();
        let deliveries = (0..count).map(|number| self.delivery(number, webhook, place)).collect();
        Ok(Setup { snapshot: store.snapshot(), project, flow, flows, keys, token, deliveries })
    }

    async fn publish(
        &self,
        admin: &ProjectSession,
        source: &Value,
    ) -> Result<(FlowId, FlowVersionId, Arc<ValidFlow>), SimError> {
        let text = source.to_string();
        let flow = admin.create_flow(text.as_bytes()).await?.id;
        let published = admin.publish_flow(flow).await?.flow.published.ok_or(SessionError::NotPublished)?;
        let limits = FlowLimits::widest();
        let definition = FlowDefinition::parse_slice(text.as_bytes(), &limits).map_err(SimError::Flow)?;
        let pieces = PieceSet::new(self.pieces.iter().cloned());
        let valid = ValidFlow::check(definition, &pieces, &limits).map_err(SimError::Flow)?;
        Ok((flow, published, Arc::new(valid)))
    }

    /// The payload as this delivery brings it: with an id of its own where the flow looks for one.
    fn delivery(&self, number: usize, webhook: bool, place: Option<&str>) -> Delivery {
        if !webhook {
            return Delivery { payload: self.payload.clone(), identity: None };
        }
        let id = format!("delivery-{number}");
        let mut body = self.payload.clone();
        let mut headers = serde_json::Map::from_iter([("webhook-id".to_owned(), Value::from(id.clone()))]);
        match place {
            Some(pointer) if pointer.starts_with('/') => {
                if let Some(there) = body.pointer_mut(pointer) {
                    *there = Value::from(id);
                }
            }
            Some(header) => {
                headers.insert(header.to_ascii_lowercase(), Value::from(id));
            }
            None => {}
        }
        let payload = json!({ "method": "POST", "headers": headers, "queryParams": {}, "body": body });
        let identity = delivery_id(place, &payload);
        Delivery { payload, identity }
    }

    /// Texts of the payload and of credentials that are long enough to be searched for in what is stored.
    pub(super) fn canaries(&self, setup: &Setup) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        collect_texts(&self.payload, &mut found);
        collect_texts(&self.flow, &mut found);
        found.extend(setup.token.iter().map(|token| token.expose_secret().as_bytes().to_vec()));
        found.sort_by_key(|text| std::cmp::Reverse(text.len()));
        found.truncate(MOST_CANARIES);
        found
    }
}

impl fmt::Debug for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scenario")
            .field("workers", &self.workers)
            .field("deliveries", &self.deliveries)
            .finish_non_exhaustive()
    }
}

/// The flow with the ids of others in place of their names.
fn named(source: &Value, names: &[(String, String)]) -> Value {
    match source {
        Value::String(text) => match names.iter().find(|(name, _)| name == text) {
            Some((_, id)) => Value::from(id.clone()),
            None => source.clone(),
        },
        Value::Array(items) => items.iter().map(|item| named(item, names)).collect(),
        Value::Object(members) => {
            Value::Object(members.iter().map(|(key, member)| (key.clone(), named(member, names))).collect())
        }
        other => other.clone(),
    }
}

fn collect_texts(value: &Value, found: &mut Vec<Vec<u8>>) {
    match value {
        Value::String(text) if text.len() >= SHORTEST_CANARY && !text.contains("{{") => {
            found.push(text.clone().into_bytes());
        }
        Value::Array(items) => items.iter().for_each(|item| collect_texts(item, found)),
        Value::Object(members) => members.values().for_each(|member| collect_texts(member, found)),
        _ => {}
    }
}

/// The root key of every simulated world.
pub(super) fn root_key() -> Result<RootKey, SimError> {
    Ok(RootKey::generate(&Dice::new(SET_UP_SEED, ROOT_KEY))?)
}

/// When a world is set up: 15 June 2025.
pub(super) const SET_UP: Timestamp = Timestamp::from_millis(1_750_000_000_000);
const SET_UP_SEED: u64 = 0x5e70;
/// Purpose of dice.
const ROOT_KEY: u64 = 1;
/// Unit: bytes. Shorter texts stand in ciphertext by chance.
const SHORTEST_CANARY: usize = 8;
/// What stands before the name of another flow where its id is meant.
const SUBFLOW_PREFIX: &str = "sim:";
const MOST_CANARIES: usize = 4;
