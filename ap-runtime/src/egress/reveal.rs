//! Secrets of connections that an admin revealed to code, in the parameters of a script.

use bytes::Bytes;

use super::{credential::RunCredentials, place};

impl RunCredentials {
    /// The parameters of a script, with secrets in the place of the placeholders of revealed connections. Others stay
    /// placeholders. Wiped when dropped.
    pub(crate) fn revealed(&self, params: String) -> Bytes {
        let places: Vec<_> = self
            .known(&params)
            .filter(|(_, bound, _)| bound.connection.terms().reveal_to_code)
            .filter_map(|(range, bound, stands)| Some((range, bound.secret(stands).ok()?.1)))
            .collect();
        if places.is_empty() {
            return Bytes::from(params);
        }
        // A placeholder has no character that JSON escapes, so it always stands inside one string.
        Bytes::from_owner(place::filled(&params, &places, place::json_escape))
    }
}

#[cfg(test)]
mod tests {
    use ap_core::connection::{ConnectionTerms, Placement};

    use super::*;
    use crate::egress::credential::{
        RunConnection, Stands,
        tests::{CANARY, bound, placeholder},
    };

    fn credentials(reveal_to_code: bool) -> RunCredentials {
        let whole = vec![(placeholder('w'), Stands::Whole), (placeholder('t'), Stands::Field("token".to_owned()))];
        let placements = vec![Placement::Bearer { field: "token".to_owned() }];
        let one = bound("api", &[("token", CANARY)], placements, "https://api.example", whole);
        let terms = ConnectionTerms { reveal_to_code, ..ConnectionTerms::default() };
        let connection = one.connection.with_terms(terms).expect("valid");
        RunCredentials::new(vec![RunConnection { connection, ..one }]).expect("long enough")
    }

    #[test]
    fn only_what_an_admin_revealed_is_shown() {
        let params = format!(r#"{{"a":"{}","b":["x {}"]}}"#, placeholder('w'), placeholder('t'));
        assert_eq!(credentials(false).revealed(params.clone()), params.as_bytes());
        let shown = credentials(true).revealed(params.clone());
        let json: serde_json::Value = serde_json::from_slice(&shown).expect("JSON");
        assert_eq!(json, serde_json::json!({ "a": CANARY, "b": [format!("x {CANARY}")] }));
        let others = format!(r#"["{}"]"#, placeholder('o'));
        assert_eq!(credentials(true).revealed(others.clone()), others.as_bytes());
    }
}
