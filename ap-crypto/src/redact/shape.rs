//! Token shapes: secrets that can be told by their looks, although no connection of the run holds them.
//!
//! A rule has a mark that such tokens begin with, and a check of what follows: alphabet, length, structure, and what else the
//! issuer documents. A token begins where a word does: `task-…` has no `sk-…` in it. Time is linear in the text.
//!
//! What stands for a secret is none: `apcred_…`, `‹redacted:…›`, `{{…}}`, `${…}`, `<password>`, `***`.

use std::{
    ops::{Range, RangeInclusive},
    sync::LazyLock,
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use memchr::memmem::{self, Finder};
use zeroize::Zeroizing;

use crate::{placeholder::CredentialRef, resume::RESUME_PREFIX};

/// One kind of token.
struct Rule {
    /// What is shown in its place, behind `redacted:`.
    name: &'static str,
    /// What such tokens begin with, or what stands before them.
    mark: &'static str,
    check: Check,
}

enum Check {
    /// Gets the text and the offset of the mark, and returns what is to be masked.
    Around(fn(&[u8], usize) -> Option<Range<usize>>),
    /// The mark begins a word. Gets what follows it, and returns how much of that belongs to the token.
    Word(fn(&[u8]) -> Option<usize>),
}

const fn word(name: &'static str, mark: &'static str, check: fn(&[u8]) -> Option<usize>) -> Rule {
    Rule { name, mark, check: Check::Word(check) }
}

const fn around(name: &'static str, mark: &'static str, check: fn(&[u8], usize) -> Option<Range<usize>>) -> Rule {
    Rule { name, mark, check: Check::Around(check) }
}

/// Every kind that is known. Of two that begin at the same place, the earlier rule's name is shown.
const RULES: &[Rule] = &[
    // <https://docs.github.com/en/authentication/keeping-your-account-and-data-secure/about-authentication-to-github>
    word("github-token", "ghp_", |rest| length_of(rest, is_word, 36..=255)),
    word("github-token", "gho_", |rest| length_of(rest, is_word, 36..=255)),
    word("github-token", "ghu_", |rest| length_of(rest, is_word, 36..=255)),
    word("github-token", "ghs_", |rest| length_of(rest, is_token, 36..=4_096)),
    word("github-token", "ghr_", |rest| length_of(rest, is_word, 36..=255)),
    word("github-token", "github_pat_", |rest| length_of(rest, is_word, 40..=255)),
    word("gitlab-token", "glpat-", |rest| length_of(rest, is_token, 20..=300)),
    // <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html>
    word("aws-access-key", "AKIA", |rest| length_of(rest, is_base32, 16..=16)),
    word("aws-access-key", "ASIA", |rest| length_of(rest, is_base32, 16..=16)),
    // <https://docs.slack.dev/authentication/tokens>
    word("slack-token", "xoxb-", slack),
    word("slack-token", "xoxp-", slack),
    word("slack-token", "xoxa-", slack),
    word("slack-token", "xoxr-", slack),
    word("slack-token", "xoxs-", slack),
    word("slack-token", "xoxe.", slack),
    word("slack-token", "xoxe-", slack),
    word("slack-token", "xapp-", slack),
    around("slack-webhook", "hooks.slack.com/services/", slack_webhook),
    // <https://docs.stripe.com/keys>
    word("stripe-key", "sk_live_", |rest| length_of(rest, is_alphanumeric, 16..=255)),
    word("stripe-key", "sk_test_", |rest| length_of(rest, is_alphanumeric, 16..=255)),
    word("stripe-key", "rk_live_", |rest| length_of(rest, is_alphanumeric, 16..=255)),
    word("stripe-key", "rk_test_", |rest| length_of(rest, is_alphanumeric, 16..=255)),
    // Stripe, Svix and Standard Webhooks.
    word("webhook-secret", "whsec_", |rest| length_of(rest, is_base64, 24..=255)),
    word("google-api-key", "AIza", |rest| length_of(rest, is_token, 35..=35)),
    word("google-token", "ya29.", |rest| length_of(rest, |byte| is_token(byte) || byte == b'.', 20..=2_048)),
    word("google-client-secret", "GOCSPX-", |rest| length_of(rest, is_token, 28..=28)),
    word("anthropic-key", "sk-ant-", model_key),
    word("model-api-key", "sk-", model_key),
    // <https://www.twilio.com/docs/glossary/what-is-a-sid>
    word("twilio-key", "SK", |rest| length_of(rest, is_lower_hex, 32..=32)),
    word("sendgrid-key", "SG.", sendgrid),
    word("npm-token", "npm_", |rest| length_of(rest, is_alphanumeric, 36..=36)),
    // A macaroon in base64: its version and its first packet begin so.
    word("pypi-token", "pypi-AgE", |rest| length_of(rest, is_token, 50..=1_024)),
    word("resume-token", RESUME_PREFIX, |rest| length_of(rest, is_token, 64..=512)),
    word("jwt", "eyJ", jwt),
    around("private-key", "-----BEGIN ", private_key),
    around("url-password", "://", url_password),
    around("bearer-token", "earer ", bearer),
    around("basic-credentials", "asic ", basic),
];

/// Searches for each mark; built once per process.
static FINDERS: LazyLock<Vec<Finder<'static>>> =
    LazyLock::new(|| RULES.iter().map(|rule| Finder::new(rule.mark.as_bytes())).collect());

/// What is shown in the place of a token of each rule, in the order of [`find_shapes`]' indices.
pub(super) static MARKERS: LazyLock<Vec<String>> =
    LazyLock::new(|| RULES.iter().map(|rule| super::marker_of(rule.name)).collect());

/// Reports each token and the index of its rule until `report` returns `false`; returns whether it never did.
pub(super) fn find_shapes(text: &[u8], report: &mut dyn FnMut(Range<usize>, usize) -> bool) -> bool {
    RULES.iter().zip(&*FINDERS).enumerate().all(|(index, (rule, finder))| {
        let mut done = 0;
        finder.find_iter(text).all(|at| {
            // Marks inside of what is masked already: not looking again keeps the time linear.
            let found = if at < done { None } else { check(rule, text, at) };
            found.is_none_or(|range| {
                done = range.end;
                report(range, index)
            })
        })
    })
}

fn check(rule: &Rule, text: &[u8], at: usize) -> Option<Range<usize>> {
    match rule.check {
        Check::Around(check) => check(text, at),
        Check::Word(check) => {
            let behind = at + rule.mark.len();
            let length = starts_word(text, at).then(|| check(text.get(behind..)?)).flatten()?;
            Some(at..behind + length)
        }
    }
}

/// Whether a token can begin at `at`: no letter, digit, `_` or `-` stands before it that is not part of an escape.
fn starts_word(text: &[u8], at: usize) -> bool {
    let before = text.get(..at).unwrap_or_default();
    match before {
        [.., last] if !is_token(*last) => true,
        [] | [.., b'\\', b'n' | b'r' | b't' | b'b' | b'f'] => true,
        [.., b'%', high, low] | [.., b'\\', b'x', high, low] | [.., b'\\', b'u', _, _, high, low] => {
            high.is_ascii_hexdigit() && low.is_ascii_hexdigit()
        }
        _ => false,
    }
}

/// How many bytes of a class `rest` begins with, if that is a length such tokens have.
fn length_of(rest: &[u8], class: impl Fn(u8) -> bool, lengths: RangeInclusive<usize>) -> Option<usize> {
    let length = run(rest, class, lengths.end() + 1);
    lengths.contains(&length).then_some(length)
}

fn run(rest: &[u8], class: impl Fn(u8) -> bool, most: usize) -> usize {
    rest.iter().take(most).take_while(|byte| class(**byte)).count()
}

/// Numbers of a workspace and of an app, then the secret.
fn slack(rest: &[u8]) -> Option<usize> {
    let length = length_of(rest, |byte| is_alphanumeric(byte) || b"-.".contains(&byte), 20..=512)?;
    let digits = rest.iter().take(length).filter(|byte| byte.is_ascii_digit()).count();
    (digits >= 6).then_some(length)
}

/// `T…/B…/…`: whoever has the last part may post.
fn slack_webhook(text: &[u8], at: usize) -> Option<Range<usize>> {
    let start = at + "hooks.slack.com/services/".len();
    let length = length_of(text.get(start..)?, |byte| is_alphanumeric(byte) || byte == b'/', 20..=200)?;
    let range = start..start + length;
    let slashes = text.get(range.clone())?.iter().filter(|byte| **byte == b'/').count();
    (slashes == 2).then_some(range)
}

/// Keys of model providers: long, with digits, and not a name of words between hyphens.
fn model_key(rest: &[u8]) -> Option<usize> {
    let length = length_of(rest, is_token, 32..=512)?;
    let key = rest.get(..length)?;
    let longest = key.split(|byte| b"-_".contains(byte)).map(<[u8]>::len).max()?;
    (longest >= 16 && key.iter().any(u8::is_ascii_digit)).then_some(length)
}

/// An id of 22 characters and a secret of 43.
fn sendgrid(rest: &[u8]) -> Option<usize> {
    let id = length_of(rest, is_token, 22..=22)?;
    let secret = rest.get(id..)?.strip_prefix(b".")?;
    Some(id + 1 + length_of(secret, is_token, 43..=43)?)
}

/// A signed (RFC 7515) or encrypted (RFC 7516) token in compact form: its header is JSON that names the algorithm.
fn jwt(rest: &[u8]) -> Option<usize> {
    let header = length_of(rest, is_token, 8..=2_048)?;
    let encoded = [b"eyJ", rest.get(..header)?].concat();
    let decoded = URL_SAFE_NO_PAD.decode(encoded).ok()?;
    memmem::find(&decoded, b"\"alg\"")?;
    let (mut end, mut parts) = (header, Vec::with_capacity(4));
    while let Some(part) = rest.get(end..).and_then(|rest| rest.strip_prefix(b".")).filter(|_| parts.len() < 4) {
        let length = run(part, is_token, MAX_SHAPE_BYTES);
        parts.push(length);
        end += 1 + length;
    }
    // An unsigned token is nobody's credential.
    let (signed, encrypted) = (parts.len() == 2, parts.len() == 4);
    (parts.last().is_some_and(|last| *last >= 16) && (signed || encrypted)).then_some(end)
}

/// From the armour's beginning (RFC 7468; also PGP's) to its end, or, if that was cut off, as far as a key's text goes.
fn private_key(text: &[u8], at: usize) -> Option<Range<usize>> {
    let rest = text.get(at..)?;
    let label = rest.strip_prefix(b"-----BEGIN ")?;
    let length = run(label, |byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b' ', 64);
    memmem::find(label.get(..length)?, b"PRIVATE KEY")?;
    let body = label.get(length..)?.strip_prefix(b"-----")?;
    let of_key = |byte: u8| is_base64(byte) || byte.is_ascii_whitespace() || b"\\:,.-()".contains(&byte);
    let key = body.get(..run(body, of_key, MAX_SHAPE_BYTES))?;
    let end = memmem::find(key, b"-----END ").and_then(|end| {
        let closed = end + "-----END ".len();
        Some(closed + memmem::find(key.get(closed..)?, b"-----")? + "-----".len())
    });
    let held = key.iter().filter(|byte| is_base64(**byte)).count();
    let length = end.unwrap_or(key.len());
    (held >= 24).then_some(at..at + (rest.len() - body.len()) + length)
}

/// The password of `scheme://user:password@host` (RFC 3986 §3.2.1).
fn url_password(text: &[u8], at: usize) -> Option<Range<usize>> {
    let scheme = text.get(at.saturating_sub(16)..at)?;
    let scheme = scheme.iter().rev().take_while(|byte| is_alphanumeric(**byte) || b"+-.".contains(byte)).count();
    let start = at + "://".len();
    let user = start + run(text.get(start..)?, |byte| is_userinfo(byte) && byte != b':', 256);
    let password = text.get(user..)?.strip_prefix(b":")?;
    let length = run(password, is_userinfo, 1_024);
    let (password, behind) = password.split_at_checked(length)?;
    let host = matches!(behind, [b'@', first, ..] if is_alphanumeric(*first) || *first == b'[');
    let real = length > 0 && !password.starts_with(b"$") && password.iter().any(|byte| !b"*xX.".contains(byte));
    (scheme >= 2 && host && real && !is_placeholder(password)).then_some(user + 1..user + 1 + length)
}

/// What follows `Bearer` (RFC 6750 §2.1), if it looks like chance.
fn bearer(text: &[u8], at: usize) -> Option<Range<usize>> {
    let start = after_scheme(text, at, "earer ")?;
    let rest = text.get(start..)?;
    let length = length_of(rest, |byte| is_base64(byte) || b"-._~".contains(&byte), 20..=MAX_SHAPE_BYTES)?;
    let token = rest.get(..length)?;
    (token.iter().any(u8::is_ascii_digit) && !is_placeholder(token)).then_some(start..start + length)
}

/// What follows `Basic` (RFC 7617), if it is base64 of a name and a password.
fn basic(text: &[u8], at: usize) -> Option<Range<usize>> {
    let start = after_scheme(text, at, "asic ")?;
    let rest = text.get(start..)?;
    let length = length_of(rest, is_base64, 4..=4_096)?;
    let decoded = Zeroizing::new(STANDARD.decode(rest.get(..length)?).ok()?);
    let password = memchr::memchr(b':', &decoded).and_then(|colon| decoded.get(colon + 1..))?;
    let plain = std::str::from_utf8(&decoded).is_ok_and(|text| !text.contains(char::is_control));
    (plain && !password.is_empty() && !is_placeholder(password)).then_some(start..start + length)
}

/// Where the credentials begin, if `B` or `b` stands before the rest of the scheme's name and begins a word.
fn after_scheme(text: &[u8], at: usize, rest: &str) -> Option<usize> {
    let start = at.checked_sub(1)?;
    let first = text.get(start)?;
    (b"Bb".contains(first) && starts_word(text, start)).then_some(at + rest.len())
}

fn is_placeholder(text: &[u8]) -> bool {
    text.starts_with(CredentialRef::PREFIX.as_bytes())
}

fn is_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+/=".contains(&byte)
}

fn is_base32(byte: u8) -> bool {
    byte.is_ascii_uppercase() || (b'2'..=b'7').contains(&byte)
}

fn is_lower_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

/// RFC 3986 §3.2.1, and what people write there unescaped; nothing that a template or a text in quotes would have.
fn is_userinfo(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"/?#@\"'`<>{}[]()\\|,".contains(&byte)
}

/// The longest token that is recognised whole. Unit: bytes. A private RSA key of 16,384 bits in PEM has some 12,800.
pub(super) const MAX_SHAPE_BYTES: usize = 16 << 10;

#[cfg(test)]
mod tests;
