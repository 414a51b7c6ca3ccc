//! [`Brain`]: the handle the rest of the Engine holds. Cheap to clone; the last one to go closes the file.

use crate::health::Health;
use crate::lock::{self, LockGuard};
use crate::open::{self, MigrationMode, OpenOptions};
use crate::pool::Readers;
use crate::queue::Queue;
use crate::schema::{self, Standing};
use crate::writer::{Writer, file_size, wal_path};
use crate::{Direction, OpenError, Result, Tx, connection, filesystem, meta, migrate};
use contract::Timestamp;
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// An open brain.
#[derive(Clone)]
pub struct Brain(Arc<Inner>);

struct Inner {
    path: PathBuf,
    after_crash: bool,
    schema_version: u32,
    writes: Arc<Queue>,
    readers: Readers,
    health: Arc<Health>,
    running: Mutex<Option<Running>>,
}

struct Running {
    writer: JoinHandle<()>,
    /// Let go only after the connections are closed.
    guard: LockGuard,
}

impl Brain {
    /// Checks the place, takes the lock (waiting `lock_wait`), migrates if allowed, and opens.
    pub fn open(options: OpenOptions) -> std::result::Result<Self, OpenError> {
        open::check_place(&options)?;
        let guard = lock::acquire(&options.path, options.lock_wait)?;
        Self::open_locked(options, guard)
    }

    /// Opens a brain whose lock is held already; a refusal gives the lock back.
    pub fn open_locked(options: OpenOptions, guard: LockGuard) -> std::result::Result<Self, OpenError> {
        if rusqlite::version_number() < connection::OLDEST_SQLITE {
            return Err(OpenError::OldSqlite { found: rusqlite::version() });
        }
        open::check_place(&options)?;
        let (look, looked) = open::look_and_keep(&options.path)?;
        if let (Some(stored), Some(given)) = (look.generation, options.generation)
            && stored > given
        {
            return Err(OpenError::Fenced { stored, given });
        }
        let found = look.version();
        let standing = schema::compare(&look.applied, options.wanted)?;
        refuse_by_schema(standing, found, &options)?;

        open::create_private(&options.path)?;
        if standing == Standing::Behind && found > 0 {
            migrate::snapshot(&options, found)?;
        }
        let path = &options.path;
        let conn = connection::read_write(path).map_err(|e| OpenError::from_sql("open", path, e))?;
        if standing == Standing::Behind {
            schema::run_pending(&conn, found, options.wanted, &options.engine_version)?;
        }
        if found == 0 {
            first_facts(&conn).map_err(|e| OpenError::from_sql("write the first facts of", path, e))?;
        }
        if let Some(given) = options.generation.filter(|g| look.generation.is_none_or(|stored| stored < *g)) {
            // Durable before anything is served: this is what keeps an older process out.
            meta::set(&Tx::new(&conn), meta::GENERATION, &given.to_string())
                .map_err(|e| OpenError::from_sql("store the generation in", path, e))?;
        }
        let closed = meta::get(&Tx::new(&conn), meta::LAST_CLEAN_SHUTDOWN)
            .map_err(|e| OpenError::from_sql("read the facts of", path, e))?;
        let after_crash = found > 0 && closed.is_none();
        let brain = Self::start(&options, conn, looked, guard, after_crash)?;
        brain.0.writes.post("opened", move |tx| if found == 0 { Ok(()) } else { note_opening(tx) });
        Ok(brain)
    }

    fn start(
        options: &OpenOptions,
        conn: Connection,
        looked: Option<Connection>,
        guard: LockGuard,
        after_crash: bool,
    ) -> std::result::Result<Self, OpenError> {
        let writes = Arc::new(Queue::new());
        let health = Arc::new(Health::default());
        let path = &options.path;
        let failed = |e| OpenError::from_io("start a thread for", path, e);
        let readers =
            Readers::start(path, Arc::clone(&health), options.read_connections, looked).map_err(failed)?;
        let writer = Writer::new(conn, Arc::clone(&writes), Arc::clone(&health), path, after_crash)
            .map_err(|e| OpenError::from_sql("watch the write-ahead log of", path, e))?;
        let writer = spawn("brain-write".to_owned(), move || writer.run()).map_err(failed)?;
        Ok(Self(Arc::new(Inner {
            path: path.clone(),
            after_crash,
            schema_version: schema::newest(options.wanted),
            writes,
            readers,
            health,
            running: Mutex::new(Some(Running { writer, guard })),
        })))
    }

