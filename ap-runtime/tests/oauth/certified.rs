//! Against a certified provider (the npm package `oidc-provider`), which `cargo xtask oauth` and `cargo xtask test` start.

use std::{collections::BTreeMap, time::Duration};

use ap_core::connection::ConnectionStatus;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use url::Url;

use super::world::World;

/// Whoever counts what the provider is asked, asks it alone.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A browser that knows cookies and redirects, and nothing else.
#[derive(Default)]
struct Browser {
    cookies: BTreeMap<String, String>,
}

impl Browser {
    /// Status, `Location` and body.
    async fn get(&mut self, url: &Url) -> (u16, Option<String>, String) {
        let mut stream = TcpStream::connect((url.host_str().unwrap(), url.port().unwrap())).await.unwrap();
        let path = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {}:{}\r\ncookie: {}\r\nconnection: close\r\n\r\n",
            url.host_str().unwrap(),
            url.port().unwrap(),
            cookies.join("; ")
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let mut location = None;
        for (name, value) in head.lines().filter_map(|line| line.split_once(": ")) {
            match name.to_ascii_lowercase().as_str() {
                "location" => location = Some(value.to_owned()),
                "set-cookie" => {
                    let (name, value) = value.split(';').next().unwrap().split_once('=').unwrap();
                    self.cookies.insert(name.to_owned(), value.to_owned());
                }
                _ => {}
            }
        }
        (head.split(' ').nth(1).unwrap().parse().unwrap(), location, body.to_owned())
    }

    /// Follows redirects until one leads to the host, and returns that.
    async fn follow(&mut self, start: &str) -> Url {
        let mut url = Url::parse(start).unwrap();
        for _ in 0..10 {
            if url.host_str() == Some("host.example") {
                return url;
            }
            let (status, location, body) = self.get(&url).await;
            let location = location.unwrap_or_else(|| panic!("{status} at {url}: {body}"));
            url = url.join(&location).unwrap();
        }
        panic!("it does not end: {url}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_certified_provider_is_connected_and_renewed() {
    let Ok(issuer) = std::env::var("AP_TEST_OIDC_ISSUER") else {
        eprintln!(
            "not run: `AP_TEST_OIDC_ISSUER` is not set; `cargo xtask oauth` starts the provider where Node.js is present"
        );
        return;
    };
    let _alone = ALONE.lock().await;
    let world = World::new(3).await;
    world.put(&definition(&issuer)).await;
    let renewals = async || renewals(&issuer).await;
    let start = world.admin().authorize_connection("api").await.unwrap();
    let back = Browser::default().follow(&start.url).await;
    let before = renewals().await;
    assert_eq!(world.admin_at(1).complete_authorization(back.query().unwrap()).await.unwrap(), "api");
    let check = world.admin().validate_connection("api").await.unwrap();
    assert_eq!((check.status, check.problem), (ConnectionStatus::Active, None));
    // A callback counts once, also at the provider.
    assert!(world.admin().complete_authorization(back.query().unwrap()).await.is_err());
    // Every renewal rotates the refresh token, and a used one that came again would end the grant.
    for round in 1..=3 {
        world.clock.forward(Duration::from_secs(7_200));
        let asked = (0..20).map(|number| {
            let admin = world.admin_at(number);
            tokio::spawn(async move { admin.validate_connection("api").await })
        });
        for check in futures_util::future::join_all(asked).await {
            let check = check.unwrap().unwrap();
            assert_eq!((check.status, check.problem), (ConnectionStatus::Active, None));
        }
        assert_eq!(renewals().await - before, round, "not one renewal per end of a token");
    }
}

fn definition(issuer: &str) -> String {
    format!(
        r#"{{ "type": "OAUTH2", "value": {{ "client_id": "ap-tests", "client_secret": "canary-secret-of-the-certified-client",
            "token_url": "{issuer}/token", "authorization_url": "{issuer}/auth", "scope": "openid", "issuer": "{issuer}",
            "redirect_url": "https://host.example/callback" }}, "origins": ["{issuer}"],
            "validation": {{ "url": "{issuer}/me" }} }}"#
    )
}

/// How often it was asked to renew tokens.
async fn renewals(issuer: &str) -> u32 {
    let url = Url::parse(&format!("{issuer}/tests/renewals")).unwrap();
    let (_, _, body) = Browser::default().get(&url).await;
    // A chunked body has its length around it.
    body.lines().find_map(|line| line.trim().parse().ok().filter(|_| !line.is_empty())).unwrap()
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certified_provider_is_asked_once_by_twenty_in_three_processes() {
    use super::processes::{Shared, twenty_at_once};

    let Ok(issuer) = std::env::var("AP_TEST_OIDC_ISSUER") else {
        eprintln!("not run: `AP_TEST_OIDC_ISSUER` is not set; see the test above");
        return;
    };
    let _alone = ALONE.lock().await;
    let shared = Shared::new("certified").await;
    shared.world.put(&definition(&issuer)).await;
    let start = shared.world.admin().authorize_connection("api").await.unwrap();
    let back = Browser::default().follow(&start.url).await;
    shared.world.admin().complete_authorization(back.query().unwrap()).await.unwrap();
    let mut processes = vec![shared.process().await, shared.process().await, shared.process().await];
    let before = renewals(&issuer).await;
    for round in 1..=3 {
        for process in &mut processes {
            process.forward(Duration::from_secs(7_200)).await;
        }
        assert_eq!(twenty_at_once(&mut processes).await, Vec::<String>::new());
        assert_eq!(renewals(&issuer).await - before, round, "not one renewal per end of a token");
    }
    let summary = shared.world.summary().await;
    assert_eq!((summary.status, summary.fault), (ConnectionStatus::Active, None));
    for process in processes {
        process.end().await;
    }
    shared.end().await;
}
