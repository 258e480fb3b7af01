//! Credentials and payloads nobody has ever seen.

use secrecy::{ExposeSecret, SecretString};

use crate::search::Search;

/// One run's worth of credentials.
pub struct Secrets {
    /// Letters and digits, as most tokens are.
    pub api: String,
    /// With characters that every format writes differently.
    pub odd: String,
    /// The password of a user.
    pub password: String,
    /// What goes into a header of its own.
    pub header: String,
    /// A key for fields: 64 hex digits.
    pub field: String,
    /// What a sender shows in a header.
    pub hook: String,
    /// What a sender signs with.
    pub signing: String,
    /// What other protocols use.
    pub keys: Keys,
    /// What the database is sealed under.
    pub root: [u8; 32],
    pub payloads: Payloads,
}

/// Credentials of protocols other than plain HTTP.
#[derive(Clone)]
pub struct Keys {
    /// The password of a database.
    pub database: SecretString,
    /// Of a database file: nothing asks for it, and it stands in the file.
    pub file: SecretString,
    /// The password of a mail server.
    pub mail: SecretString,
    /// The secret access key of an object store, in the alphabet of such keys.
    pub store: SecretString,
    /// The session token of a temporary key.
    pub session: SecretString,
    /// A key of message authentication codes.
    pub mac: SecretString,
    /// A key of tokens.
    pub issuer: SecretString,
    /// A secret access key of another service.
    pub aws: SecretString,
    /// The secret of an OAuth client.
    pub client: SecretString,
    /// A refresh token.
    pub refresh: SecretString,
    /// An access token whose time is over.
    pub old_access: SecretString,
    /// The access token that comes in its place; only the provider knows it at first.
    pub access: SecretString,
    /// The refresh token that comes in its place.
    pub next_refresh: SecretString,
}

impl Keys {
    /// From whatever `next` gives, in the order of [`Keys::named`].
    pub fn from(mut next: impl FnMut() -> SecretString) -> Self {
        Self {
            database: next(),
            file: next(),
            mail: next(),
            store: next(),
            session: next(),
            mac: next(),
            issuer: next(),
            aws: next(),
            client: next(),
            refresh: next(),
            old_access: next(),
            access: next(),
            next_refresh: next(),
        }
    }

    pub fn named(&self) -> [(&'static str, &str); 13] {
        [
            ("database", &self.database),
            ("file", &self.file),
            ("mail", &self.mail),
            ("store", &self.store),
            ("session", &self.session),
            ("mac", &self.mac),
            ("issuer", &self.issuer),
            ("aws", &self.aws),
            ("client", &self.client),
            ("refresh token", &self.refresh),
            ("old access token", &self.old_access),
            ("access token", &self.access),
            ("next refresh token", &self.next_refresh),
        ]
        .map(|(name, secret)| (name, secret.expose_secret()))
    }
}

/// What comes from outside and is no credential: a run may show it, nothing else may.
#[derive(Clone)]
pub struct Payloads {
    /// In the bodies of webhooks.
    pub event: String,
    /// In the data of jobs.
    pub job: String,
    /// In answers to a wait.
    pub answer: String,
    /// In answers that come before the wait.
    pub early: String,
    /// In what a flow hands to another one.
    pub child: String,
    /// In what a poll finds.
    pub item: String,
    /// In a run by hand.
    pub manual: String,
    /// In the sample a step is tested with.
    pub sample: String,
}

impl Payloads {
    fn generate() -> Self {
        let new = || random(40);
        let (event, job, answer, early) = (new(), new(), new(), new());
        Self { event, job, answer, early, child: new(), item: new(), manual: new(), sample: new() }
    }
}

impl Secrets {
    pub fn generate() -> Self {
        let mut root = [0; 32];
        getrandom::fill(&mut root).unwrap();
        let odd = format!("{}\"\\/+é%{}", random(16), random(18));
        let payloads = Payloads::generate();
        let (password, header) = (random(40), random(40));
        let mut field = [0; 32];
        getrandom::fill(&mut field).unwrap();
        let field = field.iter().map(|byte| format!("{byte:02x}")).collect();
        // As long as the key of HS256 must be, and with what base64 has beside letters and digits.
        let keys = Keys::from(|| format!("{}/{}+{}", random(14), random(14), random(10)).into());
        let (api, hook, signing) = (random(40), random(40), random(40));
        Self { api, odd, password, header, field, hook, signing, keys, root, payloads }
    }

    /// The credentials, by connection.
    pub fn credentials(&self) -> Vec<(&'static str, &str)> {
        let own = [
            ("api", &self.api),
            ("odd", &self.odd),
            ("basic", &self.password),
            ("keyed", &self.header),
            ("field", &self.field),
            ("hook", &self.hook),
            ("signing", &self.signing),
        ];
        own.into_iter().map(|(name, secret)| (name, secret.as_str())).chain(self.keys.named()).collect()
    }

    /// How credentials begin: what is cut must not show that either.
    pub fn beginnings(&self) -> Search {
        Search::new(self.credentials().into_iter().map(|(name, secret)| (name, &secret[..BEGINNING_BYTES])))
    }

    pub fn search(&self) -> Search {
        Search::new(self.credentials())
    }

    /// For places that may hold neither credentials nor payloads, nor `tokens`.
    pub fn search_all(&self, tokens: &[String]) -> Search {
        let Payloads { event, job, answer, early, child, item, manual, sample } = &self.payloads;
        let named = [
            ("event", event),
            ("job", job),
            ("answer", answer),
            ("early answer", early),
            ("payload of a subflow", child),
            ("item of a poll", item),
            ("payload by hand", manual),
            ("sample", sample),
        ];
        let tokens = tokens.iter().map(|token| ("resume token", token));
        let others = named.into_iter().chain(tokens).map(|(name, secret)| (name, secret.as_str()));
        Search::new(self.credentials().into_iter().chain(others))
    }
}

const BEGINNING_BYTES: usize = 12;

fn random(length: usize) -> String {
    const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut bytes = vec![0; length];
    getrandom::fill(&mut bytes).unwrap();
    bytes.iter().map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()])).collect()
}
