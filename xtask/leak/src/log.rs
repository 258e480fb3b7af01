//! Everything anybody logs, at every level.

use std::{
    fmt::{self, Write},
    sync::{Mutex, Once},
};

use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{Layer, layer::Context, prelude::*};

static LOG: Mutex<String> = Mutex::new(String::new());
static START: Once = Once::new();

/// Starts capturing, for the whole process.
pub fn capture() {
    START.call_once(|| {
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Capture)).unwrap();
    });
}

/// What was logged so far.
pub fn captured() -> String {
    LOG.lock().unwrap().clone()
}

/// Forgets what was logged so far.
pub fn forget() {
    LOG.lock().unwrap().clear();
}

struct Capture;

impl<S: Subscriber> Layer<S> for Capture {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, _: &span::Id, _: Context<'_, S>) {
        attributes.record(&mut Writer);
    }

    fn on_record(&self, _: &span::Id, values: &span::Record<'_>, _: Context<'_, S>) {
        values.record(&mut Writer);
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        event.record(&mut Writer);
    }
}

struct Writer;

impl Visit for Writer {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        writeln!(LOG.lock().unwrap(), "{field}={value:?}").unwrap();
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        writeln!(LOG.lock().unwrap(), "{field}={value}").unwrap();
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        writeln!(LOG.lock().unwrap(), "{field}={value} {value:?}").unwrap();
    }
}
