//! Secrets and texts to search, the same in every run.

use secrecy::SecretString;

/// A small generator of numbers (xorshift64*, Marsaglia 2003).
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// The next number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from.get(self.below(from.len())).copied().unwrap_or_default()
    }

    fn text(&mut self, alphabet: &str, length: usize) -> String {
        let letters: Vec<char> = alphabet.chars().collect();
        (0..length).filter_map(|_| letters.get(self.below(letters.len()))).collect()
    }
}

/// Secrets as providers issue them: of every common length and alphabet.
pub(crate) fn secrets(count: usize) -> Vec<SecretString> {
    let mut numbers = Numbers::new(0x5ec2_e7a1);
    let secret = |index: usize| match index % 5 {
        0 => numbers.text(HEX, 32),
        1 => format!("sk_live_{}", numbers.text(ALPHANUMERIC, 24)),
        2 => format!("ghp_{}", numbers.text(ALPHANUMERIC, 36)),
        3 => numbers.text(BASE64, 40),
        _ => numbers.text(PRINTABLE, 16),
    };
    (0..count).map(secret).map(SecretString::from).collect()
}

/// What an API answers with: objects of names, numbers, dates, addresses, ids, and texts with a few escapes.
pub(crate) fn json(bytes: usize) -> String {
    let mut numbers = Numbers::new(0x0db2_1e55);
    let mut text = String::with_capacity(bytes + 1_024);
    text.push('[');
    while text.len() < bytes {
        if text.len() > 1 {
            text.push(',');
        }
        let id = numbers.below(1 << 30);
        let words: Vec<&str> = (0..4 + numbers.below(24)).map(|_| numbers.pick(WORDS)).collect();
        let uuid = numbers.text(HEX, 12);
        let item = serde_json::json!({
            "id": id,
            "uuid": format!("5f3c21aa-9e1b-4d7c-8a55-{uuid}"),
            "createdAt": format!("2026-0{}-1{}T08:{}:09.123Z", 1 + numbers.below(9), numbers.below(10), 10 + numbers.below(49)),
            "url": format!("https://api.example.com/v2/customers/{id}/orders?status=open&page={}", numbers.below(90)),
            "email": format!("{}.{}@example.com", numbers.pick(WORDS), numbers.pick(WORDS)),
            "active": numbers.below(2) == 1,
            "amount": f64::from(u32::try_from(numbers.below(1 << 20)).unwrap_or_default()) / 100.0,
            "tags": [numbers.pick(WORDS), numbers.pick(WORDS)],
            "avatar": if numbers.below(8) == 0 { format!("https://cdn.example.com/a%20{}.png", numbers.pick(WORDS)) } else { String::new() },
            "note": if numbers.below(3) == 0 { format!("He said \"{}\".\nThen he left.", words.join(" ")) } else { words.join(" ") },
        });
        text += &item.to_string();
    }
    text.push(']');
    text
}

const HEX: &str = "0123456789abcdef";
const ALPHANUMERIC: &str = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
const BASE64: &str = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+/";
const PRINTABLE: &str = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ!#$%&*+,-./:;<=>?@^_~";
const WORDS: &[&str] = &[
    "customer",
    "order",
    "invoice",
    "the",
    "of",
    "and",
    "shipment",
    "Berlin",
    "address",
    "please",
    "call",
    "before",
    "delivery",
    "paid",
    "status",
    "müller",
    "street",
    "payment",
    "amount",
    "github",
    "production",
    "weekly",
    "report",
    "backup",
    "token",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_json_and_the_same_each_time() {
        let text = json(100_000);
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
        assert!((100_000..102_000).contains(&text.len()));
        assert_eq!(text, json(100_000));
        assert!(text.contains("\\n") && text.contains("%20"));
    }
}
