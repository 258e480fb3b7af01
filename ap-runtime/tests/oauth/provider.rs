//! A provider on this machine: every refresh token is good once, and one that comes again revokes the grant.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// What the token endpoint does with the next requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// What RFC 6749 says.
    Good,
    /// Takes the request, and closes the connection without an answer.
    AcceptAndDrop,
    /// Answers this status, with `Retry-After`.
    Fail(u16, u64),
    /// Rejects what it is given.
    Reject(&'static str),
    /// Answers this, whatever was asked.
    Say(&'static str),
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) mood: Mood,
    /// How many times the mood lasts.
    pub(crate) times: u32,
    pub(crate) delay: Duration,
    /// How long it takes with the answer after it has acted.
    pub(crate) answer_delay: Duration,
    /// How many access tokens it gave.
    pub(crate) issued: u32,
    /// Requests to the token endpoint, as parsed forms, with their `Authorization`.
    pub(crate) asked: Vec<(BTreeMap<String, String>, Option<String>)>,
    /// Refresh tokens that are good.
    good: BTreeSet<String>,
    /// Refresh tokens that were used.
    used: BTreeSet<String>,
    /// Access tokens that are good.
    access: BTreeSet<String>,
    /// Whether a used refresh token that comes again gets what it got before.
    pub(crate) grace: bool,
    /// Secrets of the client that are good, if that matters.
    pub(crate) client_secrets: Option<BTreeSet<String>>,
    /// How long the page takes with its answer.
    pub(crate) me_delay: Duration,
    /// What the page was asked with last.
    bearer: String,
    pub(crate) lifetime: u64,
}

/// A running provider; ends with the test's runtime.
#[derive(Clone, Debug)]
pub(crate) struct Provider {
    pub(crate) state: Arc<Mutex<State>>,
    pub(crate) address: SocketAddr,
}

impl Provider {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let state = State {
            mood: Mood::Good,
            times: 0,
            delay: Duration::ZERO,
            answer_delay: Duration::ZERO,
            issued: 0,
            asked: Vec::new(),
            good: BTreeSet::from(["refresh-token-0".to_owned()]),
            used: BTreeSet::new(),
            access: BTreeSet::from(["access-token-0".to_owned()]),
            grace: false,
            client_secrets: None,
            me_delay: Duration::ZERO,
            bearer: String::new(),
            lifetime: 3_600,
        };
        let provider = Self { state: Arc::new(Mutex::new(state)), address: listener.local_addr().unwrap() };
        let serving = provider.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let provider = serving.clone();
                tokio::spawn(async move { provider.serve(stream).await });
            }
        });
        provider
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn set(&self, mood: Mood, times: u32) {
        let mut state = self.state.lock().unwrap();
        (state.mood, state.times) = (mood, times);
    }

    /// Lets in who has this token.
    pub(crate) fn accept(&self, token: &str) {
        self.state.lock().unwrap().access.insert(token.to_owned());
    }

    pub(crate) fn last_bearer(&self) -> String {
        self.state.lock().unwrap().bearer.clone()
    }

    pub(crate) fn renewals(&self) -> usize {
        let state = self.state.lock().unwrap();
        state.asked.iter().filter(|(form, _)| form["grant_type"] == "refresh_token").count()
    }

    async fn serve(&self, mut stream: TcpStream) {
        let Some((path, headers, body)) = read_request(&mut stream).await else { return };
        let answer = match path.as_str() {
            "/token" => {
                let delay = self.state.lock().unwrap().delay;
                tokio::time::sleep(delay).await;
                let answer = self.token(&headers, &body);
                let delay = self.state.lock().unwrap().answer_delay;
                tokio::time::sleep(delay).await;
                answer
            }
            "/me" => {
                let given = headers.get("authorization").and_then(|value| value.strip_prefix("Bearer "));
                let delay = {
                    let mut state = self.state.lock().unwrap();
                    state.bearer = given.unwrap_or_default().to_owned();
                    state.me_delay
                };
                tokio::time::sleep(delay).await;
                let good = given.is_some_and(|token| self.state.lock().unwrap().access.contains(token));
                Some((
                    if good { 200 } else { 401 },
                    String::new(),
                    format!("{{\"you\":{:?}}}", given.unwrap_or_default()),
                ))
            }
            _ => Some((404, String::new(), String::new())),
        };
        let Some((status, extra, body)) = answer else { return };
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{extra}connection: close\r\n\r\n",
            body.len()
        );
        let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
        let _ = stream.shutdown().await;
    }

    /// Status, more header lines, body; nothing for a connection that breaks.
    fn token(&self, headers: &BTreeMap<String, String>, body: &str) -> Option<(u16, String, String)> {
        let form: BTreeMap<String, String> = url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
        let mut state = self.state.lock().unwrap();
        state.asked.push((form.clone(), headers.get("authorization").cloned()));
        let mood = if state.times > 0 { state.mood.clone() } else { Mood::Good };
        state.times = state.times.saturating_sub(1);
        match mood {
            Mood::Fail(status, wait) => return Some((status, format!("retry-after: {wait}\r\n"), "{}".to_owned())),
            Mood::Reject(code) => return Some((400, String::new(), format!("{{\"error\":\"{code}\"}}"))),
            Mood::Say(text) => return Some((200, String::new(), text.to_owned())),
            Mood::Good | Mood::AcceptAndDrop => {}
        }
        if let Some(known) = &state.client_secrets {
            let given = headers.get("authorization").and_then(|header| header.strip_prefix("Basic "));
            let given = given.and_then(|encoded| String::from_utf8(STANDARD.decode(encoded).ok()?).ok());
            let secret = given.as_deref().and_then(|given| given.split_once(':')).map(|(_, secret)| secret);
            if !secret.is_some_and(|secret| known.contains(secret)) {
                return Some((401, String::new(), "{\"error\":\"invalid_client\"}".to_owned()));
            }
        }
        if let Some(token) = form.get("refresh_token") {
            let again = state.grace && state.used.contains(token);
            if !state.good.remove(token) && !again {
                if state.used.contains(token) {
                    // RFC 9700 §4.14.2: somebody has a copy.
                    (state.good, state.access) = (BTreeSet::new(), BTreeSet::new());
                }
                return Some((400, String::new(), "{\"error\":\"invalid_grant\"}".to_owned()));
            }
            state.used.insert(token.clone());
        }
        state.issued += 1;
        let (access, refresh) = (format!("access-token-{}", state.issued), format!("refresh-token-{}", state.issued));
        state.good.insert(refresh.clone());
        state.access = BTreeSet::from([access.clone()]);
        // As some do, unless they are asked for consent again.
        let with_refresh = if form["grant_type"] == "client_credentials"
            || form.get("code").is_some_and(|code| code == "no-refresh")
        {
            String::new()
        } else {
            format!(",\"refresh_token\":\"{refresh}\"")
        };
        if mood == Mood::AcceptAndDrop {
            return None;
        }
        let lifetime = state.lifetime;
        let body = format!(
            "{{\"access_token\":\"{access}\",\"token_type\":\"Bearer\",\"expires_in\":{lifetime}{with_refresh}}}"
        );
        Some((200, String::new(), body))
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<(String, BTreeMap<String, String>, String)> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let read = stream.read(&mut chunk).await.ok()?;
        if read == 0 {
            return None;
        }
        bytes.extend_from_slice(&chunk[..read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let mut lines = head.lines();
        let path = lines.next()?.split(' ').nth(1)?.to_owned();
        let headers: BTreeMap<String, String> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        if body.len() >= length {
            return Some((path, headers, body.to_owned()));
        }
    }
}
