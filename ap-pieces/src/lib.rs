//! Ready-made pieces for the `ap-runtime` workflow SDK.
//!
//! A piece acts through the capabilities of `ap-core` alone: it opens no socket, reads no clock and sees no credential.
//! Hand [`standard`] to the runtime's builder, or pick single pieces.
//!
//! | Piece | Actions |
//! | --- | --- |
//! | `data-mapper` | `map` |
//! | `http` | `request` |
//! | `json` | `parse`, `stringify`, `get`, `pick`, `merge` |
//! | `text` | `concat`, `split`, `replace`, `case`, `trim`, `truncate` |
//!
//! # Examples
//! ```
//! let pieces = ap_core::piece::PieceSet::new(ap_pieces::standard());
//! assert!(pieces.action("http", "request").is_some());
//! ```
#![forbid(unsafe_code)]

mod data_mapper;
mod http;
mod input;
mod json;
mod pure;
mod text;

use std::sync::Arc;

use ap_core::piece::Piece;

pub use crate::{data_mapper::DataMapper, http::Http, json::Json, text::Text};

/// Every piece of this crate, in order of name.
#[must_use]
pub fn standard() -> Vec<Arc<dyn Piece>> {
    vec![Arc::new(DataMapper), Arc::new(Http), Arc::new(Json), Arc::new(Text)]
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
        assert_eq!(
            types,
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
