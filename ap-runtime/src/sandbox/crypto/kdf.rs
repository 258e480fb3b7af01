//! Key derivation by the names of Node.js: PBKDF2 (RFC 8018), scrypt (RFC 7914) and HKDF (RFC 5869).

use hkdf::GenericHkdf;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{
    HostError,
    digest::{Hash, Keyed, with_hash},
    keys::Key,
    options,
};

/// What is to be derived, as the prelude writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    kind: Kind,
    #[serde(default)]
    hash: String,
    iterations: Option<u64>,
    #[serde(rename = "N")]
    n: Option<u64>,
    r: Option<u64>,
    p: Option<u64>,
    maxmem: Option<u64>,
    length: u64,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Hkdf,
    Pbkdf2,
    Scrypt,
}

/// What is to be derived.
#[derive(Debug)]
pub(super) struct Options {
    function: Function,
    length: usize,
}

#[derive(Debug)]
enum Function {
    Hkdf(Hash),
    Pbkdf2(Hash, u32),
    Scrypt(scrypt::Params),
}

impl Options {
    pub(super) fn parse(json: &[u8]) -> Result<Self, HostError> {
        let wire: Wire = options(json)?;
        let hash = || Hash::required(wire.hash.as_bytes());
        let longest = match wire.kind {
            Kind::Hkdf => 255 * hash()?.bytes(),
            Kind::Pbkdf2 | Kind::Scrypt => MOST_DERIVED_BYTES,
        };
        let length = usize::try_from(wire.length).ok().filter(|length| *length <= longest).ok_or_else(|| {
            let message = format!("Invalid key length: at most {longest} bytes can be derived at once");
            HostError::new("code:ERR_CRYPTO_INVALID_KEYLEN", message)
        })?;
        let function = match wire.kind {
            Kind::Hkdf => Function::Hkdf(hash()?),
            Kind::Pbkdf2 => Function::Pbkdf2(hash()?, iterations(&wire, hash()?, length)?),
            Kind::Scrypt => Function::Scrypt(scrypt_params(&wire)?),
        };
        Ok(Self { function, length })
    }

    pub(super) fn derive(&self, key: &Key<'_>, salt: &[u8], info: &[u8]) -> Result<Zeroizing<Vec<u8>>, HostError> {
        if key.is_secret() && self.length < LEAST_SECRET_BYTES {
            let message = format!(
                "Invalid key length: what is derived from a connection's secret has at least {LEAST_SECRET_BYTES} bytes"
            );
            return Err(HostError::new("code:ERR_CRYPTO_INVALID_KEYLEN", message));
        }
        if info.len() > MOST_INFO_BYTES {
            return Err(out_of_range("info", &format!("It must not contain more than {MOST_INFO_BYTES} bytes")));
        }
        if salt.len() > MOST_SALT_BYTES {
            return Err(out_of_range("salt", &format!("It must not contain more than {MOST_SALT_BYTES} bytes")));
        }
        let mut derived = Zeroizing::new(vec![0; self.length]);
        if self.length == 0 {
            return Ok(derived);
        }
        let key = key.bytes();
        let done = match &self.function {
            Function::Hkdf(hash) => with_hash!(*hash, D => expand::<D>(key, salt, info, &mut derived)),
            Function::Pbkdf2(hash, iterations) => with_hash!(*hash, D => {
                pbkdf2::pbkdf2::<<D as Keyed>::Mac>(key, salt, *iterations, &mut derived).is_ok()
            }),
            Function::Scrypt(params) => scrypt::scrypt(key, salt, params, &mut derived).is_ok(),
        };
        if done { Ok(derived) } else { Err(HostError::new("Error", "the key derivation refused its input")) }
    }
}

fn expand<D: Keyed>(key: &[u8], salt: &[u8], info: &[u8], derived: &mut [u8]) -> bool {
    GenericHkdf::<D::Mac>::new(Some(salt), key).expand(info, derived).is_ok()
}

