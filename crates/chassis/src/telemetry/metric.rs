//! The metric registry of the process and its Prometheus text.
//!
//! Names are chosen by the program, prefix included; this file only adds `process_*`, which every server has.
//! Own code rather than the usual exporter: that one calibrates a clock of its own at start, which costs a
//! millisecond of processor time on an idle machine and 200 on a busy one, and wants a timer for upkeep.

use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// Upper bounds of histogram buckets in seconds, from a cache hit to a long answer. More buckets make every
/// labelled histogram that much larger in each scrape; fewer hide where time goes.
const BUCKETS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// The registry.
#[derive(Clone)]
pub struct Metrics(Arc<Registry>);

/// There is a registry already.
#[derive(Debug, thiserror::Error)]
#[error("a metric registry is installed already")]
pub struct MetricsError;

/// Makes the registry that `metrics::counter!` and the like write to. Once per process.
pub fn install_metrics() -> Result<Metrics, MetricsError> {
    let registry = Arc::new(Registry::default());
    metrics::set_global_recorder(Arc::clone(&registry)).map_err(|_| MetricsError)?;
    Ok(Metrics(registry))
}

impl Metrics {
    /// Everything as Prometheus text, sorted by name.
    pub fn render(&self) -> String {
        record_process();
        self.0.render()
    }

    /// Takes back every gauge of these names, whatever its labels: what a process no longer knows must not be
    /// shown as if it did.
    pub fn forget_gauges(&self, names: &[&str]) {
        let mut all = self.0.gauges.0.write().unwrap_or_else(PoisonError::into_inner);
        all.retain(|key, _| !names.contains(&key.name()));
    }
}

#[derive(Default)]
struct Registry {
    counters: Table<AtomicU64>,
    /// The bits of a float.
    gauges: Table<AtomicU64>,
    histograms: Table<Buckets>,
}

/// Metrics of one type by name and labels. Only gauges are ever removed, by name: labels have few values.
#[derive(Default)]
struct Table<T>(RwLock<HashMap<Key, Arc<T>>>);

impl<T: Default> Table<T> {
    fn get(&self, key: &Key) -> Arc<T> {
        if let Some(found) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(key) {
            return Arc::clone(found);
        }
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(key.clone()).or_default())
    }

    /// Calls `write` for each metric, after one line that tells the type of each name.
    fn render(&self, kind: &str, out: &mut String, write: impl Fn(&mut String, &Key, &T)) {
        let mut all: Vec<(Key, Arc<T>)> = {
            let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
            all.iter().map(|(key, value)| (key.clone(), Arc::clone(value))).collect()
        };
        all.sort_by(|a, b| a.0.cmp(&b.0));
        let mut before = None;
        for (key, value) in &all {
            if before != Some(key.name()) {
                let _ = writeln!(out, "# TYPE {} {kind}", key.name());
                before = Some(key.name());
            }
            write(out, key, value);
        }
    }
}

/// A histogram: how many values fell below each bound and above the one before.
#[derive(Default)]
struct Buckets {
    /// The last one counts what is above every bound.
    counts: [AtomicU64; BUCKETS.len() + 1],
    /// The bits of a float.
    sum: AtomicU64,
}

