//! The policy of a product: what its JSON may say, and the decisions that follow from it.
//!
//! It refuses what it does not know: a key at any depth that is not listed is named and refused, because a mistyped
//! limit is no limit. The invariant: a decision is made before any state changes.

use crate::image;
use crate::quota::QuotaExceeded;
use crate::rate::{Gcra, RetryAfterSeconds};
use crate::spec::Resources;
use contract::{FleetCode, FleetError};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::fmt;
use std::time::Duration;

/// Largest `max_engines`. Larger is no product any more; the count is one index scan of so many rows.
pub const MAX_ENGINES: u64 = 1_000_000;
/// Largest `rate_limit_rpm`. Larger would be no limit on any machine.
pub const MAX_RPM: u64 = 10_000_000;
/// Largest `idle_sleep_after_s`: 30 days. Larger means "never", for which there is 0.
pub const MAX_IDLE_S: u64 = 2_592_000;
/// Most `allowed_versions`. More would make a decision per provision a search.
pub const MAX_VERSIONS: usize = 100;
/// Least memory limit in MiB. With less an engine does not boot.
pub const MIN_MEMORY_MB: u64 = 256;
/// Largest memory limit in MiB: 1 PiB. More would overflow a daemon's byte count.
pub const MAX_MEMORY_MB: u64 = 1 << 30;
/// Least share of processors. With less an engine misses its boot deadline.
pub const MIN_CPUS: f64 = 0.1;
/// Largest share of processors; what the host has caps it further.
pub const MAX_CPUS: f64 = 4096.0;
/// Least number of processes and threads. With less an engine cannot run its tools.
pub const MIN_PIDS: u64 = 64;
/// Most processes and threads: the kernel's own limit.
pub const MAX_PIDS: u64 = 4_194_304;

/// What a product may do. `Default` = `{}`: no limits of its own.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Policy {
    /// Engines of the product in any state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_engines: Option<u64>,
    /// Admissions per minute over all users.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit_rpm: Option<u32>,
    /// Overrides `ORCH_IDLE_SLEEP_AFTER_S`; 0 = never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_sleep_after_s: Option<u64>,
    /// Images the product may ask for; one trailing `*` is a prefix match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_versions: Option<Vec<String>>,
    /// Limits of objects made from now on.
    #[serde(skip_serializing_if = "PartialResources::is_empty")]
    pub resources: PartialResources,
}

/// Limits that a policy sets; the rest are the defaults.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct PartialResources {
    /// Memory in MiB; 0 = no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u64>,
    /// Processors; 0 = no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// Processes and threads; 0 = no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
}

impl PartialResources {
    /// Sets nothing.
    pub const fn is_empty(&self) -> bool {
        self.memory_mb.is_none() && self.cpus.is_none() && self.pids.is_none()
    }
}

/// One field and what is wrong with it: an element of `details.fields`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldProblem {
    /// Path of the field, e.g. `policy.resources.cpus`.
    pub field: String,
    /// What would be right.
    pub problem: String,
}

impl FieldProblem {
    /// A problem of one field.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }

    /// All problems as one 400.
    pub fn refuse(problems: &[FieldProblem]) -> FleetError {
        let named: Vec<String> =
            problems.iter().map(|p| format!("field `{}`: {}", p.field, p.problem)).collect();
        FleetError::new(FleetCode::InvalidRequest, named.join("; ")).with(json!({ "fields": problems }))
    }
}

impl Policy {
    /// Reads a policy, or names everything that is wrong with it.
    pub fn parse(value: &Value) -> Result<Policy, Vec<FieldProblem>> {
        let Some(map) = value.as_object() else {
            return Err(vec![FieldProblem::new("policy", "expected an object")]);
        };
        let mut problems = Vec::new();
        let known = ["max_engines", "rate_limit_rpm", "idle_sleep_after_s", "allowed_versions", "resources"];
        name_strangers("policy", map, &known, &mut problems);
        let max_engines = integer("policy", map, "max_engines", 0, MAX_ENGINES, &mut problems);
        let rpm = integer("policy", map, "rate_limit_rpm", 1, MAX_RPM, &mut problems);
        let idle_sleep_after_s = integer("policy", map, "idle_sleep_after_s", 0, MAX_IDLE_S, &mut problems);
        let allowed_versions = map.get("allowed_versions").map(|value| versions(value, &mut problems));
        let resources = match map.get("resources") {
            None => PartialResources::default(),
            Some(Value::Object(map)) => resources(map, &mut problems),
            Some(_) => {
                problems.push(FieldProblem::new("policy.resources", "expected an object"));
                PartialResources::default()
            }
        };
        if !problems.is_empty() {
            return Err(problems);
        }
        let rate_limit_rpm = rpm.and_then(|rpm| u32::try_from(rpm).ok());
        Ok(Policy { max_engines, rate_limit_rpm, idle_sleep_after_s, allowed_versions, resources })
    }
}

