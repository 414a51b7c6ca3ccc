//! Commands that copy, move and link: the last argument, or a named directory, is written.

use super::{base_name, below, touch_all};
use crate::analysis::{How, Reach};
use crate::args::{Args, Options};
use crate::ground::{Facts, Kind};
use crate::pattern;
use crate::rules::TRUNCATE_ASKS_ABOVE;
use crate::walk::Walker;
use crate::words::Field;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

const COPY: Options = Options {
    short: "tS",
    long: &["target-directory", "suffix", "context", "no-preserve", "sparse", "reflink", "backup"],
};
const INSTALL: Options = Options {
    short: "gmotS",
    long: &["group", "mode", "owner", "target-directory", "suffix", "strip-program"],
};
const RSYNC: Options = Options {
    short: "efBTM",
    long: &[
        "rsh",
        "filter",
        "exclude",
        "include",
        "exclude-from",
        "include-from",
        "files-from",
        "rsync-path",
        "temp-dir",
        "compare-dest",
        "copy-dest",
        "link-dest",
        "backup-dir",
        "suffix",
        "log-file",
        "partial-dir",
        "chmod",
        "chown",
        "bwlimit",
        "timeout",
        "max-size",
        "min-size",
        "out-format",
        "password-file",
        "port",
        "block-size",
        "info",
    ],
};

/// Sources remembered as links; more is not a command by hand.
const MAX_LINKS: usize = 256;

/// True when the command is one of these.
pub(super) fn run(walker: &mut Walker<'_>, name: &str, arguments: &[Field]) -> bool {
    match name {
        "cp" | "gcp" => {
            let args = Args::read(arguments, COPY);
            let (sources, target) = split(&args);
            let empties = sources.iter().any(|s| matches!(s.text.as_str(), "/dev/null" | "/proc/self/fd/0"));
            if args.has("l", "link") {
                touch_all(walker, &sources, How::Write);
            }
            let names = args.has("l", "link") || args.has("s", "symbolic-link");
            let how = match names {
                true => How::Write,
                false => replacing(&args, target.as_ref().filter(|_| !empties)),
            };
            into(walker, &sources, target.as_ref(), how, true);
            if names {
                also_named(walker, &sources, target.as_ref());
            }
            remember_links(walker, &sources, target.as_ref());
        }
        "mv" => {
            let args = Args::read(arguments, COPY);
            let (sources, target) = split(&args);
            into(walker, &sources, target.as_ref(), replacing(&args, target.as_ref()), false);
            let large = worth_following(walker, &sources);
            also_named(walker, &large, target.as_ref());
            remember_links(walker, &sources, target.as_ref());
            touch_all(walker, &sources, How::Delete { recursive: false, force: false });
        }
        "install" => {
            let args = Args::read(arguments, INSTALL);
            if args.has("d", "directory") {
                touch_all(walker, &args.operands, How::Write);
            } else {
                let (sources, target) = split(&args);
                into(walker, &sources, target.as_ref(), replacing(&args, target.as_ref()), true);
            }
        }
        "ln" | "link" | "symlink" => link(walker, arguments),
        "rsync" => {
            let args = Args::read(arguments, RSYNC);
            let (sources, target) = split(&args);
            if args.has("", "delete") || args.has("", "delete-after") || args.has("", "delete-excluded") {
                touch_all(walker, target.as_ref(), How::Delete { recursive: true, force: true });
            }
            if args.has("", "remove-source-files") {
                touch_all(walker, &sources, How::Delete { recursive: false, force: false });
            }
            let spares = args.has("n", "dry-run") || args.has("", "ignore-existing");
            let how = if spares { How::Write } else { replacing(&args, target.as_ref()) };
            into(walker, &sources, target.as_ref(), how, true);
            let named: Vec<Field> = args
                .values("", "log-file")
                .chain(args.values("", "backup-dir"))
                .chain(args.values("T", "temp-dir"))
                .cloned()
                .collect();
            touch_all(walker, &named, How::Write);
            let shells: Vec<Field> = args.values("e", "rsh").cloned().collect();
            shells.iter().for_each(|s| super::shells::text(walker, s));
        }
        "scp" | "sftp" => {
            let args = Args::read(arguments, Options { short: "cFiJloPSX", long: &[] });
            if let Some(target) = args.operands.last().filter(|t| !is_remote(&t.text)) {
                walker.touch(target, replacing(&args, Some(target)));
            }
        }
        _ => return false,
    }
    true
}

/// What happens to the file that is there: it is replaced, unless it is kept or spared. A target nobody knows is not
/// searched for: copies with computed names are ordinary work.
fn replacing(args: &Args, target: Option<&Field>) -> How {
    let spares = args.has("n", "no-clobber") || args.has("b", "backup") || args.has("S", "suffix");
    let unknown = target.is_some_and(|t| t.text.contains(pattern::UNKNOWN));
    if spares || unknown { How::Write } else { How::Truncate }
}

/// True for `host:path`.
pub(super) fn is_remote(text: &str) -> bool {
    text.split_once(':').is_some_and(|(host, _)| !host.is_empty() && !host.contains('/'))
}

