//! [`SecretSources`]: the resolvers of a runtime, and what they said lately.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ap_core::{
    connection::{Connection, ConnectionError, Field, SecretReference},
    time::Timestamp,
};
use ap_crypto::signature::constant_time_eq;
use secrecy::{ExposeSecret, SecretString};

use super::{SecretError, SecretResolver, locked::LockedSecret};
use crate::clock::Clock;

/// The resolvers of a runtime, and what they said lately.
pub(crate) struct SecretSources {
    resolvers: BTreeMap<String, Arc<dyn SecretResolver>>,
    kept_for: Duration,
    known: Mutex<BTreeMap<SecretReference, (LockedSecret, Timestamp)>>,
    turns: Mutex<BTreeMap<SecretReference, Arc<Turn>>>,
}

/// Of those who need the same secret at once, one asks for it.
#[derive(Default)]
struct Turn {
    /// How many answers there were.
    answers: AtomicU64,
    /// What the last one failed with.
    failed: tokio::sync::Mutex<Option<SecretError>>,
}

/// Which reference could not be resolved, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("secret `{reference}` is not to be had: {error}")]
pub(crate) struct Unresolved {
    pub(crate) reference: SecretReference,
    pub(crate) error: SecretError,
}

impl SecretSources {
    /// Of two resolvers for one scheme the later counts.
    pub(crate) fn new(resolvers: Vec<Arc<dyn SecretResolver>>, kept_for: Duration) -> Self {
        let resolvers = resolvers.into_iter().map(|resolver| (resolver.scheme().to_owned(), resolver)).collect();
        Self { resolvers, kept_for, known: Mutex::default(), turns: Mutex::default() }
    }

    /// Whether somebody could be asked for it.
    pub(crate) fn check(&self, reference: &SecretReference) -> Result<(), SecretError> {
        let resolver = self.resolvers.get(reference.scheme()).ok_or(SecretError::UnknownScheme)?;
        resolver.check(reference.path())
    }

    /// `connection` with the secrets that are known now; the others stay references.
    ///
    /// # Errors
    /// The reference at fault, if what was found is no secret that could be used.
    pub(crate) fn with_known(&self, connection: Connection, now: Timestamp) -> Result<Connection, Unresolved> {
        let value = connection.value();
        let hidden = value.hidden_references().map(|reference| ("", reference));
        let references: Vec<_> = value.references().chain(hidden).collect();
        let references: Vec<_> = references.into_iter().map(|(field, of)| (field.to_owned(), of.clone())).collect();
        let Some((_, first)) = references.first().cloned() else { return Ok(connection) };
        let known = lock(&self.known);
        let resolve = |reference: &SecretReference| {
            let (secret, until) = known.get(reference)?;
            (now < *until).then(|| secret.to_secret())
        };
        let resolved = connection.with_resolved(resolve);
        resolved.map_err(|error| {
            let named = |field: &str| matches!(&error, ConnectionError::Field { field: of, .. } if of == field);
            let at_fault = references.into_iter().find(|(field, _)| named(field));
            let reference = at_fault.map_or(first, |(_, reference)| reference);
            Unresolved { reference, error: SecretError::Missing }
        })
    }

    /// Asks for what is not known, for all of it together no longer than five seconds. Says what is not to be had.
    pub(crate) async fn fetch(&self, clock: &dyn Clock, references: &[SecretReference]) -> Vec<Unresolved> {
        let until = clock.now().saturating_add(PATIENCE);
        let asked = references.iter().map(async |reference| {
            let fetched = tokio::select! {
                biased;
                fetched = self.fetch_one(clock, reference) => fetched,
                () = clock.sleep_until(until) => Err(SecretError::Unavailable),
            };
            fetched.err().map(|error| Unresolved { reference: reference.clone(), error })
        });
        futures_util::future::join_all(asked).await.into_iter().flatten().collect()
    }

    /// The secret itself, asked for if it is not known.
    pub(crate) async fn secret(
        &self,
        clock: &dyn Clock,
        reference: &SecretReference,
    ) -> Result<SecretString, Unresolved> {
        if let Some(secret) = self.known(reference, clock.now()) {
            return Ok(secret);
        }
        if let Some(unresolved) = self.fetch(clock, std::slice::from_ref(reference)).await.pop() {
            return Err(unresolved);
        }
        let missing = || Unresolved { reference: reference.clone(), error: SecretError::Unavailable };
        self.known(reference, clock.now()).ok_or_else(missing)
    }

