//! Credentials nobody has ever seen.

use crate::search::Search;

/// One run's worth of credentials.
pub struct Secrets {
    /// Letters and digits, as most tokens are.
    pub api: String,
    /// With characters that every format writes differently.
    pub odd: String,
    /// What a sender shows in a header.
    pub hook: String,
    /// What a sender signs with.
    pub signing: String,
    /// What the database is sealed under.
    pub root: [u8; 32],
}

impl Secrets {
    pub fn generate() -> Self {
        let mut root = [0; 32];
        getrandom::fill(&mut root).unwrap();
        let odd = format!("{}\"\\/+é%{}", random(16), random(18));
        Self { api: random(40), odd, hook: random(40), signing: random(40), root }
    }

    pub fn search(&self) -> Search {
        let named = [("api", &self.api), ("odd", &self.odd), ("hook", &self.hook), ("signing", &self.signing)];
        Search::new(named.map(|(name, secret)| (name, secret.as_str())))
    }
}

fn random(length: usize) -> String {
    const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut bytes = vec![0; length];
    getrandom::fill(&mut bytes).unwrap();
    bytes.iter().map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()])).collect()
}
