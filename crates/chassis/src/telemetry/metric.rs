//! The metric registry of the process and its Prometheus text.
//!
//! Names are chosen by the program, prefix included; this file only adds `process_*`, which every server has.

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use std::time::Duration;

/// Upper bounds of histogram buckets in seconds, from a cache hit to a long answer. More buckets make every
/// labelled histogram that much larger in each scrape; fewer hide where time goes.
const BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// How often buffered histogram samples are folded into buckets. Rarer lets the buffer grow when nobody
/// scrapes; more often costs wake-ups of an idle process.
const UPKEEP_PERIOD: Duration = Duration::from_secs(30);

/// The registry.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

/// Why there is no registry.
#[derive(Debug, thiserror::Error)]
#[error("install the metric registry: {0}")]
pub struct MetricsError(#[from] metrics_exporter_prometheus::BuildError);

/// Makes the registry that `metrics::counter!` and the like write to. Once per process.
pub fn install_metrics() -> Result<Metrics, MetricsError> {
    Ok(Metrics(PrometheusBuilder::new().set_buckets(BUCKETS)?.install_recorder()?))
}

impl Metrics {
    /// Everything as Prometheus text.
    pub fn render(&self) -> String {
        record_process();
        self.0.render()
    }

    /// Keeps the registry small while nobody scrapes it; runs until dropped.
    pub async fn upkeep(self) {
        let mut ticks = tokio::time::interval(UPKEEP_PERIOD);
        loop {
            ticks.tick().await;
            self.0.run_upkeep();
        }
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
        metrics::histogram!("unit_seconds").record(0.2);
        let text = metrics.render();
        assert!(text.contains("unit_requests_total{path=\"/x\"} 2"), "{text}");
        assert!(text.contains("unit_seconds_bucket{le=\"0.25\"} 1"), "{text}");
        assert!(text.contains("process_resident_memory_bytes "), "{text}");
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
