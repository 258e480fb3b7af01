//! Every template of a flow, with its place.

use serde_json::Value;

use crate::{
    expr::Template,
    flow::{
        DelayStep, FlowControl, IdempotencyKey, Step, StepKind, TriggerDefinition, TriggerKind, WebhookAuthentication,
        parse::settings_pointer,
    },
};

/// The templates that are resolved when the step begins.
pub(super) fn of_step<'f>(step: &'f Step, source: &Value) -> Vec<(String, &'f Template)> {
    let settings = settings_pointer(source, &step.pointer);
    // Where an author may write a member in one of two places.
    let either = |first: String, second: String| if source.pointer(&first).is_some() { first } else { second };
    let beside = |name: &str| either(format!("{}/{name}", step.pointer), format!("{settings}/{name}"));
    let mut templates = match &step.kind {
        StepKind::Branch(branch) => {
            let place = |(pointer, template)| (format!("{settings}/condition{pointer}"), template);
            branch.condition.templates().map(place).collect()
        }
        StepKind::Code(code) => code.input.iter().map(|input| (beside("input"), input)).collect(),
        StepKind::Delay(DelayStep::For(time)) => vec![(format!("{settings}/delayMs"), time)],
        StepKind::Delay(DelayStep::Until(time)) => vec![(format!("{settings}/until"), time)],
        StepKind::Enqueue(enqueue) => vec![(format!("{settings}/data"), &enqueue.data)],
        StepKind::Fail(fail) => vec![(format!("{settings}/message"), &fail.message)],
        StepKind::Loop(inner) => vec![(format!("{settings}/items"), &inner.items)],
        StepKind::Piece(piece) => vec![(settings.clone(), &piece.input)],
        StepKind::Respond(respond) => vec![
            (format!("{settings}/status"), &respond.status),
            (format!("{settings}/headers"), &respond.headers),
            (format!("{settings}/body"), &respond.body),
        ],
        StepKind::Router(router) => {
            let branches = router.branches.iter().enumerate();
            let conditions = branches.flat_map(|(index, branch)| {
                let branch_place = format!("{settings}/branches/{index}");
                let place = either(format!("{branch_place}/condition"), format!("{branch_place}/conditions"));
                branch.condition.templates().map(move |(pointer, template)| (format!("{place}{pointer}"), template))
            });
            conditions.collect()
        }
        StepKind::Subflow(subflow) => {
            vec![(format!("{settings}/flow"), &subflow.flow), (format!("{settings}/payload"), &subflow.payload)]
        }
        StepKind::Parallel(_) | StepKind::Process(_) | StepKind::Wait(_) => Vec::new(),
    };
    if let Some(IdempotencyKey::Template(key)) = &step.options.idempotency_key {
        templates.push((beside("idempotencyKey"), key));
    }
    templates
}

/// The templates of a trigger.
pub(super) fn of_trigger(trigger: &TriggerDefinition) -> Vec<(String, &Template)> {
    let settings = format!("{}/settings", trigger.pointer);
    match &trigger.kind {
        TriggerKind::Manual | TriggerKind::Schedule(_) => Vec::new(),
        TriggerKind::Piece(poll) => vec![(settings, &poll.input)],
        TriggerKind::Webhook(webhook) => {
            let place = |(name, template)| (format!("{settings}/authentication/{name}"), template);
            secrets(&webhook.authentication).into_iter().map(place).collect()
        }
    }
}

/// The keys of flow control, and whom runs are about.
pub(super) fn of_control(control: &FlowControl) -> impl Iterator<Item = (&'static str, &Template)> {
    let concurrency = control.concurrency.as_ref().and_then(|given| given.key.as_ref());
    let throttle = control.throttle.as_ref().and_then(|given| given.key.as_ref());
    let rate_limit = control.rate_limit.as_ref().and_then(|given| given.key.as_ref());
    let debounce = control.debounce.as_ref().and_then(|given| given.key.as_ref());
    let keys = [
        ("/concurrency/key", concurrency),
        ("/throttle/key", throttle),
        ("/rateLimit/key", rate_limit),
        ("/debounce/key", debounce),
        ("/subject", control.subject.as_ref()),
    ];
    keys.into_iter().filter_map(|(place, key)| Some((place, key?)))
}

fn secrets(authentication: &WebhookAuthentication) -> Vec<(&'static str, &Template)> {
    match authentication {
        WebhookAuthentication::Basic { username, password } => vec![("username", username), ("password", password)],
        WebhookAuthentication::Header { expected_value, .. } => vec![("expectedValue", expected_value)],
        WebhookAuthentication::Hmac { secret, .. } => vec![("secret", secret)],
        WebhookAuthentication::None => Vec::new(),
    }
}
