//! Flow control at acceptance: from what a flow says about its runs to what the store is asked to keep to.
//!
//! Keys are templates over `trigger`. What they resolve to is hashed with the tenant's key, so that the store learns nothing
//! but whether two are the same. Text counts as itself, anything else as its compact JSON; a key that is left out is one for
//! the whole flow.
//!
//! A key that leads to nothing refuses a webhook (400) and a run by hand: who sent it can send it better. A schedule or a poll
//! has nobody to refuse, and what a poll found must not be lost: there the key is that of the whole flow.

use std::borrow::Cow;

use ap_core::{
    expr::{Environment, Key, Lookup, Path, ResolveError, Template},
    flow::{Overlap, ValidFlow},
    id::FlowId,
    store::LookupHash,
};
use ap_crypto::vault::TenantKeys;
use serde_json::Value;

use crate::store::{Debounce, Gate, Pace, RunControl};

/// What starts a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Somebody who can be answered: a webhook, a session.
    Caller,
    /// A poll. What would be refused starts later instead.
    Poll,
    /// A schedule, with what it does while a run of an earlier tick has not ended.
    Schedule(Overlap),
}

/// What `flow` says about a run that starts with `trigger`.
///
/// # Errors
/// The key that leads to nothing, for a caller.
pub(crate) fn control_of(
    flow: &ValidFlow,
    id: FlowId,
    keys: &TenantKeys,
    trigger: &Value,
    origin: Origin,
) -> Result<RunControl, ResolveError> {
    let written = flow.definition().control();
    let hasher = Hasher { id, keys, trigger, strict: origin == Origin::Caller };
    let mut control = RunControl { priority: written.priority, ..RunControl::default() };
    if let Some(concurrency) = &written.concurrency {
        let key = hasher.hash("gate", concurrency.key.as_ref())?;
        control.gate = Some(Gate { key, limit: concurrency.limit, skip: false });
    }
    if let Some(pace) = &written.throttle {
        let key = hasher.hash("throttle", pace.key.as_ref())?;
        control.throttle = Some(Pace { key, limit: pace.limit, period: pace.period });
    }
    if let Some(pace) = &written.rate_limit {
        let key = hasher.hash("rate", pace.key.as_ref())?;
        control.rate_limit = Some(Pace { key, limit: pace.limit, period: pace.period });
    }
    if let Some(debounce) = &written.debounce {
        let key = hasher.hash("debounce", debounce.key.as_ref())?;
        control.debounce = Some(Debounce { key, delay: debounce.delay, max_wait: debounce.max_wait });
    }
    match origin {
        Origin::Caller => {}
        // To refuse what a poll found is to lose it. A rate limit becomes a throttle, unless there is one already.
        Origin::Poll => control.throttle = control.throttle.or(control.rate_limit.take()),
        Origin::Schedule(Overlap::Allow) => {}
        Origin::Schedule(overlap) => {
            // The flow's own gate keeps its key, so both hold: nothing is under way when a tick passes.
            let key = match control.gate {
                Some(gate) => gate.key,
                None => hasher.hash("schedule", None)?,
            };
            control.gate = Some(Gate { key, limit: 1, skip: overlap == Overlap::Skip });
        }
    }
    if origin == Origin::Poll {
        control.rate_limit = None;
    }
    Ok(control)
}

struct Hasher<'a> {
    id: FlowId,
    keys: &'a TenantKeys,
    trigger: &'a Value,
    /// Whether a key that leads to nothing is refused.
    strict: bool,
}

impl Hasher<'_> {
    fn hash(&self, purpose: &str, key: Option<&Template>) -> Result<LookupHash, ResolveError> {
        let whole = || self.keys.lookup_hash(purpose, &[self.id.as_bytes()]);
        let Some(template) = key else { return Ok(whole()) };
        match template.resolve(&Delivered(self.trigger)) {
            Ok(value) => {
                let text = match &value {
                    Value::String(text) => Cow::Borrowed(text.as_str()),
                    other => Cow::Owned(other.to_string()),
                };
                Ok(self.keys.lookup_hash(purpose, &[self.id.as_bytes(), text.as_bytes()]))
            }
            Err(error) if self.strict => Err(error),
            Err(error) => {
                tracing::warn!(flow = %self.id, purpose, %error, "a flow control key leads to nothing; the flow's own is used");
                Ok(whole())
            }
        }
    }
}

/// What keys, and the name of a data subject, may read.
pub(crate) fn delivered(trigger: &Value) -> impl Environment + '_ {
    Delivered(trigger)
}

/// All that a key may read.
struct Delivered<'a>(&'a Value);

