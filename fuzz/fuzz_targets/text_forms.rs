//! Text forms that are read back: ids, timestamps, origins, tokens, placeholders.
#![no_main]

use std::{fmt::Display, str::FromStr};

use ap_core::{
    connection::Origin,
    id::{FlowId, ProjectId, RunId},
    time::Timestamp,
};
use ap_crypto::{placeholder::find_placeholders, token::is_well_formed_token};
use libfuzzer_sys::fuzz_target;

fn round_trip<T: Display + FromStr + PartialEq>(text: &str) {
    let Ok(value) = text.parse::<T>() else { return };
    let printed = value.to_string();
    assert!(printed.parse::<T>().is_ok_and(|again| again == value), "`{text}` became `{printed}`");
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    round_trip::<FlowId>(text);
    round_trip::<ProjectId>(text);
    round_trip::<RunId>(text);
    round_trip::<Timestamp>(text);
    if let Ok(origin) = Origin::of_url(text) {
        assert_eq!(Origin::of_url(origin.as_str()), Ok(origin));
    }
    for range in find_placeholders(text) {
        assert!(text[range].starts_with("apcred_"));
    }
    if is_well_formed_token("whk_", text) {
        assert!(text.starts_with("whk_") && text.is_ascii());
    }
});
