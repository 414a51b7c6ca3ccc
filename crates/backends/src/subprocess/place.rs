//! What the calls do on this host: every function here blocks its thread and is short, or says how long it takes.
//!
//! The one invariant: before a process is started, the one before it is confirmed dead, and its successor's intent is
//! written down; a crash between the two is found again by looking through the processes.

use super::directory::{Lock, Root, failed, open_log};
use super::environment;
use super::limits::Delegated;
use super::process::{Held, Life, ProcessId, boot_id, stat};
use super::record::{PID_FILE, PidRecord, forget_exit, remove_if_there, settle};
use super::spawn::{Program, spawn};
use super::watch::Watchers;
use crate::{BackendError, BackendEventKind, EngineEndpoint, Result, Stopped};
use contract::{EngineId, InstanceId, env};
use fleet::observation::{Object, ObjectState, Observation};
use fleet::spec::EngineSpec;
use rustix::fd::AsFd;
use rustix::process::Signal;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// What a process of a lower generation gets between SIGTERM and SIGKILL when it is replaced. Whoever replaces has
/// stopped it with its own grace before; larger eats the deadline of `create`, smaller cuts a drain that is nearly done.
const REPLACE_GRACE: Duration = Duration::from_secs(2);
/// How long SIGKILL may take: a process in the middle of a slow disk write ends when that ends.
const KILL_WAIT: Duration = Duration::from_secs(10);
/// How long whoever is left of a group may take to be gone after SIGKILL. Longer delays a stop by what nobody reaps;
/// shorter says "stopped" while a child of the engine still writes.
const GROUP_WAIT: Duration = Duration::from_millis(500);
/// Between two looks whether a group has been frozen, or is gone.
const POLL: Duration = Duration::from_millis(2);
/// Exit code of something that SIGKILL ended.
const KILLED: i32 = 137;

#[derive(Debug)]
pub(super) struct Place {
    pub(super) instance: InstanceId,
    pub(super) binary: String,
    pub(super) base: BTreeMap<String, String>,
    pub(super) root: Root,
    pub(super) limits: Option<Delegated>,
    pub(super) watchers: Watchers,
    /// Itself, for watchers that must not keep it alive.
    pub(super) own: Weak<Place>,
}

impl Place {
    fn name(id: EngineId) -> String {
        format!("engine-{}", id.short())
    }

    pub(super) fn program(&self, image: &str) -> Result<PathBuf> {
        environment::program(&self.binary, image, self.base.get("PATH").map(String::as_str))
    }

    pub(super) fn environment(&self, spec: &EngineSpec, dir: &Path) -> BTreeMap<String, String> {
        environment::of(&self.base, spec, dir, &self.root.empty_catalog())
    }

    /// Our object in this directory; `Conflict` for somebody else's. Finds a process whose number was never written.
    fn record(&self, id: EngineId, dir: &Path, lock: Option<&Lock>) -> Result<Option<PidRecord>> {
        let read = PidRecord::read(dir).map_err(|e| failed("read engine.pid", &e))?;
        let Some(mut record) = read else { return Ok(None) };
        if record.instance != self.instance {
            return Err(BackendError::Conflict(Self::name(id)));
        }
        if let (0, Some(_)) = (record.process.pid, lock) {
            let found = find(dir, Some(record.generation)).map_err(|e| failed("look for the process", &e))?;
            if let Some(process) = found.into_iter().next() {
                record.process = process;
                record.write(dir).map_err(|e| failed("write engine.pid", &e))?;
            }
        }
        Ok(Some(record))
    }