    fn known(&self, reference: &SecretReference, now: Timestamp) -> Option<SecretString> {
        let known = lock(&self.known);
        known.get(reference).filter(|(_, until)| now < *until).map(|(secret, _)| secret.to_secret())
    }

    async fn fetch_one(&self, clock: &dyn Clock, reference: &SecretReference) -> Result<(), SecretError> {
        let resolver = self.resolvers.get(reference.scheme()).ok_or(SecretError::UnknownScheme)?;
        let turn = {
            let mut turns = lock(&self.turns);
            if turns.len() >= MAX_KNOWN {
                turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            }
            Arc::clone(turns.entry(reference.clone()).or_default())
        };
        let before = turn.answers.load(Ordering::SeqCst);
        let mut failed = turn.failed.lock().await;
        if turn.answers.load(Ordering::SeqCst) != before {
            // It came while this one waited, so it is new enough.
            if self.known(reference, clock.now()).is_some() {
                return Ok(());
            }
            if let Some(error) = &*failed {
                return Err(error.clone());
            }
        }
        let answer = resolver.resolve(reference.path()).await.and_then(usable);
        let kept = answer.map(|secret| self.keep(reference, &secret, clock.now()));
        *failed = kept.clone().err();
        turn.answers.fetch_add(1, Ordering::SeqCst);
        kept
    }

    fn keep(&self, reference: &SecretReference, secret: &SecretString, now: Timestamp) {
        let mut known = lock(&self.known);
        known.retain(|_, (_, until)| now < *until);
        if known.len() >= MAX_KNOWN {
            known.pop_first();
        }
        let kept = (LockedSecret::new(secret.expose_secret()), now.saturating_add(self.kept_for));
        known.insert(reference.clone(), kept);
    }
}

impl fmt::Debug for SecretSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretSources").field("schemes", &self.resolvers.keys()).finish_non_exhaustive()
    }
}

fn usable(secret: SecretString) -> Result<SecretString, SecretError> {
    let fits = (MIN_BYTES..=MAX_BYTES).contains(&secret.expose_secret().len());
    if fits { Ok(secret) } else { Err(SecretError::Missing) }
}

/// What a run was given from elsewhere, to be masked in it as long as it is executed here: it may come back when nobody keeps
/// the secret any more, or after the manager has another.
#[derive(Clone, Default)]
pub(crate) struct Remembered(Arc<Mutex<Vec<(String, SecretString)>>>);

impl Remembered {
    /// Remembers the secrets of `resolved` that stand in these fields, which were references.
    pub(crate) fn add(&self, resolved: &Connection, fields: &[String]) {
        let name = resolved.name();
        let mut remembered = lock(&self.0);
        for (field, value) in resolved.value().fields() {
            let Field::Secret(secret) = value else { continue };
            let bytes = secret.expose_secret().as_bytes();
            let known = |(of, other): &(String, SecretString)| {
                of == name && constant_time_eq(other.expose_secret().as_bytes(), bytes)
            };
            if !fields.iter().any(|of| of == field) || remembered.iter().any(known) {
                continue;
            }
            if remembered.len() >= MAX_REMEMBERED {
                remembered.remove(0);
            }
            remembered.push((name.to_owned(), SecretString::from(secret.expose_secret())));
        }
    }

    /// All of them, with the names of their connections.
    pub(crate) fn all(&self) -> Vec<(String, SecretString)> {
        lock(&self.0).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long a secret is used without asking again, unless the host says otherwise.
pub(crate) const KEPT_FOR: Duration = Duration::from_secs(60);
/// How long a resolver may take.
const PATIENCE: Duration = Duration::from_secs(5);
const MAX_KNOWN: usize = 1_000;
/// Secrets of one run. Those that it uses now are masked besides.
const MAX_REMEMBERED: usize = 64;
/// What a connection takes.
const MIN_BYTES: usize = 8;
const MAX_BYTES: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use ap_core::connection::{ConnectionValue, FieldValue};
    use async_trait::async_trait;

    use super::*;
    use crate::{
        clock::{SystemClock, TokioClock},
        secret::EnvSecrets,
    };

    fn reference(text: &str) -> SecretReference {
        SecretReference::parse(text).expect("valid")
    }

    fn connection(of: &str) -> Connection {
        let fields = [("key".to_owned(), FieldValue::Reference(reference(of)))].into();
        Connection::new("api", ConnectionValue::CustomAuth { fields }, vec![], vec![]).expect("valid")
    }

    fn sources(resolver: impl SecretResolver) -> SecretSources {
        SecretSources::new(vec![Arc::new(resolver)], KEPT_FOR)
    }

    /// Answers after a while, or never.
    #[derive(Debug)]
    struct Slow {
        after: Option<Duration>,
        answer: Result<&'static str, SecretError>,
        asked: Arc<AtomicUsize>,
    }

    #[async_trait]
    impl SecretResolver for Slow {
        fn scheme(&self) -> &str {
            "vault"
        }

        fn check(&self, _: &str) -> Result<(), SecretError> {
            Ok(())
        }

        async fn resolve(&self, _: &str) -> Result<SecretString, SecretError> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            match self.after {
                Some(after) => tokio::time::sleep(after).await,
                None => std::future::pending().await,
            }
            self.answer.clone().map(SecretString::from)
        }
    }

