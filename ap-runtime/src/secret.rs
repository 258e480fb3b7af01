//! Secrets that connections do not hold: [`SecretResolver`] asks the host's secret manager for them when they are used.
//!
//! | Reference | What it is | Resolver |
//! | --- | --- | --- |
//! | `env:NAME` | an environment variable | [`EnvSecrets`] |
//! | `file:name` | a file below a directory | [`FileSecrets`] |
//! | `vault:secret/data/crm#token` | a field of a secret in Vault, `?version=3` before `#` for one of its versions | `VaultSecrets`, feature `vault` |
//! | `aws-sm:prod/crm#token` | a secret in AWS Secrets Manager, or a member of its JSON | `AwsSecrets`, feature `aws` |
//!
//! In JSON a reference stands in the place of the secret: `"secret_text": { "from": "vault:secret/data/crm#token" }`, also for
//! the `client_secret` of an OAuth 2.0 client. What a resolver cannot read is refused when the connection is stored.
//!
//! Only connections that the host writes (of the platform, or predefined) may refer to secrets: whoever could name a secret could
//! send it somewhere. Values are resolved when a step needs them, within five seconds, kept in memory for a minute unless
//! [`RuntimeBuilder::secrets_kept_for`](crate::runtime::RuntimeBuilder::secrets_kept_for) says otherwise, and wiped; with feature
//! `vault` or `aws` in pages that are not swapped out, as far as the system lets a process have such. A manager out of reach
//! fails the attempt of the step before anything was sent, and the step's `retry` applies.

mod locked;
mod sources;

use std::{
    collections::BTreeSet,
    fmt, fs, io,
    path::{Component, Path, PathBuf},
};

use async_trait::async_trait;
use secrecy::SecretString;
use zeroize::Zeroizing;

pub(crate) use self::sources::{KEPT_FOR, Remembered, SecretSources, Unresolved};

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

    /// Whether `path` is one that [`SecretResolver::resolve`] could be asked for, as far as can be told without asking anybody.
    ///
    /// # Errors
    /// [`SecretError::Malformed`] says how it is written, [`SecretError::Denied`] that the host does not allow it.
    fn check(&self, path: &str) -> Result<(), SecretError>;

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
    /// Not written as the resolver of its scheme reads it.
    #[error("it is not written as it should be: {fix}")]
    Malformed {
        /// How it is written.
        fix: &'static str,
    },
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

    fn check(&self, path: &str) -> Result<(), SecretError> {
        if self.0.contains(path) { Ok(()) } else { Err(SecretError::Denied) }
    }

    async fn resolve(&self, path: &str) -> Result<SecretString, SecretError> {
        self.check(path)?;
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

    fn check(&self, path: &str) -> Result<(), SecretError> {
        let below = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
        if below { Ok(()) } else { Err(SecretError::Denied) }
    }

    async fn resolve(&self, path: &str) -> Result<SecretString, SecretError> {
        self.check(path)?;
        let file = self.0.join(path).canonicalize().map_err(of_file)?;
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

const MAX_FILE_BYTES: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

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
}