    pub(super) fn create(&self, spec: &EngineSpec, limit: Duration) -> Result<EngineEndpoint> {
        let id = spec.engine_id;
        if spec.instance != self.instance {
            return Err(BackendError::Refused("specification of another instance".into()));
        }
        let port =
            spec.port.ok_or_else(|| BackendError::Refused("an engine on this place needs a port".into()))?;
        let dir = self.root.existing(id)?.ok_or(BackendError::StorageMissing(id))?;
        let program = self.program(&spec.image)?;
        let lock = self.root.lock("create", &dir, limit)?;
        if let Some(known) = self.record(id, &dir, Some(&lock))? {
            let life = known.process.life().map_err(|e| failed("look at the process", &e))?;
            match (known.generation.cmp(&spec.generation), life) {
                (Ordering::Greater, _) => return Err(BackendError::Conflict(Self::name(id))),
                (Ordering::Equal, Life::Running) => return self.keep(id, &dir, &known),
                (Ordering::Equal, Life::Stopped) => {
                    self.thaw_process(id, &known)?;
                    return self.keep(id, &dir, &known);
                }
                (Ordering::Less, Life::Running | Life::Stopped) => {
                    self.end(id, &dir, &known, REPLACE_GRACE)?
                }
                (Ordering::Equal | Ordering::Less, Life::Dead) => {
                    // an own child must not stay a zombie
                    self.ended(id, &dir, &known, None)?;
                }
            }
        }
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err_and(|e| e.kind() == io::ErrorKind::AddrInUse)
        {
            return Err(BackendError::PortTaken(port));
        }
        let record = self.launch(spec, &dir, &program).map_err(|e| failed("start the engine", &e))?;
        self.confine(id, record.process.pid, spec);
        self.watch(id, &dir, &record);
        self.watchers.tell(id, BackendEventKind::Start);
        Ok(endpoint(&record))
    }

    fn keep(&self, id: EngineId, dir: &Path, record: &PidRecord) -> Result<EngineEndpoint> {
        self.watch(id, dir, record);
        Ok(endpoint(record))
    }

    /// Writes the intent, starts the process, writes who it is.
    fn launch(&self, spec: &EngineSpec, dir: &Path, program: &Path) -> io::Result<PidRecord> {
        let nobody = ProcessId { pid: 0, start_ticks: 0, boot_id: boot_id()? };
        let mut record = PidRecord::new(spec, nobody);
        forget_exit(dir)?;
        let log = open_log(dir)?;
        let nothing = File::open("/dev/null")?;
        record.write(dir)?;
        let spawned = spawn(&Program {
            path: program,
            args: &["serve".to_owned()],
            env: &self.environment(spec, dir),
            dir,
            input: nothing.as_fd(),
            output: log.as_fd(),
            keep: None,
        });
        let pid = match spawned {
            Ok(pid) => pid,
            Err(e) => {
                // nothing came to be, so nothing is left
                PidRecord::remove(dir)?;
                return Err(e);
            }
        };
        // our child cannot be reaped by anybody else, so its entry is there even if it has ended
        record.process = ProcessId::of(pid)?.ok_or_else(|| io::Error::other("the process cannot be seen"))?;
        if let Err(e) = record.write(dir) {
            if let Some(held) = record.process.hold()? {
                held.signal(Signal::KILL)?;
                held.has_ended(KILL_WAIT)?;
                record.process.reap()?;
            }
            return Err(e);
        }
        Ok(record)
    }

    fn confine(&self, id: EngineId, pid: i32, spec: &EngineSpec) {
        let confined = self.limits.as_ref().map(|limits| limits.confine(id, pid, &spec.resources));
        if let Some(Err(e)) = confined {
            tracing::warn!(engine.id = %id, error = %e, "An engine runs without its resource limits");
        }
    }

