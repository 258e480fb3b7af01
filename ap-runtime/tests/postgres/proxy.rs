//! [`Proxy`]: a way to the server that a test can cut.

use std::sync::Arc;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Forwards connections on a port of its own.
pub struct Proxy {
    port: u16,
    mode: Arc<watch::Sender<Mode>>,
}

/// What the proxy does with connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Forwards.
    Open,
    /// Ends all there are, and every new one at once.
    Cut,
    /// Takes new ones and says nothing; those there are stop.
    Silent,
}

impl Proxy {
    pub async fn to(server: String) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let mode = Arc::new(watch::Sender::new(Mode::Open));
        let watched = Arc::clone(&mode);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, server.clone(), watched.subscribe()));
            }
        });
        Self { port, mode }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

async fn forward(mut client: TcpStream, server: String, mut mode: watch::Receiver<Mode>) {
    if *mode.borrow() == Mode::Open {
        let Ok(mut server) = TcpStream::connect(&server).await else { return };
        tokio::select! {
            _ = copy_bidirectional(&mut client, &mut server) => return,
            _ = mode.wait_for(|mode| *mode != Mode::Open) => {}
        }
        if *mode.borrow() == Mode::Silent {
            // Both ends stay open, and nothing passes any more.
            let _ = mode.wait_for(|mode| *mode != Mode::Silent).await;
        }
    } else if *mode.borrow() == Mode::Silent {
        let _ = mode.wait_for(|mode| *mode != Mode::Silent).await;
    }
}
