//! What a host does beside answering webhooks: queues, waits, subflows, schedules, polls, trials, second tries.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use ap_core::{
    id::{FlowId, RunId},
    run::RunStatus,
    store::PageRequest,
};
use ap_runtime::{
    engine::StepSample,
    session::{RetryStrategy, StepSource},
    store::RunFilter,
};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::{
    secrets::Secrets,
    world::{LOGGED, Seen, World},
};

/// What came of it.
pub struct Durable {
    /// Runs, each of which got both credentials echoed, by what they are about.
    pub seen: Vec<(&'static str, Seen)>,
    /// What was in the store while a run was parked, and jobs waited.
    pub kept: Vec<(String, Vec<u8>)>,
    /// What those who answered were told.
    pub answers: String,
}

impl World {
    /// Everything that is not a webhook's.
    pub async fn live_on(&self, secrets: &Secrets) -> Durable {
        let mut seen = Vec::from(self.queue(secrets).await);
        seen.push(("subflow", self.call().await));
        seen.push(("second try", self.fail_and_try_again().await));
        seen.push(("trial", self.test_a_step().await));
        seen.push(("schedule", self.fire().await));
        seen.push(("poll", self.poll().await));
        let (waited, kept, answers) = self.wait(secrets).await;
        seen.push(("answer", Seen::of(output(&waited, "hold"))));
        seen.push(("early answer", Seen::of(output(&waited, "later"))));
        seen.push(("wait", waited));
        Durable { seen, kept, answers }
    }