    /// Watches a process that lives, if nobody does yet.
    fn watch(&self, id: EngineId, dir: &Path, record: &PidRecord) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.watchers.knows(id, &record.process) {
            return;
        }
        // without a descriptor the next look finds out
        let Ok(Some(held)) = record.process.hold() else { return };
        let (place, dir, of) = (Weak::clone(&self.own), dir.to_owned(), record.clone());
        self.watchers.watch(id, record.process.clone(), held.into_fd(), &runtime, move || {
            if let Some(place) = place.upgrade() {
                match place.ended(id, &dir, &of, None) {
                    Ok(Some(exit)) if exit.oom => place.watchers.tell(id, BackendEventKind::Oom),
                    // removed meanwhile, or not to be read: the hint alone is true
                    Ok(_) | Err(_) => {}
                }
                place.watchers.tell(id, BackendEventKind::Die);
            }
        });
    }

    fn ended(
        &self,
        id: EngineId,
        dir: &Path,
        record: &PidRecord,
        known: Option<i32>,
    ) -> Result<Option<super::record::ExitRecord>> {
        let oom = self.limits.as_ref().is_some_and(|limits| limits.ran_out_of_memory(id));
        settle(dir, record, known, oom).map_err(|e| failed("record the end of the engine", &e))
    }

    /// SIGTERM, wait, SIGKILL, until its end is confirmed.
    fn end(&self, id: EngineId, dir: &Path, record: &PidRecord, grace: Duration) -> Result<()> {
        let fail = |e: io::Error| failed("end the process", &e);
        let mut killed = None;
        let held = record.process.hold().map_err(fail)?;
        if let Some(held) = &held {
            if !grace.is_zero() {
                ask_to_end(held).map_err(fail)?;
            }
            if !held.has_ended(grace).map_err(fail)? {
                killed = Some(KILLED);
                held.signal(Signal::KILL).map_err(fail)?;
                if !held.has_ended(KILL_WAIT).map_err(fail)? {
                    let limit_ms = u64::try_from(KILL_WAIT.as_millis()).unwrap_or(u64::MAX);
                    return Err(BackendError::TimedOut { call: "kill", limit_ms });
                }
            }
            // children that outlived it
            held.signal(Signal::KILL).map_err(fail)?;
        }
        self.ended(id, dir, record, killed)?;
        if let Some(held) = held {
            group_gone(&held, &record.process);
        }
        if let Some(limits) = &self.limits {
            limits.release(id);
        }
        Ok(())
    }

    /// Asks the process to end. `Err` carries how it had ended already.
    pub(super) fn ask(&self, id: EngineId) -> Result<std::result::Result<Stopping, Stopped>> {
        let nothing = Ok(Err(Stopped::default()));
        let Some(dir) = self.root.existing(id)? else { return nothing };
        let Some(record) = self.record(id, &dir, None)? else { return nothing };
        if let Some(exit) = self.ended(id, &dir, &record, None)? {
            return Ok(Err(Stopped { killed: false, exit_code: exit.code }));
        }
        let fail = |e: io::Error| failed("stop the engine", &e);
        let Some(held) = record.process.hold().map_err(fail)? else { return nothing };
        ask_to_end(&held).map_err(fail)?;
        Ok(Ok(Stopping { dir, record, held }))
    }

    /// What came of it: whatever is left of the group is killed.
    pub(super) fn stopped(&self, id: EngineId, stopping: &Stopping, killed: bool) -> Result<Stopped> {
        stopping.kill()?;
        let exit = self.ended(id, &stopping.dir, &stopping.record, killed.then_some(KILLED))?;
        group_gone(&stopping.held, &stopping.record.process);
        Ok(Stopped { killed, exit_code: exit.and_then(|exit| exit.code) })
    }

    pub(super) fn remove(&self, id: EngineId, limit: Duration) -> Result<()> {
        let Some(dir) = self.root.existing(id)? else { return Ok(()) };
        let lock = self.root.lock("remove", &dir, limit)?;
        self.remove_locked(id, &dir, &lock)
    }

    fn remove_locked(&self, id: EngineId, dir: &Path, lock: &Lock) -> Result<()> {
        let unreadable =
            PidRecord::read(dir).is_err_and(|e| e.kind() == io::ErrorKind::InvalidData || is_syntax(&e));
        if unreadable {
            // nobody can say what it was; its processes can still be found
            for process in find(dir, None).map_err(|e| failed("look for the process", &e))? {
                if let Some(held) = process.hold().map_err(|e| failed("end the process", &e))? {
                    held.signal(Signal::KILL).map_err(|e| failed("end the process", &e))?;
                }
            }
            return remove_if_there(&dir.join(PID_FILE)).map_err(|e| failed("remove engine.pid", &e));
        }
        let Some(record) = self.record(id, dir, Some(lock))? else { return Ok(()) };
        self.end(id, dir, &record, Duration::ZERO)?;
        PidRecord::remove(dir).map_err(|e| failed("remove engine.pid", &e))?;
        self.watchers.tell(id, BackendEventKind::Destroy);
        Ok(())
    }

    pub(super) fn destroy(&self, id: EngineId, limit: Duration) -> Result<()> {
        if let Some(dir) = self.root.existing(id)? {
            let lock = self.root.lock("destroy", &dir, limit)?;
            self.remove_locked(id, &dir, &lock)?;
        }
        self.root.destroy(id)
    }

    /// Freezes its group and waits until it is.
    pub(super) fn freeze(&self, id: EngineId, limit: Duration) -> Result<()> {
        let Some(dir) = self.root.existing(id)? else { return Ok(()) };
        let Some(record) = self.record(id, &dir, None)? else { return Ok(()) };
        let fail = |e: io::Error| failed("freeze the engine", &e);
        if record.process.life().map_err(fail)? != Life::Running {
            return Ok(());
        }
        let Some(held) = record.process.hold().map_err(fail)? else { return Ok(()) };
        held.signal(Signal::STOP).map_err(fail)?;
        let until = Instant::now() + limit;
        while record.process.life().map_err(fail)? == Life::Running && Instant::now() < until {
            std::thread::park_timeout(POLL);
        }
        self.watchers.tell(id, BackendEventKind::Pause);
        Ok(())
    }

    pub(super) fn thaw(&self, id: EngineId) -> Result<()> {
        let Some(dir) = self.root.existing(id)? else { return Ok(()) };
        let Some(record) = self.record(id, &dir, None)? else { return Ok(()) };
        self.thaw_process(id, &record)
    }

    fn thaw_process(&self, id: EngineId, record: &PidRecord) -> Result<()> {
        let fail = |e: io::Error| failed("thaw the engine", &e);
        if record.process.life().map_err(fail)? == Life::Stopped
            && let Some(held) = record.process.hold().map_err(fail)?
        {
            held.signal(Signal::CONT).map_err(fail)?;
            self.watchers.tell(id, BackendEventKind::Unpause);
        }
        Ok(())
    }

    pub(super) fn observe(&self, id: EngineId) -> Result<Observation> {
        let Some(dir) = self.root.existing(id)? else { return Ok(Observation::Absent) };
        self.observe_dir(id, &dir)
    }

    fn observe_dir(&self, id: EngineId, dir: &Path) -> Result<Observation> {
        let Some(mut record) = self.record(id, dir, None)? else { return Ok(Observation::Absent) };
        if record.process.pid == 0 {
            match self.root.lock("observe", dir, Duration::ZERO) {
                // whoever writes the number is at it
                Err(BackendError::TimedOut { .. }) => return Ok(seen(&record, ObjectState::Created)),
                Err(e) => return Err(e),
                Ok(lock) => match self.record(id, dir, Some(&lock))? {
                    None => return Ok(Observation::Absent),
                    Some(now) => record = now,
                },
            }
        }
        let life = record.process.life().map_err(|e| failed("look at the process", &e))?;
        let state = match life {
            Life::Running => {
                self.watch(id, dir, &record);
                let address = record.port.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
                ObjectState::Running { started_at: record.started_at, restarts: 0, address }
            }
            Life::Stopped => {
                self.watch(id, dir, &record);
                ObjectState::Paused
            }
            Life::Dead => {
                let exit = self.ended(id, dir, &record, None)?;
                let (code, oom, at) = exit.map_or((None, false, None), |e| (e.code, e.oom, Some(e.at)));
                ObjectState::Exited { code, oom, at }
            }
        };
        Ok(seen(&record, state))
    }

    pub(super) fn list(&self) -> Result<Vec<(EngineId, Observation)>> {
        let mut list = Vec::new();
        for (id, dir) in self.root.all()? {
            match self.observe_dir(id, &dir) {
                Ok(Observation::Absent) | Err(BackendError::Conflict(_)) => {}
                Ok(seen) => list.push((id, seen)),
                Err(e) if e.is_transient() => return Err(e),
                // one directory that cannot be read must not hide the others
                Err(e) => tracing::warn!(engine.id = %id, error = %e, "An engine's object cannot be read"),
            }
        }
        self.root.id()?;
        Ok(list)
    }

    /// The storage for a job, locked, when no process of the engine lives.
    pub(super) fn storage_for_job(&self, id: EngineId, limit: Duration) -> Result<(PathBuf, Lock)> {
        let dir = self.root.existing(id)?.ok_or(BackendError::StorageMissing(id))?;
        let lock = self.root.lock("run_job", &dir, limit)?;
        if let Some(record) = self.record(id, &dir, Some(&lock))?
            && record.process.life().map_err(|e| failed("look at the process", &e))? != Life::Dead
        {
            return Err(BackendError::Refused("the engine runs".into()));
        }
        Ok((dir, lock))
    }

    /// Made with a reference to itself.
    pub(super) fn shared(own: impl FnOnce(Weak<Self>) -> Self) -> Arc<Self> {
        Arc::new_cyclic(|weak| own(Weak::clone(weak)))
    }
}

