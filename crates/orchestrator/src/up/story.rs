//! What a person sees when everything is up: lines to copy, and the files they read.
//!
//! Keys are never printed, and never an argument of a printed command: arguments are public on a machine.

use super::{DEMO, DEMO_USER, Place, secrets};
use crate::config::{VARS, is_secret_name};
use crate::serve::Replica;
use chassis::config::Source as _;
use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Everything a command needs to find this fleet: `bap-engine --env-file … status`.
const FLEET: &str = "fleet.env";
/// Names what engines are given besides.
const PASSED: &str = "ORCH_ENGINE_ENV_PASSTHROUGH";
/// Headers with keys, as `curl -H @file` reads them.
const DEMO_HEADER: &str = "demo.header";
const ADMIN_HEADER: &str = "admin.header";
/// Where the API listens; there only while `up` runs.
const URL: &str = "api.url";
/// What was printed, for who asks again beside a running `up`; the file means nothing without the address.
const INSTRUCTIONS: &str = "instructions.txt";
/// What the printed admission is answered.
const ADMITTED: &str = "admitted.json";

/// The written address of the API: gone when `up` ends, because somebody else may listen there by then, and would be
/// sent a key. One that a killed `up` left is gone when the next one begins.
pub(super) struct Address(PathBuf);

impl Address {
    /// Nobody listens yet.
    pub(super) fn of(data_dir: &Path) -> Self {
        let path = data_dir.join(URL);
        let _ = std::fs::remove_file(&path);
        Self(path)
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        // Nothing can be done about a directory that is gone; whoever asks looks at the lock first.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Leaves address, headers and variables beside the keys, and prints how to talk to the fleet.
pub(super) fn tell(replica: &Replica, place: &Place, trouble: Option<&str>) {
    let api = format!("http://{}", replica.api);
    if let Err(error) = leave(place, &api) {
        tracing::warn!(%error, "cannot write down how to reach the fleet");
    }
    let text = text(&api, &replica.internal.to_string(), place, trouble);
    if let Err(error) = secrets::write_private(&place.data_dir.join(INSTRUCTIONS), &text) {
        tracing::warn!(%error, "cannot write down the instructions");
    }
    // Nobody is left to be told when standard output is gone.
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

fn leave(place: &Place, api: &str) -> io::Result<()> {
    let dir = &place.data_dir;
    let demo = std::fs::read_to_string(dir.join("demo.key"))?;
    let demo = demo.trim();
    let admin = place.layers.get("ORCH_ADMIN_KEY").unwrap_or_default();
    secrets::write_private(&dir.join(URL), &format!("{api}\n"))?;
    secrets::write_private(&dir.join(DEMO_HEADER), &format!("X-Platform-Key: {demo}\n"))?;
    secrets::write_private(&dir.join(ADMIN_HEADER), &format!("X-Admin-Key: {admin}\n"))?;
    let mut values: BTreeMap<String, String> = VARS
        .iter()
        .filter(|var| var.name.starts_with("ORCH_"))
        .filter_map(|var| Some((var.name.to_owned(), place.layers.get(var.name)?)))
        .collect();
    // What engines are given besides, so that a look at this fleet misses nothing; the provider's key stays where it is,
    // and who looks from another shell is not warned that it is missing there.
    let passed = place.layers.get(PASSED).unwrap_or_default();
    let passed: Vec<&str> = passed.split(',').map(str::trim).filter(|name| !is_secret_name(name)).collect();
    values.insert(PASSED.to_owned(), passed.join(","));
    values.extend(passed.iter().filter_map(|name| Some(((*name).to_owned(), place.layers.get(name)?))));
    values.insert("BAP_URL".to_owned(), api.to_owned());
    values.insert("BAP_PLATFORM_KEY".to_owned(), demo.to_owned());
    secrets::write_private(&dir.join(FLEET), &secrets::env_text(&values))
}

fn text(api: &str, internal: &str, place: &Place, trouble: Option<&str>) -> String {
    let dir = &place.data_dir;
    let file = |name: &str| quoted(&dir.join(name).display().to_string());
    let model = if place.offline {
        "\n  No provider key is set: the built-in rule set `offline` answers. It is no language model, but it streams,\n  \
         calls tools and remembers. Set LLM_PROVIDER and LLM_API_KEY in the shell or in .env for a real one.\n"
    } else {
        ""
    };
    let database = match &place.database {
        Some(at) => format!("  The database lies in {}.\n", at.display()),
        None => "  The database is the one of ORCH_DATABASE_URL.\n".to_owned(),
    };
    format!(
        "\n  The fleet is up: {api} (API, /docs) and http://{internal} (metrics).\n  \
         State is kept in {state}. Ctrl-C stops engines, orchestrator and PostgreSQL;\n  \
         the next `up` goes on with everything.\n{database}{model}{trouble}\n  \
         Product `{DEMO}` admits its user `{DEMO_USER}`:\n\n    \
         (umask 077; curl -s -X POST {api}/engines/{DEMO_USER}/admit \\\n      \
         -H @{demo} -H 'Content-Type: application/json' \\\n      \
         -d '{{\"auto_provision\":true,\"auto_wake\":true}}' > {admitted})\n\n  \
         and talks to the engine it was given:\n\n    \
         sed -n 's/.*\"api_key\":\"\\([^\"]*\\)\".*/X-Engine-Key: \\1/p' {admitted} | \\\n      \
         curl -N -X POST \"$(sed 's/.*\"url\":\"\\([^\"]*\\)\".*/\\1/' {admitted})/execute\" \\\n      \
         -H @- -H 'Content-Type: application/json' \\\n      \
         -d '{{\"message\":\"run ls\",\"task_id\":\"demo-1\"}}'\n\n  \
         Operators look at the fleet with the keys in {keys}:\n\n    \
         curl -s {api}/products -H @{admin}\n\n    \
         {program} --env-file {fleet} status\n\n",
        state = dir.display(),
        trouble = trouble.unwrap_or_default(),
        demo = file(DEMO_HEADER),
        admin = file(ADMIN_HEADER),
        admitted = file(ADMITTED),
        keys = file(secrets::KEYS),
        fleet = file(FLEET),
        program = program(),
    )
}

/// What to say about a demo engine that does not come up.
pub(super) fn no_demo_engine(why: &str, log: &Path, data_dir: &Path) -> String {
    format!(
        "\n  The demo user's engine did not come up: {why}.\n  \
         The fleet serves all the same. Read {log}, and ask why with\n\n    \
         {program} --env-file {fleet} explain {DEMO}/{DEMO_USER}\n\n  \
         When what it says is put right, the admission below starts it; so does\n\n    \
         {program} --env-file {fleet} engines start {DEMO}/{DEMO_USER}\n",
        log = log.display(),
        program = program(),
        fleet = quoted(&data_dir.join(FLEET).display().to_string()),
    )
}

/// This program as a shell finds it.
fn program() -> String {
    let own = std::env::current_exe().ok();
    own.map_or_else(|| "bap-engine".to_owned(), |path| quoted(&path.display().to_string()))
}

/// A path as a shell takes it inside the printed commands.
pub(super) fn quoted(path: &str) -> String {
    let plain = path.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'-' | b'_'));
    if plain { path.to_owned() } else { format!("'{}'", path.replace('\'', r"'\''")) }
}
