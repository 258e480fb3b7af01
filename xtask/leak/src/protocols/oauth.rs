//! A token endpoint that gives back client secret and refresh token, whatever it answers; and an API that gives back the
//! token it is shown.

use std::{sync::Arc, time::Duration};

use ap_core::connection::Connection;
use ap_runtime::clock::{Clock, SystemClock};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::{Places, Protocol, Witness, everything, fails, percent, step, succeeds};
use crate::{
    asked::{Asked, answer, listen},
    catalogue::Entry,
    echo,
    secrets::Keys,
};

pub(super) async fn start(keys: &Keys, elsewhere: String, witness: Arc<Witness>) -> String {
    let (listener, address) = listen().await;
    let peer = Arc::new(Provider {
        client: keys.client.clone(),
        refresh: keys.refresh.clone(),
        access: keys.access.clone(),
        next: keys.next_refresh.clone(),
        elsewhere,
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (peer, witness) = (Arc::clone(&peer), Arc::clone(&witness));
            tokio::spawn(async move { peer.serve(stream, &witness).await });
        }
    });
    format!("http://{address}")
}

/// What the endpoint answers, by the end of its path; each has a connection of its own.
const WISHES: [&str; 11] = ["page", "json", "code", "gone", "away", "busy", "list", "grant", "cut", "fresh", "header"];

pub(super) fn connections(places: &Places, keys: &Keys) -> Vec<Connection> {
    // Two hours ago: the token is over.
    let then = SystemClock.now().saturating_sub(Duration::from_secs(7_200));
    WISHES
        .iter()
        .map(|wish| {
            let method = if *wish == "header" { "HEADER" } else { "BODY" };
            let json = json!({
                "type": "OAUTH2",
                "value": {
                    "client_id": "canary", "client_secret": keys.client.expose_secret(), "authorization_method": method,
                    "token_url": format!("{}/token/{wish}", places.tokens),
                    "authorization_url": format!("{}/authorize", places.tokens),
                    "redirect_url": "https://host.example/callback",
                    "access_token": keys.old_access.expose_secret(), "refresh_token": keys.refresh.expose_secret(), "expires_in": 3_600,
                },
                "origins": [places.tokens],
            });
            let text = Zeroizing::new(json.to_string());
            Connection::from_json(&name(wish), text.as_bytes(), None, then).unwrap()
        })
        .collect()
}

pub(super) fn entries(places: &Places) -> Vec<Entry> {
    let asks = |wish: &str| {
        step(
            "use",
            "http.request",
            json!({
            "method": "GET", "url": format!("{}/me", places.tokens), "connection": format!("{{{{connections.{}}}}}", name(wish)) }),
        )
    };
    // Nothing that a token endpoint says is repeated, so there is nothing to mask.
    let bad = |title, wish| Entry { masked: false, ..fails(Protocol::OAuth, title, asks(wish)) };
    let good = |title, wish| Entry { requests: 2, ..succeeds(Protocol::OAuth, title, asks(wish)) };
    vec![
        bad("an error page", "page"),
        bad("an error with a description", "json"),
        bad("an error whose code is the secret", "code"),
        bad("an error of the server", "gone"),
        bad("a redirect to another origin", "away"),
        bad("an answer to wait, with the secret as time", "busy"),
        bad("JSON that is no answer", "list"),
        bad("a grant that is over", "grant"),
        bad("an answer that breaks off", "cut"),
        good("a new token, given back by the API", "fresh"),
        good("a new token for a client that shows its secret in the head", "header"),
    ]
}

fn name(wish: &str) -> String {
    format!("oauth_{wish}")
}

struct Provider {
    client: SecretString,
    refresh: SecretString,
    access: SecretString,
    next: SecretString,
    elsewhere: String,
}

impl Provider {
    async fn serve(&self, mut stream: TcpStream, witness: &Witness) {
        let Some(asked) = Asked::read(&mut stream).await else { return };
        if asked.path() == "/me" {
            let known = asked.field("authorization") == Some(&format!("Bearer {}", self.access.expose_secret()));
            if known {
                witness.verify();
            }
            let said = if known {
                everything(&[self.access.expose_secret(), self.client.expose_secret()])
            } else {
                String::new()
            };
            return answer(&mut stream, if known { "200 OK" } else { "401 Unauthorized" }, "", said).await;
        }
        let form: Vec<(String, String)> = url::form_urlencoded::parse(&asked.body).into_owned().collect();
        let has = |name: &str, secret: &SecretString| {
            form.iter().any(|(given, value)| given == name && value == secret.expose_secret())
        };
        let client = self.client.expose_secret();
        // RFC 6749 §2.3.1: as in a form.
        let pair = format!("canary:{}", percent(client));
        let basic = format!("Basic {}", echo::base64(pair.as_bytes(), echo::STANDARD));
        let known = has("client_secret", &self.client) || asked.field("authorization") == Some(&basic);
        if !known || !has("refresh_token", &self.refresh) {
            return answer(&mut stream, "400 Bad Request", "", "not this client").await;
        }
        witness.verify();
        let refresh = self.refresh.expose_secret();
        let all = everything(&[client, refresh, &basic]);
        let json = "content-type: application/json\r\n";
        let bad = "400 Bad Request";
        let (status, fields, body) = match asked.wish() {
            "page" => (bad, format!("x-said: {}\r\n", percent(client)), format!("<h1>{all}</h1>")),
            "json" => (bad, json.to_owned(), json!({ "error": "invalid_request", "error_description": all, "error_uri": all }).to_string()),
            "code" => (bad, json.to_owned(), json!({ "error": refresh, "error_description": all }).to_string()),
            "gone" => ("500 Internal Server Error", json.to_owned(), json!({ "error": client }).to_string()),
            "away" => ("302 Found", format!("location: {}/any/Text?said={}\r\n", self.elsewhere, percent(refresh)), all),
            "busy" => ("429 Too Many Requests", format!("retry-after: {}\r\n", percent(client)), all),
            "list" => ("200 OK", json.to_owned(), json!([client, refresh]).to_string()),
            "grant" => (bad, json.to_owned(), json!({ "error": "invalid_grant", "error_description": all }).to_string()),
            "cut" => ("200 OK", "content-length: 99999\r\n".to_owned(), all),
            _ => ("200 OK", json.to_owned(), json!({
                "access_token": self.access.expose_secret(), "refresh_token": self.next.expose_secret(), "token_type": "Bearer",
                "expires_in": 3_600, "scope": format!("read {all}") }).to_string()),
        };
        answer(&mut stream, status, &fields, body).await;
    }
}
