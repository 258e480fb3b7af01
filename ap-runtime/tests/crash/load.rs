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
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time,
};

use crate::{
    answers::{self, Asked},
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
    /// A host that acknowledges too early does not know it yet.
    pub run: Option<RunId>,
    pub status: u16,
    pub body: Value,
}

#[derive(Debug)]
pub struct Shared {
    paths: BTreeMap<Kind, String>,
    doors: watch::Sender<Vec<SocketAddr>>,
    turn: AtomicUsize,
    in_flight: AtomicUsize,
    draining: AtomicBool,
    book: Mutex<Book>,
    /// How many acknowledgements there are.
    acknowledged: watch::Sender<usize>,
}

/// One event of a sender.
#[derive(Debug)]
struct Delivery {
    id: String,
    kind: Kind,
    sync: bool,
}

impl Load {
    /// Senders, and those who answer what was `asked`.
    pub fn start(setup: &Setup, asked: mpsc::UnboundedReceiver<Asked>, seed: u64) -> Self {
        let shared = Arc::new(Shared {
            paths: setup.paths.clone(),
            doors: watch::Sender::new(Vec::new()),
            turn: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            book: Mutex::default(),
            acknowledged: watch::Sender::new(0),
        });
        let mut senders = JoinSet::new();
        for sender in 0..SENDERS {
            senders.spawn(Arc::clone(&shared).send(sender, Rng::new(seed.wrapping_mul(0x1_0000) ^ sender)));
        }
        tokio::spawn(answers::give(Arc::clone(&shared), asked, Rng::new(seed ^ 0x616e_7377)));
        Self { shared, senders: Mutex::new(senders) }
    }

    /// Where doors are open now, if any are.
    pub fn send_to(&self, doors: &[SocketAddr]) {
        self.shared.doors.send_replace(doors.to_vec());
    }

    /// Requests that wait for their answer.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::SeqCst)
    }

    /// Waits until there are as many acknowledgements.
    pub async fn acknowledged(&self, count: usize) {
        let mut acknowledged = self.shared.acknowledged.subscribe();
        acknowledged.wait_for(|now| *now >= count).await.unwrap();
    }

    /// Waits until there are `count` more acknowledgements.
    pub async fn acknowledged_more(&self, count: usize) {
        let now = *self.shared.acknowledged.borrow();
        self.acknowledged(now + count).await;
    }

    /// Waits until there are `count` more acknowledgements than could be on their way by now.
    pub async fn acknowledged_after_now(&self, count: usize) {
        self.acknowledged_more(2 * SENDERS as usize + count).await;
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
                self.acknowledged.send_modify(|count| *count += 1);
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

    /// Writes down what nobody should see.
    pub fn surprise(&self, what: String) {
        self.book.lock().unwrap().surprises.push(what);
    }

    pub async fn wait_for_host(&self) -> SocketAddr {
        let mut doors = self.doors.subscribe();
        let open = doors.wait_for(|doors| !doors.is_empty()).await.unwrap();
        open[self.turn.fetch_add(1, Ordering::Relaxed) % open.len()]
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
    let Ok(body) = serde_json::from_slice::<Value>(&response.body) else { return surprise() };
    let as_promised = match (status, run) {
        (200, Some(_)) => true,
        (202, Some(run)) => body["runId"] == run.to_string(),
        (202, None) => body == json!({}),
        (500, Some(_)) => body["error"]["code"] == "run_failed",
        _ => false,
    };
    if as_promised { Answer::Acknowledged(Ack { run, status, body }) } else { surprise() }
}

/// How many send at once.
const SENDERS: u64 = 16;
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(45);
/// How soon an unacknowledged delivery is sent again.
const RETRY: Duration = Duration::from_millis(5);