/// A process that was asked to end.
pub(super) struct Stopping {
    dir: PathBuf,
    record: PidRecord,
    held: Held,
}

impl Stopping {
    pub(super) fn kill(&self) -> Result<()> {
        self.held.signal(Signal::KILL).map_err(|e| failed("kill the engine", &e))
    }

    /// Waits for its end.
    pub(super) async fn end(&self) -> Result<()> {
        let fail = |e: io::Error| failed("wait for the engine", &e);
        super::watch::wait_for_end(self.held.watch().map_err(fail)?).await.map_err(fail)
    }
}

/// A frozen group gets the signal when it is thawed, so it never acts in between.
fn ask_to_end(held: &Held) -> io::Result<()> {
    held.signal(Signal::TERM)?;
    held.signal(Signal::CONT)
}

/// Waits for the children that SIGKILL was sent to with the rest of the group. Blocks the thread. Not for those of an
/// adopted engine: its own entry keeps the group until its parent, whoever that is, fetches it.
fn group_gone(held: &Held, leader: &ProcessId) {
    let until = Instant::now() + GROUP_WAIT;
    let reaped = !leader.has_entry().unwrap_or(true);
    while reaped && held.group_is_left() && Instant::now() < until {
        std::thread::park_timeout(POLL);
    }
}

