//! From a tracing event to one line of text.

use super::{LogFormat, LogLevel, LogSettings, Scrub, Sink};
use contract::Timestamp;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};
use std::fmt::Write as _;
use std::io::Write;
use std::sync::{Arc, Mutex};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::{LookupSpan, Registry};

/// Names of the fields that stand on every line by themselves, in their order; absent ones are null.
pub type IdFields = &'static [&'static str];

/// What one line says.
pub(super) struct Line<'a> {
    pub(super) level: LogLevel,
    pub(super) logger: &'a str,
    /// Name and value of each id field.
    pub(super) ids: Vec<(&'static str, Option<String>)>,
    pub(super) message: &'a str,
    pub(super) extra: &'a Value,
}

/// The order of the fields is the order on the line.
impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(5 + self.ids.len()))?;
        map.serialize_entry("timestamp", &Timestamp::now())?;
        map.serialize_entry("level", self.level.as_str())?;
        map.serialize_entry("logger", self.logger)?;
        for (name, id) in &self.ids {
            map.serialize_entry(name, id)?;
        }
        map.serialize_entry("message", self.message)?;
        map.serialize_entry("extra", self.extra)?;
        map.end()
    }
}

impl Line<'_> {
    /// The JSON form, without line end.
    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|e| format!("{{\"message\":\"log line lost: {e}\"}}"))
    }

    /// The form for people: the same information, control characters escaped so that no value can forge a line.
    fn pretty(&self) -> String {
        let Self { level, logger, message, .. } = self;
        let mut text = format!("{} {:<7} {logger}: {message}", Timestamp::now(), level.as_str());
        for (name, id) in &self.ids {
            if let Some(id) = id {
                let _ = write!(text, " {name}={id}");
            }
        }
        if let Value::Object(fields) = self.extra {
            for (name, value) in fields {
                let _ = write!(text, " {name}={value}");
            }
        }
        let mut safe = String::with_capacity(text.len());
        for c in text.chars() {
            if c.is_control() { safe.extend(c.escape_default()) } else { safe.push(c) }
        }
        safe
    }
}

/// What an event or a span carries.
#[derive(Clone)]
struct Fields {
    ids: Vec<(&'static str, Option<String>)>,
    message: Option<String>,
    extra: Map<String, Value>,
}

impl Fields {
    fn new(names: IdFields) -> Self {
        Self { ids: names.iter().map(|name| (*name, None)).collect(), message: None, extra: Map::new() }
    }

    fn put(&mut self, field: &Field, value: Value) {
        let text = |value: Value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        let name = field.name();
        if name == "message" {
            self.message = Some(text(value));
        } else if let Some((_, id)) = self.ids.iter_mut().find(|(known, _)| *known == name) {
            *id = Some(text(value));
        } else {
            self.extra.insert(name.to_owned(), value);
        }
    }

    /// Takes over what this one does not say itself.
    fn within(&mut self, outer: &Fields) {
        take_ids(&mut self.ids, &outer.ids);
        for (name, value) in &outer.extra {
            self.extra.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
}

/// Fills the ids that are missing.
fn take_ids(ids: &mut [(&'static str, Option<String>)], outer: &[(&'static str, Option<String>)]) {
    for (name, id) in ids.iter_mut().filter(|(_, id)| id.is_none()) {
        *id = outer.iter().find(|(known, _)| known == name).and_then(|(_, id)| id.clone());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.put(field, Value::String(format!("{value:?}")));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::from(value));
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::from(value));
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::from(value));
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Value::from(value));
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, Value::from(value));
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            let _ = write!(text, ": {cause}");
            source = cause.source();
        }
        self.put(field, Value::String(text));
    }
}

/// Writes every event of the wanted level as one line.
pub struct LogLayer {
    level: LogLevel,
    own: &'static [&'static str],
    silent: &'static [&'static str],
    ids: IdFields,
    pretty: bool,
    scrub: Option<Scrub>,
    sink: Sink,
}

