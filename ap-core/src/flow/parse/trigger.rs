//! Triggers: webhook, schedule, manual, piece.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{
    Reader,
    findings::{Member, Members, shorten},
    steps::{is_action_name, is_piece_name},
};
use crate::{
    expr::{Key, Template},
    flow::{
        CatchUp, Overlap, PollSettings, ScheduleSettings, StepName, TriggerDefinition, TriggerKind,
        WebhookAuthentication, WebhookHandshake, WebhookSettings,
    },
};

impl Reader<'_> {
    /// Reads the triggers of the flow: `triggers`, or the guide's §2.1 form `trigger` beside `settings`.
    pub(super) fn triggers(&mut self, document: &mut Members<'_>) -> Option<Vec<TriggerDefinition>> {
        let single = document.take("trigger");
        let list = document.take("triggers");
        match (single, list) {
            (Some(single), None) => {
                let word = single.text(&mut self.findings)?;
                let kind = self.trigger_kind(word, &single.pointer, document);
                let name = StepName::numbered("trigger", 0);
                Some(vec![TriggerDefinition { name, pointer: String::new(), kind: kind? }])
            }
            (None, Some(list)) => self.trigger_list(&list),
            (Some(single), Some(_)) => {
                let message = "`trigger` and `triggers` are both given";
                self.findings.error(&single.pointer, "member.conflict", message, "keep `triggers`");
                None
            }
            (None, None) => {
                let fix = "add `triggers`: an array of one, such as `[{\"type\": \"webhook\"}]`";
                self.findings.error(document.pointer(), "member.required", "`triggers` is missing", fix);
                None
            }
        }
    }

    fn trigger_list(&mut self, list: &Member<'_>) -> Option<Vec<TriggerDefinition>> {
        let Some(elements) = list.elements() else {
            self.findings.wrong_type(list, "an array of one trigger");
            return None;
        };
        let mut triggers = Vec::new();
        for element in elements {
            if self.findings.is_full() {
                break;
            }
            triggers.extend(self.trigger(&element));
        }
        Some(triggers)
    }

    fn trigger(&mut self, trigger: &Member<'_>) -> Option<TriggerDefinition> {
        let mut members = trigger.members(&mut self.findings)?;
        let name = self.name(&mut members);
        if let Some(name) = members.take("displayName") {
            self.display_name(&name);
        }
        let word = members.require("type", "`webhook`, `schedule`, `manual` or `piece.trigger`", &mut self.findings)?;
        let text = word.text(&mut self.findings)?;
        let kind = self.trigger_kind(text, &word.pointer, &mut members);
        members.finish(&mut self.findings);
        let name = name.unwrap_or_else(|| StepName::numbered("trigger", 0));
        Some(TriggerDefinition { name, pointer: trigger.pointer.clone(), kind: kind? })
    }

    fn trigger_kind(&mut self, word: &str, pointer: &str, members: &mut Members<'_>) -> Option<TriggerKind> {
        let settings = members.take("settings");
        match word {
            "webhook" => self.webhook(settings.as_ref(), members).map(TriggerKind::Webhook),
            "schedule" => self.schedule(settings.as_ref()),
            "manual" => {
                if let Some(settings) = settings {
                    settings.members(&mut self.findings)?.finish(&mut self.findings);
                }
                Some(TriggerKind::Manual)
            }
            _ => match word.split_once('.') {
                Some((piece, trigger)) if is_piece_name(piece) && is_action_name(trigger) => {
                    let (interval, input) = self.poll(settings, members)?;
                    let (piece, trigger) = (piece.to_owned(), trigger.to_owned());
                    Some(TriggerKind::Piece(PollSettings { piece, trigger, input, interval }))
                }
                _ => {
                    let message = format!("`{}` is no trigger type", shorten(word));
                    let fix = "write `webhook`, `schedule`, `manual` or `piece.trigger`";
                    self.findings.error(pointer, "trigger.type.invalid", message, fix);
                    None
                }
            },
        }
    }

    /// Reads what is polled with and how often.
    fn poll(&mut self, settings: Option<Member<'_>>, beside: &mut Members<'_>) -> Option<(Duration, Template)> {
        let interval = beside.take("pollIntervalMs");
        let interval =
            interval.map(|time| time.whole(MIN_INTERVAL_MS, MAX_INTERVAL_MS, "milliseconds", &mut self.findings));
        let none = Value::Object(Map::new());
        let settings = settings.unwrap_or_else(|| Member { value: &none, pointer: String::new() });
        settings.members(&mut self.findings)?;
        let input = self.template(&settings)?;
        Some((Duration::from_millis(interval.unwrap_or(Some(DEFAULT_INTERVAL_MS))?), input))
    }

    fn schedule(&mut self, settings: Option<&Member<'_>>) -> Option<TriggerKind> {
        let mut schedule = ScheduleSettings {
            cron_expression: None,
            timezone: None,
            overlap: Overlap::default(),
            catch_up: CatchUp::default(),
        };
        if let Some(settings) = settings {
            let mut settings = settings.members(&mut self.findings)?;
            let [expression, zone] = ["cronExpression", "timezone"].map(|name| {
                let text = settings.take(name).and_then(|text| text.text(&mut self.findings));
                text.map(str::to_owned)
            });
            let overlap = settings.take("overlap").and_then(|word| word.word(&OVERLAPS, &mut self.findings));
            let catch_up = settings.take("catchUp").and_then(|word| word.word(&CATCH_UPS, &mut self.findings));
            settings.finish(&mut self.findings);
            (schedule.cron_expression, schedule.timezone) = (expression, zone);
            (schedule.overlap, schedule.catch_up) = (overlap.unwrap_or_default(), catch_up.unwrap_or_default());
        }
        Some(TriggerKind::Schedule(schedule))
    }

    fn webhook(&mut self, settings: Option<&Member<'_>>, beside: &mut Members<'_>) -> Option<WebhookSettings> {
        // The guide's §2.3 writes the handshake beside the settings.
        let outer = beside.take("handshakeConfiguration");
        let mut authentication = Some(WebhookAuthentication::None);
        let (mut dedupe_key, mut inner) = (None, None);
        if let Some(settings) = settings {
            let mut settings = settings.members(&mut self.findings)?;
            if let Some(given) = settings.take("authentication") {
                authentication = self.authentication(&given);
            }
            dedupe_key = settings.take("dedupeKey").and_then(|key| self.dedupe_key(&key));
            inner = settings.take("handshakeConfiguration");
            settings.finish(&mut self.findings);
        }
        if let (Some(_), Some(inner)) = (&outer, &inner) {
            let message = "`handshakeConfiguration` is given twice";
            self.findings.error(&inner.pointer, "member.conflict", message, "keep one of them");
        }
        let handshake = inner.or(outer).and_then(|handshake| self.handshake(&handshake));
        Some(WebhookSettings { authentication: authentication?, dedupe_key, handshake })
    }

    fn authentication(&mut self, given: &Member<'_>) -> Option<WebhookAuthentication> {
        let mut members = given.members(&mut self.findings)?;
        let fix = "`NONE`, `HEADER`, `BASIC_AUTH` or `HMAC_SHA256`";
        let kind = members.require("type", fix, &mut self.findings)?;
        let authentication = match kind.text(&mut self.findings)? {
            "NONE" => Some(WebhookAuthentication::None),
            "HEADER" => self.header_authentication(&mut members),
            "BASIC_AUTH" => self.basic_authentication(&mut members),
            "HMAC_SHA256" => self.hmac_authentication(&mut members),
            other => {
                let message = format!("`{}` is no kind of authentication", shorten(other));
                self.findings.error(&kind.pointer, "trigger.authentication.type", message, format!("write {fix}"));
                return None; // Which members belong here depends on the type.
            }
        };
        members.finish(&mut self.findings);
        authentication
    }

    fn header_authentication(&mut self, members: &mut Members<'_>) -> Option<WebhookAuthentication> {
        let header_name = self.header_name(members);
        let expected_value = self.secret(members, "expectedValue");
        Some(WebhookAuthentication::Header { header_name: header_name?, expected_value: expected_value? })
    }

    fn basic_authentication(&mut self, members: &mut Members<'_>) -> Option<WebhookAuthentication> {
        let username = members.require("username", "text, or a reference to a connection", &mut self.findings);
        let username = username.and_then(|username| self.username(&username));
        let password = self.secret(members, "password");
        Some(WebhookAuthentication::Basic { username: username?, password: password? })
    }

    fn hmac_authentication(&mut self, members: &mut Members<'_>) -> Option<WebhookAuthentication> {
        let header_name = self.header_name(members);
        let secret = self.secret(members, "secret");
        let base64 = members.take("encoding").is_some_and(|encoding| match encoding.text(&mut self.findings) {
            Some("hex") | None => false,
            Some("base64") => true,
            Some(_) => {
                let message = "this is no encoding of a signature";
                self.findings.error(&encoding.pointer, "option.range", message, "write `hex` or `base64`");
                false
            }
        });
        let prefix = members.take("prefix").map(|prefix| self.signature_prefix(&prefix));
        let prefix = match prefix {
            None => String::new(),
            Some(prefix) => prefix?,
        };
        Some(WebhookAuthentication::Hmac { header_name: header_name?, secret: secret?, base64, prefix })
    }

    fn signature_prefix(&mut self, prefix: &Member<'_>) -> Option<String> {
        let text = prefix.text(&mut self.findings)?;
        if text.len() > MAX_PREFIX || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let message = format!("a prefix has at most {MAX_PREFIX} visible ASCII characters");
            self.findings.error(&prefix.pointer, "option.range", message, "write what stands before the signature");
            return None;
        }
        Some(text.to_owned())
    }

    fn header_name(&mut self, members: &mut Members<'_>) -> Option<String> {
        let name = members.require("headerName", "the header that carries the secret", &mut self.findings)?;
        let text = name.text(&mut self.findings)?;
        if is_header_name(text) {
            return Some(text.to_owned());
        }
        let message = format!("`{}` is no header name", shorten(text));
        let fix = "write a name such as `X-API-Key`";
        self.findings.error(&name.pointer, "trigger.header.invalid", message, fix);
        None
    }

    fn username(&mut self, username: &Member<'_>) -> Option<Template> {
        let text = username.text(&mut self.findings)?;
        let template = self.template(username)?;
        let literal = template.as_literal().is_some();
        let fit = !text.is_empty() && !text.contains(':') && !text.chars().any(char::is_control);
        if (literal && fit) || is_connection_reference(&template) {
            return Some(template);
        }
        self.findings.error(
            &username.pointer,
            "trigger.username.invalid",
            "a user name is text without a colon (RFC 7617 §2), or one reference to a connection",
            "write the name, or `{{connections.name}}`",
        );
        None
    }

    /// A secret: exactly one reference to a connection.
    fn secret(&mut self, members: &mut Members<'_>, name: &'static str) -> Option<Template> {
        let secret = members.require(name, "a reference such as `{{connections.name}}`", &mut self.findings)?;
        secret.text(&mut self.findings)?;
        let template = self.template(&secret)?;
        if is_connection_reference(&template) {
            return Some(template);
        }
        self.findings.error(
            &secret.pointer,
            "trigger.secret.literal",
            "a secret in the flow could be read by everyone who can see the flow",
            format!("store it in a connection and write `{name}` as one reference, `{{{{connections.name}}}}`"),
        );
        None
    }

    /// Where the sender's delivery id stands: a header, or a JSON pointer into the body.
    fn dedupe_key(&mut self, key: &Member<'_>) -> Option<String> {
        let text = key.text(&mut self.findings)?;
        let usable = if text.starts_with('/') { is_pointer(text) } else { is_header_name(text) };
        if usable && text.len() <= MAX_DEDUPE_KEY {
            return Some(text.to_owned());
        }
        let message = "this is neither a header name nor a JSON pointer (RFC 6901)";
        let fix = format!("write `X-Delivery-Id` or `/event/id`, at most {MAX_DEDUPE_KEY} bytes");
        self.findings.error(&key.pointer, "trigger.dedupe.invalid", message, fix);
        None
    }

    fn handshake(&mut self, handshake: &Member<'_>) -> Option<WebhookHandshake> {
        let mut members = handshake.members(&mut self.findings)?;
        let strategy = members.require("strategy", "how the sender verifies", &mut self.findings);
        let (parameter, alias) = (members.take("challengeParameter"), members.take("paramName"));
        if let (Some(_), Some(alias)) = (&parameter, &alias) {
            let message = "`challengeParameter` and `paramName` mean the same";
            self.findings.error(&alias.pointer, "member.conflict", message, "keep one of them");
        }
        members.finish(&mut self.findings);
        let strategy = strategy?.text(&mut self.findings)?;
        let parameter = parameter.or(alias).and_then(|parameter| parameter.text(&mut self.findings));
        // The reference product's way to say that there is no handshake.
        (strategy != "NONE")
            .then(|| WebhookHandshake { strategy: strategy.to_owned(), parameter: parameter.map(str::to_owned) })
    }
}