    /// Jobs with a placeholder: good in their own run, text in any other.
    async fn queue(&self, secrets: &Secrets) -> [(&'static str, Seen); 2] {
        let fill = |queue: &str| {
            let data = json!([{ "token": "{{connections.api.token}}", "note": "{{trigger.note}}", "echo": "{{trigger.echo}}" }]);
            json!({ "name": "fill", "type": "queue.enqueue", "settings": { "queueName": queue, "data": data } })
        };
        let mut send = send("send", "Text", json!(["{{item.note}}", "{{item.echo}}"]));
        send["settings"]["headers"]["Authorization"] = json!("Bearer {{item.token}}");
        let work = |queue: &str| json!({ "name": "work", "type": "queue.process", "settings": { "queueName": queue, "steps": [send] } });

        let both = self.publish(&manual(json!([fill("own"), work("own")]))).await;
        let verified = self.peer.verified();
        let done = self.finished(both, json!({ "note": self.payloads.job, "echo": [] })).await;
        assert_eq!(done.run["status"], "SUCCEEDED", "{}", done.run);
        assert_eq!(self.peer.verified(), verified + 1, "the job of the run itself could not use the connection");

        let filling = self.publish(&manual(json!([fill("other")]))).await;
        // Whoever fills a queue may know the credentials, too.
        let note = json!({ "note": self.payloads.job, "echo": [secrets.api, secrets.odd] });
        self.finished(filling, note.clone()).await;
        let working = self.publish(&manual(json!([work("other")]))).await;
        let (verified, refused) = (self.peer.verified(), self.peer.refused().len());
        let other = self.finished(working, json!({})).await;
        assert_eq!(self.peer.verified(), verified, "a job of another run could use its connection");
        self.assert_inert(refused, &other);
        // One waits until the end.
        self.finished(filling, note).await;
        [("queue", done), ("job of another run", other)]
    }

    /// A flow that is given a placeholder of the one that calls it.
    async fn call(&self) -> Seen {
        let send = json!({ "name": "use", "type": "http.request", "onError": "continue", "settings": {
            "method": "POST", "url": "{{trigger.url}}/echo/Text", "headers": { "Authorization": "Bearer {{trigger.token}}" },
            "body": { "auth": { "key": "{{trigger.key}}" } },
        } });
        let reply = json!({ "name": "reply", "type": "respond", "settings": { "status": 200, "body": "{{trigger}}" } });
        let child = self.publish(&manual(json!([send, reply]))).await;
        let payload = json!({
            "token": "{{connections.api.token}}", "key": "{{connections.odd.key}}", "url": "{{connections.api.url}}",
            "note": "{{trigger.note}}",
        });
        let sub =
            json!({ "name": "sub", "type": "subflow", "settings": { "flow": child.to_string(), "payload": payload } });
        let parent =
            self.publish(&manual(json!([sub, self::send("send", "Text", json!("{{steps.sub.output.note}}"))]))).await;
        let (verified, refused) = (self.peer.verified(), self.peer.refused().len());
        let seen = self.finished(parent, json!({ "note": self.payloads.child })).await;
        assert_eq!(seen.run["status"], "SUCCEEDED", "{}", seen.run);
        assert_eq!(self.peer.verified(), verified + 1, "a child could use the connection of its parent");
        let run: RunId = serde_json::from_value(seen.run["id"].clone()).unwrap();
        let filter = RunFilter { parent: Some(run), ..RunFilter::default() };
        let children = self.admin().runs(filter, &PageRequest::default()).await.unwrap().items;
        let child = self.seen(children[0].id).await;
        self.assert_inert(refused, &child);
        seen
    }

    /// The last request was refused: it had a placeholder where a credential would have been.
    fn assert_inert(&self, refused: usize, seen: &Seen) {
        let bearers = self.peer.refused();
        assert_eq!(bearers.len(), refused + 1, "the peer was not asked: {}", seen.run);
        assert!(bearers[refused].starts_with("apcred_"), "{}", bearers[refused]);
    }

    async fn fail_and_try_again(&self) -> Seen {
        let steps = json!([send("send", "Text", json!("{{trigger.note}}")), send("fail", "NotFound", json!(1))]);
        let flow = self.publish(&manual(steps)).await;
        let run = self.admin().start_run(flow, json!({ "note": self.payloads.manual })).await.unwrap();
        assert_eq!(self.ended(run).await.run["status"], "FAILED");
        let verified = self.peer.verified();
        assert_eq!(self.admin().retry_run(run, RetryStrategy::FromFailedStep).await.unwrap(), run);
        let seen = self.ended(run).await;
        assert_eq!(self.peer.verified(), verified + 1, "it was not tried again");
        seen
    }

    async fn test_a_step(&self) -> Seen {
        let uses = self.uses().await;
        let trigger = json!({ "body": { "form": "Text", "note": self.payloads.sample } });
        let outputs = BTreeMap::from([("prepare".to_owned(), json!({ "event": self.payloads.sample }))]);
        let sample = StepSample { trigger, outputs, item: None };
        let verified = self.peer.verified();
        let tested = self.admin().test_step(self.flows[0].0, StepSource::Published, "send", sample).await.unwrap();
        assert_eq!(self.peer.verified(), verified + 1, "{tested:?}");
        assert_eq!(self.uses().await, uses + 2, "the use of the connections was not audited");
        Seen::of(&tested)
    }

    async fn uses(&self) -> usize {
        self.audit().await.iter().filter(|event| event.action() == "connection.use").count()
    }

    /// One answer too early, one in time, both with credentials in them. In between the run is parked.
    async fn wait(&self, secrets: &Secrets) -> (Seen, Vec<(String, Vec<u8>)>, String) {
        let wait = |name: &str| json!({ "name": name, "type": "wait", "settings": { "mode": "webhook", "timeoutMs": 600_000 } });
        let tokens = json!(["{{$wait.hold.token}}", "{{$wait.later.token}}"]);
        let of = |source: &str, name: &str, input: Value| {
            let code = json!({ "code": source });
            json!({ "name": name, "type": "code", "settings": { "sourceCode": code, "input": input } })
        };
        let script = |name: &str, input: Value| of(LOGGED, name, input);
        let keep = |name: &str, input: Value| of(KEPT, name, input);
        let (note, kept) =
            (keep("note", json!({ "all": "{{trigger}}" })), keep("kept", json!({ "all": "{{steps.hold.output}}" })));
        let before = script("before", json!({ "token": "as {{$wait.hold.token}}." }));
        let after = script("after", json!({ "hold": "{{steps.hold.output}}", "used": "{{connections.api}}" }));
        let mail = send("mail", "Text", tokens);
        let flow = self.publish(&manual(json!([mail, before, note, wait("hold"), wait("later"), kept, after]))).await;
        let run = self.admin().start_run(flow, json!({ "note": self.payloads.manual })).await.unwrap();
        self.parked(run).await;
        let tokens: Vec<String> = serde_json::from_value(self.peer.last_value()).unwrap();
        self.tokens.lock().unwrap().extend(tokens.clone());
        let body = |note: &str| json!({ "note": note, "echo": [secrets.api, secrets.odd] });
        let mut answers = self.answer(&tokens[1], &body(&self.payloads.early), StatusCode::OK).await;
        self.parked(run).await;
        let kept = self.storage.kept().await;
        answers += &self.answer(&tokens[0], &body(&self.payloads.answer), StatusCode::OK).await;
        let seen = self.ended(run).await;
        assert_eq!(seen.run["status"], "SUCCEEDED", "{}", seen.run);
        answers += &self.answer(&tokens[0], &body(&self.payloads.answer), StatusCode::GONE).await;
        (seen, kept, answers)
    }

    async fn answer(&self, token: &str, body: &Value, expected: StatusCode) -> String {
        let request = Request::post(format!("/resume/{token}")).header("content-type", "application/json");
        let response =
            self.runtime.resumes().handle(request.body(Full::new(Bytes::from(body.to_string()))).unwrap()).await;
        assert_eq!(response.status(), expected);
        format!("{response:?}")
    }

    async fn parked(&self, run: RunId) {
        let paused = async || self.admin().run(run).await.unwrap().status == RunStatus::Paused;
        for _ in 0..1_000 {
            if paused().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the run was not parked");
    }

    async fn fire(&self) -> Seen {
        let source = json!({
            "triggers": [{ "type": "schedule", "settings": { "cronExpression": "* * * * * *", "timezone": "UTC" } }],
            "steps": [send("send", "Text", Value::Null)],
        });
        let flow = self.publish(&source).await;
        let seen = self.first_of(flow).await;
        self.admin().set_flow_enabled(flow, false).await.unwrap();
        seen
    }

    /// The credentials of a poll are the trigger's: its runs have none.
    async fn poll(&self) -> Seen {
        let settings = json!({
            "url": "{{connections.api.url}}/echo/Text", "token": "{{connections.api.token}}", "key": "{{connections.odd.key}}",
        });
        let source = json!({
            "triggers": [{ "type": "canary.items", "settings": settings, "pollIntervalMs": 1_000 }],
            "steps": [{ "name": "keep", "type": "code", "settings": {
                "sourceCode": { "code": LOGGED }, "input": { "all": "{{trigger}}" } } }],
        });
        let flow = self.publish(&source).await;
        let seen = self.first_of(flow).await;
        // The second poll fails.
        for _ in 0..1_000 {
            if self.polls.load(Ordering::SeqCst) > 1 {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("there was no second poll");
    }

    /// The first run that a flow starts by itself.
    async fn first_of(&self, flow: FlowId) -> Seen {
        let filter = RunFilter { flow: Some(flow), ..RunFilter::default() };
        for _ in 0..1_000 {
            let runs = self.admin().runs(filter, &PageRequest::default()).await.unwrap().items;
            if let Some(run) = runs.first() {
                return self.ended(run.id).await;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no run began");
    }

    pub(crate) async fn publish(&self, source: &Value) -> FlowId {
        let flow = self.admin().create_flow(source.to_string().as_bytes()).await.unwrap();
        self.admin().publish_flow(flow.id).await.unwrap();
        flow.id
    }

    pub(crate) async fn finished(&self, flow: FlowId, payload: Value) -> Seen {
        let run = self.admin().start_run(flow, payload).await.unwrap();
        self.ended(run).await
    }
}

pub(crate) fn manual(steps: Value) -> Value {
    json!({ "triggers": [{ "type": "manual" }], "steps": steps })
}

/// A request with both credentials, which come back in `form`.
pub(crate) fn send(name: &str, form: &str, value: Value) -> Value {
    json!({ "name": name, "type": "http.request", "settings": {
        "method": "POST", "url": format!("{{{{connections.api.url}}}}/echo/{form}"),
        "headers": { "Authorization": "Bearer {{connections.api.token}}" },
        "body": { "auth": { "key": "{{connections.odd.key}}" }, "value": value },
    } })
}

/// What came out of a step.
fn output<'s>(seen: &'s Seen, step: &str) -> &'s Value {
    let steps = seen.run["steps"].as_array().unwrap();
    &steps.iter().find(|found| found["path"] == step).unwrap_or_else(|| panic!("no step is at `{step}`"))["output"]
}

/// Keeps what it is given, for the flow and for all of the project.
const KEPT: &str = "export const code = async (params, { step, store }) => { await store.put(step.name, params); \
    await store.put('last', params, 'PROJECT'); return store.get(step.name); };";