impl LogLayer {
    pub(super) fn new(settings: &LogSettings, pretty: bool, sink: Sink) -> Self {
        let LogSettings { level, own, silent, ids, .. } = *settings;
        Self { level, own, silent, ids, pretty, scrub: settings.scrub.clone(), sink }
    }

    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        let krate = metadata.target().split("::").next().unwrap_or_default();
        if self.silent.contains(&krate) {
            return false;
        }
        let floor = if self.own.contains(&krate) { self.level } else { self.level.max(LogLevel::Warning) };
        // Spans of ours are kept at every level: they carry the ids of the lines inside them.
        (metadata.is_span() && self.own.contains(&krate)) || LogLevel::of(metadata.level()) >= floor
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LogLayer {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.wants(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.wants(metadata)
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::new(self.ids);
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::new(self.ids);
        event.record(&mut fields);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.within(outer);
            }
        }
        let line = Line {
            level: LogLevel::of(event.metadata().level()),
            logger: &event.metadata().target().replace("::", "."),
            ids: fields.ids,
            message: fields.message.as_deref().unwrap_or_default(),
            extra: &Value::Object(fields.extra),
        };
        let text = if self.pretty { line.pretty() } else { line.json() };
        let mut text = match &self.scrub {
            Some(scrub) => scrub(text),
            None => text,
        };
        text.push('\n');
        // A log that cannot be written must not stop the work it tells about.
        if let Ok(mut sink) = self.sink.lock() {
            let _ = sink.write_all(text.as_bytes());
            let _ = sink.flush();
        }
    }
}

/// These ids as the spans around the caller have them, as far as this module's layer recorded them.
pub fn current_ids(names: IdFields) -> Vec<(&'static str, Option<String>)> {
    let mut ids: Vec<_> = names.iter().map(|name| (*name, None)).collect();
    tracing::Span::current().with_subscriber(|(id, dispatch)| {
        let span = dispatch.downcast_ref::<Registry>()?.span(id)?;
        for span in span.scope() {
            if let Some(fields) = span.extensions().get::<Fields>() {
                take_ids(&mut ids, &fields.ids);
            }
        }
        Some(())
    });
    ids
}

