//! Typed identifiers: a UUIDv7 (RFC 9562 §5.7) inside, `prefix_` and 26 Crockford base32 digits outside.
//!
//! An id orders by creation time, says what it names, and is never a secret: nothing in the SDK grants access to whoever
//! merely knows one.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

use crate::time::Timestamp;

/// Why a text is not an id of the expected kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// The part after the prefix is not 26 Crockford base32 digits of a 128-bit value.
    #[error("`{expected}_` must be followed by 26 digits of lower-case Crockford base32")]
    Digits {
        /// The prefix of the id type that was asked for.
        expected: &'static str,
    },
    /// The text names another kind of thing.
    #[error("expected an id starting with `{expected}_`")]
    Prefix {
        /// The prefix of the id type that was asked for.
        expected: &'static str,
    },
}

macro_rules! ids {
    ($($(#[$doc:meta])+ $name:ident = $prefix:literal;)+) => {$(
        $(#[$doc])+
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            /// The text every id of this kind starts with, before the underscore.
            pub const PREFIX: &'static str = $prefix;

            /// Builds a UUIDv7 from the creation time and ten bytes of entropy; the same input gives the same id.
            ///
            /// Ids order by time to the quarter of a microsecond: the twelve bits behind the milliseconds hold the rest
            /// (RFC 9562 §6.2, method 3), which replaces as many bits of the entropy. Times before 1970 or beyond 48 bits
            /// of milliseconds are clamped to that range.
            #[must_use]
            pub fn from_parts(created: Timestamp, entropy: [u8; 10]) -> Self {
                Self(uuid_v7(created, entropy))
            }

            /// Wraps 128 bits as they are: what a store read back, or a fixed id in a test.
            #[must_use]
            pub const fn from_u128(value: u128) -> Self {
                Self(Uuid::from_u128(value))
            }

            /// The 128 bits.
            #[must_use]
            pub const fn as_u128(self) -> u128 {
                self.0.as_u128()
            }

            /// The 16 bytes, most significant first: the form stores keep and associated data uses.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// Reads the 16-byte form back.
            ///
            /// # Errors
            /// [`IdError::Digits`] if `bytes` are not exactly 16.
            pub fn from_slice(bytes: &[u8]) -> Result<Self, IdError> {
                Uuid::from_slice(bytes).map(Self).map_err(|_| IdError::Digits { expected: $prefix })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_text(f, $prefix, self.0.as_u128())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_text($prefix, text).map(Self::from_u128)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    )+};
}

ids! {
    /// Names an audit record.
    AuditId = "audit";
    /// Names a connection: stored credentials of one project.
    ConnectionId = "conn";
    /// Names a stored file: an output that is too large for the journal.
    FileId = "file";
    /// Names a flow.
    FlowId = "flow";
    /// Names one version of a flow.
    FlowVersionId = "fver";
    /// Names a job of a queue.
    JobId = "job";
    /// Names a key in the key table.
    KeyId = "key";
    /// Names a platform: one installation of the SDK.
    PlatformId = "plat";
    /// Names a project: the tenant.
    ProjectId = "proj";
    /// Names a run.
    RunId = "run";
    /// Names a signal: something a run is told from outside.
    SignalId = "sig";
    /// Names a user of the host.
    UserId = "user";
    /// Names a value of a project's key-value store. Unlike the others it is derived, from where the value belongs and its key,
    /// and does not order by time.
    ValueId = "val";
    /// Names a worker: one runtime in one process, from its start to its end.
    WorkerId = "wrk";
}

fn uuid_v7(created: Timestamp, mut entropy: [u8; 10]) -> Uuid {
    let millis = u64::try_from(created.as_millis()).unwrap_or(0).min((1 << 48) - 1);
    let micros = created.as_micros().rem_euclid(1_000);
    let fraction = u16::try_from(micros * 4_096 / 1_000).unwrap_or(0).to_be_bytes();
    entropy.iter_mut().zip(fraction).for_each(|(slot, byte)| *slot = byte);
    uuid::Builder::from_unix_timestamp_millis(millis, &entropy).into_uuid()
}

fn write_text(f: &mut fmt::Formatter<'_>, prefix: &str, value: u128) -> fmt::Result {
    let mut digits = [0_u8; DIGITS];
    let mut rest = value;
    for slot in digits.iter_mut().rev() {
        *slot = ALPHABET.get((rest & 31) as usize).copied().unwrap_or(b'0');
        rest >>= 5;
    }
    write!(f, "{prefix}_{}", std::str::from_utf8(&digits).map_err(|_| fmt::Error)?)
}

fn parse_text(prefix: &'static str, text: &str) -> Result<u128, IdError> {
    let digits = text
        .strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix('_'))
        .ok_or(IdError::Prefix { expected: prefix })?;
    let wrong = IdError::Digits { expected: prefix };
    if digits.len() != DIGITS {
        return Err(wrong);
    }
    let mut value = 0_u128;
    for (index, byte) in digits.bytes().enumerate() {
        let digit = ALPHABET.iter().position(|symbol| *symbol == byte).ok_or_else(|| wrong.clone())?;
        // 26 digits hold 130 bits: the first may only use three of its five.
        if index == 0 && digit > 7 {
            return Err(wrong);
        }
        value = value << 5 | digit as u128;
    }
    Ok(value)
}

const DIGITS: usize = 26;
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_form_round_trips(value: u128) {
            let id = RunId::from_u128(value);
            prop_assert_eq!(id.to_string().parse::<RunId>(), Ok(id));
        }

        #[test]
        fn parsing_never_panics(text in "\\PC{0,60}") {
            let _ = text.parse::<FlowId>();
            let _ = format!("flow_{text}").parse::<FlowId>();
        }

        #[test]
        fn ids_order_by_creation_time(early in 0_i64..1 << 57, later in 1_i64..5_000_000, a: [u8; 10], b: [u8; 10]) {
            let late = RunId::from_parts(Timestamp::from_micros(early + later), b);
            let early = RunId::from_parts(Timestamp::from_micros(early), a);
            prop_assert!(early < late);
            prop_assert!(early.to_string() < late.to_string());
        }
    }

    #[test]
    fn ids_carry_the_uuid_version_and_variant() {
        let id = RunId::from_parts(Timestamp::from_millis(1_700_000_000_000), [0xff; 10]);
        let uuid = Uuid::from_u128(id.as_u128());
        assert_eq!(uuid.get_version_num(), 7);
        assert_eq!(uuid.get_variant(), uuid::Variant::RFC4122);
    }

    #[test]
    fn another_prefix_is_named_in_the_error() {
        let run = RunId::from_u128(7).to_string();
        let error = run.parse::<FlowId>().expect_err("a run id is no flow id");
        assert_eq!(error.to_string(), "expected an id starting with `flow_`");
    }

    #[test]
    fn a_value_over_128_bits_is_refused() {
        assert!("run_7zzzzzzzzzzzzzzzzzzzzzzzzz".parse::<RunId>().is_ok());
        assert!("run_80000000000000000000000000".parse::<RunId>().is_err());
        assert!("run_7zzzzzzzzzzzzzzzzzzzzzzzz".parse::<RunId>().is_err());
        assert!("run_7zzzzzzzzzzzzzzzzzzzzzzzzzz".parse::<RunId>().is_err());
        assert!("run_7ZZZZZZZZZZZZZZZZZZZZZZZZZ".parse::<RunId>().is_err());
    }
}