fn split(args: &Args) -> (Vec<Field>, Option<Field>) {
    if let Some(target) = args.values("t", "target-directory").last() {
        return (args.operands.clone(), Some(target.clone()));
    }
    match args.operands.split_last() {
        Some((target, sources)) => (sources.to_vec(), Some(target.clone())),
        None => (Vec::new(), None),
    }
}

/// Writes sources to a target that may be a directory; a link in the target's place is followed or replaced.
fn into(walker: &mut Walker<'_>, sources: &[Field], target: Option<&Field>, how: How, follow: bool) {
    let Some(target) = target else { return };
    walker.touch_as(target, how, follow);
    for source in sources.iter().filter(|s| s.literal().is_some()) {
        let name = base_name(source.text.trim_end_matches('/')).to_owned();
        if !name.is_empty() && is_directory(walker, target) {
            walker.touch_as(&below(target, &name), how, follow);
        }
    }
    // A pattern stands for names that are looked up where they land.
    for source in sources.iter().filter(|s| s.text.contains(pattern::is_active)) {
        if is_directory(walker, target) {
            let name = base_name(&source.text).to_owned();
            walker.touch_as(&below(target, &name), How::Write, follow);
            for place in walker.places(source, false) {
                let name = place.path.file_name().and_then(OsStr::to_str).map(str::to_owned);
                if let Some(name) = name.filter(|_| place.reach == Reach::Exact) {
                    walker.touch_as(&below(target, &name), how, follow);
                }
            }
        }
    }
}

fn is_directory(walker: &mut Walker<'_>, field: &Field) -> bool {
    let places = walker.places(field, true);
    places.iter().any(|p| walker.world.is_directory(&p.path))
}

fn link(walker: &mut Walker<'_>, arguments: &[Field]) {
    let args = Args::read(arguments, COPY);
    let (mut sources, mut target) = split(&args);
    if sources.is_empty()
        && let Some(only) = target.take()
    {
        // One operand: the link is made here.
        let name = base_name(only.text.trim_end_matches('/')).to_owned();
        target = Some(Field::known(name));
        sources.push(only);
    }
    let force = args.has("f", "force");
    let keeps = args.has("b", "backup") || args.has("S", "suffix");
    let how = if force && !keeps { How::Truncate } else { How::Write };
    into(walker, &sources, target.as_ref(), how, false);
    if force {
        touch_all(walker, target.as_ref(), How::Delete { recursive: false, force: false });
    }
    if args.has("s", "symbolic") {
        let Some(target) = &target else { return };
        for source in &sources {
            imagine(walker, target, &PathBuf::from(source.literal().unwrap_or("/")), source);
        }
    } else {
        // A second name of a file writes into the same file.
        touch_all(walker, &sources, How::Write);
        also_named(walker, &sources, target.as_ref());
    }
}

/// The sources whose facts matter under their next name: directories and large files. A chain of small ones would only
/// lead in circles.
fn worth_following(walker: &mut Walker<'_>, sources: &[Field]) -> Vec<Field> {
    let mut out = Vec::new();
    for source in sources {
        let places = walker.places(source, false);
        let facts = places.iter().filter_map(|place| walker.world.facts(&place.path));
        let matter = |f: Facts| f.kind == Kind::Directory || f.size > TRUNCATE_ASKS_ABOVE;
        if source.literal().is_some() && facts.into_iter().any(matter) {
            out.push(source.clone());
        }
    }
    out
}

/// From now on the target is another name of these files.
fn also_named(walker: &mut Walker<'_>, sources: &[Field], target: Option<&Field>) {
    let Some(target) = target else { return };
    for source in sources {
        for place in walker.places(source, true).into_iter().filter(|p| p.reach == Reach::Exact) {
            imagine(walker, target, &place.path, source);
        }
    }
}

/// From now on the link is there.
fn imagine(walker: &mut Walker<'_>, target: &Field, points_to: &Path, source: &Field) {
    if walker.world.links.len() >= MAX_LINKS {
        return walker.meet_limit();
    }
    let name = base_name(source.text.trim_end_matches('/')).to_owned();
    // `x/` is a directory, there or not.
    let mut spots = if target.text.ends_with('/') { Vec::new() } else { walker.places(target, false) };
    spots.extend(walker.places(&below(target, &name), false));
    for spot in spots {
        // What is there stays what it is, unless something has been removed before.
        let taken = walker.world.facts(&spot.path).is_some_and(|f| f.kind != Kind::Link) && !walker.removed;
        if !taken && !walker.world.is_directory(&spot.path) && spot.path != points_to {
            walker.world.links.insert(spot.path, points_to.to_path_buf());
        }
    }
}

/// A copied or moved link points where it did.
fn remember_links(walker: &mut Walker<'_>, sources: &[Field], target: Option<&Field>) {
    let Some(target) = target else { return };
    for source in sources {
        for place in walker.places(source, false) {
            let known = walker.world.links.get(&place.path).cloned();
            let Some(link) = known.or_else(|| walker.world.ground.link(&place.path)) else { continue };
            imagine(walker, target, &link, source);
        }
    }
}
