//! A flow's JSON, through parsing and the check before publishing.
#![no_main]

use std::sync::LazyLock;

use ap_core::{
    flow::{Diagnostics, FlowDefinition, FlowLimits, ValidFlow},
    piece::PieceSet,
};
use libfuzzer_sys::fuzz_target;

static PIECES: LazyLock<PieceSet> = LazyLock::new(|| PieceSet::new(ap_pieces::standard()));

fn check_findings(Diagnostics(findings): &Diagnostics) {
    assert!(!findings.is_empty(), "refused without a finding");
    for finding in findings {
        assert!(!finding.rule.is_empty() && !finding.message.is_empty() && !finding.fix.is_empty(), "{finding:?}");
        assert!(finding.pointer.is_empty() || finding.pointer.starts_with('/'), "{finding:?}");
    }
}

fuzz_target!(|data: &[u8]| {
    let limits = FlowLimits::default();
    let definition = match FlowDefinition::parse_slice(data, &limits) {
        Ok(definition) => definition,
        Err(findings) => return check_findings(&findings),
    };
    let again = FlowDefinition::from_value(definition.source().as_ref().clone(), &limits);
    let again = again.unwrap_or_else(|findings| panic!("its own source is refused: {findings}"));
    let (first, second) = (ValidFlow::check(definition, &PIECES, &limits), ValidFlow::check(again, &PIECES, &limits));
    match (first, second) {
        (Ok(one), Ok(other)) => {
            assert_eq!(one.connections(), other.connections());
            for step in one.steps().iter().flat_map(|step| std::iter::once(step).chain(step.children())) {
                assert!(one.same_step(&other, step.name.as_str()), "{} is not itself", step.name);
            }
        }
        (Err(one), Err(other)) => {
            check_findings(&one);
            assert_eq!(one.to_string(), other.to_string());
        }
        (one, other) => panic!("judged differently: {} and {}", one.is_ok(), other.is_ok()),
    }
});