fn name_strangers(path: &str, map: &Map<String, Value>, known: &[&str], problems: &mut Vec<FieldProblem>) {
    for key in map.keys().filter(|key| !known.contains(&key.as_str())) {
        problems.push(FieldProblem::new(format!("{path}.{key}"), "unrecognised key"));
    }
}

fn integer(
    path: &str,
    map: &Map<String, Value>,
    key: &str,
    min: u64,
    max: u64,
    problems: &mut Vec<FieldProblem>,
) -> Option<u64> {
    let value = map.get(key)?;
    let number = value.as_u64().filter(|number| (min..=max).contains(number));
    if number.is_none() {
        problems
            .push(FieldProblem::new(format!("{path}.{key}"), format!("expected an integer {min}..{max}")));
    }
    number
}

fn versions(value: &Value, problems: &mut Vec<FieldProblem>) -> Vec<String> {
    let Some(items) = value.as_array().filter(|items| items.len() <= MAX_VERSIONS) else {
        let problem = format!("expected an array of at most {MAX_VERSIONS} strings");
        problems.push(FieldProblem::new("policy.allowed_versions", problem));
        return Vec::new();
    };
    let mut versions = Vec::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        match item.as_str().filter(|text| is_version_pattern(text)) {
            Some(text) => versions.push(text.to_owned()),
            None => problems.push(FieldProblem::new(
                format!("policy.allowed_versions[{at}]"),
                "expected an image reference of at most 255 characters, or its beginning followed by one `*`",
            )),
        }
    }
    versions
}

fn is_version_pattern(text: &str) -> bool {
    match text.strip_suffix('*') {
        Some(prefix) => {
            text.len() <= image::MAX_BYTES
                && prefix.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'*' | b'"' | b'\\'))
        }
        None => image::parse(text).is_ok(),
    }
}

fn resources(map: &Map<String, Value>, problems: &mut Vec<FieldProblem>) -> PartialResources {
    let path = "policy.resources";
    name_strangers(path, map, &["memory_mb", "cpus", "pids"], problems);
    let mut limit = |key: &str, min: u64, max: u64| {
        let value = map.get(key)?;
        let number = value.as_u64().filter(|&number| number == 0 || (min..=max).contains(&number));
        if number.is_none() {
            let problem = format!("expected 0 or an integer {min}..{max}");
            problems.push(FieldProblem::new(format!("{path}.{key}"), problem));
        }
        number
    };
    let memory_mb = limit("memory_mb", MIN_MEMORY_MB, MAX_MEMORY_MB);
    let pids = limit("pids", MIN_PIDS, MAX_PIDS);
    let cpus = map.get("cpus").and_then(|value| {
        let number = value.as_f64().filter(|&cpus| cpus == 0.0 || (MIN_CPUS..=MAX_CPUS).contains(&cpus));
        if number.is_none() {
            let problem = format!("expected 0 or a number {MIN_CPUS}..{MAX_CPUS}");
            problems.push(FieldProblem::new(format!("{path}.cpus"), problem));
        }
        number
    });
    PartialResources { memory_mb, cpus, pids }
}

/// Why a product is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denial {
    /// The image is not one the product may ask for.
    VersionNotAllowed {
        /// What it asked for.
        version: String,
    },
    /// The product is being deleted.
    ProductDeleting,
    /// Over `rate_limit_rpm`.
    RateLimited(RetryAfterSeconds),
    /// At `max_engines`.
    QuotaExceeded(QuotaExceeded),
}

impl Denial {
    /// The code the caller gets.
    pub const fn code(&self) -> FleetCode {
        match self {
            Denial::VersionNotAllowed { .. } | Denial::ProductDeleting => FleetCode::PolicyDenied,
            Denial::RateLimited(_) => FleetCode::RateLimited,
            Denial::QuotaExceeded(_) => FleetCode::QuotaExceeded,
        }
    }

    /// The refusal as an answer.
    pub fn error(&self) -> FleetError {
        let error = FleetError::new(self.code(), self.to_string());
        match self {
            Denial::RateLimited(RetryAfterSeconds(seconds)) => error.retry_after(*seconds),
            Denial::QuotaExceeded(_) => error.retry_after(QUOTA_RETRY_S),
            Denial::VersionNotAllowed { .. } | Denial::ProductDeleting => error,
        }
    }
}

