//! Reads the part of PromQL that our alerts and dashboards are written in, and follows labels through it.
//!
//! It refuses what it does not know: an unknown function, a metric that is not declared, a label the metric does not
//! have, `rate` of a gauge, a bare counter. What it accepts, Prometheus accepts, too.

use orchestrator::telemetry::catalog::{METRICS, MetricKind};
use std::collections::BTreeSet;

/// Labels that Prometheus itself puts on everything it scrapes.
const SCRAPED: [&str; 2] = ["instance", "job"];
/// What stands for a duration in Grafana.
const GRAFANA_RATE_INTERVAL: &str = "$__rate_interval";

/// What an expression is.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// A number.
    Scalar,
    /// Values now, with these labels.
    Instant(BTreeSet<String>),
    /// Values over time, with these labels.
    Range(BTreeSet<String>),
}

/// Reads an expression; the error says what is wrong.
pub fn check(text: &str) -> Result<Kind, String> {
    let mut reader = Reader { text, at: 0 };
    let kind = reader.expression(0).map_err(|what| format!("{what} in: {text}"))?;
    reader.space();
    if reader.at < text.len() {
        return Err(format!("what is {:?} in: {text}", &text[reader.at..]));
    }
    Ok(kind)
}

/// Is this a duration of Prometheus, one number and one unit?
pub fn is_duration(text: &str) -> bool {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    digits.parse::<u32>().is_ok() && ["s", "m", "h", "d", "w"].contains(&&text[digits.len()..])
}

/// Binary operators, loosest first.
const OPERATORS: [&[&str]; 5] =
    [&["or"], &["and", "unless"], &["==", "!=", "<=", ">=", "<", ">"], &["+", "-"], &["*", "/", "%"]];
const AGGREGATIONS: [&str; 6] = ["sum", "min", "max", "avg", "count", "topk"];

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    /// Takes a sign or a whole word.
    fn take(&mut self, wanted: &str) -> bool {
        self.space();
        let Some(after) = self.rest().strip_prefix(wanted) else { return false };
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if wanted.ends_with(is_word) && after.starts_with(is_word) {
            return false;
        }
        self.at += wanted.len();
        true
    }

    fn need(&mut self, wanted: &str) -> Result<(), String> {
        if self.take(wanted) {
            Ok(())
        } else {
            Err(format!("{wanted:?} is missing before {:?}", self.rest()))
        }
    }

    fn word(&mut self) -> Option<&'a str> {
        self.space();
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let word = &rest[..end];
        if word.is_empty() || word.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        self.at += end;
        Some(word)
    }

    fn expression(&mut self, level: usize) -> Result<Kind, String> {
        let Some(operators) = OPERATORS.get(level) else { return self.term() };
        let mut left = self.expression(level + 1)?;
        while let Some(operator) = operators.iter().find(|operator| self.take(operator)) {
            let right = self.expression(level + 1)?;
            let sets = ["or", "and", "unless"].contains(operator);
            left = match (left, right) {
                (Kind::Range(_), _) | (_, Kind::Range(_)) => return Err(format!("{operator} on a range")),
                (Kind::Scalar, _) | (_, Kind::Scalar) if sets => {
                    return Err(format!("{operator} on a number"));
                }
                (Kind::Scalar, Kind::Scalar) => Kind::Scalar,
                (Kind::Instant(labels), Kind::Scalar) | (Kind::Scalar, Kind::Instant(labels)) => {
                    Kind::Instant(labels)
                }
                // Series meet when all their labels are equal.
                (Kind::Instant(a), Kind::Instant(b)) if a == b => Kind::Instant(a),
                (Kind::Instant(a), Kind::Instant(b)) => {
                    return Err(format!("{operator} of {a:?} and {b:?} never meets"));
                }
            };
        }
        Ok(left)
    }

    fn term(&mut self) -> Result<Kind, String> {
        if self.take("(") {
            let inner = self.expression(0)?;
            self.need(")")?;
            return Ok(inner);
        }
        self.space();
        if self.rest().starts_with(|c: char| c.is_ascii_digit()) {
            let end = self
                .rest()
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '.')
                .unwrap_or(self.rest().len());
            let number = &self.rest()[..end];
            number.parse::<f64>().map_err(|_| format!("{number} is no number"))?;
            self.at += end;
            return Ok(Kind::Scalar);
        }
        let word = self.word().ok_or_else(|| format!("an expression is missing before {:?}", self.rest()))?;
        if AGGREGATIONS.contains(&word) {
            return self.aggregation(word);
        }
        match word {
            "rate" | "increase" => {
                self.need("(")?;
                let inside = self.selector_of_a_counter()?;
                self.need(")")?;
                Ok(Kind::Instant(inside))
            }
            "absent" => {
                self.need("(")?;
                self.instant()?;
                self.need(")")?;
                // The labels of equality matchers would stay; ours have none.
                Ok(Kind::Instant(BTreeSet::new()))
            }
            "histogram_quantile" => {
                self.need("(")?;
                if self.expression(0)? != Kind::Scalar {
                    return Err("a quantile is a number".to_owned());
                }
                self.need(",")?;
                let mut labels = self.instant()?;
                self.need(")")?;
                if !labels.remove("le") {
                    return Err("a quantile needs the label le".to_owned());
                }
                Ok(Kind::Instant(labels))
            }
            metric if metric.starts_with("bap_") => {
                let series = self.selector(metric)?;
                if series.grows {
                    return Err(format!("{metric} only grows: it means something under rate or increase"));
                }
                if series.range { Ok(Kind::Range(series.labels)) } else { Ok(Kind::Instant(series.labels)) }
            }
            other => Err(format!("{other} is neither a metric of ours nor a function we use")),
        }
    }

    fn instant(&mut self) -> Result<BTreeSet<String>, String> {
        match self.expression(0)? {
            Kind::Instant(labels) => Ok(labels),
            other => Err(format!("values are needed, not {other:?}")),
        }
    }

    fn aggregation(&mut self, name: &str) -> Result<Kind, String> {
        let by = if self.take("by") { Some(self.names()?) } else { None };
        self.need("(")?;
        if name == "topk" {
            if self.expression(0)? != Kind::Scalar {
                return Err("topk needs a number".to_owned());
            }
            self.need(",")?;
        }
        let labels = self.instant()?;
        self.need(")")?;
        if name == "topk" {
            return Ok(Kind::Instant(labels));
        }
        let by = by.unwrap_or_default();
        match by.iter().find(|label| !labels.contains(*label)) {
            Some(missing) => Err(format!("by ({missing}), which is none of {labels:?}")),
            None => Ok(Kind::Instant(by)),
        }
    }

    fn names(&mut self) -> Result<BTreeSet<String>, String> {
        self.need("(")?;
        let mut names = BTreeSet::new();
        loop {
            names.insert(self.word().ok_or("a label is missing")?.to_owned());
            if self.take(")") {
                return Ok(names);
            }
            self.need(",")?;
        }
    }

    fn selector_of_a_counter(&mut self) -> Result<BTreeSet<String>, String> {
        let metric = self.word().ok_or("a metric is missing")?;
        let series = self.selector(metric)?;
        match (series.grows, series.range) {
            (true, true) => Ok(series.labels),
            (false, _) => Err(format!("{metric} goes up and down: rate and increase mean nothing")),
            (true, false) => Err(format!("{metric} needs a range")),
        }
    }

    fn selector(&mut self, metric: &str) -> Result<Series, String> {
        let mut series = declared(metric)?;
        if self.take("{") {
            while !self.take("}") {
                let label = self.word().ok_or("a label is missing")?;
                if !series.labels.contains(label) {
                    return Err(format!("{metric} has no label {label}"));
                }
                if !["=~", "!~", "!=", "="].iter().any(|operator| self.take(operator)) {
                    return Err(format!("how {label} is matched is missing"));
                }
                self.need("\"")?;
                let end = self.rest().find('"').ok_or("a text does not end")?;
                if self.rest()[..end].contains('\\') {
                    return Err("escapes are not used here".to_owned());
                }
                self.at += end + 1;
                if !self.take(",") && !self.rest().trim_start().starts_with('}') {
                    return Err(format!("what follows {label}"));
                }
            }
        }
        if self.take("[") {
            let end = self.rest().find(']').ok_or("a range does not end")?;
            let duration = &self.rest()[..end];
            if duration != GRAFANA_RATE_INTERVAL && !is_duration(duration) {
                return Err(format!("{duration} is no duration"));
            }
            self.at += end + 1;
            series.range = true;
        }
        Ok(series)
    }
}

