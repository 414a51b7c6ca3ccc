//! Commands that make, empty, change or remove files in place.

use super::touch_all;
use crate::analysis::{Destruction, How};
use crate::args::{Args, FLAGS, Options};
use crate::pattern::BELOW;
use crate::places::is_device;
use crate::state::Input;
use crate::walk::Walker;
use crate::words::{Field, Value};

const TOUCH: Options = Options { short: "drt", long: &["date", "reference", "time"] };
const MKDIR: Options = Options { short: "m", long: &["mode", "context"] };
const TRUNCATE: Options = Options { short: "sr", long: &["size", "reference"] };
const SHRED: Options = Options { short: "ns", long: &["iterations", "random-source", "size"] };
const MODES: Options = Options { short: "", long: &["reference", "from"] };
const SHUF: Options =
    Options { short: "ino", long: &["input-range", "head-count", "output", "random-source"] };
const SORT: Options = Options {
    short: "koStT",
    long: &[
        "key",
        "output",
        "buffer-size",
        "field-separator",
        "temporary-directory",
        "compress-program",
        "parallel",
        "batch-size",
        "files0-from",
        "random-source",
        "sort",
    ],
};
const SPLIT: Options = Options {
    short: "abClnt",
    long: &[
        "suffix-length",
        "additional-suffix",
        "bytes",
        "line-bytes",
        "lines",
        "number",
        "separator",
        "filter",
    ],
};
const UNIQ: Options = Options { short: "fsw", long: &["skip-fields", "skip-chars", "check-chars"] };
const PATCH: Options = Options {
    short: "pidorBDFgVxYz",
    long: &[
        "strip",
        "input",
        "directory",
        "output",
        "reject-file",
        "prefix",
        "fuzz",
        "suffix",
        "basename-prefix",
        "get",
        "ifdef",
        "version-control",
        "quoting-style",
        "debug",
    ],
};

/// True when the command is one of these.
pub(super) fn run(walker: &mut Walker<'_>, name: &str, arguments: &[Field]) -> bool {
    match name {
        "rm" => {
            let args = Args::read(arguments, FLAGS);
            let how = How::Delete {
                recursive: args.has("rR", "recursive") || args.vague,
                force: args.has("f", "force"),
            };
            touch_all(walker, &args.operands, how);
        }
        "rmdir" | "unlink" => {
            let args = Args::read(arguments, FLAGS);
            touch_all(walker, &args.operands, How::Delete { recursive: false, force: false });
        }
        "tee" | "sponge" => {
            let args = Args::read(arguments, FLAGS);
            let how = if args.has("a", "append") { How::Append } else { How::Truncate };
            touch_all(walker, &args.operands, how);
        }
        "touch" => touch_all(walker, &Args::read(arguments, TOUCH).operands, How::Write),
        "mkdir" | "mkfifo" | "mknod" => {
            touch_all(walker, &Args::read(arguments, MKDIR).operands, How::Write);
        }
        "truncate" | "fallocate" => {
            touch_all(walker, &Args::read(arguments, TRUNCATE).operands, How::Truncate);
        }
        "shred" | "wipefs" => {
            walker.found.destructive.insert(Destruction::Wipe);
            touch_all(walker, &Args::read(arguments, SHRED).operands, How::Write);
        }
        "mke2fs" | "mkswap" | "mkdosfs" | "fdisk" | "sfdisk" | "sgdisk" | "parted" | "blkdiscard" => {
            wipe(walker, arguments)
        }
        name if name == "mkfs" || name.starts_with("mkfs.") => wipe(walker, arguments),
        "dd" => dd(walker, arguments),
        "chmod" | "chown" | "chgrp" | "setfacl" | "chattr" => {
            let args = Args::read(arguments, MODES);
            let recursive =
                args.has("R", "recursive") || args.operands.iter().any(|f| f.text.starts_with('\u{10ffff}'));
            touch_all(walker, &args.operands, How::Metadata { recursive });
        }
        "sed" | "gsed" => super::sed::run(walker, arguments),
        "shuf" => {
            let outputs: Vec<Field> = Args::read(arguments, SHUF).values("o", "output").cloned().collect();
            touch_all(walker, &outputs, How::Truncate);
        }
        "sort" => {
            let args = Args::read(arguments, SORT);
            let outputs: Vec<Field> = args.values("o", "output").cloned().collect();
            touch_all(walker, &outputs, How::Truncate);
            let programs: Vec<Field> = args.values("", "compress-program").cloned().collect();
            programs.iter().for_each(|p| super::shells::text(walker, p));
        }
        "uniq" => {
            touch_all(walker, Args::read(arguments, UNIQ).operands.iter().skip(1).take(1), How::Truncate)
        }
        "split" | "csplit" => {
            let args = Args::read(arguments, SPLIT);
            touch_all(walker, args.operands.iter().skip(1), How::Write);
            let filters: Vec<Field> = args.values("", "filter").cloned().collect();
            filters.iter().for_each(|f| super::shells::text(walker, f));
        }
        "patch" => {
            let args = Args::read(arguments, PATCH);
            let named: Vec<Field> = args
                .values("d", "directory")
                .chain(args.values("o", "output"))
                .chain(args.values("r", "reject-file"))
                .chain(args.operands.first())
                .cloned()
                .collect();
            touch_all(walker, &named, How::Write);
        }
        "mktemp" => {
            let args = Args::read(arguments, Options { short: "p", long: &["tmpdir", "suffix"] });
            let named: Vec<Field> = args.values("p", "tmpdir").chain(&args.operands).cloned().collect();
            touch_all(walker, &named, How::Write);
            // A new file of the temporary directory.
            if named.is_empty()
                && let Value::Known(directories) = walker.variable("TMPDIR")
                && let [directory] = directories.as_slice()
            {
                walker.output = Input::Text(format!("{directory}/{BELOW}"));
            }
        }
        "ed" | "ex" | "vi" | "vim" | "nvim" | "nano" | "emacs" => {
            let operands = Args::read(arguments, Options { short: "cSsu", long: &[] }).operands;
            touch_all(walker, &operands, How::Write);
            walker.foreign_text(&super::joined(arguments));
        }
        _ => return false,
    }
    true
}

fn wipe(walker: &mut Walker<'_>, arguments: &[Field]) {
    walker.found.destructive.insert(Destruction::Wipe);
    touch_all(walker, &Args::read(arguments, FLAGS).operands, How::Write);
}

fn dd(walker: &mut Walker<'_>, arguments: &[Field]) {
    for field in arguments {
        let Some(target) = field.text.strip_prefix("of=") else {
            // `$X` may become `of=…`.
            if field.may_be_option() && field.is_dynamic() {
                walker.found.destructive.insert(Destruction::CopyOver);
            }
            continue;
        };
        if !is_device(target) {
            walker.found.destructive.insert(Destruction::CopyOver);
            walker.touch(&Field { text: target.to_owned(), many: field.many }, How::Truncate);
        }
    }
}
