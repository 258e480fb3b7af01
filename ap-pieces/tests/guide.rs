//! The flows of the guide with the pieces of this crate: each can be published, or is refused with the reason.
#![cfg(all(feature = "database", feature = "email", feature = "storage"))]
#![expect(clippy::expect_used, reason = "a test that cannot go on has failed")]

use ap_core::{
    flow::{FlowDefinition, FlowLimits, ValidFlow},
    piece::PieceSet,
};

/// Where a flow is refused, by which rule.
fn refused(source: &str) -> Vec<(String, &'static str)> {
    let limits = FlowLimits::default();
    let definition = FlowDefinition::parse_slice(source.as_bytes(), &limits).expect("it parses");
    match ValidFlow::check(definition, &PieceSet::new(ap_pieces::standard()), &limits) {
        Ok(_) => Vec::new(),
        Err(found) => found.0.iter().map(|finding| (finding.pointer.clone(), finding.rule)).collect(),
    }
}

fn at(pointer: &str, rule: &'static str) -> (String, &'static str) {
    (pointer.to_owned(), rule)
}

#[test]
fn what_the_guide_leaves_out_is_named() {
    // Through which server the mail goes.
    let mail = at("/steps/3/settings/ifTrue/1/settings", "property.required");
    assert_eq!(refused(include_str!("../../ap-core/tests/guide/7_3.json")), [mail]);
    // What is to be uploaded.
    let upload = at("/steps/2/settings", "property.required");
    assert_eq!(refused(include_str!("../../ap-core/tests/guide/7_4.json")), [upload]);
    assert_eq!(refused(include_str!("../../ap-core/tests/guide/7_5.json")), []);
}
