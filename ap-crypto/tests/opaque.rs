//! Types that hold a secret cannot be printed, written out or copied into something that can: a change that lets them does not
//! compile.
#![allow(missing_docs, reason = "tests")]

use std::fmt;

use ap_core::{
    connection::{Connection, ConnectionValue, FieldValue, OAuth2, OAuthTokens, PendingGrant},
    sensitive::Sensitive,
    store::{LookupHash, Sealed},
    time::Timestamp,
};
use ap_crypto::{key::RootKey, placeholder::CredentialRef, redact::Redactor, resume::ResumeKey, vault::TenantKeys};
use serde::Serialize;

/// Fails to compile if a type has one of the traits: then it is not clear which of two functions is meant.
macro_rules! never {
    ($($type:ty: [$($trait:path),+])+) => {$($(
        const _: fn() = || {
            trait Ambiguous<Marker> {
                fn here() {}
            }
            impl<T: ?Sized> Ambiguous<()> for T {}
            #[allow(dead_code, reason = "names the second function")]
            struct Has;
            impl<T: ?Sized + $trait> Ambiguous<Has> for T {}
            let _ = <$type as Ambiguous<_>>::here;
        };
    )+)+};
}

never! {
    Connection: [fmt::Display, Serialize, Clone, PartialEq, AsRef<str>, Into<String>]
    ConnectionValue: [fmt::Display, Serialize, Clone, PartialEq, AsRef<str>, Into<String>]
    FieldValue: [fmt::Display, Serialize, Clone, PartialEq, AsRef<str>, Into<String>]
    OAuth2: [fmt::Display, Serialize, Clone, PartialEq, AsRef<str>, Into<String>]
    OAuthTokens: [fmt::Display, Serialize, Clone, PartialEq, AsRef<str>, Into<String>]
    PendingGrant: [fmt::Display, Serialize, Clone, PartialEq, AsRef<str>, Into<String>]
    Sensitive<String>: [fmt::Display, Serialize, AsRef<str>, Into<String>, std::ops::Deref]
    // Equality of keys takes constant time.
    RootKey: [fmt::Display, Serialize, Clone, AsRef<[u8]>, std::ops::Deref]
    TenantKeys: [fmt::Display, Serialize, Clone, PartialEq]
    ResumeKey: [fmt::Display, Serialize, Clone, AsRef<[u8]>, std::ops::Deref]
    // A clone shares the secrets and cannot show them either.
    Redactor: [fmt::Display, Serialize, AsRef<str>, Into<String>]
    Sealed: [fmt::Display, Serialize, AsRef<str>, Into<String>]
    LookupHash: [fmt::Display, Serialize, AsRef<str>, Into<String>]
    // Its text stands for nothing outside its run; what it stands for is nowhere in it.
    CredentialRef: [Serialize, AsRef<str>, std::ops::Deref]
}

/// Types whose `Debug` is written by hand.
#[test]
fn debug_shows_nothing_of_a_secret() {
    let canary = "canary-in-debug";
    let value = ConnectionValue::SecretText { secret: canary.into() };
    let field = FieldValue::Secret(canary.into());
    let tokens = OAuthTokens::bearer(canary.into(), Timestamp::EPOCH).with_refresh(Some(canary.into()));
    let shown = format!("{value:?} {field:?} {tokens:?} {:?}", Sensitive::new(canary));
    let oauth = OAuth2::of_tokens(tokens);
    let shown = format!("{shown} {oauth:?}");
    assert!(!shown.contains("canary"), "{shown}");
    let connection = Connection::new("api", value, vec![], vec![]).map_err(|error| error.to_string());
    let shown = format!("{connection:?}");
    assert!(connection.is_ok() && !shown.contains("canary"), "{shown}");
}
