//! A tenant's key is replaced under readers, by processes that are killed: no read fails, and nothing stays under the old key.

use std::{
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ap_auth::{principal::Principal, role::Role};
use ap_core::{
    connection::{Connection, ConnectionValue, Origin},
    id::{FlowId, FlowVersionId, KeyId, ProjectId, RunId, UserId},
    store::{Cursor, PageRequest},
};
use ap_crypto::{key::RootKey, keyring::KeyKind, provider::MemoryKeyProvider};
use ap_runtime::{
    rotation::RotationOptions,
    runtime::Runtime,
    session::{KeyAdmin, ProjectSession},
    store::{Backend, CellTable, RunFilter},
};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::Semaphore,
    task::JoinSet,
};

use crate::{
    rng::{Rng, setting},
    store::{Opened, Store},
};

/// Sealed values, unless `AP_RECORDS` says otherwise.
const RECORDS: u64 = 2_000;
/// Kills, unless `AP_KILLS` says otherwise.
const KILLS: u64 = 8;
/// Readers over all processes.
const READERS: u64 = 8;
/// Processes on PostgreSQL, unless `AP_WORKERS` says otherwise.
const WORKERS: u64 = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_replaced_under_readers_by_a_process_that_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    survive(&Store::Sqlite(directory.path().join("a.db")), 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_replaced_under_readers_by_several_processes_that_are_killed() {
    let store = Store::Postgres(format!("rotation_{}", std::process::id()));
    survive(&store, setting("AP_WORKERS", WORKERS)).await;
    store.remove().await;
}

/// A process's view of the store.
struct Host {
    opened: Opened,
    runtime: Runtime,
}

impl Host {
    async fn open(store: &Store) -> Self {
        let opened = store.open().await;
        let root = RootKey::from_slice(&std::array::from_fn::<u8, 32, _>(|index| index as u8)).unwrap();
        let runtime = Runtime::builder(opened.backend(), MemoryKeyProvider::new(root)).build().await.unwrap();
        Self { opened, runtime }
    }

    fn operator(&self) -> Principal {
        Principal::user(UserId::from_u128(1)).with_role(self.runtime.platform(), Role::Admin)
    }

    fn admin(&self, project: ProjectId) -> ProjectSession {
        self.runtime.session(self.operator().with_role(project, Role::Admin)).project(project).unwrap()
    }

    fn keys(&self) -> KeyAdmin {
        let options = RotationOptions::default().with_grace(GRACE).unwrap();
        self.runtime.session(self.operator()).keys().unwrap().with_options(options)
    }

    async fn close(self) {
        self.runtime.shutdown(Duration::from_secs(10)).await;
        drop(self.runtime);
        self.opened.close().await;
    }
}

/// Fills the store until it has so many sealed values; returns the project.
async fn populate(store: &Store, records: u64) -> (ProjectId, FlowId, u64) {
    let host = Host::open(store).await;
    let project = host.runtime.session(host.operator()).create_project("Rotation").await.unwrap();
    let admin = host.admin(project);
    for number in 0..10 {
        let value = ConnectionValue::SecretText { secret: format!("secret value {number}").into() };
        let origin = Origin::of_url("https://api.example").unwrap();
        let connection = Connection::new(format!("api-{number}"), value, vec![], vec![origin]).unwrap();
        admin.put_connection(&connection).await.unwrap();
    }
    let source = json!({
        "displayName": "Rotation",
        "triggers": [{ "name": "t", "type": "manual" }],
        "steps": [{ "name": "put", "type": "queue.enqueue", "settings": { "queueName": "q", "data": "{{trigger.items}}" } }],
    });
    let flow = admin.create_flow(source.to_string().as_bytes()).await.unwrap().id;
    admin.publish_flow(flow).await.unwrap();
    let backend = host.opened.backend();
    let room = Arc::new(Semaphore::new(64));
    loop {
        let missing = records.saturating_sub(cells(&*backend, project).await);
        if missing == 0 {
            break;
        }
        let mut runs = JoinSet::new();
        for number in 0..missing.div_ceil(5) {
            let permit = Arc::clone(&room).acquire_owned().await.unwrap();
            let admin = admin.clone();
            runs.spawn(async move {
                let run = admin.start_run(flow, json!({ "items": [number], "text": "x".repeat(100) })).await.unwrap();
                admin.wait_for_run(run, Duration::from_secs(60)).await.unwrap();
                drop(permit);
            });
        }
        while let Some(ended) = runs.join_next().await {
            ended.unwrap();
        }
    }
    let count = cells(&*backend, project).await;
    host.close().await;
    (project, flow, count)
}

async fn cells(backend: &dyn Backend, project: ProjectId) -> u64 {
    let mut count = 0;
    for table in CellTable::ALL {
        count += backend.count_cells(table, KeyId::from_u128(0), project.into()).await.unwrap();
    }
    count
}

/// What became of the processes.
#[derive(Debug, Default)]
struct Tally {
    kills: u64,
    /// Processes that found a rotation under way.
    resumed: u64,
    reads: u64,
    rotations: u64,
    resealed: u64,
    failed: Vec<String>,
}

async fn survive(store: &Store, workers: u64) {
    let (records, kills) = (setting("AP_RECORDS", RECORDS), setting("AP_KILLS", KILLS));
    let seed = setting("AP_SEED", 1);
    let began = Instant::now();
    let (project, flow, sealed) = populate(store, records).await;
    let filled = began.elapsed();
    let tally = Arc::new(std::sync::Mutex::new(Tally::default()));
    let mut rng = Rng::new(seed ^ 0x726f_7461);
    let began = Instant::now();
    let mut running: Vec<Running> = Vec::new();
    let longest = 300 + records / 20;
    for kill in 0..kills {
        while (running.len() as u64) < workers {
            running.push(Running::start(store, (project, flow), READERS.div_ceil(workers), &tally).await);
        }
        tokio::time::sleep(Duration::from_millis(50 + rng.below(longest))).await;
        let victim = rng.below(running.len() as u64) as usize;
        running.swap_remove(victim).kill().await;
        tally.lock().unwrap().kills = kill + 1;
    }
    while (running.len() as u64) < workers {
        running.push(Running::start(store, (project, flow), READERS.div_ceil(workers), &tally).await);
    }
    for process in running {
        process.finish().await;
    }
    let took = began.elapsed();
    let host = Host::open(store).await;
    let status = host.keys().status(project).await.unwrap();
    let rows = host.opened.backend().keys(project.into()).await.unwrap();
    let kinds = |kind| rows.iter().filter(|row| row.kind == kind).count();
    let readable = read_everything(&host.admin(project)).await;
    let tally = std::mem::take(&mut *tally.lock().unwrap());
    println!(
        "rotation on {}: seed {seed}, {workers} at work, {sealed} sealed values ({:.1} s to write), {} kills, {} rotations \
         gone on with, {} finished, {} values sealed anew, {} reads by {READERS} readers, {} of them failed, {} values left \
         on an old key, {} keys that open, {} retired, {readable} runs read at the end; {:.1} s",
        store.name(),
        filled.as_secs_f64(),
        tally.kills,
        tally.resumed,
        tally.rotations,
        tally.resealed,
        tally.reads,
        tally.failed.len(),
        status.remaining,
        kinds(KeyKind::Data),
        kinds(KeyKind::Retired),
        took.as_secs_f64(),
    );
    host.close().await;
    assert_eq!(tally.failed, [] as [&str; 0]);
    assert_eq!((status.remaining, status.older), (0, 0));
    assert_eq!((kinds(KeyKind::Data), kinds(KeyKind::LookUp)), (1, 1));
    assert!(tally.resumed > 0, "no kill met a rotation: nothing was put to the test");
    assert!(tally.rotations > 0 && tally.resealed >= sealed && tally.reads > 100, "{tally:?}");
    assert!(readable > 0);
}

async fn read_everything(admin: &ProjectSession) -> usize {
    let runs = all_runs(admin).await;
    for run in &runs {
        admin.run(*run).await.unwrap();
    }
    runs.len()
}

async fn all_runs(admin: &ProjectSession) -> Vec<RunId> {
    let (mut runs, mut page) = (Vec::new(), PageRequest::first(500));
    loop {
        let found = admin.runs(RunFilter::default(), &page).await.unwrap();
        runs.extend(found.items.iter().map(|run| run.id));
        match found.next {
            Some(next) => page = page.after(next),
            None => return runs,
        }
    }
}

/// A process that reads and rotates.
struct Running {
    process: Child,
    told: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn start(
        store: &Store,
        (project, flow): (ProjectId, FlowId),
        readers: u64,
        tally: &Arc<std::sync::Mutex<Tally>>,
    ) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["rotation::the_process_that_is_killed", "--exact", "--ignored", "--nocapture"])
            .env(STORE, store.address())
            .env(PROJECT, project.to_string())
            .env(FLOW, flow.to_string())
            .env(ALSO_READS, readers.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let tally = Arc::clone(tally);
        let (ready, begun) = tokio::sync::oneshot::channel();
        let told = tokio::spawn(async move {
            let (mut ready, mut reads) = (Some(ready), 0);
            while let Ok(Some(line)) = lines.next_line().await {
                let Some((_, news)) = line.split_once(NEWS) else { continue };
                let (what, rest) = news.split_once(' ').unwrap_or((news, ""));
                let number = rest.parse::<u64>().unwrap_or_default();
                let mut tally = tally.lock().unwrap();
                match what {
                    "ready" => {
                        tally.resumed += u64::from(number > 0);
                        ready.take().map(|ready| ready.send(()));
                    }
                    "reads" => {
                        tally.reads += number - reads;
                        reads = number;
                    }
                    "rotated" => {
                        tally.rotations += 1;
                        tally.resealed += number;
                    }
                    _ => tally.failed.push(news.to_owned()),
                }
            }
        });
        tokio::time::timeout(LONGEST, begun).await.expect("the process did not start in time").unwrap();
        Self { process, told }
    }

    async fn kill(mut self) {
        let ended = self.process.try_wait().unwrap();
        assert!(ended.is_none(), "the process ended by itself: {ended:?}");
        self.process.kill().await.unwrap();
        self.told.await.unwrap();
    }

    /// Lets it finish the rotation it is at.
    async fn finish(mut self) {
        drop(self.process.stdin.take());
        let ended = tokio::time::timeout(LONGEST, self.process.wait()).await.expect("it did not end in time").unwrap();
        assert!(ended.success(), "the process did not end well");
        self.told.await.unwrap();
    }
}

