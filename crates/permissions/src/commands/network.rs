//! Names of hosts a command would talk to, and what downloads write.

use super::{below, copies::is_remote, touch_all};
use crate::analysis::How;
use crate::args::{Args, Options};
use crate::pattern::UNKNOWN;
use crate::policy::with_port;
use crate::walk::Walker;
use crate::words::Field;

const CURL: Options = Options {
    short: "AbcCdDeEFHKmoPQrTtuUwxXyYz",
    long: &[
        "output",
        "output-dir",
        "dump-header",
        "cookie-jar",
        "cookie",
        "data",
        "data-raw",
        "data-binary",
        "data-urlencode",
        "header",
        "user",
        "user-agent",
        "request",
        "proxy",
        "form",
        "config",
        "url",
        "max-time",
        "upload-file",
        "write-out",
        "trace",
        "trace-ascii",
        "stderr",
        "resolve",
        "connect-to",
        "cacert",
        "cert",
        "key",
        "retry",
        "referer",
        "range",
        "json",
        "etag-save",
        "etag-compare",
        "hsts",
        "alt-svc",
    ],
};
const WGET: Options = Options {
    short: "oaOPeiBtTwQUADRIXl",
    long: &[
        "output-file",
        "append-output",
        "output-document",
        "directory-prefix",
        "input-file",
        "base",
        "tries",
        "timeout",
        "wait",
        "quota",
        "user-agent",
        "accept",
        "reject",
        "domains",
        "header",
        "post-data",
        "post-file",
        "save-cookies",
        "load-cookies",
        "execute",
        "level",
        "warc-file",
        "rejected-log",
    ],
};
/// Programs whose operands are hosts.
const SPEAKING: [&str; 20] = [
    "curl",
    "wget",
    "ssh",
    "nc",
    "ncat",
    "netcat",
    "telnet",
    "ping",
    "ftp",
    "http",
    "https",
    "xh",
    "dig",
    "nslookup",
    "host",
    "traceroute",
    "mosh",
    "aria2c",
    "socat",
    "openssl",
];

/// Notes hosts and downloads.
pub(super) fn hosts(walker: &mut Walker<'_>, name: &str, arguments: &[Field]) {
    let mut found: Vec<String> = Vec::new();
    for field in arguments {
        let shown = field.shown();
        for (at, _) in shown.match_indices("://") {
            found.extend(host_of(&shown[at + 3..], usual_port(&shown[..at])));
        }
        let remote =
            matches!(name, "scp" | "sftp" | "rsync" | "git") && !shown.contains("://") && is_remote(&shown);
        if remote && !shown.starts_with('-') && !shown.contains([' ', '=']) {
            let host = shown.split(':').next().unwrap_or("");
            found.extend(host_of(host, None).filter(|h| h.contains('.') || host.contains('@')));
        }
    }
    match name {
        "curl" => {
            let args = Args::read(arguments, CURL);
            found.extend(args.operands.iter().filter_map(|f| schemeless(&f.shown())));
            let mut written: Vec<Field> = [
                "output",
                "dump-header",
                "cookie-jar",
                "trace",
                "trace-ascii",
                "stderr",
                "etag-save",
                "hsts",
                "alt-svc",
            ]
            .iter()
            .flat_map(|long| args.values("", long).cloned().collect::<Vec<_>>())
            .chain(args.values("oDc", "").cloned())
            .collect();
            let directories: Vec<Field> = args.values("", "output-dir").cloned().collect();
            touch_all(walker, &directories, How::Write);
            written.retain(|f| f.text != "-");
            let base = directories.first().cloned().unwrap_or_else(|| Field::known("."));
            for file in &written {
                let file = if directories.is_empty() { file.clone() } else { below(&base, &file.text) };
                walker.touch(&file, replacing(&file));
            }
            if args.has("O", "remote-name") {
                walker.touch(&base, How::Write);
                for url in args.operands.iter().filter(|f| f.literal().is_some()) {
                    let path = url.text.split(['?', '#']).next().unwrap_or("");
                    let name = super::base_name(path);
                    if !name.is_empty() {
                        walker.touch(&below(&base, name), How::Truncate);
                    }
                }
            }
        }
        "wget" => {
            let args = Args::read(arguments, WGET);
            found.extend(args.operands.iter().filter_map(|f| schemeless(&f.shown())));
            let mut written: Vec<Field> = args
                .values("a", "append-output")
                .chain(args.values("P", "directory-prefix"))
                .chain(args.values("", "save-cookies"))
                .chain(args.values("", "warc-file"))
                .cloned()
                .collect();
            let replaced: Vec<Field> =
                args.values("oO", "output-document").chain(args.values("", "output-file")).cloned().collect();
            let replaced: Vec<Field> = replaced.into_iter().filter(|f| f.text != "-").collect();
            for file in &replaced {
                walker.touch(file, replacing(file));
            }
            if written.is_empty() && replaced.is_empty() {
                written.push(Field::known("."));
            }
            touch_all(walker, &written, How::Write);
        }
        name if SPEAKING.contains(&name) => {
            let options = Options { short: "BbcDEeFIiJLlmOopQRSWwXqsp", long: &[] };
            let operands = Args::read(arguments, options).operands;
            let first = operands
                .iter()
                .find(|f| f.text.contains('.') || f.text.contains('@') || f.text == "localhost");
            found
                .extend(first.filter(|f| !f.shown().contains("://")).and_then(|f| host_of(&f.shown(), None)));
        }
        _ => {}
    }
    walker.found.hosts.extend(found);
}

/// A file that is downloaded anew; a name nobody knows is not searched for.
fn replacing(file: &Field) -> How {
    if file.text.contains(UNKNOWN) { How::Write } else { How::Truncate }
}

/// What curl and wget read as `http://…`.
fn schemeless(shown: &str) -> Option<String> {
    if shown.contains("://") { None } else { host_of(shown, usual_port("http")) }
}

/// The port of a URL that names none; `before` ends with its scheme.
fn usual_port(before: &str) -> Option<u16> {
    let scheme = before.rsplit(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or("");
    match scheme.to_ascii_lowercase().as_str() {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        "ftp" => Some(21),
        "ssh" | "sftp" => Some(22),
        "git" => Some(9418),
        _ => None,
    }
}

/// The host at the beginning of what follows `://`: without user and a trailing dot, in lower case, with the port
/// when one is named or `usual`.
fn host_of(text: &str, usual: Option<u16>) -> Option<String> {
    let authority = text.split(['/', '?', '#', ' ', '"', '\'', '\\']).next().unwrap_or("");
    let authority = authority.rsplit('@').next().unwrap_or("");
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => {
            let (host, after) = v6.split_once(']').unwrap_or((v6, ""));
            (host, after.strip_prefix(':'))
        }
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let port = port.and_then(|port| port.parse().ok()).or(usual);
    (!host.is_empty()).then(|| with_port(&host, port))
}