    #[tokio::test]
    async fn what_is_known_is_used_for_a_minute_and_unknown_schemes_are_named() {
        let sources = sources(EnvSecrets::allowing(["PATH"]));
        let now = SystemClock.now();
        let of = |at| {
            let resolved = sources.with_known(connection("env:PATH"), at).expect("usable");
            resolved.value().references().count()
        };
        assert_eq!(of(now), 1, "known before anybody asked");
        assert_eq!(sources.fetch(&SystemClock, &[reference("env:PATH")]).await, []);
        assert_eq!(of(now), 0);
        assert_eq!(of(now.saturating_add(Duration::from_secs(61))), 1);
        let wanted = [reference("vault:x"), reference("env:PATH")];
        let unresolved = sources.fetch(&SystemClock, &wanted).await;
        let [unknown] = unresolved.as_slice() else { panic!("{unresolved:?}") };
        assert_eq!(unknown.error, SecretError::UnknownScheme);
        assert!(unknown.to_string().contains("`vault:x`"), "{unknown}");
        assert_eq!(sources.check(&reference("vault:x")), Err(SecretError::UnknownScheme));
        assert_eq!(sources.check(&reference("env:LANG")), Err(SecretError::Denied));
        assert!(!format!("{sources:?}").contains("bin"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_manager_that_hangs_is_waited_for_five_seconds_in_all() {
        let clock = TokioClock::starting_at(Timestamp::EPOCH);
        let asked = Arc::new(AtomicUsize::new(0));
        let sources = sources(Slow { after: None, answer: Ok("canary-key"), asked: Arc::clone(&asked) });
        let all: Vec<_> = (0..4).map(|number| reference(&format!("vault:{number}"))).collect();
        let late = sources.fetch(&clock, &all).await;
        assert!(late.len() == 4 && late.iter().all(|late| late.error == SecretError::Unavailable), "{late:?}");
        assert_eq!(asked.load(Ordering::SeqCst), 4);
        assert_eq!(clock.now(), Timestamp::from_millis(5_000));
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_who_need_a_secret_one_asks() {
        let clock = TokioClock::starting_at(Timestamp::EPOCH);
        for answer in [Ok("canary-key"), Err(SecretError::Unavailable), Err(SecretError::Denied)] {
            let asked = Arc::new(AtomicUsize::new(0));
            let after = Some(Duration::from_secs(1));
            let sources = sources(Slow { after, answer: answer.clone(), asked: Arc::clone(&asked) });
            let wanted = [reference("vault:x")];
            let fetched = futures_util::future::join_all((0..20).map(|_| sources.fetch(&clock, &wanted))).await;
            let failed = answer.err().map(|error| Unresolved { reference: reference("vault:x"), error });
            let expected: Vec<_> = failed.into_iter().collect();
            assert!(fetched.iter().all(|fetched| *fetched == expected), "{fetched:?}");
            assert_eq!(asked.load(Ordering::SeqCst), 1);
            // Whoever comes later asks anew.
            assert_eq!(sources.fetch(&clock, &wanted).await, expected);
            assert_eq!(asked.load(Ordering::SeqCst), 2);
        }
    }

    #[test]
    fn a_run_remembers_what_it_was_given_and_shows_none_of_it() {
        let remembered = Remembered::default();
        for secret in ["canary-one", "canary-two", "canary-one"] {
            let resolved = connection("vault:x").with_resolved(|_| Some(secret.into())).expect("usable");
            remembered.add(&resolved, &["key".to_owned()]);
            remembered.add(&resolved, &[]);
        }
        let all: Vec<_> = remembered.all().iter().map(|(_, secret)| secret.expose_secret().to_owned()).collect();
        assert_eq!(all, ["canary-one", "canary-two"]);
    }
}