struct Series {
    labels: BTreeSet<String>,
    grows: bool,
    range: bool,
}

/// The series behind a name; a histogram is three of them.
fn declared(name: &str) -> Result<Series, String> {
    let parts = ["_bucket", "_sum", "_count"];
    let histogram = METRICS.iter().filter(|m| m.kind == MetricKind::Histogram).find_map(|m| {
        let part = name.strip_prefix(m.name)?;
        parts.contains(&part).then_some((m, part))
    });
    let plain = METRICS.iter().filter(|m| m.kind != MetricKind::Histogram).find(|m| m.name == name);
    let (metric, part) = match (plain, histogram) {
        (Some(metric), _) => (metric, ""),
        (None, Some(found)) => found,
        (None, None) => return Err(format!("{name} is not in the catalog")),
    };
    let mut labels: BTreeSet<String> =
        metric.labels.iter().chain(&SCRAPED).map(|l| (*l).to_owned()).collect();
    if part == "_bucket" {
        labels.insert("le".to_owned());
    }
    Ok(Series { labels, grows: metric.kind != MetricKind::Gauge, range: false })
}

#[test]
fn what_prometheus_would_refuse_or_never_answer_is_refused() {
    for good in [
        "max(bap_health_ok) < 1 or absent(bap_health_ok)",
        "sum(rate(bap_engine_restarts_total[5m])) * 60 > 5",
        "histogram_quantile(0.99, sum by (le, mode) (rate(bap_wake_overhead_seconds_bucket{mode=\"stop\"}[$__rate_interval])))",
        "topk(3, max by (loop) (bap_loop_lag_seconds))",
        "40e9 < max(bap_audit_log_bytes)",
    ] {
        check(good).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
    for bad in [
        "",
        "max(bap_no_such_metric)",
        "max(bap_health_ok",
        "max(bap_health_ok) 1",
        "max(bap_health_ok) < ",
        "rate(bap_health_ok[5m])",
        "rate(bap_engine_restarts_total)",
        "sum(bap_engine_restarts_total)",
        "sum(bap_engine_restarts_total[5m])",
        "sum(rate(bap_engine_restarts_total[5x]))",
        "sum by (reason) (rate(bap_engine_restarts_total[5m]))",
        "bap_engines{state=\"failed\"}",
        "bap_engines{status \"failed\"}",
        "sum(bap_engines) / max by (product) (bap_engines)",
        "histogram_quantile(0.5, sum by (mode) (rate(bap_wake_overhead_seconds_bucket[5m])))",
        "max(bap_wake_overhead_seconds)",
        "median(bap_engines)",
        "1 or 2",
    ] {
        assert!(check(bad).is_err(), "{bad:?} was accepted as {:?}", check(bad));
    }
}
