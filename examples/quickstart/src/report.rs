//! What the demonstration prints.

use std::fmt::Display;

use anyhow::ensure;
use ap_auth::audit::{AuditEvent, Detail};
use ap_core::{audit::AuditOutcome, run::StepStatus, time::Timestamp};
use ap_runtime::engine::{RunView, StepView};

/// Starts a section.
pub(crate) fn section(title: impl Display) {
    println!("\n{title}");
}

/// Prints a fact nobody checks: a name, a place.
pub(crate) fn note(name: &str, text: impl Display) {
    println!("   {name:<14} {text}");
}

/// Prints a promise, and ends the program unless it was kept.
pub(crate) fn promise(kept: bool, what: impl Display) -> anyhow::Result<()> {
    ensure!(kept, "this does not hold: {what}");
    println!("   ✓ {what}");
    Ok(())
}

/// Prints every step of a run with what went in and what came out.
pub(crate) fn timeline(run: &RunView) {
    steps(run, detail);
}

/// Prints every step of a run in a line.
pub(crate) fn short_timeline(run: &RunView) {
    steps(run, |_| {});
}

fn steps(run: &RunView, detail: fn(&StepView)) {
    let took = run.finished.map_or_else(String::new, |end| format!(" after {}", duration(run.accepted, end)));
    println!("   {} {}{took}", run.id, run.status);
    for step in &run.steps {
        println!("   {:<15} {}", step.path.as_str(), outline(step));
        detail(step);
    }
}

fn detail(step: &StepView) {
    let parts = [("in", &step.input), ("out", &step.output)];
    for (name, value) in parts.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
        println!("      {name:<4} {}", cut(&value.to_string()));
    }
    step.console.iter().for_each(|line| println!("      log  {}", cut(line)));
    step.error.iter().for_each(|error| println!("      error {error}"));
}

/// Prints an event of the audit trail: when, who, from where, what, how it ended, on what.
pub(crate) fn audit(event: &AuditEvent) {
    let outcome = match event.outcome() {
        AuditOutcome::Denied => "denied",
        AuditOutcome::Failure => "failed",
        AuditOutcome::Success => "done",
    };
    let from = event.ip().map_or_else(|| "-".to_owned(), |ip| ip.to_string());
    let on = match event.details().get("name") {
        Some(Detail::Text(name)) => name.as_str(),
        _ => event.resources().first().map_or("", String::as_str),
    };
    let why = match (event.outcome(), event.reason()) {
        (AuditOutcome::Success, _) | (_, None) => String::new(),
        (_, Some(reason)) => format!(" ({reason})"),
    };
    println!(
        "   {}  {:<18} {from:<10} {:<18} {outcome:<7} {on}{why}",
        clock(event.at()),
        event.actor().to_string(),
        event.action()
    );
}

fn outline(step: &StepView) -> String {
    let status = match step.status {
        StepStatus::Failed => "failed",
        StepStatus::Running => "running",
        StepStatus::Skipped => "skipped",
        StepStatus::Succeeded => "done",
        _ => "?",
    };
    let took = step.finished.map_or_else(|| "-".to_owned(), |end| duration(step.started, end));
    let attempts = if step.attempts > 1 { format!(", {} attempts", step.attempts) } else { String::new() };
    format!("{status} in {took}{attempts}")
}

fn duration(from: Timestamp, to: Timestamp) -> String {
    format!("{:.1} ms", to.saturating_since(from).as_secs_f64() * 1_000.0)
}

/// Hours to milliseconds of an RFC 3339 text.
fn clock(at: Timestamp) -> String {
    at.to_string().chars().skip(11).take(12).collect()
}

fn cut(text: &str) -> String {
    if text.chars().count() <= WIDTH {
        return text.to_owned();
    }
    let head: String = text.chars().take(WIDTH - 1).collect();
    format!("{head}…")
}

/// Longest value shown. Unit: characters.
const WIDTH: usize = 116;
