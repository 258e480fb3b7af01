//! Credentials and payloads nobody has ever seen.

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
    /// What the database is sealed under.
    pub root: [u8; 32],
    pub payloads: Payloads,
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
        Self { api: random(40), odd, password, header, field, hook: random(40), signing: random(40), root, payloads }
    }

    /// The credentials, by connection.
    pub fn credentials(&self) -> [(&'static str, &str); 7] {
        [
            ("api", &self.api),
            ("odd", &self.odd),
            ("basic", &self.password),
            ("keyed", &self.header),
            ("field", &self.field),
            ("hook", &self.hook),
            ("signing", &self.signing),
        ]
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

fn random(length: usize) -> String {
    const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut bytes = vec![0; length];
    getrandom::fill(&mut bytes).unwrap();
    bytes.iter().map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()])).collect()
}