/// `Retry-After` of a 429 for the quota. Only a destroyed engine or a changed policy helps, which takes a person or
/// a job; shorter would be polled in vain, longer would outlast the change.
pub const QUOTA_RETRY_S: u64 = 60;

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Denial::VersionNotAllowed { version } => {
                write!(f, "Version {version} is not allowed by the policy.")
            }
            Denial::ProductDeleting => f.write_str("The product is being deleted."),
            Denial::RateLimited(retry) => fmt::Display::fmt(retry, f),
            Denial::QuotaExceeded(quota) => fmt::Display::fmt(quota, f),
        }
    }
}

/// A decision and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyDecision {
    /// Go on?
    pub allowed: bool,
    /// Why not.
    pub reason: Option<Denial>,
}

impl PolicyDecision {
    const ALLOWED: PolicyDecision = PolicyDecision { allowed: true, reason: None };

    fn denied(reason: Denial) -> Self {
        Self { allowed: false, reason: Some(reason) }
    }

    /// The decision as a result.
    pub fn into_result(self) -> Result<(), Denial> {
        match self.reason {
            None => Ok(()),
            Some(reason) => Err(reason),
        }
    }
}

/// The deployment's side of every decision.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyEngine {
    /// `ORCH_ENGINE_IMAGE`.
    pub default_image: String,
    /// `ORCH_ENGINE_MEMORY_MB`, `ORCH_ENGINE_CPUS`, `ORCH_ENGINE_PIDS`.
    pub default_resources: Resources,
    /// `ORCH_IDLE_SLEEP_AFTER_S`; zero = off.
    pub idle_sleep_after: Duration,
    /// `ORCH_ADMIT_LEASE_S`.
    pub admit_lease: Duration,
    /// Processors of the backend's host, when known; a larger share is capped.
    pub host_cpus: Option<u32>,
}

impl PolicyEngine {
    /// May this product have an engine of this version (`None` = the default)? The quota is asked in the
    /// transaction that holds the product row ([`crate::quota::check`]).
    pub fn check_provision(&self, policy: &Policy, deleting: bool, version: Option<&str>) -> PolicyDecision {
        if deleting {
            return PolicyDecision::denied(Denial::ProductDeleting);
        }
        match version {
            Some(version) if !self.allows_version(policy, version) => {
                PolicyDecision::denied(Denial::VersionNotAllowed { version: version.to_owned() })
            }
            Some(_) | None => PolicyDecision::ALLOWED,
        }
    }

    /// May this admit pass? Counts it if so.
    pub fn check_admit(&self, policy: &Policy, rate: &mut Gcra, now_ms: i64) -> PolicyDecision {
        let Some(rpm) = policy.rate_limit_rpm else {
            *rate = Gcra::default();
            return PolicyDecision::ALLOWED;
        };
        match rate.check(rpm, now_ms) {
            Ok(()) => PolicyDecision::ALLOWED,
            Err(retry) => PolicyDecision::denied(Denial::RateLimited(retry)),
        }
    }

    /// The default image is always allowed; any other needs `allowed_versions`, or, without that key, the same
    /// repository.
    pub fn allows_version(&self, policy: &Policy, version: &str) -> bool {
        if version == self.default_image {
            return true;
        }
        if image::parse(version).is_err() {
            return false;
        }
        match &policy.allowed_versions {
            Some(patterns) => patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(prefix) => version.starts_with(prefix),
                None => version == pattern,
            }),
            None => image::same_repository(&self.default_image, version),
        }
    }

    /// Effective idle time; `None` = never put to sleep for lack of use. At least as long as an admit lease.
    pub fn idle_after(&self, policy: &Policy) -> Option<Duration> {
        let asked = policy.idle_sleep_after_s.map_or(self.idle_sleep_after, Duration::from_secs);
        (!asked.is_zero()).then(|| asked.max(self.admit_lease))
    }

    /// Effective limits of an object made now.
    pub fn resources(&self, policy: &Policy) -> Resources {
        let (set, default) = (policy.resources, self.default_resources);
        let cpus = set.cpus.unwrap_or(default.cpus);
        Resources {
            memory_mb: set.memory_mb.unwrap_or(default.memory_mb),
            cpus: self.host_cpus.map_or(cpus, |host| cpus.min(f64::from(host))),
            pids: set.pids.unwrap_or(default.pids),
        }
    }
}
