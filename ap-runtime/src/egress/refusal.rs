//! Why a credential cannot be put where its placeholder stands.

use ap_core::{capability::HttpError, json::JsonError};

use super::credential::refuse;

/// Names no member: a pointer could hold marks.
pub(super) fn unreadable_body(error: &JsonError) -> HttpError {
    match error {
        JsonError::DuplicateKey { line, column, .. } => refuse(format!(
            "a credential stands in a body with a member that is there twice (line {line}, column {column})"
        )),
        JsonError::Syntax { line, column, .. } => refuse(format!(
            "a credential stands in a body that is no JSON (line {line}, column {column}); it may only go to a member of a \
             JSON body"
        )),
        other => refuse(format!("a credential stands in a body that cannot be judged: {other}")),
    }
}

pub(super) fn encoded_query() -> HttpError {
    refuse("a credential is spelled with percent escapes in the query; write its text as it is")
}

pub(super) fn ambiguous_body() -> HttpError {
    refuse("it is not clear where in the JSON body a credential stands")
}
