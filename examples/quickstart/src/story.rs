//! The demonstration itself, act by act. Each promise is checked; the first that does not hold ends it.

use std::time::Duration;

use anyhow::{Context, ensure};
use ap_auth::{principal::Principal, role::Role};
use ap_core::{
    id::{FlowId, ProjectId, RunId},
    run::RunStatus,
    store::PageRequest,
};
use ap_crypto::{entropy::SystemEntropy, signature::HmacSha256, token::generate_token};
use ap_runtime::{engine::RunView, runtime::Runtime, session::ProjectSession, store::RunFilter};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use crate::{
    crash::Victim,
    disk::Disk,
    flow,
    host::{Host, Places},
    peer::{Counts, Peer},
    report::{self, note, promise, section},
    sender::{Delivery, send},
};

/// What the acts share: one project with one flow, and the secrets behind it.
struct Cast {
    project: ProjectId,
    flow: FlowId,
    peer: Peer,
    /// What the peer demands.
    bearer: SecretString,
    /// What senders sign with.
    signing: SecretString,
    /// What makes the flow's webhook address unguessable.
    address: SecretString,
}

/// Plays all acts on the files of `places`.
pub(crate) async fn tell(places: &Places) -> anyhow::Result<()> {
    let host = Host::start(places).await?;
    let cast = set_up(places, &host).await?;
    let run = webhook(&host, &cast).await?;
    show_run(&host, &cast, run).await?;
    host.stop().await;
    let host = kill_and_recover(places, &cast).await?;
    show_audit(&host, &cast).await?;
    search_disk(places, &cast)?;
    host.stop().await;
    Ok(())
}

async fn set_up(places: &Places, host: &Host) -> anyhow::Result<Cast> {
    section("1. A host, a project, a connection, a flow");
    note("database", places.database().display());
    note("root key", format_args!("{}, never beside the database", places.root_key().display()));
    let bearer = generate_token("crm_", &SystemEntropy)?;
    let signing = generate_token("sig_", &SystemEntropy)?;
    let peer = Peer::start(bearer.clone()).await?;

    let principal = Principal::service("quickstart").with_role(host.runtime.platform(), Role::Admin);
    let project = host.runtime.session(principal).create_project("Quickstart").await?;
    let session = enter(&host.runtime, project)?;
    let url = format!("http://{}/contacts", peer.address);
    session.put_connection(&flow::crm(url, bearer.clone())?).await?;
    session.put_connection(&flow::webhook_signing(signing.clone())?).await?;
    note("project", project);
    for connection in session.connections(&PageRequest::default()).await?.items {
        let origins: Vec<&str> = connection.origins.iter().map(|origin| origin.as_str()).collect();
        let origins = if origins.is_empty() { "nowhere".to_owned() } else { format!("to {}", origins.join(", ")) };
        let secrets = connection.secret_fields.join(", ");
        note("connection", format_args!("{}: secret `{secrets}` may be sent {origins}", connection.name));
    }
    let draft = session.create_flow(flow::source().to_string().as_bytes()).await?;
    let published = session.publish_flow(draft.id).await?.flow;
    note("flow", format_args!("{} “{}”: webhook → code → http → code → respond", published.id, published.display_name));
    let address = session.webhook_token(published.id).await?;
    Ok(Cast { project, flow: published.id, peer, bearer, signing, address })
}

async fn webhook(host: &Host, cast: &Cast) -> anyhow::Result<RunId> {
    section(format_args!("2. A signed webhook, over a socket (http://{}/webhooks/whk_…/sync)", host.address));
    let key = HmacSha256::new(&cast.signing)?;
    let delivery = Delivery { id: "delivery-1", body: json!({ "email": "Ada@Example.com", "name": "Ada Lovelace" }) };
    let first = send(host.address, &cast.address, &key, &delivery, true).await?;
    promise(first.status == 201, format_args!("signed: answered {} {}", first.status, first.body))?;
    let run: RunId = first.run.as_deref().context("the answer names no run")?.parse()?;
    let again = send(host.address, &cast.address, &key, &delivery, true).await?;
    let same = again.status == 201 && again.run == first.run && again.body == first.body;
    promise(same, "the same delivery once more: the same run, the same answer")?;

    let forged = HmacSha256::new(&"a key the sender made up".into())?;
    let delivery = Delivery { id: "delivery-2", ..delivery };
    let refused = send(host.address, &cast.address, &forged, &delivery, true).await?;
    let runs = enter(&host.runtime, cast.project)?
        .runs(RunFilter { flow: Some(cast.flow), ..RunFilter::default() }, &PageRequest::default())
        .await?
        .items
        .len();
    promise(
        refused.status == 401 && runs == 1,
        format_args!("a wrong signature: answered {}, no run", refused.status),
    )?;
    let counts = cast.peer.take_counts();
    let once = Counts { requests: 1, effects: 1, refused: 0 };
    promise(counts == once, "the peer saw the right bearer token, once, and created 1 contact")?;
    Ok(run)
}

