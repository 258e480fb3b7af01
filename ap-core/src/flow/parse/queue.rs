//! Queues: `queue.enqueue` and `queue.process` (guide §6.2).

use std::time::Duration;

use super::{
    Reader,
    findings::{Member, Members, shorten},
    steps::Place,
};
use crate::flow::{EnqueueStep, ProcessStep, Step, StepKind};

impl Reader<'_> {
    pub(super) fn enqueue(&mut self, members: &mut Members<'_>) -> Option<StepKind> {
        let mut settings = self.settings(members)?;
        let queue = self.queue_name(&mut settings);
        let data = settings.require("data", "an array of jobs, or one job", &mut self.findings);
        let data = data.and_then(|data| self.template(&data));
        self.finish_settings(settings);
        Some(StepKind::Enqueue(EnqueueStep { queue: queue?, data: data? }))
    }

    pub(super) fn process(&mut self, members: &mut Members<'_>, level: usize) -> Option<StepKind> {
        let mut settings = self.settings(members)?;
        let queue = self.queue_name(&mut settings);
        if let Some(mode) = settings.take("mode") {
            mode.word(&[("FIFO", ())], &mut self.findings);
        }
        // The guide's queue configuration has the numbers in `settings`.
        let mut inner = settings.take("settings").and_then(|inner| inner.members(&mut self.findings));
        let [concurrent, delay, retries] = ["maxConcurrent", "delayBetweenJobs", "maxRetries"].map(|name| {
            let outside = settings.take(name);
            let inside = inner.as_mut().and_then(|inner| inner.take(name));
            if let (Some(_), Some(inside)) = (&outside, &inside) {
                let message = format!("`{name}` is given twice, here and beside `settings`");
                self.findings.error(&inside.pointer, "member.conflict", message, "keep one of them");
            }
            outside.or(inside)
        });
        if let Some(inner) = inner {
            inner.finish(&mut self.findings);
        }
        let concurrent = concurrent.and_then(|most| most.count(1, MAX_CONCURRENT, "jobs", &mut self.findings));
        let delay = delay.and_then(|delay| delay.whole(0, MAX_DELAY_MS, "milliseconds", &mut self.findings));
        let retries = retries.and_then(|most| most.count(0, MAX_RETRIES, "additional attempts", &mut self.findings));
        let steps = self.job_steps(&mut settings, level);
        self.finish_settings(settings);
        Some(StepKind::Process(ProcessStep {
            queue: queue?,
            max_concurrent: concurrent.unwrap_or(1),
            delay_between_jobs: Duration::from_millis(delay.unwrap_or(0)),
            max_retries: retries.unwrap_or(0),
            steps,
        }))
    }

    fn job_steps(&mut self, settings: &mut Members<'_>, level: usize) -> Vec<Step> {
        match (settings.take("steps"), settings.take("action")) {
            (Some(list), None) => self.step_list(&list, level + 1),
            (None, Some(action)) => self.step(&action, level + 1, Place::Job).into_iter().collect(),
            (Some(list), Some(_)) => {
                let message = "a job has `steps` or one `action`, not both";
                self.findings.error(&list.pointer, "member.conflict", message, "move the action into `steps`");
                Vec::new()
            }
            (None, None) => {
                let fix = "add `action` or `steps`: what is done with a job";
                self.findings.error(settings.pointer(), "member.required", "`action` is missing", fix);
                Vec::new()
            }
        }
    }

    /// Reads the name of a queue: 1 to 128 visible ASCII characters, no template.
    fn queue_name(&mut self, settings: &mut Members<'_>) -> Option<String> {
        let name = settings.require("queueName", "the name of the queue", &mut self.findings)?;
        self.queue_text(&name)
    }

    fn queue_text(&mut self, name: &Member<'_>) -> Option<String> {
        let text = name.text(&mut self.findings)?;
        let fit = (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if fit && !text.contains("{{") {
            return Some(text.to_owned());
        }
        let message = format!("`{}` is no name of a queue", shorten(text));
        let fix = format!("write 1 to {MAX_NAME} visible ASCII characters, and no template");
        self.findings.error(&name.pointer, "queue.name", message, fix);
        None
    }
}

const MAX_CONCURRENT: u32 = 1_000;
const MAX_DELAY_MS: u64 = 3_600_000;
const MAX_NAME: usize = 128;
const MAX_RETRIES: u32 = 19;
