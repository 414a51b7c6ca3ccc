//! `memory`: long-term memory without a running Engine: list, search, forget, export, import.
//!
//! Each takes the brain's lock, so that nothing is written or forgotten behind the back of an Engine; beside a running one
//! they say which operation of its API does the same. The rules are the API's, because the code is.
//!
//! The invariant: what is shown on a terminal holds no control characters, and what is exported no known secret.

mod list;

use super::brain_commands::{exit_of, open_options};
use super::{Exit, emit, emit_json};
use crate::catalog::Shelf;
use crate::config::Config;
use crate::mcp;
use crate::memory::bundle::{self, Imported, Importer, MAX_BYTES, Mode};
use crate::memory::{Hit, Item, Memory, Search, shown, shown_forgotten};
use crate::secrets::Known;
use crate::serve::{catalog_place, platform_tools};
use brain::memory::MemoryId;
use brain::{Brain, MigrationMode, OpenError, OpenOptions};
use bytes::Bytes;
use chassis::terminal;
use clap::Subcommand;
use contract::Timestamp;
use contract::memory::Store;
use futures::TryStreamExt;
use list::{Listing, Much, list};
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Columns of a table when nobody says how wide the terminal is.
const COLUMNS: usize = 160;
/// Most memories of one list, as over the API.
const LIMIT_MAX: u64 = 100;

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the newest memories
    List {
        /// episodes, knowledge or social [default: all three]
        #[arg(long, value_parser = store)]
        store: Option<Store>,
        /// Only what is older than this memory, of its store: the page after it
        #[arg(long, value_name = "ID")]
        before: Option<String>,
        /// How many of each store
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=LIMIT_MAX))]
        limit: u64,
        /// Everything, from the newest to the oldest
        #[arg(long, conflicts_with = "limit")]
        all: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Find memories, best first
    Search {
        /// What about, in any words; empty lists the newest
        query: String,
        /// episodes, knowledge or social [default: all three]
        #[arg(long, value_parser = store)]
        store: Option<Store>,
        /// How many
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=LIMIT_MAX))]
        limit: u64,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Forget a memory for good, and what rests only on it
    Forget {
        /// Its id: ep-…, fact-…, soc-… or rel-…
        #[arg(required_unless_present = "source", conflicts_with = "source")]
        id: Option<String>,
        /// Instead of one memory: everything that came from this source, as `search --json` names it
        #[arg(long)]
        source: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write everything into one file: the portable form of a memory
    Export {
        /// Where to; must not exist yet; - for standard output, as without it
        file: Option<PathBuf>,
    },
    /// Read what `export` wrote; makes the brain if there is none
    Import {
        /// The bundle; - for standard input
        file: PathBuf,
        /// merge adds to what is there, replace takes its place
        #[arg(long, default_value = "merge", value_parser = mode)]
        mode: Mode,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

fn store(word: &str) -> Result<Store, String> {
    Store::parse(word).ok_or_else(|| "episodes, knowledge or social".to_owned())
}

fn mode(word: &str) -> Result<Mode, String> {
    Mode::parse(word).ok_or_else(|| "merge or replace".to_owned())
}

impl Command {
    /// What a running Engine is asked instead.
    const fn of_the_api(&self) -> &'static str {
        match self {
            Command::List { .. } | Command::Search { .. } => "POST /memory/{store}/search",
            Command::Forget { source: None, .. } => "DELETE /memory/{store}/{id}",
            Command::Forget { source: Some(_), .. } => "DELETE /memory?source=SOURCE",
            Command::Export { .. } => "GET /memory/export",
            Command::Import { .. } => "POST /memory/import",
        }
    }
}

/// `memory …`.
pub fn run(config: &Config, command: Command) -> Exit {
    let missing = !config.sqlite_db_path.exists();
    if let (true, Command::Import { file, .. }) = (missing, &command) {
        // Before a brain is made for it.
        if file != Path::new("-")
            && let Err(error) = std::fs::File::open(file)
        {
            return Exit::fail(&format!("read {}: {error}", file.display()));
        }
    } else if missing {
        let place = config.sqlite_db_path.display();
        return Exit::fail(&format!(
            "there is no brain at {place}; the first `serve` or `memory import` makes one"
        ));
    }
    // Looking at memories is no reason to migrate or to wait: whoever holds the brain can be asked.
    let migrations = if missing { MigrationMode::Auto } else { MigrationMode::Gate };
    let options = OpenOptions { migrations, lock_wait: Duration::ZERO, ..open_options(config) };
    let brain = match Brain::open(options) {
        Ok(brain) => brain,
        Err(error) => return refused(&error, &command),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Exit::fail(&format!("could not start: {error}")),
    };
    let done = runtime.block_on(answer(config, &brain, command));
    brain.close();
    done.unwrap_or_else(|error| Exit::fail(&error.to_string()))
}

fn refused(error: &OpenError, command: &Command) -> Exit {
    let hint = match error {
        OpenError::Locked { .. } => {
            format!("; or ask that Engine: {}", command.of_the_api())
        }
        _ => String::new(),
    };
    exit_of(error).because(&format!("{error}{hint}"))
}

async fn answer(config: &Config, brain: &Brain, command: Command) -> brain::Result<Exit> {
    let memory = Arc::new(Memory::new(config, brain.clone()));
    match command {
        Command::List { store, before, limit, all, json } => {
            let much = if all { Much::All } else { Much::Of(number(limit)) };
            list(&memory, Listing { store, before, much, json }).await
        }
        Command::Search { query, store, limit, json } => search(&memory, query, store, limit, json).await,
        Command::Forget { source: Some(source), json, .. } => forget_source(&memory, &source, json).await,
        Command::Forget { id, json, .. } => forget(&memory, &id.unwrap_or_default(), json).await,
        Command::Export { file } => export(config, brain, file).await,
        Command::Import { file, mode, json } => import(config, brain, memory, &file, mode, json).await,
    }
}

fn number(limit: u64) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

async fn search(
    memory: &Memory,
    query: String,
    store: Option<Store>,
    limit: u64,
    json: bool,
) -> brain::Result<Exit> {
    if query.trim().is_empty() {
        let much = Much::Of(number(limit));
        return list(memory, Listing { store, before: None, much, json }).await;
    }
    memory.fill().await?;
    let (limit, now) = (number(limit), Timestamp::now());
    let hits = match store {
        Some(store) => memory.search(Search { store, query, limit, now }).await?,
        None => memory.search_all(&query, limit, now).await?,
    };
    Ok(told(&hits, true, json))
}

fn told(hits: &[Hit], with_score: bool, json: bool) -> Exit {
    if json {
        let all: Vec<Value> =
            hits.iter().map(|hit| shown(&hit.item, with_score.then_some(hit.score))).collect();
        return emit_json(&all);
    }
    if hits.is_empty() {
        return emit("nothing\n");
    }
    let rows: Vec<Vec<String>> = hits.iter().map(|hit| line(&hit.item)).collect();
    emit(&terminal::table(&rows, COLUMNS))
}

/// A memory as a line: its id, when, how far it is trusted, how sure it is, what it says.
fn line(item: &Item) -> Vec<String> {
    let says = match item {
        Item::Episode(e) => format!("{}: {}", e.item.key, e.item.description),
        Item::Fact(f) => format!("{}: {}", f.item.subject, f.item.content),
        Item::Node(n, relations) => {
            let away = relations.iter().filter(|r| r.outgoing);
            let related: Vec<String> =
                away.map(|r| format!("{} {}", r.edge.relation, r.other_name)).collect();
            match related.is_empty() {
                true => format!("{} ({})", n.item.name, n.item.kind),
                false => format!("{} ({}): {}", n.item.name, n.item.kind, related.join(", ")),
            }
        }
    };
    let ended =
        if item.valid_until().is_some_and(|until| until <= Timestamp::now()) { " (ended)" } else { "" };
    let says = terminal::one_line(&terminal::clean(&says), COLUMNS);
    let provenance = item.provenance();
    vec![
        item.id().to_string(),
        item.at().to_string().chars().take(10).collect(),
        provenance.trust.to_string(),
        format!("{:.2}", provenance.confidence),
        format!("{says}{ended}"),
    ]
}

async fn forget(memory: &Memory, id: &str, json: bool) -> brain::Result<Exit> {
    let shown = terminal::one_line(&terminal::clean(id), COLUMNS);
    let Some(parsed) = MemoryId::parse(id) else {
        let text = format!("{shown} is no id of a memory; `memory list` shows them");
        return Ok(Exit::Configuration.because(&text));
    };
    let Some(forgotten) = memory.erase(&parsed).await? else {
        return Ok(Exit::fail(&format!("there is no memory {shown}")));
    };
    if json {
        return Ok(emit_json(&shown_forgotten(&parsed, &forgotten)));
    }
    let named = |text: &str, ids: &[MemoryId]| match ids {
        [] => String::new(),
        ids => format!("{text}: {}\n", ids.iter().map(MemoryId::as_str).collect::<Vec<_>>().join(", ")),
    };
    let passed_over = match forgotten.not_learned_from {
        0 => String::new(),
        turns => format!("turns that said it and are not learned from: {turns}\n"),
    };
    Ok(emit(&format!(
        "forgotten: {id}\n{}{}{}{passed_over}",
        named("and what rested only on it", &forgotten.also_deleted),
        named("the same is still said in, until it is forgotten, too", &forgotten.still_said_in),
        skills_left(forgotten.still_in_skills.iter()),
    )))
}

async fn forget_source(memory: &Memory, source: &str, json: bool) -> brain::Result<Exit> {
    let shown = terminal::one_line(&terminal::clean(source), COLUMNS);
    let Some(erased) = memory.erase_source(source).await? else {
        return Ok(Exit::fail(&format!("no memory came from {shown}")));
    };
    if json {
        return Ok(emit_json(&erased.json(source)));
    }
    let total = terminal::number(erased.total);
    let skills = skills_left(erased.still_in_skills.iter());
    Ok(emit(&format!("forgotten: {total} memories that came from {shown} or rested only on them\n{skills}")))
}

fn skills_left<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<String> = names.map(|name| terminal::clean(name)).collect();
    match names.is_empty() {
        true => String::new(),
        false => {
            format!("learned skills that were made of it, until they are deleted: {}\n", names.join(", "))
        }
    }
}

