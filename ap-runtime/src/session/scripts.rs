//! What a flow has the sandbox compile: the scripts of its code steps, and the expressions in its templates. Both are looked at
//! before the flow may be published.

use std::{collections::HashMap, sync::Arc, time::Duration};

use ap_core::{
    flow::{Diagnostic, Step, StepKind, ValidFlow},
    id::ProjectId,
};

use crate::{
    executor::sandbox_language,
    kernel::Kernel,
    sandbox::{CodeError, CodeSandbox, CodeUnit},
};

/// What keeps the scripts and expressions of `flow` from being carried out here, at most [`MOST`] findings.
pub(super) async fn findings(kernel: &Kernel, project: ProjectId, flow: &ValidFlow) -> Vec<Diagnostic> {
    let mut found = Found::default();
    flow.steps().iter().for_each(|step| collect(flow, step, &mut found));
    let Some(sandbox) = &kernel.sandbox else {
        let refused = found.units.into_iter().map(|unit| unit.refused());
        return refused.take(MOST).collect();
    };
    let mut findings = Vec::new();
    for unit in found.units {
        if findings.len() == MOST {
            break;
        }
        if let Err(error) = compiled(kernel, &**sandbox, project, &unit.unit).await {
            findings.extend(unit.findings(&error));
        }
    }
    findings.truncate(MOST);
    findings
}

/// Something to compile, and everywhere it stands.
struct Unit {
    unit: CodeUnit,
    pointers: Vec<String>,
}

#[derive(Default)]
struct Found {
    units: Vec<Unit>,
    /// Where in `units` an expression is.
    expressions: HashMap<Arc<str>, usize>,
}

fn collect(flow: &ValidFlow, step: &Step, found: &mut Found) {
    if let StepKind::Code(code) = &step.kind {
        let language = sandbox_language(code.language);
        let unit = CodeUnit::Module { source: Arc::clone(&code.source), language };
        found.units.push(Unit { unit, pointers: vec![flow.code_pointer(step)] });
    }
    for used in flow.scripts(&step.name) {
        let source = used.script.source();
        let known = found.expressions.get(source).and_then(|index| found.units.get_mut(*index));
        match known {
            Some(unit) => unit.pointers.push(used.pointer.clone()),
            None => {
                found.expressions.insert(Arc::clone(source), found.units.len());
                let unit = CodeUnit::Expression(Arc::clone(source));
                found.units.push(Unit { unit, pointers: vec![used.pointer.clone()] });
            }
        }
    }
    step.children().for_each(|child| collect(flow, child, found));
}

/// Compiles; waits while the sandbox is busy.
async fn compiled(
    kernel: &Kernel,
    sandbox: &dyn CodeSandbox,
    project: ProjectId,
    unit: &CodeUnit,
) -> Result<(), CodeError> {
    let until = kernel.clock.now().saturating_add(LONGEST);
    loop {
        match sandbox.check(project, unit.clone()).await {
            Err(CodeError::Busy) if kernel.clock.now() < until => {
                kernel.clock.sleep_until(kernel.clock.now().saturating_add(WAIT)).await;
            }
            done => return done,
        }
    }
}

impl Unit {
    const fn is_expression(&self) -> bool {
        matches!(self.unit, CodeUnit::Expression(_))
    }

    fn refused(&self) -> Diagnostic {
        let pointer = self.pointers.first().map_or("", String::as_str);
        if self.is_expression() {
            let message = "this runtime has no code sandbox, which evaluates JavaScript in templates";
            let fix = "build it with feature `code` and `RuntimeBuilder::sandbox`, or write a path";
            return Diagnostic::error(pointer, "template.sandbox", message, fix);
        }
        let fix = "build it with feature `code` and `RuntimeBuilder::sandbox`, or remove the step";
        Diagnostic::error(pointer, "step.code.sandbox", "this runtime has no code sandbox", fix)
    }

    fn findings(&self, error: &CodeError) -> impl Iterator<Item = Diagnostic> {
        let is_fault = matches!(
            error,
            CodeError::Busy | CodeError::Bug { .. } | CodeError::Trap { .. } | CodeError::WorkerLost { .. }
        );
        let (rule, fix) = match (is_fault, self.is_expression()) {
            (true, _) => ("step.code.unchecked", "publish again; if it stays so, ask whoever runs the product"),
            (false, true) => ("template.syntax", "write one JavaScript expression, without statements"),
            (false, false) => ("step.code.syntax", "mend the script at that place"),
        };
        self.pointers.iter().map(move |pointer| Diagnostic::error(pointer, rule, error.to_string(), fix))
    }
}

/// Most findings about scripts.
const MOST: usize = 100;
/// How long to wait while the sandbox is busy.
const LONGEST: Duration = Duration::from_secs(30);
const WAIT: Duration = Duration::from_millis(50);
