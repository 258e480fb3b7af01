//! Ready-made pieces for the `ap-runtime` workflow SDK.
//!
//! A piece acts through the capabilities of `ap-core` alone: it opens no socket, reads no clock and sees no credential.
//! Hand [`standard`] to the runtime's builder, or pick single pieces.
//!
//! | Piece | Actions |
//! | --- | --- |
//! | `crypto` (feature) | `encrypt`, `decrypt`, `hmac` |
//! | `data-mapper` | `map` |
//! | `database` (feature) | `query`, `execute`, `insert`, `update`, `delete` |
//! | `email` (feature) | `send` |
//! | `http` | `request` |
//! | `json` | `parse`, `stringify`, `get`, `pick`, `merge` |
//! | `storage` (feature) | `upload`, `download`, `delete`, `presign`, `list` |
//! | `text` | `concat`, `split`, `replace`, `case`, `trim`, `truncate`, `mask` |
//!
//! # Examples
//! ```
//! let pieces = ap_core::piece::PieceSet::new(ap_pieces::standard());
//! assert!(pieces.action("http", "request").is_some());
//! ```
#![forbid(unsafe_code)]

#[cfg(feature = "crypto")]
mod crypto;
mod data_mapper;
#[cfg(feature = "database")]
mod database;
#[cfg(feature = "email")]
mod email;
#[cfg(any(feature = "crypto", feature = "database", feature = "email", feature = "storage"))]
mod exchange;
mod http;
mod input;
mod json;
mod pure;
#[cfg(feature = "storage")]
mod storage;
mod text;

use std::sync::Arc;

use ap_core::piece::Piece;

#[cfg(feature = "crypto")]
pub use crate::crypto::Crypto;
#[cfg(feature = "database")]
pub use crate::database::Database;
#[cfg(feature = "email")]
pub use crate::email::Email;
#[cfg(feature = "storage")]
pub use crate::storage::Storage;
pub use crate::{data_mapper::DataMapper, http::Http, json::Json, text::Text};

/// Every piece of this crate that its features give, in order of name.
#[must_use]
pub fn standard() -> Vec<Arc<dyn Piece>> {
    vec![
        #[cfg(feature = "crypto")]
        Arc::new(Crypto),
        Arc::new(DataMapper),
        #[cfg(feature = "database")]
        Arc::new(Database),
        #[cfg(feature = "email")]
        Arc::new(Email),
        Arc::new(Http),
        Arc::new(Json),
        #[cfg(feature = "storage")]
        Arc::new(Storage),
        Arc::new(Text),
    ]
}

#[cfg(test)]
mod testing;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ap_core::property::Properties;
    use serde_json::json;

    use super::*;

    #[test]
    fn step_types_are_pinned() {
        let types: Vec<_> = standard()
            .iter()
            .flat_map(|piece| {
                let name = piece.name().to_owned();
                piece.actions().into_iter().map(move |action| format!("{name}.{}", action.spec().name))
            })
            .collect();
        let of = |piece: &str| types.iter().filter(|name| name.split('.').next() == Some(piece)).collect::<Vec<_>>();
        #[cfg(feature = "crypto")]
        assert_eq!(of("crypto"), ["crypto.encrypt", "crypto.decrypt", "crypto.hmac"]);
        #[cfg(feature = "database")]
        assert_eq!(
            of("database"),
            ["database.query", "database.execute", "database.insert", "database.update", "database.delete"]
        );
        #[cfg(feature = "email")]
        assert_eq!(of("email"), ["email.send"]);
        #[cfg(feature = "storage")]
        assert_eq!(
            of("storage"),
            ["storage.upload", "storage.download", "storage.delete", "storage.presign", "storage.list"]
        );
        let always = ["data-mapper", "http", "json", "text"].into_iter().flat_map(of).collect::<Vec<_>>();
        assert_eq!(
            always,
            [
                "data-mapper.map",
                "http.request",
                "json.parse",
                "json.stringify",
                "json.get",
                "json.pick",
                "json.merge",
                "text.concat",
                "text.split",
                "text.replace",
                "text.case",
                "text.trim",
                "text.truncate",
                "text.mask",
            ]
        );
    }

    #[test]
    fn every_action_and_property_is_documented() {
        for piece in standard() {
            assert!(piece.description().ends_with('.') && !piece.display_name().is_empty(), "{}", piece.name());
            for action in piece.actions() {
                let spec = action.spec();
                assert!(spec.description.ends_with('.') && !spec.display_name.is_empty(), "{}", spec.name);
                let mut names = BTreeSet::new();
                for property in spec.properties.iter() {
                    assert!(
                        property.description.ends_with('.') && !property.display_name.is_empty(),
                        "{}",
                        property.name
                    );
                    assert!(names.insert(property.name), "{} twice", property.name);
                }
            }
        }
    }

    #[test]
    fn defaults_are_values_their_kinds_accept() {
        for action in standard().iter().flat_map(|piece| piece.actions()) {
            for property in action.spec().properties.iter() {
                if let Some(default) = &property.default {
                    let alone = Properties::new([property.clone()]);
                    let input = json!({ property.name: default });
                    assert_eq!(alone.validate(input.clone()), Ok(input));
                }
            }
        }
    }
}
