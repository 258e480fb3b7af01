//! [`SessionError`]: why a call of a session failed, by who must act.

use ap_auth::authorizer::Denied;
use ap_core::{
    connection::ConnectionError,
    flow::Diagnostics,
    id::FlowId,
    store::{Entity, StoreError},
    time::Timestamp,
};
use ap_crypto::error::{KeyError, VaultError};

use crate::journal::RunError;

/// Why a call of a session failed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// A connection could not be connected. Its tokens, if it had some, are what they were.
    #[error("the connection was not connected: {reason}")]
    Authorization {
        /// What failed.
        reason: String,
    },
    /// Flows name the connection.
    #[error("{} flows use the connection: change them first, or delete it all the same", flows.len())]
    ConnectionInUse {
        /// Which.
        flows: Vec<FlowId>,
    },
    /// The principal may not do that.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The data was erased: the key of the data subject that it was about is destroyed. Nothing brings it back.
    #[error("the data was erased at {at}")]
    Erased {
        /// When.
        at: Timestamp,
    },
    /// The caller gave something that cannot be.
    #[error("{reason}")]
    InvalidArgument {
        /// What, and how to mend it.
        reason: String,
    },
    /// The connection is not one that can be stored.
    #[error(transparent)]
    InvalidConnection(#[from] ConnectionError),
    /// The flow cannot be stored or published; each finding names its place, its rule and its mend.
    #[error("the flow has errors:\n{0}")]
    InvalidFlow(Diagnostics),
    /// The flow's rate limit is reached.
    #[error("the flow's rate limit is reached until {retry}")]
    Limited {
        /// When the next run would be accepted.
        retry: Timestamp,
    },
    /// The flow has nothing published, or is disabled.
    #[error("the flow has no published version that is enabled")]
    NotPublished,
    /// New secrets of a connection are not used. Those that were in use still are.
    #[error("the new secrets are not used: {reason}")]
    Rotation {
        /// What speaks against them.
        reason: String,
    },
    /// The flow lets this run pass, because enough of its runs are under way.
    #[error("the run was skipped: enough runs of the flow are under way")]
    Skipped,
    /// Storage refused or failed: not found, changed meanwhile, unavailable.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A stored record, or a key, could not be opened or sealed. The operator's log has the reason.
    #[error("a stored record could not be opened or sealed")]
    Vault(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl SessionError {
    /// Whether the same call may succeed later without any change by the caller.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Limited { .. } | Self::Skipped => true,
            Self::Store(error) => error.is_retryable(),
            _ => false,
        }
    }
}

impl From<VaultError> for SessionError {
    fn from(error: VaultError) -> Self {
        Self::Vault(error.into())
    }
}

impl From<KeyError> for SessionError {
    fn from(error: KeyError) -> Self {
        match error {
            // A project without a key does not exist.
            KeyError::NoKey { .. } => Self::Store(StoreError::NotFound { entity: Entity::Project }),
            KeyError::Store(error) => Self::Store(error),
            other => Self::Vault(other.into()),
        }
    }
}

impl From<RunError> for SessionError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Erased { at } => Self::Erased { at },
            RunError::Store(error) => Self::Store(error),
            RunError::Keys(error) => error.into(),
            RunError::Flow(diagnostics) => Self::InvalidFlow(diagnostics),
            other => Self::Vault(other.into()),
        }
    }
}