async fn show_run(host: &Host, cast: &Cast, run: RunId) -> anyhow::Result<()> {
    section("3. What that run did, step by step");
    let view = enter(&host.runtime, cast.project)?.run(run).await?;
    report::timeline(&view);
    ensure!(view.status == RunStatus::Succeeded, "the first run did not succeed");
    promise(blind(cast, &view)?, "no credential in it: flow and log saw names, even where the peer echoed the token")
}

/// Starts a host in a second process, kills it while the peer works for it, and takes its work up here.
async fn kill_and_recover(places: &Places, cast: &Cast) -> anyhow::Result<Host> {
    section("4. kill -9 in the middle of a request");
    let victim = Victim::start(places).await?;
    cast.peer.go_silent_once();
    let delivery = Delivery { id: "delivery-3", body: json!({ "email": "grace@example.com", "name": "Grace Hopper" }) };
    let accepted = send(victim.address, &cast.address, &HmacSha256::new(&cast.signing)?, &delivery, false).await?;
    promise(accepted.status == 202, format_args!("a second process accepted delivery-3: {}", accepted.status))?;
    let run: RunId = accepted.run.context("the answer names no run")?.parse()?;
    tokio::time::timeout(PATIENCE, cast.peer.acted_in_silence()).await.context("the peer was never called")?;
    let ending = victim.kill().await?;
    note("killed", format_args!("the peer had created the contact but not answered yet ({ending})"));

    let host = Host::start(places).await?;
    let session = enter(&host.runtime, cast.project)?;
    let status = session.wait_for_run(run, PATIENCE).await?;
    let view = session.run(run).await?;
    report::short_timeline(&view);
    promise(status == RunStatus::Succeeded, format_args!("the restarted host completed the run: {status}"))?;
    ensure!(blind(cast, &view)?, "a credential is in the completed run");
    let counts = cast.peer.take_counts();
    let expected = Counts { requests: 2, effects: 1, refused: 0 };
    let told =
        format!("asked {} times under one idempotency key, the peer created {}", counts.requests, counts.effects);
    promise(counts == expected, told)?;
    Ok(host)
}

async fn show_audit(host: &Host, cast: &Cast) -> anyhow::Result<()> {
    section("5. Who did what, when, from where");
    let events = enter(&host.runtime, cast.project)?.audit(&PageRequest::default()).await?.items;
    events.iter().for_each(report::audit);
    let actions = |wanted: &str| events.iter().filter(|event| event.action() == wanted).count();
    promise(
        actions("run.start") == 2 && actions("webhook.deny") == 1,
        "both runs and the refused request are on record",
    )
}

fn search_disk(places: &Places, cast: &Cast) -> anyhow::Result<()> {
    section("6. What a thief with a copy of the disk finds");
    let disk = Disk::read(&places.data())?;
    note("files", disk.listing());
    promise(disk.hits("ap_runs") > 0, "the search works: it finds the table name `ap_runs`")?;
    for (what, text) in [
        ("the bearer token", cast.bearer.expose_secret()),
        ("the signing secret", cast.signing.expose_secret()),
        ("the webhook's address", cast.address.expose_secret()),
        ("the customer's e-mail address", "ada@example.com"),
    ] {
        let hits = disk.hits(text);
        promise(hits == 0, format_args!("{what}: {hits} hits (plain, hex, base64, UTF-16)"))?;
    }
    Ok(())
}

/// The host knows its users and their roles; here there is one, who may do everything in the project.
fn enter(runtime: &Runtime, project: ProjectId) -> anyhow::Result<ProjectSession> {
    Ok(runtime.session(Principal::service("quickstart").with_role(project, Role::Admin)).project(project)?)
}

/// Whether a run, as its owner sees it, is free of both secrets.
fn blind(cast: &Cast, run: &RunView) -> anyhow::Result<bool> {
    let text = serde_json::to_string(run)?;
    Ok([&cast.bearer, &cast.signing].iter().all(|secret| !text.contains(secret.expose_secret())))
}

const PATIENCE: Duration = Duration::from_secs(30);