/// Whether the template is exactly `{{connections.name}}` or `{{connections.name.field}}`.
fn is_connection_reference(template: &Template) -> bool {
    template.as_path().is_some_and(|path| {
        let names = path.segments.iter().all(|segment| matches!(segment.key, Key::Name(_)) && !segment.optional);
        let root = path.segments.first().is_some_and(|root| root.key == Key::Name("connections".to_owned()));
        names && root && (2..=3).contains(&path.segments.len())
    })
}

/// RFC 9110 §5.6.2: a token.
fn is_header_name(name: &str) -> bool {
    (1..=MAX_HEADER_NAME).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// RFC 6901 §3, not the empty pointer.
fn is_pointer(text: &str) -> bool {
    let mut rest = text.bytes().peekable();
    rest.next_if_eq(&b'/').is_some()
        && std::iter::from_fn(|| rest.next().map(|byte| (byte, rest.peek().copied())))
            .all(|(byte, next)| byte != b'~' || matches!(next, Some(b'0' | b'1')))
}

const CATCH_UPS: [(&str, CatchUp); 3] = [("all", CatchUp::All), ("none", CatchUp::None), ("one", CatchUp::One)];
const DEFAULT_INTERVAL_MS: u64 = 300_000;
const MAX_DEDUPE_KEY: usize = 256;
const MAX_HEADER_NAME: usize = 256;
const MAX_INTERVAL_MS: u64 = 86_400_000;
const MAX_PREFIX: usize = 64;
const MIN_INTERVAL_MS: u64 = 1_000;
const OVERLAPS: [(&str, Overlap); 3] = [("allow", Overlap::Allow), ("queue", Overlap::Queue), ("skip", Overlap::Skip)];
