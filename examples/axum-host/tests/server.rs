//! Starts the server as an operator would, and talks to it over a socket.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

const KEY: &str = "5f1c0a9e7d3b48266f1c0a9e7d3b48265f1c0a9e7d3b4826";

/// A server on a free port; killed when dropped.
struct Server {
    process: Child,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut process = command(&directory, KEY).stdout(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = log.find(|line| line.as_ref().is_ok_and(|line| line.contains("listening on http://")));
        let address = line.unwrap().unwrap().rsplit("http://").next().unwrap().trim().parse().unwrap();
        // Whoever stops reading a pipe stops the one who writes to it.
        std::thread::spawn(move || log.for_each(drop));
        Self { process, address, _directory: directory }
    }

    fn call(&self, method: &str, path: &str, key: Option<&str>, body: &str) -> (u16, String) {
        let mut socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let authorization = key.map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
        let length = body.len();
        write!(
            socket,
            "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{authorization}\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut response = String::new();
        socket.read_to_string(&mut response).unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn post(&self, path: &str, key: Option<&str>, body: &str) -> (u16, serde_json::Value) {
        let (status, body) = self.call("POST", path, key, body);
        (status, serde_json::from_str(&body).unwrap_or_default())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn command(directory: &tempfile::TempDir, key: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_axum-host"));
    command
        .env("ADMIN_API_KEY", key)
        .env("AP_DATABASE", directory.path().join("data/flows.db"))
        .env("AP_KEY_FILE", directory.path().join("keys/root.key"))
        .env("AP_LISTEN", "127.0.0.1:0");
    command
}

/// Expects the server to refuse to start, and returns why.
fn refusal(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_published_flow_answers_its_webhook() {
    let server = Server::start();
    assert_eq!(server.call("GET", "/healthz", None, ""), (200, "ok".to_owned()));

    let (status, created) = server.post("/admin/projects", Some(KEY), r#"{"name":"Acme"}"#);
    assert_eq!(status, 201, "{created}");
    let flows = format!("/admin/projects/{}/flows", created["project"].as_str().unwrap());
    let flow = r#"{
        "displayName": "Greet",
        "triggers": [{ "name": "hook", "type": "webhook", "settings": { "authentication": { "type": "NONE" } } }],
        "steps": [
            { "name": "greet", "type": "code", "settings": {
                "sourceCode": { "code": "export const code = ({ name }) => `Hello, ${name}!`" },
                "input": { "name": "{{trigger.body.name}}" } } },
            { "name": "answer", "type": "respond", "settings": { "body": "{{steps.greet.output}}" } }
        ]
    }"#;
    let (status, published) = server.post(&flows, Some(KEY), flow);
    assert_eq!(status, 201, "{published}");
    let webhook = published["webhook"].as_str().unwrap();
    let (status, greeting) = server.post(&format!("{webhook}/sync"), None, r#"{"name":"Ada"}"#);
    assert_eq!((status, greeting), (200, "Hello, Ada!".into()));

    let broken = flow.replace("respond", "respnd");
    let (status, refused) = server.post(&flows, Some(KEY), &broken);
    assert_eq!(status, 422);
    assert!(refused["error"].as_str().unwrap().contains("/steps/1"), "{refused}");
    let elsewhere = "/admin/projects/proj_00000000000000000000000009/flows";
    assert_eq!(server.post(elsewhere, Some(KEY), flow).0, 404);
    assert_eq!(server.post("/webhooks/whk_nobody", None, "{}").0, 404);
}

#[test]
fn the_admin_api_wants_its_key() {
    let server = Server::start();
    let almost = KEY.replace("4826", "4827");
    for wrong in [None, Some(""), Some("wrong"), Some(almost.as_str())] {
        assert_eq!(server.post("/admin/projects", wrong, r#"{"name":"Acme"}"#).0, 401, "{wrong:?}");
    }
    assert_eq!(server.post("/admin/projects", Some(KEY), r#"{"name":"Acme"}"#).0, 201);
    assert_eq!(server.post("/admin/projects", Some(KEY), r#"{"name":""}"#).0, 422);
    let large = format!(r#"{{"name":"{}"}}"#, "x".repeat(1 << 20));
    assert_eq!(server.post("/admin/projects", Some(KEY), &large).0, 413);
}

#[test]
fn unsafe_settings_are_refused_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    for guessable in ["", "short", "change-me-change-me-change-me-change-me", &KEY[..31]] {
        let reason = refusal(&mut command(&directory, guessable));
        assert!(reason.contains("ADMIN_API_KEY"), "{reason}");
    }
    let reason = refusal(command(&directory, KEY).env_remove("ADMIN_API_KEY"));
    assert!(reason.contains("`ADMIN_API_KEY` is not set"), "{reason}");
    let beside = directory.path().join("data/root.key");
    let reason = refusal(command(&directory, KEY).env("AP_KEY_FILE", &beside));
    assert!(reason.contains("must not be kept beside"), "{reason}");
    assert!(!beside.exists());
}