#[test]
#[ignore = "started by the rotation loop, which kills it"]
fn the_process_that_is_killed() {
    let variable = |name| std::env::var(name).ok();
    let (Some(store), Some(project), Some(flow)) = (variable(STORE), variable(PROJECT), variable(FLOW)) else { return };
    let readers = variable(ALSO_READS).and_then(|number| number.parse().ok()).unwrap_or(1);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let host = Host::open(&Store::parse(&store)).await;
        work(&host, (project.parse().unwrap(), flow.parse().unwrap()), readers).await;
        host.close().await;
    });
    std::process::exit(0);
}

async fn work(host: &Host, (project, flow): (ProjectId, FlowId), readers: u64) {
    let admin = host.admin(project);
    let runs = Arc::new(all_runs(&admin).await);
    let version = admin.flow(flow).await.unwrap().published.unwrap();
    let status = host.keys().status(project).await.unwrap();
    println!("{NEWS}ready {}", status.older);
    let (reads, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut tasks = JoinSet::new();
    for number in 0..readers {
        let (admin, runs, reads, over) = (admin.clone(), Arc::clone(&runs), Arc::clone(&reads), Arc::clone(&over));
        tasks.spawn(async move {
            let mut rng = Rng::new(number ^ u64::from(std::process::id()));
            while !over.load(Ordering::Relaxed) {
                if let Err(error) = read(&admin, (version, &runs), &mut rng).await {
                    println!("{NEWS}failed {error}");
                }
                if reads.fetch_add(1, Ordering::Relaxed) % 50 == 49 {
                    println!("{NEWS}reads {}", reads.load(Ordering::Relaxed));
                }
            }
        });
    }
    if matches!(host.opened, Opened::Sqlite(_)) {
        // Somebody writes, too. Other processes seal under the old key until they notice, for which this grace is too short.
        let (admin, over) = (admin.clone(), Arc::clone(&over));
        tasks.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                if let Err(error) = admin.start_run(flow, json!({ "items": [1] })).await {
                    println!("{NEWS}failed to write: {error}");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    let told = tokio::task::spawn_blocking(|| std::io::Read::read(&mut std::io::stdin(), &mut [0]));
    let mut whole = false;
    // Told to end, it still does a rotation from its beginning: what others left of one says nothing of every value.
    while !(whole && told.is_finished()) {
        let begins = host.keys().unfinished().await.is_ok_and(|tenants| tenants.is_empty());
        match host.keys().rotate(project).await {
            Ok(report) if report.damaged == 0 => {
                whole |= begins;
                println!("{NEWS}rotated {}", report.resealed);
            }
            Ok(report) => println!("{NEWS}failed: {} damaged", report.damaged),
            Err(error) => println!("{NEWS}failed to rotate: {error}: {:?}", std::error::Error::source(&error)),
        }
    }
    over.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    println!("{NEWS}reads {}", reads.load(Ordering::Relaxed));
}

async fn read(
    admin: &ProjectSession,
    (version, runs): (FlowVersionId, &[RunId]),
    rng: &mut Rng,
) -> Result<(), ap_runtime::session::SessionError> {
    let run = runs[rng.below(runs.len() as u64) as usize];
    match rng.below(8) {
        0 => admin.connections(&PageRequest::default()).await.map(|page| assert_eq!(page.items.len(), 10)),
        1 => admin.flow_source(version).await.map(|_| ()),
        2 => admin.display_name().await.map(|name| assert_eq!(name, "Rotation")),
        // Audit records near the time of a run.
        3 => admin.audit(&PageRequest::first(20).after(Cursor::behind(run.as_u128()))).await.map(|_| ()),
        _ => admin.run(run).await.map(|view| assert_eq!(view.id, run)),
    }
}

const STORE: &str = "AP_CRASH_STORE";
const PROJECT: &str = "AP_ROTATION_PROJECT";
const FLOW: &str = "AP_ROTATION_FLOW";
const ALSO_READS: &str = "AP_ROTATION_READERS";
/// What stands before a line that is meant for the parent; the test harness writes on the same line.
const NEWS: &str = "rotation: ";
/// How long an old key still opens.
const GRACE: Duration = Duration::from_secs(2);
/// Longest time a start or the last rotation may take.
const LONGEST: Duration = Duration::from_secs(600);
