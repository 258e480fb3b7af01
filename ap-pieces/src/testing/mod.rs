//! A recording HTTP client, and running an action as the executor does.

#[cfg(any(feature = "database", feature = "email", feature = "storage"))]
#[cfg_attr(
    not(all(feature = "database", feature = "email", feature = "storage")),
    expect(dead_code, reason = "each piece uses a part")
)]
mod outside;

use std::{collections::VecDeque, sync::Mutex, time::Duration};

use ap_core::{
    capability::{HttpClient, HttpError, HttpRequest, HttpResponse, NoWayOut},
    piece::{Action, ActionContext, ActionError, Effect, Piece},
    time::Timestamp,
};
use async_trait::async_trait;
use serde_json::Value;

#[cfg(feature = "storage")]
pub(crate) use self::outside::{ObjectAnswer, ObjectCall};
#[cfg(any(feature = "database", feature = "email", feature = "storage"))]
pub(crate) use self::outside::{Outside, action, check_settings, run_outside};

/// 2026-01-02T03:04:05Z.
pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_767_323_045_000);
pub(crate) const KEY: &str = "run-1/step-1";
pub(crate) const NONE: NoWayOut = NoWayOut::new("this test gives no other way out");

/// Keeps what was sent, and answers from a list.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    pub(crate) sent: Mutex<Vec<HttpRequest>>,
    answers: Mutex<VecDeque<Result<HttpResponse, HttpError>>>,
}

impl Recorder {
    pub(crate) fn answering(answer: Result<HttpResponse, HttpError>) -> Self {
        Self { sent: Mutex::default(), answers: Mutex::new([answer].into()) }
    }

    pub(crate) fn only(&self) -> HttpRequest {
        let sent = self.sent.lock().expect("lock");
        assert_eq!(sent.len(), 1, "exactly one request");
        sent[0].clone()
    }
}

#[async_trait]
impl HttpClient for Recorder {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.sent.lock().expect("lock").push(request);
        self.answers.lock().expect("lock").pop_front().expect("an answer for each request")
    }
}

/// Checks `input` against the action's properties, then runs it.
pub(crate) async fn run_over(
    http: &Recorder,
    action: &dyn Action,
    input: Value,
    key: bool,
) -> Result<Value, ActionError> {
    let input = action.spec().properties.validate(input)?;
    let context = ActionContext {
        http,
        sql: &NONE,
        mail: &NONE,
        objects: &NONE,
        keys: &NONE,
        idempotency_key: KEY,
        send_idempotency_key: key,
        timeout: Duration::from_secs(30),
        now: NOW,
    };
    action.run(&context, input).await
}

/// Runs an action of a piece; it must not use HTTP.
pub(crate) async fn run(piece: &dyn Piece, action: &str, input: Value) -> Result<Value, ActionError> {
    let http = Recorder::default();
    let actions = piece.actions();
    let action = actions.iter().find(|candidate| candidate.spec().name == action).expect("an action of the piece");
    assert_eq!(action.effect(&input), Effect::None);
    let result = run_over(&http, action.as_ref(), input, false).await;
    assert!(http.sent.lock().expect("lock").is_empty());
    result
}
