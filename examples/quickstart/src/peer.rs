//! The peer: a small CRM on this machine. It demands its bearer token, honours `Idempotency-Key`, and counts.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ap_crypto::signature::constant_time_eq;
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    routing::post,
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Notify};

/// A running peer. Cheap to clone; clones are the same peer.
#[derive(Clone)]
pub(crate) struct Peer {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    token: SecretString,
    ledger: Mutex<Ledger>,
    /// Told when the peer has acted and goes silent instead of answering.
    silent: Notify,
}

/// What the peer did.
#[derive(Default)]
struct Ledger {
    /// The answer to each idempotency key that was acted on.
    answers: BTreeMap<String, Value>,
    contacts: u64,
    silent_next: bool,
    counts: Counts,
}

/// What the peer counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Requests with the right bearer token.
    pub(crate) requests: u64,
    /// Contacts created.
    pub(crate) effects: u64,
    /// Requests without the right bearer token.
    pub(crate) refused: u64,
}

impl Peer {
    /// Starts listening on a free port of this machine.
    pub(crate) async fn start(token: SecretString) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared { token, ledger: Mutex::default(), silent: Notify::new() });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let routes = Router::new().route("/contacts", post(create)).with_state(Arc::clone(&shared));
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, routes).await {
                eprintln!("the peer stopped listening: {error}");
            }
        });
        Ok(Self { address, shared })
    }

    /// What was counted since the last call.
    pub(crate) fn take_counts(&self) -> Counts {
        std::mem::take(&mut self.shared.ledger().counts)
    }

    /// Makes the peer act on its next request, but never answer it.
    pub(crate) fn go_silent_once(&self) {
        self.shared.ledger().silent_next = true;
    }

    /// Returns once the peer has acted on such a request.
    pub(crate) async fn acted_in_silence(&self) {
        self.shared.silent.notified().await;
    }
}

impl Shared {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What to do with a request, decided in one go.
enum Verdict {
    Answer(StatusCode, Value),
    Silence,
}

async fn create(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Json(contact): Json<Value>,
) -> (StatusCode, Json<Value>) {
    match judge(&shared, &headers, &contact) {
        Verdict::Answer(status, answer) => (status, Json(answer)),
        Verdict::Silence => {
            shared.silent.notify_one();
            std::future::pending().await
        }
    }
}

fn judge(shared: &Shared, headers: &HeaderMap, contact: &Value) -> Verdict {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let authorization = text(header::AUTHORIZATION.as_str()).unwrap_or_default();
    let given = authorization.strip_prefix("Bearer ").unwrap_or_default();
    let mut ledger = shared.ledger();
    if !constant_time_eq(given.as_bytes(), shared.token.expose_secret().as_bytes()) {
        ledger.counts.refused += 1;
        return Verdict::Answer(StatusCode::UNAUTHORIZED, json!({ "error": "not authenticated" }));
    }
    ledger.counts.requests += 1;
    let Some(key) = text("idempotency-key") else {
        return Verdict::Answer(StatusCode::BAD_REQUEST, json!({ "error": "`Idempotency-Key` is missing" }));
    };
    if let Some(answer) = ledger.answers.get(key) {
        return Verdict::Answer(StatusCode::CREATED, answer.clone());
    }
    ledger.counts.effects += 1;
    ledger.contacts += 1;
    // Careless, as real APIs are: the answer repeats the token it was called with.
    let answer = json!({ "id": ledger.contacts, "name": contact.get("name"), "calledWith": authorization });
    ledger.answers.insert(key.to_owned(), answer.clone());
    if std::mem::take(&mut ledger.silent_next) {
        return Verdict::Silence;
    }
    Verdict::Answer(StatusCode::CREATED, answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn status(shared: &Shared, fields: &[(&'static str, &'static str)]) -> StatusCode {
        match judge(shared, &headers(fields), &json!({ "name": "Ada" })) {
            Verdict::Answer(status, _) => status,
            Verdict::Silence => panic!("nobody asked for silence"),
        }
    }

    #[test]
    fn only_the_right_token_counts_and_a_key_counts_once() {
        let shared = Shared { token: "right".into(), ledger: Mutex::default(), silent: Notify::new() };
        for wrong in ["", "right", "Bearer ", "Bearer righ", "Bearer rights", "bearer right"] {
            let fields = [("authorization", wrong), ("idempotency-key", "a")];
            assert_eq!(status(&shared, &fields), StatusCode::UNAUTHORIZED, "{wrong}");
        }
        assert_eq!(status(&shared, &[("authorization", "Bearer right")]), StatusCode::BAD_REQUEST);
        for key in ["a", "a", "b"] {
            let fields = [("authorization", "Bearer right"), ("idempotency-key", key)];
            assert_eq!(status(&shared, &fields), StatusCode::CREATED);
        }
        assert_eq!(shared.ledger().counts, Counts { requests: 4, effects: 2, refused: 6 });
    }
}
