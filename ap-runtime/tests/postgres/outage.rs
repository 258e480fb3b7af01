//! The database goes and comes back.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ap_core::{id::RunId, store::StoreError};
use ap_runtime::{
    backend::postgres::{PostgresBackend, PostgresOptions},
    store::{Backend, RunStore, SystemStore},
    wakeup::Hint,
};
use futures_util::StreamExt;

use crate::{
    proxy::{Mode, Proxy},
    records::{PROJECT, accept, claim, publish},
    support::{Schema, run, variable},
};

/// A backend that reaches the server through a proxy.
async fn through_proxy(schema: &Schema) -> (Proxy, Arc<PostgresBackend>) {
    let url = variable("AP_TEST_POSTGRES_URL");
    let (head, database) = url.rsplit_once('/').expect("a path");
    let (account, server) = head.rsplit_once('@').expect("an account");
    let proxy = Proxy::to(server.to_owned()).await;
    let url = format!("{account}@127.0.0.1:{}/{database}", proxy.port());
    let options = PostgresOptions::from_url(&url).expect("a URL").with_schema(schema.name()).with_writers(2);
    let options = options.with_connect_timeout(Duration::from_secs(2));
    (proxy, Arc::new(PostgresBackend::open(options).await.expect("a database")))
}

fn is_unavailable<T: std::fmt::Debug>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Unavailable(_)))
}

/// Calls that write and read fail as `Unavailable` within the promised time.
async fn everything_fails_in_time(backend: &PostgresBackend) {
    let started = Instant::now();
    let (accepted, claimed, read) = tokio::join!(
        backend.accept(accept(99), &[]),
        backend.claim(claim(1, 1)),
        backend.run(RunId::from_u128(1), PROJECT)
    );
    assert!(is_unavailable(&accepted), "{accepted:?}");
    assert!(is_unavailable(&claimed), "{claimed:?}");
    assert!(is_unavailable(&read), "{read:?}");
    assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
}

/// Tries until a run can be accepted again.
async fn accepts_again(backend: &PostgresBackend, number: u128) {
    let started = Instant::now();
    while is_unavailable(&backend.accept(accept(number), &[]).await) {
        assert!(started.elapsed() < Duration::from_secs(30), "it does not recover");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    backend.run(RunId::from_u128(number), PROJECT).await.expect("the run");
}

#[tokio::test]
async fn calls_fail_in_time_while_the_database_is_gone_and_work_again_by_themselves() {
    let schema = Schema::new();
    let (proxy, backend) = through_proxy(&schema).await;
    publish(&*backend).await;
    backend.accept(accept(1), &[]).await.expect("a run");
    proxy.set(Mode::Cut);
    everything_fails_in_time(&backend).await;
    proxy.set(Mode::Open);
    accepts_again(&backend, 2).await;
    // Nothing acknowledged is lost.
    backend.run(RunId::from_u128(1), PROJECT).await.expect("the run");
    backend.close().await;
}

#[tokio::test]
async fn a_database_that_says_nothing_is_not_waited_for() {
    let schema = Schema::new();
    let (proxy, backend) = through_proxy(&schema).await;
    publish(&*backend).await;
    proxy.set(Mode::Silent);
    everything_fails_in_time(&backend).await;
    proxy.set(Mode::Open);
    accepts_again(&backend, 2).await;
    backend.close().await;
}

#[tokio::test]
async fn idle_connections_that_were_cut_off_are_replaced_without_a_word() {
    let schema = Schema::new();
    let backend = PostgresBackend::open(schema.options()).await.expect("a database");
    publish(&backend).await;
    backend.accept(accept(1), &[]).await.expect("a run");
    let terminate = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ap-runtime {}'",
        schema.name()
    );
    tokio::task::spawn_blocking(move || run(&[&terminate])).await.expect("terminated");
    backend.accept(accept(2), &[]).await.expect("a run on another connection");
    backend.close().await;
}

#[tokio::test]
async fn hints_are_heard_again_after_an_outage() {
    let schema = Schema::new();
    let (proxy, backend) = through_proxy(&schema).await;
    let other = PostgresBackend::open(schema.options()).await.expect("a database");
    let (listener, sender) = (backend.wakeup().await, other.wakeup().await);
    let mut heard = listener.listen();
    let hint = Hint::Ended(RunId::from_u128(7));
    sender.notify(hint);
    let hears = |wanted| async move {
        let waiting = async { while heard.next().await.expect("hints do not end") != wanted {} };
        tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("the hint");
        heard
    };
    let mut heard = hears(hint).await;
    proxy.set(Mode::Cut);
    proxy.set(Mode::Open);
    let started = Instant::now();
    let hint = Hint::Signaled(RunId::from_u128(8));
    loop {
        sender.notify(hint);
        match tokio::time::timeout(Duration::from_millis(100), heard.next()).await {
            Ok(Some(next)) if next == hint => break,
            _ => assert!(started.elapsed() < Duration::from_secs(20), "it does not recover"),
        }
    }
    backend.close().await;
    other.close().await;
}

#[tokio::test]
async fn nothing_runs_on_after_close() {
    let schema = Schema::new();
    let backend = Arc::new(PostgresBackend::open(schema.options()).await.expect("a database"));
    publish(&*backend).await;
    let _wakeup = backend.wakeup().await;
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert!(before >= 5, "{before}");
    backend.close().await;
    let closed = backend.accept(accept(1), &[]).await;
    assert!(is_unavailable(&closed), "{closed:?}");
    let closed = backend.run(RunId::from_u128(1), PROJECT).await;
    assert!(is_unavailable(&closed), "{closed:?}");
    backend.close().await;
    // Connections of the pool say goodbye by themselves.
    let started = Instant::now();
    while tokio::runtime::Handle::current().metrics().num_alive_tasks() > 0 {
        assert!(started.elapsed() < Duration::from_secs(10), "tasks run on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let _: Arc<dyn Backend> = backend;
}
