//! Connections of a run, policies, and a peer that must not be reached.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use ap_core::{
    connection::{Connection, ConnectionValue, FieldValue, Origin, Placement},
    id::ConnectionId,
};
use ap_runtime::egress::{
    credential::{RunConnection, RunCredentials, Stands},
    guard::{EgressPolicy, Guard, SystemResolver},
};

/// What every secret of a test is, or begins with.
pub(crate) const CANARY: &str = "canary/S3cr3t+v4lue";

/// Placeholder text of the connection of [`run`].
pub(crate) fn placeholder() -> String {
    format!("apcred_{}A", "c".repeat(42))
}

/// The credentials of a run with one connection.
pub(crate) fn run(clear: &[(&str, &str)], secret: &[(&str, &str)]) -> Arc<RunCredentials> {
    run_bound(clear, secret, vec![], &[])
}

/// As [`run`], with placements and origins.
pub(crate) fn run_bound(
    clear: &[(&str, &str)],
    secret: &[(&str, &str)],
    placements: Vec<Placement>,
    origins: &[&str],
) -> Arc<RunCredentials> {
    let clear = clear.iter().map(|(name, text)| ((*name).to_owned(), FieldValue::Clear((*text).to_owned())));
    let secret = secret.iter().map(|(name, text)| ((*name).to_owned(), FieldValue::Secret((*text).into())));
    let value = ConnectionValue::CustomAuth { fields: clear.chain(secret).collect() };
    let origins = origins.iter().map(|url| Origin::of_url(url).expect("an origin")).collect();
    let connection = Connection::new("peer", value, placements, origins).expect("a connection");
    let placeholders = vec![(placeholder(), Stands::Whole)];
    let bound = RunConnection { id: ConnectionId::from_u128(7), connection, placeholders };
    Arc::new(RunCredentials::new(vec![bound]).expect("secrets"))
}

/// A guard that refuses this machine.
pub(crate) fn closed() -> Guard {
    Guard::new(EgressPolicy::new(), Arc::new(SystemResolver))
}

/// A guard that allows this machine, for what is encrypted.
pub(crate) fn loopback() -> Guard {
    Guard::new(open_policy(), Arc::new(SystemResolver))
}

/// A guard that allows this machine, also unencrypted.
pub(crate) fn plain_loopback() -> Guard {
    let policy = open_policy().allow_plain_credentials("127.0.0.0/8".parse().expect("a network")).expect("inside");
    Guard::new(policy, Arc::new(SystemResolver))
}

fn open_policy() -> EgressPolicy {
    let policy = EgressPolicy::new().allow_network("127.0.0.0/8".parse().expect("a network")).expect("narrow");
    policy.allow_network("::1/128".parse().expect("a network")).expect("narrow")
}

/// A port that counts who comes.
pub(crate) struct Untouched {
    pub(crate) port: u16,
    seen: Arc<AtomicUsize>,
}

impl Untouched {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let seen = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&seen);
        tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                counter.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { port, seen }
    }

    /// Nobody came, and nobody is on the way.
    pub(crate) async fn check(&self) {
        let _probe = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.expect("it listens");
        while self.seen.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(self.seen.load(Ordering::SeqCst), 1, "somebody connected");
    }
}
