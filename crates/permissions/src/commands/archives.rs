//! Commands that pack and unpack. What lies inside an archive is not known; where it is unpacked is.

use super::touch_all;
use crate::analysis::How;
use crate::args::{Args, FLAGS, Options};
use crate::pattern::BELOW;
use crate::walk::Walker;
use crate::words::Field;

const TAR: Options = Options {
    short: "fCTXbgIKLNVF",
    long: &[
        "file",
        "directory",
        "files-from",
        "exclude-from",
        "exclude",
        "use-compress-program",
        "to-command",
        "one-file-system",
        "checkpoint-action",
        "transform",
        "strip-components",
        "owner",
        "group",
        "mode",
        "info-script",
        "rmt-command",
        "rsh-command",
        "index-file",
        "listed-incremental",
    ],
};

/// True when the command is one of these.
pub(super) fn run(walker: &mut Walker<'_>, name: &str, arguments: &[Field]) -> bool {
    match name {
        "tar" | "bsdtar" | "gtar" => tar(walker, arguments),
        "unzip" => {
            let args = Args::read(arguments, Options { short: "dPx", long: &[] });
            let into: Vec<Field> = args.values("d", "").cloned().collect();
            let into = if into.is_empty() { vec![Field::known(".")] } else { into };
            touch_all(walker, &into, How::Write);
            if args.has("o", "") {
                touch_all(walker, &anything_in(&into), How::Truncate);
            }
        }
        "zip" => touch_all(walker, Args::read(arguments, FLAGS).operands.first(), How::Write),
        "7z" | "7za" | "7zr" => {
            let into = arguments.iter().filter_map(|f| f.text.strip_prefix("-o"));
            let into: Vec<Field> = into.map(Field::known).collect();
            touch_all(walker, &into, How::Write);
            if arguments.iter().any(|f| matches!(f.text.as_str(), "-aoa" | "-y")) {
                let into = if into.is_empty() { vec![Field::known(".")] } else { into };
                touch_all(walker, &anything_in(&into), How::Truncate);
            }
        }
        "cpio" => {
            let args = Args::read(arguments, Options { short: "DFEOIH", long: &["directory", "file"] });
            let named: Vec<Field> =
                args.values("D", "directory").chain(args.values("FO", "file")).cloned().collect();
            touch_all(walker, &named, How::Write);
        }
        "gzip" | "gunzip" | "bzip2" | "bunzip2" | "xz" | "unxz" | "zstd" | "unzstd" | "lz4" | "compress" => {
            let args = Args::read(arguments, Options { short: "So", long: &["suffix", "output"] });
            let outputs: Vec<Field> = args.values("o", "output").cloned().collect();
            touch_all(walker, &outputs, How::Truncate);
            if !args.has("c", "stdout") && !args.has("lt", "list") {
                touch_all(walker, &args.operands, How::Write);
            }
        }
        _ => return false,
    }
    true
}

/// Whatever lies below these directories.
fn anything_in(directories: &[Field]) -> Vec<Field> {
    directories.iter().map(|d| super::below(d, &BELOW.to_string())).collect()
}

fn tar(walker: &mut Walker<'_>, arguments: &[Field]) {
    let arguments = old_style(arguments);
    let args = Args::read(&arguments, TAR);
    let archives: Vec<Field> = args.values("f", "file").cloned().collect();
    if args.has("c", "create") {
        touch_all(walker, &archives, How::Truncate);
    } else if args.has("ruA", "append") || args.has("", "update") || args.has("", "delete") {
        touch_all(walker, &archives, How::Write);
    }
    if args.has("x", "extract") || args.has("", "get") {
        let into: Vec<Field> = args.values("C", "directory").cloned().collect();
        let into = if into.is_empty() { vec![Field::known(".")] } else { into };
        touch_all(walker, &into, How::Write);
        // Whoever names a member, or asks for it, replaces what is there; otherwise nobody knows what lies inside.
        let spares =
            args.has("k", "keep-old-files") || args.has("", "skip-old-files") || args.has("O", "to-stdout");
        let base = into.last().cloned().unwrap_or_else(|| Field::known("."));
        for member in args.operands.iter().filter(|m| !spares && m.literal().is_some()) {
            walker.touch(&super::below(&base, &member.text), How::Truncate);
        }
        if args.has("U", "unlink-first") || args.has("", "overwrite") || args.has("", "recursive-unlink") {
            touch_all(walker, &anything_in(&into), How::Truncate);
        }
        if args.has("P", "absolute-names") {
            // The names in the archive decide.
            walker.dynamic();
        }
    }
    // Members are named from where `-C` leads.
    let from: Vec<Field> = args.values("C", "directory").cloned().collect();
    for directory in from {
        for member in args.operands.iter().filter(|m| !m.text.starts_with('/')) {
            walker.touch(&super::below(&directory, &member.text), How::Read);
        }
    }
    if args.has("", "remove-files") {
        touch_all(walker, &args.operands, How::Delete { recursive: true, force: false });
    }
    let texts: Vec<Field> =
        ["to-command", "use-compress-program", "info-script", "rsh-command", "rmt-command"]
            .iter()
            .flat_map(|long| args.values("", long).cloned().collect::<Vec<_>>())
            .chain(args.values("IF", "").cloned())
            .collect();
    texts.iter().for_each(|t| super::shells::text(walker, t));
    let actions: Vec<Field> = args.values("", "checkpoint-action").cloned().collect();
    for action in actions {
        if let Some(command) = action.text.strip_prefix("exec=") {
            super::shells::text(walker, &Field::known(command));
        }
    }
}

/// `tar xfC archive dir`: letters without a dash take their values in order.
fn old_style(arguments: &[Field]) -> Vec<Field> {
    let Some((first, rest)) = arguments.split_first() else { return Vec::new() };
    let bundled =
        first.literal().is_some_and(|t| !t.starts_with('-') && t.chars().all(|c| c.is_ascii_alphabetic()));
    if !bundled {
        return arguments.to_vec();
    }
    let mut rest = rest.iter();
    let mut out = Vec::new();
    for letter in first.text.chars() {
        out.push(Field::known(format!("-{letter}")));
        if TAR.short.contains(letter) {
            out.extend(rest.next().cloned());
        }
    }
    out.extend(rest.cloned());
    out
}
