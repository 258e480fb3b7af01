//! Those whom runs wait for: they answer with the token that the peer was sent, at whatever door is open.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::{sync::mpsc, time};

use crate::{
    load::Shared,
    rng::Rng,
    wire::{self, Message},
};

/// A question of a run.
#[derive(Clone, Debug)]
pub struct Asked {
    pub label: String,
    pub token: String,
}

/// Answers every question, each for as long as it takes.
pub async fn give(shared: Arc<Shared>, mut asked: mpsc::UnboundedReceiver<Asked>, mut rng: Rng) {
    while let Some(asked) = asked.recv().await {
        // Some answers come before the run waits for them.
        let (pause, twice) = (Duration::from_millis(rng.below(40)), rng.below(4) == 0);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            time::sleep(pause).await;
            answer(&shared, &asked, Taken::Once).await;
            if twice {
                answer(&shared, &asked, Taken::Before).await;
            }
        });
    }
}

/// What the door is expected to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    /// That the token does not work any more.
    Before,
    /// That the answer is taken; if an earlier attempt broke off, that the token was used.
    Once,
}

async fn answer(shared: &Shared, asked: &Asked, expected: Taken) {
    let mut broke_off = false;
    loop {
        let door = shared.wait_for_host().await;
        let request =
            Message::new(format!("POST /resume/{} HTTP/1.1", asked.token), json!({ "label": asked.label }).to_string())
                .with("content-type", "application/json");
        let status = match time::timeout(PATIENCE, wire::exchange(door, &request)).await {
            Ok(Ok(response)) => response.status(),
            _ => 0,
        };
        match (status, expected) {
            (200, Taken::Once) | (410, Taken::Before) => return,
            (410, Taken::Once) if broke_off => return,
            (0 | 503, _) => broke_off = true,
            _ => return shared.surprise(format!("{}: the resume door said {status}, not {expected:?}", asked.label)),
        }
        time::sleep(RETRY).await;
    }
}

const PATIENCE: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(20);
