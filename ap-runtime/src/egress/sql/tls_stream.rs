//! TLS as the PostgreSQL client wants it: on our own stream, with our own verifier.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use ap_core::capability::ExchangeError;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

use super::bounded::{Allowance, Bounded};
use crate::egress::tls::TlsClient;

/// Speaks TLS with the server of this name, once it has agreed to.
pub(super) struct Encrypt<'a> {
    pub(super) tls: &'a TlsClient,
    pub(super) host: &'a str,
    pub(super) allowance: Allowance,
}

impl<'a> TlsConnect<TcpStream> for Encrypt<'a> {
    type Stream = Encrypted;
    type Error = ExchangeError;
    type Future = Pin<Box<dyn Future<Output = Result<Encrypted, ExchangeError>> + Send + 'a>>;

    fn connect(self, stream: TcpStream) -> Self::Future {
        Box::pin(async move {
            let stream = self.tls.connect(self.host, stream).await?;
            Ok(Encrypted(Bounded::new(stream, self.allowance)))
        })
    }
}

/// An encrypted stream. No channel binding: the certificate was checked by name, and the password does not pass the wire.
pub(super) struct Encrypted(Bounded<tokio_rustls::client::TlsStream<TcpStream>>);

impl TlsStream for Encrypted {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