fn iterations(wire: &Wire, hash: Hash, length: usize) -> Result<u32, HostError> {
    let iterations =
        wire.iterations.and_then(|iterations| u32::try_from(iterations).ok()).filter(|&iterations| iterations >= 1);
    let iterations = iterations.ok_or_else(|| out_of_range("iterations", "It must be >= 1 && <= 2147483647"))?;
    // Each block of output takes all iterations.
    let blocks = u64::try_from(length.div_ceil(hash.bytes()).max(1)).unwrap_or(u64::MAX);
    let most = MOST_PBKDF2_COST / blocks.saturating_mul(hash.weight());
    if u64::from(iterations) > most {
        let message = format!("It must be <= {most} for this hash function and length");
        return Err(out_of_range("iterations", &message));
    }
    Ok(iterations)
}

fn scrypt_params(wire: &Wire) -> Result<scrypt::Params, HostError> {
    let refused =
        |why: &str| Err(HostError::new("code:ERR_CRYPTO_INVALID_SCRYPT_PARAMS", format!("Invalid scrypt params{why}")));
    // As in Node.js, zero is the default.
    let given = |value: Option<u64>, default: u64| value.filter(|value| *value != 0).unwrap_or(default);
    let (n, r, p) = (given(wire.n, 16_384), given(wire.r, 8), given(wire.p, 1));
    if n < 2 || !n.is_power_of_two() {
        return refused(": N must be a power of two from 2");
    }
    let blocks = r.saturating_mul(p);
    if blocks > MOST_SCRYPT_BLOCKS || n.saturating_mul(blocks) > MOST_SCRYPT_COST {
        return refused(&format!(
            ": one call may have r * p up to {MOST_SCRYPT_BLOCKS} and N * r * p up to {MOST_SCRYPT_COST}, as N 32768, r 8, p 1"
        ));
    }
    // As OpenSSL counts it.
    let memory = 128 * r * (n + 2) + 128 * blocks;
    if memory > given(wire.maxmem, 32 << 20) {
        return refused(&format!(": memory limit exceeded; {memory} bytes are needed, see the option maxmem"));
    }
    // It holds 2^(16 r) at most, which RFC 7914 §6 asks for and OpenSSL checks.
    if r < 4 && n >= 1 << (16 * r) {
        return refused(": N must be less than 2 to the power of 16 r");
    }
    let narrow = |value: u64| u32::try_from(value).ok();
    let params = u8::try_from(n.ilog2()).ok().zip(narrow(r)).zip(narrow(p));
    match params.map(|((log_n, r), p)| scrypt::Params::new(log_n, r, p)) {
        Some(Ok(params)) => Ok(params),
        _ => refused(""),
    }
}

fn out_of_range(what: &str, range: &str) -> HostError {
    HostError::new("code:ERR_OUT_OF_RANGE", format!("The value of \"{what}\" is out of range. {range}"))
}

/// Longest output of PBKDF2 and scrypt. Unit: bytes.
const MOST_DERIVED_BYTES: usize = 16 << 10;
/// Longest salt: it is hashed anew for every block of output. Unit: bytes.
const MOST_SALT_BYTES: usize = 4 << 10;
/// Longest info, as in Node.js. Unit: bytes.
const MOST_INFO_BYTES: usize = 1024;
/// Most that PBKDF2 may cost: iterations times blocks of output times [`Hash::weight`]. What OWASP recommends fits: 600,000
/// iterations of SHA-256, 210,000 of SHA-512.
const MOST_PBKDF2_COST: u64 = 630_000;
/// Most that scrypt may cost: N * r * p. The memory is 128 times that, 32 MiB, outside the guest.
const MOST_SCRYPT_COST: u64 = 1 << 18;
/// Most of r * p: what scrypt has in its hands at once, and hashes for every block of output.
const MOST_SCRYPT_BLOCKS: u64 = 256;
/// Shortest key from a secret: with fewer bits one could try them all. Unit: bytes.
const LEAST_SECRET_BYTES: usize = 16;
