//! Secrets that connections do not hold: [`SecretResolver`] asks the host's secret manager for them when they are used.
//!
//! Only connections that the host writes (of the platform, or predefined) may refer to secrets: whoever could name a secret could
//! send it somewhere. Values are kept in memory for a minute at most, and wiped.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    path::{Component, Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ap_core::{
    connection::{Connection, SecretReference},
    time::Timestamp,
};
use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::clock::Clock;

/// Gives secrets by their path: a secret manager, or a part of one.
///
/// # Contract
///
/// * **What the host allowed, and nothing else.** A path that leads elsewhere is [`SecretError::Denied`].
/// * **Fresh.** The value is the one of now; the runtime keeps it for a bounded time by itself.
/// * **Silent.** No secret in an error, log or `Debug`.
///
/// Whoever calls waits five seconds at most, and drops the future then.
#[async_trait]
pub trait SecretResolver: fmt::Debug + Send + Sync + 'static {
    /// The scheme of the references that it resolves, such as `vault`.
    fn scheme(&self) -> &str;

    /// The secret at `path`, which is what stands behind the scheme.
    ///
    /// # Errors
    /// [`SecretError`] says who has to act.
    async fn resolve(&self, path: &str) -> Result<SecretString, SecretError>;
}

/// Why a secret is not to be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The host does not allow it.
    #[error("the host does not allow it")]
    Denied,
    /// There is no such secret, or it is none that can be used.
    #[error("there is no such secret, or it cannot be used")]
    Missing,
    /// The secret manager is out of reach; trying again may help.
    #[error("the secret manager is out of reach")]
    Unavailable,
    /// The host has no resolver for the scheme.
    #[error("the host resolves no secrets of this scheme")]
    UnknownScheme,
}

impl SecretError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable)
    }
}

/// Secrets in environment variables, `env:NAME`: those that the host lists.
#[derive(Clone, Debug)]
pub struct EnvSecrets(BTreeSet<String>);

impl EnvSecrets {
    /// Gives these variables, and no other.
    pub fn allowing<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Self {
        Self(names.into_iter().map(Into::into).collect())
    }
}

#[async_trait]
impl SecretResolver for EnvSecrets {
    fn scheme(&self) -> &str {
        "env"
    }

    async fn resolve(&self, path: &str) -> Result<SecretString, SecretError> {
        if !self.0.contains(path) {
            return Err(SecretError::Denied);
        }
        std::env::var(path).map(SecretString::from).map_err(|_| SecretError::Missing)
    }
}

/// Secrets in files, `file:name` (Docker and Kubernetes secrets): those below one directory, up to 64 KiB each. One line break at
/// the end is left out. They are read by the thread that asks: keep them on a local disk.
#[derive(Clone, Debug)]
pub struct FileSecrets(PathBuf);

impl FileSecrets {
    /// Gives the files below `directory`. Links that lead out of it are refused.
    ///
    /// # Errors
    /// If the directory cannot be found.
    pub fn within(directory: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self(directory.as_ref().canonicalize()?))
    }
}

#[async_trait]
impl SecretResolver for FileSecrets {
    fn scheme(&self) -> &str {
        "file"
    }

    async fn resolve(&self, path: &str) -> Result<SecretString, SecretError> {
        let relative = Path::new(path);
        if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(SecretError::Denied);
        }
        let file = self.0.join(relative).canonicalize().map_err(of_file)?;
        if !file.starts_with(&self.0) {
            return Err(SecretError::Denied);
        }
        let known = fs::metadata(&file).map_err(of_file)?;
        if !known.is_file() || known.len() > MAX_FILE_BYTES {
            return Err(SecretError::Missing);
        }
        let text = Zeroizing::new(fs::read_to_string(&file).map_err(of_file)?);
        let text = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
        Ok(SecretString::from(text))
    }
}

fn of_file(error: io::Error) -> SecretError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::InvalidData => SecretError::Missing,
        io::ErrorKind::PermissionDenied => SecretError::Denied,
        _ => SecretError::Unavailable,
    }
}

/// The resolvers of a runtime, and what they said lately.
#[derive(Default)]
pub(crate) struct SecretSources {
    resolvers: BTreeMap<String, Arc<dyn SecretResolver>>,
    known: Mutex<BTreeMap<SecretReference, (SecretString, Timestamp)>>,
}

impl SecretSources {
    /// Of two resolvers for one scheme the later counts.
    pub(crate) fn new(resolvers: Vec<Arc<dyn SecretResolver>>) -> Self {
        let resolvers = resolvers.into_iter().map(|resolver| (resolver.scheme().to_owned(), resolver)).collect();
        Self { resolvers, known: Mutex::default() }
    }

    /// `connection` with the secrets that are known now; the others stay references.
    pub(crate) fn with_known(&self, connection: Connection, now: Timestamp) -> Result<Connection, SecretError> {
        if connection.value().references().next().is_none() {
            return Ok(connection);
        }
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let resolve = |reference: &SecretReference| {
            let (secret, until) = known.get(reference)?;
            (now < *until).then(|| secret.clone())
        };
        connection.with_resolved(resolve).map_err(|_| SecretError::Missing)
    }