async fn export(config: &Config, brain: &Brain, file: Option<PathBuf>) -> brain::Result<Exit> {
    let known = Arc::new(Known::new(config.secret_values().iter().map(|secret| secret.expose())));
    mcp::learn_stored(config, brain, &known).await;
    let file = file.filter(|file| file != Path::new("-"));
    let pages = bundle::export(brain.clone(), known, Timestamp::now()).await?;
    futures::pin_mut!(pages);
    let (mut out, partial): (Box<dyn std::io::Write>, Option<PathBuf>) = match &file {
        None => (Box::new(std::io::stdout().lock()), None),
        Some(file) if file.exists() => {
            return Ok(Exit::fail(&format!("{} is there already", file.display())));
        }
        Some(file) => {
            // Under another name until it is whole: half a bundle must not look like one.
            let mut partial = file.clone().into_os_string();
            partial.push(".partial");
            let partial = PathBuf::from(partial);
            let mut options = std::fs::OpenOptions::new();
            match options.write(true).create(true).truncate(true).mode(0o600).open(&partial) {
                Ok(out) => (Box::new(out), Some(partial)),
                Err(error) => return Ok(Exit::fail(&format!("write {}: {error}", partial.display()))),
            }
        }
    };
    let mut bytes: u64 = 0;
    while let Some(page) = pages.try_next().await? {
        if let Err(error) = out.write_all(&page) {
            return Ok(Exit::fail(&format!("write the bundle: {error}")));
        }
        bytes += page.len() as u64;
    }
    if let Err(error) = out.flush() {
        return Ok(Exit::fail(&format!("write the bundle: {error}")));
    }
    let (Some(file), Some(partial)) = (file, partial) else { return Ok(Exit::Success) };
    if let Err(error) = std::fs::rename(&partial, &file) {
        return Ok(Exit::fail(&format!("write {}: {error}", file.display())));
    }
    Ok(emit(&format!("{}\n{}\n", file.display(), terminal::bytes(bytes))))
}

