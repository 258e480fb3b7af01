//! Senders as they are in life: what was not acknowledged they send again under the same id, some of it twice at once.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ap_core::id::RunId;
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet, time};

use crate::{
    flows::Kind,
    host::Setup,
    rng::Rng,
    wire::{self, Message},
};

/// Senders at work.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    senders: Mutex<JoinSet<()>>,
}

/// What the senders know.
#[derive(Clone, Debug, Default)]
pub struct Book {
    /// Deliveries that were sent, whatever came of them.
    pub sent: BTreeMap<String, Kind>,
    /// Every acknowledgement of each delivery.
    pub acks: BTreeMap<String, Vec<Ack>>,
    /// Answers that nobody should get.
    pub surprises: Vec<String>,
    /// Requests that got no answer.
    pub unanswered: u64,
}

/// The host said that the run exists.
#[derive(Clone, Debug)]
pub struct Ack {
    pub run: RunId,
    pub status: u16,
    pub body: Value,
}

#[derive(Debug)]
struct Shared {
    paths: BTreeMap<Kind, String>,
    address: watch::Sender<Option<SocketAddr>>,
    in_flight: AtomicUsize,
    draining: AtomicBool,
    book: Mutex<Book>,
}

/// One event of a sender.
#[derive(Debug)]
struct Delivery {
    id: String,
    kind: Kind,
    sync: bool,
}

impl Load {
    pub fn start(setup: &Setup, seed: u64) -> Self {
        let shared = Arc::new(Shared {
            paths: setup.paths.clone(),
            address: watch::Sender::new(None),
            in_flight: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            book: Mutex::default(),
        });
        let mut senders = JoinSet::new();
        for sender in 0..SENDERS {
            senders.spawn(Arc::clone(&shared).send(sender, Rng::new(seed.wrapping_mul(0x1_0000) ^ sender)));
        }
        Self { shared, senders: Mutex::new(senders) }
    }

    /// Where the door is now, if it is anywhere.
    pub fn send_to(&self, address: Option<SocketAddr>) {
        self.shared.address.send_replace(address);
    }

    /// Requests that wait for their answer.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::SeqCst)
    }

    /// Starts no new delivery, waits until those under way are acknowledged, and returns how many are not in time.
    pub async fn drain(&self, limit: Duration) -> usize {
        self.shared.draining.store(true, Ordering::SeqCst);
        let mut senders = std::mem::take(&mut *self.senders.lock().unwrap());
        let all = async { while senders.join_next().await.map(Result::unwrap).is_some() {} };
        let _ = time::timeout(limit, all).await;
        let book = self.book();
        book.sent.keys().filter(|id| !book.acks.contains_key(*id)).count()
    }

    pub fn book(&self) -> Book {
        self.shared.book.lock().unwrap().clone()
    }
}

impl Shared {
    async fn send(self: Arc<Self>, sender: u64, mut rng: Rng) {
        for number in 0_u64.. {
            self.wait_for_host().await;
            if self.draining.load(Ordering::SeqCst) {
                return;
            }
            let kind = Kind::ALL[rng.below(Kind::ALL.len() as u64) as usize];
            let id = format!("{}-{sender}-{number}", kind.name());
            self.book.lock().unwrap().sent.insert(id.clone(), kind);
            let delivery = Delivery { id, kind, sync: rng.below(2) == 0 };
            if rng.below(6) == 0 {
                tokio::join!(self.deliver(&delivery), self.deliver(&delivery));
            } else {
                self.deliver(&delivery).await;
            }
            if rng.below(8) == 0 {
                // The acknowledgement went astray.
                self.deliver(&delivery).await;
            }
            time::sleep(Duration::from_millis(rng.below(15))).await;
        }
    }

    /// Sends until it is acknowledged.
    async fn deliver(&self, delivery: &Delivery) {
        loop {
            let address = self.wait_for_host().await;
            let request = self.request(delivery);
            self.in_flight.fetch_add(1, Ordering::SeqCst);
            let response = time::timeout(PATIENCE, wire::exchange(address, &request)).await;
            self.in_flight.fetch_sub(1, Ordering::SeqCst);
            if self.book.lock().unwrap().enter(&delivery.id, response.ok().and_then(Result::ok)) {
                return;
            }
            time::sleep(RETRY).await;
        }
    }

    fn request(&self, delivery: &Delivery) -> Message {
        let (path, sync) = (&self.paths[&delivery.kind], if delivery.sync { "/sync" } else { "" });
        let body = json!({ "id": delivery.id, "items": ["x", "y"] });
        Message::new(format!("POST {path}{sync} HTTP/1.1"), body.to_string())
            .with("content-type", "application/json")
            .with("webhook-id", &delivery.id)
    }

    async fn wait_for_host(&self) -> SocketAddr {
        let mut address = self.address.subscribe();
        let found = address.wait_for(Option::is_some).await.unwrap();
        found.unwrap()
    }
}

impl Book {
    /// Whether the delivery is acknowledged.
    fn enter(&mut self, delivery: &str, response: Option<Message>) -> bool {
        let Some(response) = response else {
            self.unanswered += 1;
            return false;
        };
        match judge(&response) {
            Answer::Acknowledged(ack) => {
                self.acks.entry(delivery.to_owned()).or_default().push(ack);
                return true;
            }
            Answer::Later => {}
            Answer::Surprise(what) => self.surprises.push(format!("{delivery}: {what}")),
        }
        false
    }
}

/// What an answer means to a sender.
enum Answer {
    Acknowledged(Ack),
    Later,
    Surprise(String),
}

fn judge(response: &Message) -> Answer {
    let surprise = || Answer::Surprise(format!("{} {}", response.start, String::from_utf8_lossy(&response.body)));
    let status = response.status();
    // A synchronous caller that had to wait too long asks again.
    if matches!(status, 408 | 503) {
        return Answer::Later;
    }
    let run = response.header("x-run-id").and_then(|run| run.parse::<RunId>().ok());
    let (Some(run), Ok(body)) = (run, serde_json::from_slice::<Value>(&response.body)) else { return surprise() };
    match status {
        200 => Answer::Acknowledged(Ack { run, status, body }),
        202 if body["runId"] == run.to_string() => Answer::Acknowledged(Ack { run, status, body }),
        500 if body["error"]["code"] == "run_failed" => Answer::Acknowledged(Ack { run, status, body }),
        _ => surprise(),
    }
}

/// How many send at once.
const SENDERS: u64 = 16;
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(45);
/// How soon an unacknowledged delivery is sent again.
const RETRY: Duration = Duration::from_millis(5);
