//! Several processes on one schema.

use std::{collections::BTreeSet, time::Duration};

use ap_core::{id::RunId, run::RunStatus, time::Timestamp};
use ap_runtime::{
    backend::postgres::{PostgresBackend, PostgresOpenError},
    store::{Accept, Accepted, Dedupe, Gate, Lease, RunChange, RunCommit, RunControl, RunStore, SystemStore},
};
use futures_util::future::join_all;

use crate::{
    records::{PROJECT, accept, claim, hash, publish},
    support::{Schema, run},
};

async fn several(schema: &Schema, processes: usize) -> Vec<PostgresBackend> {
    let opened = join_all((0..processes).map(|_| PostgresBackend::open(schema.options()))).await;
    opened.into_iter().map(|backend| backend.expect("a database")).collect()
}

async fn close(backends: Vec<PostgresBackend>) {
    for backend in &backends {
        backend.close().await;
    }
}

#[tokio::test]
async fn all_may_start_at_once() {
    let schema = Schema::new();
    let backends = several(&schema, 6).await;
    publish(&backends[0]).await;
    for backend in &backends {
        assert!(backend.route(hash(1)).await.expect("an answer").is_some());
    }
    close(backends).await;
}

#[tokio::test]
async fn one_delivery_makes_one_run_whoever_accepts_it() {
    let schema = Schema::new();
    let backends = several(&schema, 3).await;
    publish(&backends[0]).await;
    for round in 0..10_u8 {
        let dedupe = Some(Dedupe { key: hash(round), expires: Timestamp::from_micros(i64::MAX) });
        let accepts = (0..12_u128).map(|number| {
            let wanted = Accept { dedupe, ..accept(1_000 * (u128::from(round) + 1) + number) };
            let backend = &backends[number as usize % 3];
            async move { backend.accept(wanted, &[]).await.expect("an answer") }
        });
        let answers = join_all(accepts).await;
        let created = answers.iter().filter(|answer| matches!(answer, Accepted::Created { .. })).count();
        let first: BTreeSet<RunId> = answers
            .iter()
            .filter_map(|answer| if let Accepted::Duplicate(run) = answer { Some(*run) } else { None })
            .collect();
        assert_eq!((created, first.len()), (1, 1), "{answers:?}");
    }
    close(backends).await;
}

#[tokio::test]
async fn claims_share_no_run_and_keep_to_the_limit() {
    let schema = Schema::new();
    let backends = several(&schema, 3).await;
    publish(&backends[0]).await;
    join_all((1..=40).map(|number| backends[0].accept(accept(number), &[]))).await;
    let claims = join_all((0..12).map(|number| backends[number % 3].claim(claim(5, 23)))).await;
    let claimed: Vec<RunId> =
        claims.into_iter().flat_map(|claimed| claimed.expect("an answer")).map(|claimed| claimed.lease.run).collect();
    assert_eq!(claimed.len(), 23);
    assert_eq!(claimed.iter().collect::<BTreeSet<_>>().len(), 23);
    close(backends).await;
}

#[tokio::test]
async fn a_gate_holds_over_all_of_them() {
    let schema = Schema::new();
    let backends = several(&schema, 3).await;
    publish(&backends[0]).await;
    let gate = Some(Gate { key: hash(9), limit: 3, skip: false });
    let accepts = (1..=24_u128).map(|number| {
        let control = RunControl { gate, ..RunControl::default() };
        let wanted = Accept { control, lease: Some(Duration::from_secs(60)), ..accept(number) };
        let backend = &backends[number as usize % 3];
        async move { (number, backend.accept(wanted, &[]).await.expect("an answer")) }
    });
    let answers = join_all(accepts).await;
    let leased: Vec<u128> = answers
        .iter()
        .filter(|(_, answer)| *answer == Accepted::Created { leased: true })
        .map(|(number, _)| *number)
        .collect();
    assert_eq!(leased.len(), 3, "{answers:?}");
    let mut held: Vec<Lease> =
        leased.iter().map(|number| Lease { project: PROJECT, run: RunId::from_u128(*number), epoch: 1 }).collect();
    let mut ended = BTreeSet::new();
    while !held.is_empty() {
        let end = RunChange::End { status: RunStatus::Succeeded, at: Timestamp::from_micros(1) };
        let ends = held.drain(..).zip(backends.iter().cycle()).map(|(lease, backend)| async move {
            backend.commit(RunCommit::new(lease, end), &[]).await.expect("the end");
            lease.run
        });
        ended.extend(join_all(ends).await);
        let claims = join_all(backends.iter().map(|backend| backend.claim(claim(10, u32::MAX)))).await;
        held.extend(claims.into_iter().flat_map(|claimed| claimed.expect("an answer")).map(|claimed| claimed.lease));
        assert!(held.len() <= 3, "{held:?}");
    }
    assert_eq!(ended.len(), 24);
    close(backends).await;
}

#[tokio::test]
async fn leases_expire_by_the_clock_of_the_server() {
    let schema = Schema::new();
    let backends = several(&schema, 2).await;
    publish(&backends[0]).await;
    let wanted = Accept { lease: Some(Duration::from_millis(300)), ..accept(1) };
    assert_eq!(backends[0].accept(wanted, &[]).await.expect("an answer"), Accepted::Created { leased: true });
    let due = backends[1].next_due().await.expect("an answer").expect("the end of the lease");
    assert!(due > Timestamp::from_millis(1_600_000_000_000), "{due:?}");
    let claimed = loop {
        if let [claimed] = backends[1].claim(claim(1, 1)).await.expect("an answer")[..] {
            break claimed;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(claimed.lease.epoch, 2);
    close(backends).await;
}

#[tokio::test]
async fn tables_of_a_newer_or_changed_release_are_refused() {
    for change in [
        "INSERT INTO ap_migrations (version, name, checksum) VALUES (99, 'later', '')",
        "UPDATE ap_migrations SET checksum = ''",
    ] {
        let schema = Schema::new();
        close(several(&schema, 1).await).await;
        let text = format!("SET search_path TO \"{}\"; {change}", schema.name());
        tokio::task::spawn_blocking(move || run(&[&text])).await.expect("a change");
        let error = PostgresBackend::open(schema.options()).await.expect_err("refused");
        assert!(matches!(error, PostgresOpenError::Migration { .. }), "{error:?}");
    }
}