impl HistogramFn for Buckets {
    fn record(&self, value: f64) {
        self.counts[BUCKETS.partition_point(|bound| *bound < value)].fetch_add(1, Ordering::Relaxed);
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        // the closure always answers, so there is no failure
        let _ = self.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}

impl Registry {
    fn render(&self) -> String {
        let mut out = String::new();
        self.counters.render("counter", &mut out, |out, key, value| {
            line(out, key, "", None, &value.load(Ordering::Relaxed));
        });
        self.gauges.render("gauge", &mut out, |out, key, value| {
            line(out, key, "", None, &f64::from_bits(value.load(Ordering::Relaxed)));
        });
        self.histograms.render("histogram", &mut out, |out, key, value| {
            let mut below = 0;
            for (place, count) in value.counts.iter().enumerate() {
                below += count.load(Ordering::Relaxed);
                let bound = BUCKETS.get(place).map_or_else(|| "+Inf".to_owned(), f64::to_string);
                line(out, key, "_bucket", Some(&bound), &below);
            }
            line(out, key, "_sum", None, &f64::from_bits(value.sum.load(Ordering::Relaxed)));
            line(out, key, "_count", None, &below);
        });
        out
    }
}

/// One sample: name, labels, value.
fn line(out: &mut String, key: &Key, suffix: &str, bound: Option<&str>, value: &dyn std::fmt::Display) {
    let labels = key.labels().map(|l| (l.key(), l.value())).chain(bound.map(|b| ("le", b)));
    let mut separator = '{';
    out.push_str(key.name());
    out.push_str(suffix);
    for (name, value) in labels {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(out, "{separator}{name}=\"{value}\"");
        separator = ',';
    }
    let end = if separator == ',' { "}" } else { "" };
    let _ = writeln!(out, "{end} {value}");
}

impl Recorder for Registry {
    // help texts are in the reference documentation, not in every scrape
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.counters.get(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.gauges.get(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.histograms.get(key))
    }
}

/// The process as the kernel sees it. What cannot be read is left out.
fn record_process() {
    if let Ok(stat) = std::fs::read_to_string("/proc/self/stat")
        && let Some(process) = parse_stat(&stat)
    {
        let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
        let page = rustix::param::page_size() as f64;
        metrics::gauge!("process_cpu_seconds_total").set(process.cpu_ticks as f64 / ticks_per_second);
        metrics::gauge!("process_resident_memory_bytes").set(process.resident_pages as f64 * page);
        metrics::gauge!("process_virtual_memory_bytes").set(process.virtual_bytes as f64);
        metrics::gauge!("process_threads").set(process.threads as f64);
        if let Some(boot) = boot_time() {
            metrics::gauge!("process_start_time_seconds")
                .set(boot + process.start_ticks as f64 / ticks_per_second);
        }
    }
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        metrics::gauge!("process_open_fds").set(entries.count() as f64);
    }
}

struct Process {
    cpu_ticks: u64,
    threads: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

/// Fields of `/proc/<pid>/stat`; the name in parentheses may hold blanks, so counting starts behind it.
fn parse_stat(stat: &str) -> Option<Process> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |place: usize| fields.get(place).and_then(|f| f.parse::<u64>().ok());
    Some(Process {
        cpu_ticks: number(11)? + number(12)?,
        threads: number(17)?,
        start_ticks: number(19)?,
        virtual_bytes: number(20)?,
        resident_pages: number(21)?,
    })
}

/// When the machine started, in seconds since the epoch.
fn boot_time() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|l| l.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_holds_our_names_and_the_process() {
        let metrics = install_metrics().expect("is the first in this process");
        metrics::counter!("unit_requests_total", "path" => "/x").increment(2);
        metrics::counter!("unit_requests_total", "path" => "a\"b\\c\nd").increment(1);
        metrics::histogram!("unit_seconds").record(0.2);
        metrics::histogram!("unit_seconds").record(0.25);
        metrics::histogram!("unit_seconds").record(1e9);
        let text = metrics.render();
        assert!(text.contains("unit_requests_total{path=\"/x\"} 2\n"), "{text}");
        assert!(text.contains("unit_requests_total{path=\"a\\\"b\\\\c\\nd\"} 1\n"), "{text}");
        assert_eq!(text.matches("# TYPE unit_requests_total counter\n").count(), 1, "{text}");
        assert!(text.contains("unit_seconds_bucket{le=\"0.1\"} 0\n"), "{text}");
        assert!(text.contains("unit_seconds_bucket{le=\"0.25\"} 2\n"), "{text}");
        assert!(
            text.contains("unit_seconds_bucket{le=\"+Inf\"} 3\nunit_seconds_sum 1000000000.45\n"),
            "{text}"
        );
        assert!(text.contains("unit_seconds_count 3\n"), "{text}");
        assert!(text.contains("process_resident_memory_bytes "), "{text}");

        metrics::gauge!("unit_gone", "of" => "a").set(1.0);
        metrics::gauge!("unit_stays").set(2.0);
        metrics.forget_gauges(&["unit_gone"]);
        let text = metrics.render();
        assert!(!text.contains("unit_gone") && text.contains("unit_stays 2\n"), "{text}");
    }

    #[test]
    fn a_process_name_with_blanks_and_brackets_does_not_confuse_the_reader() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 40 2 0 0 20 0 9 0 555 4096 3 18446744073709551615";
        let process = parse_stat(stat).expect("is well formed");
        assert_eq!(
            (process.cpu_ticks, process.threads, process.start_ticks, process.resident_pages),
            (42, 9, 555, 3)
        );
    }
}
