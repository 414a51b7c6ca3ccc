//! What a person sees when everything is up: lines to copy.

use super::{DEMO, DEMO_USER, secrets};
use crate::serve::Replica;
use std::io::Write as _;
use std::path::Path;

/// Prints how to talk to the fleet, and leaves its address beside the keys for scripts. Keys are read from their files by the printed commands, never printed.
pub(super) fn tell(replica: &Replica, data_dir: &Path, offline: bool) {
    let api = format!("http://{}", replica.api);
    if let Err(error) = secrets::write_private(&data_dir.join("api.url"), &format!("{api}\n")) {
        tracing::warn!(%error, "cannot write down the address");
    }
    let key_file = quoted(&data_dir.join("demo.key").display().to_string());
    let admin_file = quoted(&data_dir.join("keys.env").display().to_string());
    let model = if offline {
        "\n  No provider key is set: the built-in rule set `offline` answers. It is no language model, but it streams,\n  \
         calls tools and remembers. Set LLM_PROVIDER and LLM_API_KEY in the shell or in .env for a real one.\n"
    } else {
        ""
    };
    let text = format!(
        "\n  The fleet is up: {api} (API, /docs) and http://{internal} (metrics).\n  \
         State is kept in {dir}. Ctrl-C stops engines, orchestrator and PostgreSQL;\n  \
         the next `up` goes on with everything.\n{model}\n  \
         Product `{DEMO}` admits its user `{DEMO_USER}`:\n\n    \
         (umask 077; curl -s -X POST {api}/engines/{DEMO_USER}/admit \\\n      \
         -H \"X-Platform-Key: $(cat {key_file})\" -H 'Content-Type: application/json' \\\n      \
         -d '{{\"auto_provision\":true,\"auto_wake\":true}}' > admitted.json)\n\n  \
         and talks to the engine it was given:\n\n    \
         curl -N -X POST \"$(sed 's/.*\"url\":\"\\([^\"]*\\)\".*/\\1/' admitted.json)/execute\" \\\n      \
         -H \"X-Engine-Key: $(sed 's/.*\"api_key\":\"\\([^\"]*\\)\".*/\\1/' admitted.json)\" \\\n      \
         -H 'Content-Type: application/json' \\\n      \
         -d '{{\"message\":\"run ls\",\"task_id\":\"demo-1\"}}'\n\n  \
         Operators look at the fleet with the keys in {admin_file}:\n\n    \
         curl -s {api}/products -H \"X-Admin-Key: $(sed -n 's/^ORCH_ADMIN_KEY=//p' {admin_file})\"\n\n",
        internal = replica.internal,
        dir = data_dir.display(),
    );
    // Nobody is left to be told when standard output is gone.
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// A path as a shell takes it inside the printed commands.
fn quoted(path: &str) -> String {
    let plain = path.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'-' | b'_'));
    if plain { path.to_owned() } else { format!("'{}'", path.replace('\'', r"'\''")) }
}
