//! Renewal by real processes that share one database: this program again, as children that can be killed.
//!
//! On SQLite there is one process by design: an operating-system lock keeps a second one out of the database.

use std::{collections::BTreeMap, process::Stdio, sync::Arc, time::Duration};

use ap_auth::role::Role;
use ap_core::{connection::ConnectionStatus, id::ProjectId};
use ap_runtime::{
    backend::postgres::{PostgresBackend, PostgresOptions},
    clock::Clock,
    store::Backend,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use super::world::{MovedClock, World, runtime, user};

const HOUR: Duration = Duration::from_secs(3_600);
/// Into the window of tokens that live an hour.
const DUE: Duration = Duration::from_secs(2_800);

const SCHEMA: &str = "AP_OAUTH_SCHEMA";
const PROJECT: &str = "AP_OAUTH_PROJECT";

/// A world of one runtime over a schema of its own, to look at what the processes do.
pub(crate) struct Shared {
    pub(crate) world: World,
    backend: Arc<PostgresBackend>,
    schema: String,
}

impl Shared {
    pub(crate) async fn new(name: &str) -> Self {
        let schema = format!("oauth_{}_{name}", std::process::id());
        let backend = Arc::new(PostgresBackend::open(options(&schema)).await.unwrap());
        let view = Arc::clone(&backend) as Arc<dyn Backend>;
        let world = World::over(vec![view], Arc::new(MovedClock::default())).await;
        Self { world, backend, schema }
    }

    pub(crate) async fn process(&self) -> Process {
        Process::start(&self.schema, self.world.project).await
    }

    /// A connection to the database, in the schema.
    async fn database(&self) -> PgConnection {
        let mut connection = PgConnection::connect(&url()).await.unwrap();
        execute(&mut connection, format!("SET search_path TO \"{}\"", self.schema)).await;
        connection
    }

    pub(crate) async fn end(self) {
        self.world.runtimes[0].shutdown(Duration::from_secs(5)).await;
        self.backend.close().await;
        let mut connection = PgConnection::connect(&url()).await.unwrap();
        execute(&mut connection, format!("DROP SCHEMA \"{}\" CASCADE", self.schema)).await;
    }
}

/// A process with a runtime of its own.
pub(crate) struct Process {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    async fn start(schema: &str, project: ProjectId) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["processes::the_process_that_renews", "--exact", "--ignored", "--nocapture"])
            .env(SCHEMA, schema)
            .env(PROJECT, project.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut process = Self { child, stdin, lines: BufReader::new(stdout).lines() };
        process.answer("ready").await;
        process
    }

    /// Tells it something.
    pub(crate) async fn tell(&mut self, word: &str, number: u64) {
        self.stdin.write_all(format!("{word} {number}\n").as_bytes()).await.unwrap();
        self.stdin.flush().await.unwrap();
    }

    /// Its next line that starts with this word.
    pub(crate) async fn answer(&mut self, word: &str) -> Vec<String> {
        let next = async {
            loop {
                let line = self.lines.next_line().await.unwrap().expect("the process ended");
                // The harness begins a line of its own.
                if let Some((_, rest)) = line.split_once(&format!("@{word}")) {
                    return rest.split('|').filter(|part| !part.is_empty()).map(str::to_owned).collect();
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(120), next).await.expect("no answer")
    }

    /// Moves its clock.
    pub(crate) async fn forward(&mut self, by: Duration) {
        self.tell("forward", by.as_secs()).await;
        self.answer("forwarded").await;
    }

    /// SIGKILL: nothing of it is cleaned up.
    async fn kill(mut self) {
        self.child.start_kill().unwrap();
        assert!(!self.child.wait().await.unwrap().success());
    }

    pub(crate) async fn end(mut self) {
        self.tell("end", 0).await;
        assert!(self.child.wait().await.unwrap().success());
    }
}

/// Twenty at once in these processes; the problems they met.
pub(crate) async fn twenty_at_once(processes: &mut [Process]) -> Vec<String> {
    let mut left = 20;
    let count = processes.len() as u64;
    for (index, process) in processes.iter_mut().enumerate() {
        let share = (left + count - 1 - index as u64) / (count - index as u64);
        left -= share;
        process.tell("check", share).await;
    }
    assert_eq!(left, 0);
    let mut problems = Vec::new();
    for process in processes {
        problems.extend(process.answer("checked").await);
    }
    problems
}

#[test]
#[ignore = "started by the tests of this file, which kill it"]
fn the_process_that_renews() {
    let (Ok(schema), Ok(project)) = (std::env::var(SCHEMA), std::env::var(PROJECT)) else { return };
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    tokio.block_on(async {
        let project: ProjectId = project.parse().unwrap();
        let clock = Arc::new(MovedClock::default());
        let backend = Arc::new(PostgresBackend::open(options(&schema)).await.unwrap());
        let runtime = runtime(Arc::clone(&backend) as Arc<dyn Backend>, Arc::clone(&clock) as Arc<dyn Clock>).await;
        let (told, mut lines) = tokio::sync::mpsc::unbounded_channel();
        std::thread::spawn(move || std::io::stdin().lines().try_for_each(|line| told.send(line.unwrap())));
        println!("@ready");
        while let Some(line) = lines.recv().await {
            let (word, number) = line.split_once(' ').unwrap();
            let number: u64 = number.parse().unwrap();
            match word {
                "forward" => {
                    clock.forward(Duration::from_secs(number));
                    println!("@forwarded");
                }
                "check" => {
                    let checks = (0..number).map(|_| {
                        let session = runtime.session(user(1).with_role(project, Role::Admin));
                        let admin = session.project(project).unwrap();
                        tokio::spawn(async move { admin.validate_connection("api").await.unwrap() })
                    });
                    let checks = futures_util::future::join_all(checks).await;
                    let problems = checks.into_iter().map(|check| check.unwrap().problem.unwrap_or_default());
                    println!("@checked{}", problems.collect::<Vec<_>>().join("|"));
                }
                _ => break,
            }
        }
        runtime.shutdown(Duration::from_secs(5)).await;
        backend.close().await;
    });
    std::process::exit(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_in_three_processes_renew_once() {
    for (name, over) in [("due", DUE), ("over", 2 * HOUR)] {
        let shared = Shared::new(name).await;
        shared.world.connect().await;
        shared.world.provider.state.lock().unwrap().delay = Duration::from_millis(200);
        let mut processes = Vec::new();
        for _ in 0..3 {
            let mut process = shared.process().await;
            process.forward(over).await;
            processes.push(process);
        }
        let problems = twenty_at_once(&mut processes).await;
        // Whoever used the old token just after the provider gave a new one was refused by it; that is no error of the grant.
        assert!(problems.is_empty() || over == DUE, "{problems:?}");
        assert_eq!(shared.world.provider.renewals(), 1, "the provider was asked more than once");
        assert_eq!(shared.world.audited("connection.renew").await.len(), 1);
        shared.world.provider.state.lock().unwrap().delay = Duration::ZERO;
        for process in &mut processes {
            process.tell("check", 1).await;
            assert_eq!(process.answer("checked").await, Vec::<String>::new());
        }
        assert_eq!(
            (shared.world.provider.renewals(), shared.world.summary().await.status),
            (1, ConnectionStatus::Active)
        );
        for process in processes {
            process.end().await;
        }
        shared.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_killed_while_the_provider_answers_loses_no_grant() {
    let shared = Shared::new("answer").await;
    let (mut first, second) = renewing(&shared).await;
    shared.world.provider.state.lock().unwrap().answer_delay = Duration::from_secs(20);
    first.tell("check", 1).await;
    while shared.world.provider.state.lock().unwrap().issued == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // To the provider the refresh token is used up, and its answer is on the way.
    first.kill().await;
    shared.world.provider.state.lock().unwrap().answer_delay = Duration::ZERO;
    taken_over(shared, second).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_killed_between_the_answer_and_the_commit_loses_no_grant() {
    let shared = Shared::new("commit").await;
    let (mut first, second) = renewing(&shared).await;
    shared.world.provider.state.lock().unwrap().delay = Duration::from_secs(2);
    let (mut keeper, mut watcher) = (shared.database().await, shared.database().await);
    first.tell("check", 1).await;
    // It holds the lease and has asked; before the answer comes, somebody keeps the row to themselves.
    while number(&mut watcher, "SELECT max(epoch) FROM ap_connections").await != Some(1) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let revision = number(&mut watcher, "SELECT max(revision) FROM ap_connections").await;
    execute(&mut keeper, "BEGIN; SELECT 1 FROM ap_connections FOR UPDATE".to_owned()).await;
    // Others may wait in schemas of their own.
    let waiting = "SELECT max(waiting.pid)::bigint FROM pg_stat_activity AS waiting JOIN pg_stat_activity AS keeper \
        ON keeper.pid = ANY (pg_blocking_pids(waiting.pid)) WHERE waiting.wait_event_type = 'Lock' \
        AND keeper.query LIKE 'BEGIN; SELECT 1 FROM ap_connections FOR UPDATE%'";
    let writer = loop {
        match number(&mut watcher, waiting).await {
            Some(pid) => break pid,
            None => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    assert_eq!(shared.world.provider.state.lock().unwrap().issued, 1, "it wrote without an answer");
    first.kill().await;
    // What it had begun in the database goes with it, and not by chance after it.
    execute(&mut watcher, format!("SELECT pg_terminate_backend({writer})")).await;
    execute(&mut keeper, "ROLLBACK".to_owned()).await;
    assert_eq!(number(&mut watcher, "SELECT max(revision) FROM ap_connections").await, revision, "it was committed");
    shared.world.provider.state.lock().unwrap().delay = Duration::ZERO;
    taken_over(shared, second).await;
}

/// Two processes that need a new token, at a provider that gives the same again for a used refresh token, for a while.
async fn renewing(shared: &Shared) -> (Process, Process) {
    shared.world.connect().await;
    shared.world.provider.state.lock().unwrap().grace = true;
    let (mut first, mut second) = (shared.process().await, shared.process().await);
    first.forward(2 * HOUR).await;
    second.forward(2 * HOUR).await;
    (first, second)
}

/// The other process gets a token with the refresh token that was kept, once the lease of the killed one has ended.
async fn taken_over(shared: Shared, mut second: Process) {
    assert_eq!(shared.world.summary().await.status, ConnectionStatus::Active);
    let mut database = shared.database().await;
    let held =
        "SELECT count(*) FROM ap_connections WHERE leased > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    assert_eq!(number(&mut database, held).await, Some(1), "the lease of the killed one does not hold");
    // As a minute of the database's time does.
    execute(&mut database, "UPDATE ap_connections SET leased = 1".to_owned()).await;
    second.tell("check", 3).await;
    assert_eq!(second.answer("checked").await, Vec::<String>::new());
    {
        let state = shared.world.provider.state.lock().unwrap();
        let given: Vec<_> =
            state.asked.iter().map(|(form, _): &(BTreeMap<_, _>, _)| form["refresh_token"].clone()).collect();
        assert_eq!(given, ["refresh-token-0", "refresh-token-0"], "the old refresh token was not kept");
    }
    assert_eq!(shared.world.audited("connection.renew").await, ["Success "]);
    second.end().await;
    shared.end().await;
}

fn options(schema: &str) -> PostgresOptions {
    PostgresOptions::from_url(&url()).unwrap().with_schema(schema)
}

fn url() -> String {
    std::env::var("AP_TEST_POSTGRES_URL").expect("`AP_TEST_POSTGRES_URL` is not set: run `cargo xtask test`")
}

async fn execute(connection: &mut PgConnection, sql: String) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.unwrap();
}

async fn number(connection: &mut PgConnection, sql: &'static str) -> Option<i64> {
    sqlx::query(sql).fetch_one(connection).await.unwrap().get(0)
}