    /// Asks for what is not known.
    pub(crate) async fn fetch(&self, clock: &dyn Clock, references: &[SecretReference]) -> Result<(), SecretError> {
        for reference in references {
            let resolver = self.resolvers.get(reference.scheme()).ok_or(SecretError::UnknownScheme)?;
            let until = clock.now().saturating_add(PATIENCE);
            let secret = tokio::select! {
                biased;
                secret = resolver.resolve(reference.path()) => secret?,
                () = clock.sleep_until(until) => return Err(SecretError::Unavailable),
            };
            if !(8..=16 << 10).contains(&secret.expose_secret().len()) {
                return Err(SecretError::Missing);
            }
            let now = clock.now();
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.retain(|_, (_, until)| now < *until);
            if known.len() >= MAX_KNOWN {
                known.pop_first();
            }
            known.insert(reference.clone(), (secret, now.saturating_add(KNOWN_FOR)));
        }
        Ok(())
    }
}

impl fmt::Debug for SecretSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretSources").field("schemes", &self.resolvers.keys()).finish_non_exhaustive()
    }
}

/// How long a secret is used without asking again.
const KNOWN_FOR: Duration = Duration::from_secs(60);
/// How long a resolver may take.
const PATIENCE: Duration = Duration::from_secs(5);
const MAX_KNOWN: usize = 1_000;
const MAX_FILE_BYTES: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use ap_core::connection::{ConnectionValue, FieldValue};

    use super::*;
    use crate::clock::{SystemClock, TokioClock};

    fn reference(text: &str) -> SecretReference {
        SecretReference::parse(text).expect("valid")
    }

    fn connection(of: &str) -> Connection {
        let fields = [("key".to_owned(), FieldValue::Reference(reference(of)))].into();
        Connection::new("api", ConnectionValue::CustomAuth { fields }, vec![], vec![]).expect("valid")
    }

    #[tokio::test]
    async fn files_are_those_below_the_directory() {
        let directory = tempfile::tempdir().expect("a directory");
        let inside = directory.path().join("inside");
        fs::create_dir_all(inside.join("sub")).expect("a directory");
        fs::write(inside.join("sub/key"), "canary-key\r\n").expect("written");
        fs::write(directory.path().join("outside"), "canary-outside").expect("written");
        fs::write(inside.join("large"), "x".repeat((64 << 10) + 1)).expect("written");
        let files = FileSecrets::within(&inside).expect("there");
        let found = files.resolve("sub/key").await.expect("a secret");
        assert_eq!(found.expose_secret(), "canary-key");
        for (path, error) in [
            ("../outside", SecretError::Denied),
            ("sub/../../outside", SecretError::Denied),
            ("/etc/hostname", SecretError::Denied),
            ("none", SecretError::Missing),
            ("sub", SecretError::Missing),
            ("large", SecretError::Missing),
        ] {
            assert_eq!(files.resolve(path).await.err(), Some(error), "{path}");
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(directory.path().join("outside"), inside.join("link")).expect("a link");
            assert_eq!(files.resolve("link").await.err(), Some(SecretError::Denied));
        }
    }

    #[tokio::test]
    async fn variables_are_those_that_are_listed() {
        let secrets = EnvSecrets::allowing(["PATH", "AP_TEST_NO_SUCH_VARIABLE"]);
        assert_eq!(secrets.resolve("PATH").await.map(|_| ()), Ok(()));
        assert_eq!(secrets.resolve("LANG").await.err(), Some(SecretError::Denied));
        assert_eq!(secrets.resolve("AP_TEST_NO_SUCH_VARIABLE").await.err(), Some(SecretError::Missing));
    }

    #[tokio::test]
    async fn what_is_known_is_used_for_a_minute_and_unknown_schemes_are_named() {
        let sources = SecretSources::new(vec![Arc::new(EnvSecrets::allowing(["PATH"]))]);
        let now = SystemClock.now();
        let of = |at| {
            let resolved = sources.with_known(connection("env:PATH"), at).expect("usable");
            resolved.value().references().count()
        };
        assert_eq!(of(now), 1, "known before anybody asked");
        sources.fetch(&SystemClock, &[reference("env:PATH")]).await.expect("there");
        assert_eq!(of(now), 0);
        assert_eq!(of(now.saturating_add(Duration::from_secs(61))), 1);
        let unknown = sources.fetch(&SystemClock, &[reference("vault:x")]).await;
        assert_eq!(unknown, Err(SecretError::UnknownScheme));
        assert!(!format!("{sources:?}").contains("bin"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_manager_that_hangs_is_waited_for_five_seconds() {
        #[derive(Debug)]
        struct Hangs;

        #[async_trait]
        impl SecretResolver for Hangs {
            fn scheme(&self) -> &str {
                "vault"
            }

            async fn resolve(&self, _: &str) -> Result<SecretString, SecretError> {
                std::future::pending().await
            }
        }

        let clock = TokioClock::starting_at(Timestamp::EPOCH);
        let sources = SecretSources::new(vec![Arc::new(Hangs)]);
        assert_eq!(sources.fetch(&clock, &[reference("vault:x")]).await, Err(SecretError::Unavailable));
        assert_eq!(clock.now(), Timestamp::from_millis(5_000));
    }
}
