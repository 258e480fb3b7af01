//! The service that flows act on. It outlives every kill, honours idempotency keys, and counts what happened.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc};

use crate::{
    answers::Asked,
    rng::Rng,
    wire::{self, Message},
};

/// The service, reachable over TCP.
#[derive(Debug)]
pub struct Peer {
    address: SocketAddr,
    books: Arc<Mutex<Books>>,
}

/// What the service did.
#[derive(Clone, Debug, Default)]
pub struct Books {
    /// The first answer to each key.
    pub keys: BTreeMap<String, Value>,
    /// How often each labelled thing was done, whatever the key said.
    pub effects: BTreeMap<String, u64>,
    /// Requests whose key was known already.
    pub repeats: u64,
    done: u64,
    /// How often each label came over `/flaky`.
    tries: BTreeMap<String, u64>,
}

impl Peer {
    /// The service, and what flows ask through it.
    pub async fn start(seed: u64) -> (Self, mpsc::UnboundedReceiver<Asked>) {
        let (ask, asked) = mpsc::unbounded_channel();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let books = Arc::new(Mutex::new(Books::default()));
        let rng = Arc::new(Mutex::new(Rng::new(seed ^ 0x7065_6572)));
        tokio::spawn(wire::serve(listener, {
            let books = Arc::clone(&books);
            move |request| {
                let (books, rng, ask) = (Arc::clone(&books), Arc::clone(&rng), ask.clone());
                async move {
                    // Before and after the deed, so that a kill finds it not done, or done and not heard of.
                    let pause = || Duration::from_millis(rng.lock().unwrap().below(12));
                    let (before, after) = (pause(), pause());
                    tokio::time::sleep(before).await;
                    let answer = books.lock().unwrap().answer(&request, &ask);
                    tokio::time::sleep(after).await;
                    answer
                }
            }
        }));
        (Self { address, books }, asked)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn books(&self) -> Books {
        self.books.lock().unwrap().clone()
    }
}

impl Books {
    /// `/act` acts. `/flaky` refuses the first time, loses its answer the second time, and then acts.
    fn answer(&mut self, request: &Message, ask: &mpsc::UnboundedSender<Asked>) -> Message {
        let unavailable = || Message::new("HTTP/1.1 503 Service Unavailable", []);
        if request.target() == "/flaky" {
            let label = String::from_utf8(request.body.clone()).unwrap();
            let tries = self.tries.entry(label).or_default();
            *tries += 1;
            match *tries {
                1 => return unavailable(),
                2 => {
                    self.act(request);
                    return unavailable();
                }
                _ => {}
            }
        }
        if let (Some(token), Ok(label)) = (request.header("x-token"), String::from_utf8(request.body.clone()))
            && !self.effects.contains_key(&label)
        {
            // Nobody listens once the test is over.
            let _ = ask.send(Asked { label, token: token.to_owned() });
        }
        Message::new("HTTP/1.1 200 OK", self.act(request).to_string()).with("content-type", "application/json")
    }

    fn act(&mut self, request: &Message) -> Value {
        let key = request.header("idempotency-key").map(str::to_owned);
        if let Some(first) = key.as_ref().and_then(|key| self.keys.get(key)) {
            self.repeats += 1;
            return first.clone();
        }
        let label = String::from_utf8(request.body.clone()).unwrap();
        *self.effects.entry(label).or_default() += 1;
        self.done += 1;
        let answer = json!({ "answer": self.done });
        if let Some(key) = key {
            self.keys.insert(key, answer.clone());
        }
        answer
    }
}