async fn import(
    config: &Config,
    brain: &Brain,
    memory: Arc<Memory>,
    file: &Path,
    mode: Mode,
    json: bool,
) -> brain::Result<Exit> {
    let bundle = match read(file) {
        Ok(bundle) => bundle,
        Err(why) => return Ok(Exit::fail(&why)),
    };
    let tools = match platform_tools(config) {
        Ok(tools) => tools,
        Err(error) => return Ok(Exit::fail(&error.to_string())),
    };
    let (shelf, _) = Shelf::open(catalog_place(config), tools, None, &[]);
    let importer = Importer::new(brain.clone(), memory, Arc::new(shelf));
    importer.resume().await?;
    match importer.import(bundle, mode).await {
        Ok(imported) if json => Ok(emit_json(&imported.json())),
        Ok(imported) => Ok(emit(&summary(&imported))),
        Err(error) => Ok(Exit::fail(&error.to_string())),
    }
}

/// A bundle of at most [`MAX_BYTES`].
fn read(file: &Path) -> Result<Bytes, String> {
    let failed = |error: std::io::Error| format!("read {}: {error}", file.display());
    let from: Box<dyn std::io::Read> = match file == Path::new("-") {
        true => Box::new(std::io::stdin().lock()),
        false => Box::new(std::fs::File::open(file).map_err(failed)?),
    };
    let mut bytes = Vec::new();
    from.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > MAX_BYTES {
        return Err(format!("{} is larger than {}", file.display(), terminal::bytes(MAX_BYTES as u64)));
    }
    Ok(Bytes::from(bytes))
}

fn summary(imported: &Imported) -> String {
    let counts = &imported.counts;
    format!(
        "imported ({}): {} episodes, {} facts, {} people and others, {} skills; {} were there already\n",
        imported.mode.as_str(),
        terminal::number(counts.episodes),
        terminal::number(counts.knowledge),
        terminal::number(counts.social),
        terminal::number(counts.skills),
        terminal::number(imported.skipped_duplicates)
    )
}