impl Environment for Delivered<'_> {
    fn lookup<'a>(&'a self, path: &Path) -> Lookup<'a> {
        match path.segments.first().map(|segment| &segment.key) {
            Some(Key::Name(name)) if name == "trigger" => Lookup::Found { value: Cow::Borrowed(self.0), consumed: 1 },
            _ => Lookup::Missing { at: 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ap_core::{
        flow::{FlowDefinition, FlowLimits},
        id::{KeyId, ProjectId},
        piece::PieceSet,
        time::Timestamp,
    };
    use ap_crypto::{entropy::SystemEntropy, key::RootKey, keyring::Keyring};
    use serde_json::json;

    use super::*;
    use crate::{backend::memory::MemoryBackend, clock::SystemClock};

    const FLOW: FlowId = FlowId::from_u128(3);

    fn keys() -> Arc<TenantKeys> {
        let root = RootKey::generate(&SystemEntropy).expect("entropy");
        let ring = Keyring::new(root, Arc::new(MemoryBackend::new(Arc::new(SystemClock))));
        let scope = ProjectId::from_u128(1).into();
        ring.create_tenant_key(scope, KeyId::from_u128(1), Timestamp::EPOCH, &SystemEntropy).expect("a key").1
    }

    fn flow(control: Value) -> ValidFlow {
        let mut source = json!({ "triggers": [{ "type": "webhook" }], "steps": [] });
        source.as_object_mut().unwrap().extend(control.as_object().unwrap().clone());
        let limits = FlowLimits::default();
        let definition = FlowDefinition::from_value(source, &limits).expect("parses");
        ValidFlow::check(definition, &PieceSet::default(), &limits).expect("valid")
    }

    #[test]
    fn keys_tell_values_flows_and_purposes_apart() {
        let keys = keys();
        let keyed = flow(json!({
            "concurrency": { "limit": 2, "key": "{{trigger.body.customer}}" },
            "throttle": { "limit": 1, "periodMs": 1000, "key": "{{trigger.body.customer}}" },
        }));
        let of =
            |id, body: Value| control_of(&keyed, id, &keys, &json!({ "body": body }), Origin::Caller).expect("keys");
        let (a, b) = (of(FLOW, json!({ "customer": "a" })), of(FLOW, json!({ "customer": "b" })));
        let gate = |control: &RunControl| control.gate.unwrap().key;
        assert_eq!(a, of(FLOW, json!({ "customer": "a", "more": 1 })));
        assert_ne!(gate(&a), gate(&b));
        assert_ne!(gate(&a), gate(&of(FlowId::from_u128(4), json!({ "customer": "a" }))));
        assert_ne!(gate(&a), a.throttle.unwrap().key);
        let whole = flow(json!({ "concurrency": { "limit": 2 } }));
        let whole = control_of(&whole, FLOW, &keys, &json!({}), Origin::Caller).expect("keys");
        assert!(gate(&whole) != gate(&a) && gate(&whole) != gate(&of(FLOW, json!({ "customer": "" }))));
    }

    #[test]
    fn a_key_that_leads_to_nothing_is_refused_where_somebody_can_mend_it() {
        let keys = keys();
        let keyed = flow(json!({ "concurrency": { "limit": 2, "key": "{{trigger.body.customer}}" } }));
        let of = |origin| control_of(&keyed, FLOW, &keys, &json!({ "body": {} }), origin);
        assert!(of(Origin::Caller).expect_err("no customer").to_string().contains("trigger.body.customer"));
        let whole = keys.lookup_hash("gate", &[FLOW.as_bytes()]);
        for origin in [Origin::Poll, Origin::Schedule(Overlap::Allow)] {
            assert_eq!(of(origin).expect("a key").gate.unwrap().key, whole);
        }
    }

    #[test]
    fn nothing_that_a_poll_found_is_refused() {
        let keys = keys();
        let limited = flow(json!({ "rateLimit": { "limit": 5, "periodMs": 1000 } }));
        let control = control_of(&limited, FLOW, &keys, &json!({}), Origin::Poll).expect("keys");
        assert_eq!((control.rate_limit, control.throttle.map(|pace| pace.limit)), (None, Some(5)));
        let both = flow(json!({
            "rateLimit": { "limit": 5, "periodMs": 1000 }, "throttle": { "limit": 1, "periodMs": 1000 },
        }));
        let control = control_of(&both, FLOW, &keys, &json!({}), Origin::Poll).expect("keys");
        assert_eq!((control.rate_limit, control.throttle.map(|pace| pace.limit)), (None, Some(1)));
    }

    #[test]
    fn a_tick_passes_a_gate_of_its_own_or_the_flows() {
        let keys = keys();
        let of = |flow: &ValidFlow, overlap| {
            let gate = control_of(flow, FLOW, &keys, &json!({}), Origin::Schedule(overlap)).expect("keys").gate;
            gate.map(|gate| (gate.limit, gate.skip, gate.key))
        };
        let (free, gated) = (flow(json!({})), flow(json!({ "concurrency": { "limit": 3 } })));
        let own = keys.lookup_hash("schedule", &[FLOW.as_bytes()]);
        let whole = keys.lookup_hash("gate", &[FLOW.as_bytes()]);
        assert_eq!(of(&free, Overlap::Allow), None);
        assert_eq!(of(&free, Overlap::Skip), Some((1, true, own)));
        assert_eq!(of(&free, Overlap::Queue), Some((1, false, own)));
        assert_eq!(of(&gated, Overlap::Allow), Some((3, false, whole)));
        assert_eq!(of(&gated, Overlap::Skip), Some((1, true, whole)));
    }
}