    /// Runs `f` in a write transaction and returns after its commit has reached the disk.
    ///
    /// If `f` fails or panics, what it did is undone and nothing else. Dropping the future does not take
    /// the job back. `name` appears in errors.
    pub async fn write<T: Send + 'static>(
        &self,
        name: &'static str,
        f: impl FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.0.writes.call(name, false, f).await
    }

    /// As [`Brain::write`]; once the commit has reached the disk, `then` is told of the value on the writer
    /// thread, in commit order and before the caller is answered. It must be quick: every write waits for it.
    pub async fn write_then<T: Send + 'static>(
        &self,
        name: &'static str,
        f: impl FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
        then: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T> {
        self.0.writes.call_then(name, false, f, Some(Box::new(then))).await
    }

    /// Runs `f` on one instant of the brain. Keep it short: a long reader keeps the WAL from shrinking.
    pub async fn read<T: Send + 'static>(
        &self,
        name: &'static str,
        f: impl FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.0.readers.call(name, f).await
    }

    /// Rewrites the whole file without free pages. Writers wait for it; for the `vacuum` command.
    pub async fn vacuum(&self) -> Result<()> {
        self.0
            .writes
            .call("vacuum", true, |tx| {
                // the copy may be as large as the brain: not in memory
                Ok(tx.conn().execute_batch("PRAGMA temp_store = FILE; VACUUM; PRAGMA temp_store = MEMORY")?)
            })
            .await
    }

    /// True when the process before this one did not close the brain in order.
    pub fn is_after_crash(&self) -> bool {
        self.0.after_crash
    }

    /// The schema this brain has now.
    pub fn schema_version(&self) -> u32 {
        self.0.schema_version
    }

    /// The brain file.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// A commit has failed and none has succeeded since, or the file is damaged.
    pub fn is_failed(&self) -> bool {
        self.0.health.is_failed()
    }

    /// Free space where the brain is; `None` when the system does not say.
    pub fn free_bytes(&self) -> Option<u64> {
        filesystem::free_bytes(&open::parent(&self.0.path))
    }

    /// Bytes of the brain file and of its write-ahead log.
    pub fn file_sizes(&self) -> (u64, u64) {
        (file_size(&self.0.path), file_size(&wal_path(&self.0.path)))
    }

    /// Finishes what was accepted, checkpoints, notes the orderly close and lets the lock go. Blocks;
    /// calling it again does nothing. Later reads and writes get [`crate::Error::Closed`].
    pub fn close(&self) {
        self.0.close();
    }
}

impl std::fmt::Debug for Brain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Brain").field("path", &self.0.path).finish_non_exhaustive()
    }
}

impl Inner {
    fn close(&self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Running { writer, guard }) = running.take() else { return };
        self.readers.close();
        // The writer goes last: only without readers can the WAL be cut and its file removed.
        self.writes.close();
        join(writer);
        drop(guard);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

/// Waits for a thread's end, unless it is this one: a job may have held the last handle.
pub(crate) fn join(thread: JoinHandle<()>) {
    if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
        tracing::error!("a thread of the brain panicked");
    }
}

pub(crate) fn spawn(name: String, f: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name).spawn(f)
}

fn refuse_by_schema(
    standing: Standing,
    found: u32,
    options: &OpenOptions,
) -> std::result::Result<(), OpenError> {
    match (standing, options.migrations) {
        (Standing::Current, _) | (Standing::Behind, MigrationMode::Auto) => Ok(()),
        (Standing::Behind, MigrationMode::Gate) => Err(schema::required(
            Direction::Upgrade,
            found,
            options.wanted,
            "MIGRATIONS=gate; run `september-engine migrate`, then start again",
        )),
        (Standing::Ahead, _) => Err(schema::required(
            Direction::Downgrade,
            found,
            options.wanted,
            "start the newer Engine that migrated it, or restore the pre-migration snapshot",
        )),
    }
}

/// What a brain knows about itself from its first moment.
fn first_facts(conn: &Connection) -> Result<()> {
    let id: String = conn.query_row("SELECT lower(hex(randomblob(16)))", [], |r| r.get(0))?;
    conn.execute_batch("BEGIN IMMEDIATE")?;
    let tx = Tx::new(conn);
    meta::set(&tx, meta::BRAIN_ID, &id)?;
    meta::set(&tx, meta::CREATED_AT, &Timestamp::now().millis().to_string())?;
    Ok(conn.execute_batch("COMMIT")?)
}

/// Counts an opening that no orderly close came before, and takes the closing note away. Rides on the
/// first commits, so opening does not wait for an fsync.
fn note_opening(tx: &Tx<'_>) -> Result<()> {
    if meta::get(tx, meta::LAST_CLEAN_SHUTDOWN)?.is_some() {
        return meta::remove(tx, meta::LAST_CLEAN_SHUTDOWN);
    }
    let before = meta::get(tx, meta::CRASH_COUNT)?.unwrap_or_else(|| "0".to_owned());
    let count: u64 = before.parse().map_err(|_| crate::Error::bad_data("brain_meta.crash_count", &before))?;
    meta::set(tx, meta::CRASH_COUNT, &(count + 1).to_string())
}