/// The log lines a test made.
#[derive(Clone, Default)]
pub struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    /// The text so far.
    pub fn text(&self) -> String {
        let bytes = self.0.lock().map(|b| b.clone()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The lines so far, parsed.
    pub fn lines(&self) -> Vec<Value> {
        self.text().lines().map(|l| serde_json::from_str(l).unwrap_or(Value::from(l))).collect()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if let Ok(mut buffer) = self.0.lock() {
            buffer.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// For tests: a subscriber that keeps JSON lines in memory, to be set with
/// `tracing::subscriber::set_default`.
pub fn capture(
    level: LogLevel,
    own: &'static [&'static str],
    ids: IdFields,
) -> (impl Subscriber + Send + Sync, Captured) {
    let captured = Captured::default();
    let settings = LogSettings { level, format: LogFormat::Json, own, silent: &[], ids, scrub: None };
    let subscriber = super::subscriber(&settings, false, Arc::new(Mutex::new(captured.clone())));
    (subscriber, captured)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tracing::{debug, error, info, info_span, warn};

    const IDS: IdFields = &["request_id", "task_id"];

    fn logged(level: LogLevel, work: impl FnOnce()) -> Captured {
        let (subscriber, captured) = capture(level, &["chassis"], IDS);
        tracing::subscriber::with_default(subscriber, work);
        captured
    }

    #[test]
    fn a_line_has_the_documented_keys_in_the_documented_order() {
        let captured = logged(LogLevel::Info, || info!(n = 3, ratio = 0.5, on = true, "Hello \"you\""));
        let text = captured.text();
        let keys = ["timestamp", "level", "logger", "request_id", "task_id", "message", "extra"];
        let places: Vec<usize> =
            keys.iter().map(|k| text.find(&format!("\"{k}\":")).expect("key is there")).collect();
        assert!(places.is_sorted(), "{text}");
        let line = captured.lines().remove(0);
        assert_eq!(line.as_object().expect("is an object").len(), keys.len());
        assert_eq!(line["logger"], "chassis.telemetry.line.tests");
        assert_eq!(line["message"], "Hello \"you\"");
        assert_eq!(line["request_id"], Value::Null);
        assert_eq!(line["extra"], json!({"n": 3, "ratio": 0.5, "on": true}));
    }

    #[test]
    fn ids_come_from_the_event_or_from_the_spans_around_it() {
        let captured = logged(LogLevel::Info, || {
            let _outer = info_span!("request", request_id = "req-1", method = "GET").entered();
            let _inner = info_span!("turn", task_id = tracing::field::Empty).entered();
            info!("before");
            tracing::Span::current().record("task_id", "demo-1");
            info!(method = "mine", "after");
            let wanted = [("request_id", Some("req-1".to_owned())), ("task_id", Some("demo-1".to_owned()))];
            assert_eq!(current_ids(IDS), wanted);
            info!(request_id = %"req-2", "own");
        });
        let lines = captured.lines();
        assert_eq!((&lines[0]["request_id"], &lines[0]["task_id"]), (&json!("req-1"), &Value::Null));
        assert_eq!(
            (&lines[1]["task_id"], &lines[1]["extra"]),
            (&json!("demo-1"), &json!({"method": "mine"}))
        );
        assert_eq!(lines[2]["request_id"], "req-2");
    }

    #[test]
    fn each_program_names_the_ids_that_stand_on_its_lines() {
        let (subscriber, captured) = capture(LogLevel::Info, &["chassis"], &["request_id", "parcel_id"]);
        tracing::subscriber::with_default(subscriber, || {
            let _work = info_span!("work", parcel_id = "p-1", task_id = "t-1").entered();
            info!("sent");
        });
        let line = captured.lines().remove(0);
        assert_eq!((&line["parcel_id"], &line["request_id"]), (&json!("p-1"), &Value::Null));
        // Another program's id is a field like any other.
        assert_eq!((line.get("task_id"), &line["extra"]), (None, &json!({"task_id": "t-1"})));
        let text = captured.text();
        let keys = ["logger", "request_id", "parcel_id", "message"];
        let places = keys.map(|k| text.find(&format!("\"{k}\":")).expect("key is there"));
        assert!(places.is_sorted(), "{text}");
    }

    #[test]
    fn the_floor_holds_for_us_and_others_are_heard_from_warning_on() {
        let captured = logged(LogLevel::Debug, || {
            debug!("ours");
            debug!(target: "hyper::proto", "theirs");
            info!(target: "reqwest", "theirs");
            warn!(target: "rustls", "theirs");
        });
        let got: Vec<_> =
            captured.lines().iter().map(|l| (l["level"].clone(), l["logger"].clone())).collect();
        assert_eq!(
            got,
            [(json!("DEBUG"), json!("chassis.telemetry.line.tests")), (json!("WARNING"), json!("rustls"))]
        );
        let quiet = logged(LogLevel::Error, || {
            warn!("no");
            error!("yes");
        });
        assert_eq!(quiet.lines().len(), 1);
    }

    #[test]
    fn no_value_can_forge_a_second_line() {
        let line = Line {
            level: LogLevel::Info,
            logger: "a",
            ids: vec![("request_id", Some("req-1\n".to_owned()))],
            message: "one\ntwo\u{1b}[31m",
            extra: &json!({"x": "y\nz"}),
        };
        let text = line.pretty();
        assert!(!text.contains(['\n', '\u{1b}']), "{text}");
        let captured = logged(LogLevel::Info, || info!("one\n{{\"level\":\"ERROR\"}}"));
        assert_eq!(captured.lines().len(), 1);
    }

    #[test]
    fn every_line_passes_the_scrubber() {
        let captured = Captured::default();
        let scrub: Scrub = Arc::new(|line| line.replace("hunter2", "[redacted]"));
        let settings = LogSettings {
            level: LogLevel::Info,
            format: LogFormat::Json,
            own: &["chassis"],
            silent: &["rmcp"],
            ids: IDS,
            scrub: Some(scrub),
        };
        let subscriber = super::super::subscriber(&settings, false, Arc::new(Mutex::new(captured.clone())));
        tracing::subscriber::with_default(subscriber, || {
            info!(key = "hunter2", "hunter2");
            tracing::error!(target: "rmcp::transport", "somebody else's words");
        });
        assert!(!captured.text().contains("hunter2"));
        assert_eq!(captured.text().lines().count(), 1, "a silent crate is not heard");
        assert_eq!(captured.lines()[0]["extra"]["key"], "[redacted]");
    }
}
