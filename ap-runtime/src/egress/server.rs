//! What databases, mail servers and object stores have in common: a connection that says where and as whom, and a way there
//! through the guard.

#[cfg(feature = "tls")]
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use ap_core::{
    capability::ExchangeError,
    connection::{Field, Origin},
};
use ap_crypto::redact::Redactor;
use secrecy::SecretString;

use super::credential::{CredentialUse, Place, RunConnection, RunCredentials};

/// A connection of the run, opened for one exchange.
#[derive(Clone, Copy)]
pub(super) struct Opened<'a> {
    bound: &'a RunConnection,
}

impl<'a> Opened<'a> {
    /// The connection that a placeholder of this run stands for.
    pub(super) fn of(credentials: &'a RunCredentials, placeholder: &str) -> Result<Self, ExchangeError> {
        let bound = credentials.connection(placeholder);
        bound.map(|bound| Self { bound }).ok_or_else(|| {
            refuse("the request names no connection of this run: write `{{connections.name}}`, and nothing around it")
        })
    }

    /// The first of these fields that the connection has, unless it is secret: what may be shown or decides where it goes.
    pub(super) fn clear(&self, names: &[&str]) -> Result<Option<&'a str>, ExchangeError> {
        let fields = self.bound.connection.value().fields();
        match names.iter().find_map(|wanted| fields.iter().find(|(name, _)| name == wanted)) {
            Some((_, Field::Clear(text))) => Ok(Some(text)),
            Some((name, Field::Secret(_))) => Err(self.wrong(&format!("its field `{name}` must not be a secret one"))),
            None => Ok(None),
        }
    }

    /// As [`Opened::clear`], for a field that must be there.
    pub(super) fn required(&self, names: &[&str]) -> Result<&'a str, ExchangeError> {
        self.clear(names)?.ok_or_else(|| {
            self.wrong(&format!("it needs a clear field `{}`", names.first().copied().unwrap_or_default()))
        })
    }

    /// The first of these fields that the connection has, if it is secret.
    pub(super) fn secret(&self, names: &[&str]) -> Option<&'a SecretString> {
        let fields = self.bound.connection.value().fields();
        names.iter().find_map(|wanted| fields.iter().find(|(name, _)| name == wanted)).and_then(|(_, field)| {
            match *field {
                Field::Secret(secret) => Some(secret),
                Field::Clear(_) => None,
            }
        })
    }

    /// Whether the connection is bound to `origin`.
    #[cfg(feature = "objects")]
    pub(super) fn is_bound_to(&self, origin: &Origin) -> bool {
        self.bound.connection.origins().contains(origin)
    }

    /// Refuses to go to `origin` unless the connection is bound to it; says what the audit records otherwise.
    pub(super) fn bound_to(&self, origin: &Origin, place: Place) -> Result<CredentialUse, ExchangeError> {
        Ok(self.bound.used(origin, place)?)
    }

    /// The name of the connection.
    #[cfg(feature = "objects")]
    pub(super) fn name(&self) -> &'a str {
        self.bound.connection.name()
    }

    /// An error about this connection.
    pub(super) fn wrong(&self, problem: &str) -> ExchangeError {
        refuse(format!("connection `{}` cannot be used here: {problem}", self.bound.connection.name()))
    }
}

/// What of an exchange outlives its future: which credentials were used, and whether the peer may have acted.
#[derive(Debug, Default)]
pub(super) struct Uses(Mutex<Vec<CredentialUse>>);

impl Uses {
    pub(super) fn push(&self, used: CredentialUse) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(used);
    }

    pub(super) fn take(&self) -> Vec<CredentialUse> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether the order that makes the peer act has been given.
#[cfg(feature = "tls")]
#[derive(Debug, Default)]
pub(super) struct Ordered(AtomicBool);

#[cfg(feature = "tls")]
impl Ordered {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    #[cfg(feature = "sql")]
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// What a lost connection means.
    pub(super) fn lost(&self, what: &str) -> ExchangeError {
        if self.0.load(Ordering::Relaxed) {
            ExchangeError::Interrupted { reason: format!("{what}, and it may have acted") }
        } else {
            ExchangeError::Unreachable { reason: format!("{what}, before anything was changed") }
        }
    }
}

/// Refuses text that holds a placeholder of this run: no credential goes there.
pub(super) fn refuse_placeholders<'t>(
    credentials: &RunCredentials,
    what: &str,
    texts: impl IntoIterator<Item = &'t str>,
) -> Result<(), ExchangeError> {
    if texts.into_iter().any(|text| credentials.mentioned_in(text)) {
        return Err(refuse(format!("a credential stands in {what}; it is used to log in, and goes nowhere else")));
    }
    Ok(())
}

/// Masks what an error could repeat of a peer's words, and shortens them.
pub(super) fn scrub(error: ExchangeError, redactor: &Redactor) -> ExchangeError {
    let mask = |reason: String| shortened(&redactor.redact_str(&reason));
    match error {
        ExchangeError::Credential { reason } => ExchangeError::Credential { reason: mask(reason) },
        ExchangeError::Interrupted { reason } => ExchangeError::Interrupted { reason: mask(reason) },
        ExchangeError::InvalidRequest { reason } => ExchangeError::InvalidRequest { reason: mask(reason) },
        ExchangeError::Refused { reason } => ExchangeError::Refused { reason: mask(reason) },
        ExchangeError::Rejected { code, reason, transient } => {
            ExchangeError::Rejected { code: mask(code), reason: mask(reason), transient }
        }
        ExchangeError::Unreachable { reason } => ExchangeError::Unreachable { reason: mask(reason) },
        other => other,
    }
}

/// One line of at most 500 characters.
pub(super) fn shortened(text: &str) -> String {
    let clean = text.chars().map(|char| if char.is_control() { ' ' } else { char });
    let mut short: String = clean.take(MAX_REASON_CHARS).collect();
    if text.chars().nth(MAX_REASON_CHARS).is_some() {
        short.push('…');
    }
    short
}

pub(super) fn refuse(reason: impl Into<String>) -> ExchangeError {
    ExchangeError::Credential { reason: reason.into() }
}

const MAX_REASON_CHARS: usize = 500;
