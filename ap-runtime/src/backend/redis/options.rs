//! [`RedisOptions`]: where the server is.

use std::{fmt, net::IpAddr};

use ::redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

/// Why an option cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RedisOptionsError {
    /// Without TLS, or without checking the server's certificate, another host is out of bounds.
    #[error("`redis://` is for this machine; use `rediss://` for another host")]
    Unprotected,
    /// The text is no URL of a Redis server.
    #[error("not a URL of a Redis server")]
    Url,
}

/// Where the server is, and which channel carries the hints.
///
/// # Security
/// Hints name runs and nothing else. The password goes over the wire, so another host than this machine is reached by TLS with
/// a verified certificate, or through [`dangerous`](Self::dangerous).
///
/// # Examples
/// ```
/// use ap_runtime::backend::redis::RedisOptions;
///
/// let options = RedisOptions::from_url("rediss://:secret@cache.example.com")?.with_channel("flows");
/// assert!(!format!("{options:?}").contains("secret"));
/// assert!(RedisOptions::from_url("redis://cache.example.com").is_err());
/// # Ok::<(), ap_runtime::backend::redis::RedisOptionsError>(())
/// ```
pub struct RedisOptions {
    client: Client,
    channel: String,
}

impl RedisOptions {
    /// The server of a URL such as `rediss://user:password@host:6379`.
    ///
    /// # Errors
    /// [`RedisOptionsError`].
    pub fn from_url(url: &str) -> Result<Self, RedisOptionsError> {
        let info = url.into_connection_info().map_err(|_| RedisOptionsError::Url)?;
        if is_protected(info.addr()) { Self::new(info) } else { Err(RedisOptionsError::Unprotected) }
    }

    /// Options that give up a promise.
    #[must_use]
    pub const fn dangerous() -> DangerousRedisOptions {
        DangerousRedisOptions(())
    }

    /// Sets the channel that carries the hints. Runtimes on one database use the same, others another. Default:
    /// `ap_runtime_wakeup`.
    #[must_use]
    pub fn with_channel(self, channel: impl Into<String>) -> Self {
        Self { channel: channel.into(), ..self }
    }

    fn new(info: ConnectionInfo) -> Result<Self, RedisOptionsError> {
        if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            // The client takes the process's default provider, and there may be none yet. An error means that there is one.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        }
        let client = Client::open(info).map_err(|_| RedisOptionsError::Url)?;
        Ok(Self { client, channel: "ap_runtime_wakeup".to_owned() })
    }

    pub(super) fn into_parts(self) -> (Client, String) {
        (self.client, self.channel)
    }
}

impl fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOptions").field("channel", &self.channel).finish_non_exhaustive()
    }
}

/// Ways to [`RedisOptions`] that give up a promise.
#[derive(Debug)]
pub struct DangerousRedisOptions(());

impl DangerousRedisOptions {
    /// The server of a URL, whatever its protection.
    ///
    /// # Errors
    /// [`RedisOptionsError::Url`].
    ///
    /// # Security
    /// Whoever sees the traffic reads the password.
    pub fn from_any_url(self, url: &str) -> Result<RedisOptions, RedisOptionsError> {
        RedisOptions::new(url.into_connection_info().map_err(|_| RedisOptionsError::Url)?)
    }
}

fn is_protected(address: &ConnectionAddr) -> bool {
    match address {
        ConnectionAddr::Tcp(host, _) => {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        ConnectionAddr::TcpTls { insecure, .. } => !insecure,
        ConnectionAddr::Unix(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_host_is_reached_by_tls_only() {
        for url in ["redis://127.0.0.1", "redis://localhost:6380/", "redis://[::1]", "rediss://cache.example.com"] {
            assert!(RedisOptions::from_url(url).is_ok(), "{url}");
        }
        for url in ["redis://cache.example.com", "redis://10.0.0.1", "rediss://cache.example.com/#insecure"] {
            let refused = RedisOptions::from_url(url).map(|_| ());
            assert_eq!(refused, Err(RedisOptionsError::Unprotected), "{url}");
            assert!(RedisOptions::dangerous().from_any_url(url).is_ok(), "{url}");
        }
        assert_eq!(RedisOptions::from_url("http://localhost").map(|_| ()), Err(RedisOptionsError::Url));
    }
}