fn is_syntax(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::UnexpectedEof
}

fn endpoint(record: &PidRecord) -> EngineEndpoint {
    EngineEndpoint {
        host: Ipv4Addr::LOCALHOST.to_string(),
        port: record.port.unwrap_or_default(),
        container_id: Some(record.process.name()),
    }
}

fn seen(record: &PidRecord, state: ObjectState) -> Observation {
    Observation::Present(Object {
        state,
        generation: record.generation,
        spec_hash: record.spec_hash.clone(),
        image: record.image.clone(),
        container_id: record.process.name(),
        created_at: Some(record.started_at),
    })
}

/// Engines that serve this directory, found without their record: leaders of a session of their own, at home in the
/// directory, told this generation.
fn find(dir: &Path, generation: Option<i64>) -> io::Result<Vec<ProcessId>> {
    let wanted = generation.map(|number| format!("{}={number}", env::BRAIN_GENERATION));
    let any = format!("{}=", env::BRAIN_GENERATION);
    let home = fs::canonicalize(dir)?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // processes come and go, and others are not ours to look at
        if fs::read_link(format!("/proc/{pid}/cwd")).ok().as_ref() != Some(&home) {
            continue;
        }
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let told = environ.split(|&b| b == 0).any(|pair| match &wanted {
            Some(wanted) => pair == wanted.as_bytes(),
            None => pair.starts_with(any.as_bytes()),
        });
        let leads = stat(pid)?.is_some_and(|stat| stat.session == pid);
        if told && leads {
            found.extend(ProcessId::of(pid)?);
        }
    }
    Ok(found)
}
