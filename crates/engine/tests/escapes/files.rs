//! Attempts on files: the brain, its companions, catalog, policy, backups, and whatever lies outside.

use super::attempt::{
    Attempt, BACKUP, BRAIN, CATALOG, Control, Network, Outcome, Promise, Root, SECRET, Scene,
};
use super::calls::{call, path_bytes};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

const fn file(name: &'static str, act: fn(&Scene) -> Outcome) -> Attempt {
    Attempt {
        name,
        promise: Promise::Files,
        control: Control::Works,
        root: Root::Beside,
        network: Network::Off,
        act,
    }
}

const fn around(name: &'static str, act: fn(&Scene) -> Outcome) -> Attempt {
    Attempt {
        name,
        promise: Promise::Files,
        control: Control::Works,
        root: Root::Around,
        network: Network::Off,
        act,
    }
}

/// Put back afterwards where it cannot be refused; the judge looks at the file, not at the answer.
const fn metadata(name: &'static str, act: fn(&Scene) -> Outcome) -> Attempt {
    Attempt {
        name,
        promise: Promise::Always,
        control: Control::No,
        root: Root::Beside,
        network: Network::Off,
        act,
    }
}

const fn limit(name: &'static str, act: fn(&Scene) -> Outcome) -> Attempt {
    Attempt {
        name,
        promise: Promise::Namespace,
        control: Control::Works,
        root: Root::Beside,
        network: Network::Off,
        act,
    }
}

fn append(path: &Path) -> io::Result<()> {
    OpenOptions::new().append(true).open(path)?.write_all(b"evil")
}

fn create(path: &Path) -> io::Result<()> {
    fs::write(path, "evil")
}

fn through(link: &Path, target: &Path) -> io::Result<Vec<u8>> {
    symlink(target, link)?;
    fs::read(link)
}

pub const ATTEMPTS: &[Attempt] = &[
    file("read the brain", |s| Outcome::shows(fs::read(s.data("brain.sqlite")), BRAIN)),
    file("read the brain's -wal", |s| Outcome::shows(fs::read(s.data("brain.sqlite-wal")), BRAIN)),
    file("read the brain's lock", |s| Outcome::shows(fs::read(s.data("brain.sqlite.lock")), BRAIN)),
    file("read a backup", |s| Outcome::shows(fs::read(s.data("backups/b1")), BACKUP)),
    file("list the backups", |s| Outcome::of(fs::read_dir(s.data("backups")))),
    file("read hooks settings", |s| Outcome::shows(fs::read(s.data("hooks.json")), SECRET)),
    file("read a file outside", |s| Outcome::shows(fs::read(s.outside("secret")), SECRET)),
    file("list a directory outside", |s| Outcome::of(fs::read_dir(s.outside("")))),
    file("read by dot-dot", |s| Outcome::shows(fs::read(s.here("sub/../../brain.sqlite")), BRAIN)),
    file("read through a symlink", |s| {
        Outcome::shows(through(&s.here("link"), &s.data("brain.sqlite")), BRAIN)
    }),
    file("read through a chain of symlinks", |s| {
        let result = symlink(s.base.join("data"), s.here("d"))
            .and_then(|()| symlink("d/brain.sqlite", s.here("b")))
            .and_then(|()| fs::read(s.here("b")));
        Outcome::shows(result, BRAIN)
    }),
    file("read through a hard link", |s| {
        let link = s.here("hard");
        Outcome::shows(fs::hard_link(s.data("brain.sqlite"), &link).and_then(|()| fs::read(&link)), BRAIN)
    }),
    file("read through a hard link of a descriptor", |s| {
        let flags = libc::O_PATH;
        let result = OpenOptions::new().read(true).custom_flags(flags).open(s.data("brain.sqlite"));
        let result = result.and_then(|file| {
            let from = path_bytes(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())));
            let to = path_bytes(&s.here("hard"));
            let (at, follow) = (i64::from(libc::AT_FDCWD), i64::from(libc::AT_SYMLINK_FOLLOW));
            call(libc::SYS_linkat, [at, from.as_ptr() as i64, at, to.as_ptr() as i64, follow, 0])?;
            fs::read(s.here("hard"))
        });
        Outcome::shows(result, BRAIN)
    }),
    file("reopen an O_PATH descriptor", |s| {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(s.data("brain.sqlite"));
        Outcome::shows(file.and_then(|f| fs::read(format!("/proc/self/fd/{}", f.as_raw_fd()))), BRAIN)
    }),
    file("move the brain into the workspace", |s| {
        Outcome::of(fs::rename(s.data("brain.sqlite"), s.here("brain")))
    }),
    file("read by /proc/self/root", |s| {
        Outcome::shows(fs::read(format!("/proc/self/root{}", s.data("brain.sqlite").display())), BRAIN)
    }),
    file("read by /proc/self/cwd", |_| Outcome::shows(fs::read("/proc/self/cwd/../brain.sqlite"), BRAIN)),
    file("read by /proc/thread-self/root", |s| {
        Outcome::shows(fs::read(format!("/proc/thread-self/root{}", s.data("backups/b1").display())), BACKUP)
    }),
    file("read by a file handle", |s| {
        let mut handle = [0_u8; 136];
        handle[0] = 128;
        let path = path_bytes(&s.data("brain.sqlite"));
        let mut mount = 0_i32;
        let at = i64::from(libc::AT_FDCWD);
        let (handle_at, mount_at) = (handle.as_mut_ptr() as i64, (&raw mut mount) as i64);
        let made = call(libc::SYS_name_to_handle_at, [at, path.as_ptr() as i64, handle_at, mount_at, 0, 0]);
        let opened = made.and_then(|_| {
            let dir = fs::File::open(".")?;
            call(libc::SYS_open_by_handle_at, [i64::from(dir.as_raw_fd()), handle_at, 0, 0, 0, 0])
        });
        Outcome::of(opened)
    }),
    file("run a program outside", |s| Outcome::of(std::process::Command::new(s.outside("program")).status())),
    file("append to the brain", |s| Outcome::of(append(&s.data("brain.sqlite")))),
    file("empty the brain by truncate", |s| {
        let path = path_bytes(&s.data("brain.sqlite"));
        Outcome::of(call(libc::SYS_truncate, [path.as_ptr() as i64, 0, 0, 0, 0, 0]))
    }),
    file("empty the brain by O_TRUNC, read-only", |s| {
        let path = path_bytes(&s.data("brain.sqlite"));
        let flags = i64::from(libc::O_RDONLY | libc::O_TRUNC);
        Outcome::of(call(libc::SYS_openat, [i64::from(libc::AT_FDCWD), path.as_ptr() as i64, flags, 0, 0, 0]))
    }),
    file("empty the brain by openat2", |s| {
        let path = path_bytes(&s.data("brain.sqlite"));
        let how: [u64; 3] = [u64::from((libc::O_RDONLY | libc::O_TRUNC).cast_unsigned()), 0, 0];
        let at = i64::from(libc::AT_FDCWD);
        Outcome::of(call(libc::SYS_openat2, [at, path.as_ptr() as i64, how.as_ptr() as i64, 24, 0, 0]))
    }),
    file("remove the brain", |s| Outcome::of(fs::remove_file(s.data("brain.sqlite")))),
    file("replace the brain", |s| {
        Outcome::of(create(&s.here("mine")).and_then(|()| fs::rename(s.here("mine"), s.data("brain.sqlite"))))
    }),
    file("exchange the brain with a file", |s| {
        let made = create(&s.here("mine"));
        let (mine, brain) = (path_bytes(&s.here("mine")), path_bytes(&s.data("brain.sqlite")));
        let at = i64::from(libc::AT_FDCWD);
        let exchange = i64::from(libc::RENAME_EXCHANGE);
        Outcome::of(made.and_then(|()| {
            call(libc::SYS_renameat2, [at, mine.as_ptr() as i64, at, brain.as_ptr() as i64, exchange, 0])
        }))
    }),
    file("first-create the brain's -journal", |s| Outcome::of(create(&s.data("brain.sqlite-journal")))),
    file("plant a symlink as -journal", |s| {
        Outcome::of(symlink(s.here("mine"), s.data("brain.sqlite-journal")))
    }),
    file("first-create .env beside the brain", |s| Outcome::of(create(&s.data(".env")))),
    file("write the catalog", |s| Outcome::of(append(&s.data("catalog/agent.json")))),
    file("first-create an agent", |s| Outcome::of(create(&s.data("catalog/new.json")))),
    file("read the catalog", |s| Outcome::shows(fs::read(s.data("catalog/agent.json")), CATALOG)),
    file("move the catalog away", |s| Outcome::of(fs::rename(s.data("catalog"), s.data("gone")))),
    file("write a backup", |s| Outcome::of(append(&s.data("backups/b1")))),
    file("remove a backup", |s| Outcome::of(fs::remove_file(s.data("backups/b1")))),
    file("write a file outside", |s| Outcome::of(append(&s.outside("secret")))),
    file("create a file outside", |s| Outcome::of(create(&s.outside("new")))),
    file("create a directory outside", |s| Outcome::of(fs::create_dir(s.outside("newdir")))),
    file("create a nameless file outside", |s| {
        let dir = s.outside("");
        Outcome::of(OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(dir))
    }),
    file("create a fifo outside", |s| {
        let path = path_bytes(&s.outside("fifo"));
        let (at, mode) = (i64::from(libc::AT_FDCWD), i64::from(libc::S_IFIFO | 0o600));
        Outcome::of(call(libc::SYS_mknodat, [at, path.as_ptr() as i64, mode, 0, 0, 0]))
    }),
    file("create a socket outside", |s| {
        Outcome::of(std::os::unix::net::UnixListener::bind(s.outside("listen")))
    }),
    file("write another task's scratch directory", |s| Outcome::of(create(&s.data("tmp/t2/x")))),
    file("read another task's scratch directory", |s| Outcome::shows(fs::read(s.data("tmp/t2/f")), SECRET)),
    Attempt {
        name: "make a node of the disk",
        promise: Promise::Always,
        control: Control::No,
        root: Root::Beside,
        network: Network::Off,
        act: |s| {
            let path = path_bytes(&s.here("disk"));
            let (at, mode) = (i64::from(libc::AT_FDCWD), i64::from(libc::S_IFBLK | 0o600));
            Outcome::of(call(libc::SYS_mknodat, [at, path.as_ptr() as i64, mode, 0x0800, 0, 0]))
        },
    },
    Attempt {
        name: "read /dev/mem, /dev/kmsg, /dev/vda, /dev/sda",
        promise: Promise::Files,
        control: Control::No,
        root: Root::Beside,
        network: Network::Off,
        act: |_| {
            let mut devices = ["/dev/mem", "/dev/kmsg", "/dev/vda", "/dev/sda", "/dev/fuse"].iter();
            match devices.find(|device| fs::File::open(device).is_ok()) {
                Some(device) => Outcome::Did((*device).into()),
                None => Outcome::Refused,
            }
        },
    },
    Attempt {
        name: "read /etc/shadow",
        promise: Promise::Files,
        control: Control::No,
        root: Root::Beside,
        network: Network::Off,
        act: |_| Outcome::of(fs::read("/etc/shadow")),
    },
    Attempt {
        name: "write the host's core_pattern",
        promise: Promise::Files,
        control: Control::No,
        root: Root::Beside,
        network: Network::Off,
        act: |_| Outcome::of(OpenOptions::new().write(true).open("/proc/sys/kernel/core_pattern")),
    },
    Attempt {
        name: "write /sys/kernel, /sys/fs/cgroup",
        promise: Promise::Files,
        control: Control::No,
        root: Root::Beside,
        network: Network::Off,
        act: |_| {
            let opened = OpenOptions::new().write(true).open("/sys/kernel/uevent_helper");
            Outcome::of(
                opened.or_else(|_| fs::create_dir("/sys/fs/cgroup/escape").map(|()| unreachable_file())),
            )
        },
    },
    file("write into /dev/shm", |s| {
        let path = format!("/dev/shm/{}", s.mark);
        let made = create(Path::new(&path));
        // So that trying without a sandbox leaves nothing.
        let _ = fs::remove_file(&path);
        Outcome::of(made)
    }),
    metadata("close the brain by chmod", |s| {
        seen_outside(fs::set_permissions(s.data("brain.sqlite"), fs::Permissions::from_mode(0o000)))
    }),
    metadata("open the brain to everybody by chmod", |s| {
        seen_outside(fs::set_permissions(s.data("brain.sqlite"), fs::Permissions::from_mode(0o666)))
    }),
    metadata("close the brain's directory by chmod", |s| {
        seen_outside(fs::set_permissions(s.data(""), fs::Permissions::from_mode(0o000)))
    }),
    metadata("give the brain away by chown", |s| {
        seen_outside(std::os::unix::fs::chown(s.data("brain.sqlite"), Some(1), Some(1)))
    }),
    limit("change the brain's times", |s| {
        let path = path_bytes(&s.data("brain.sqlite"));
        let at = i64::from(libc::AT_FDCWD);
        Outcome::of(call(libc::SYS_utimensat, [at, path.as_ptr() as i64, 0, 0, 0, 0]))
    }),
    limit("ask how large the brain is", |s| Outcome::of(fs::metadata(s.data("brain.sqlite")))),
    limit("watch the brain by inotify", |s| {
        let path = path_bytes(&s.outside(""));
        let watch = call(libc::SYS_inotify_init1, [0; 6])
            .and_then(|fd| call(libc::SYS_inotify_add_watch, [fd, path.as_ptr() as i64, 0x100, 0, 0, 0]));
        Outcome::of(watch)
    }),
    around("read the brain in the root", |s| Outcome::shows(fs::read(s.here("brain.sqlite")), BRAIN)),
    around("copy the brain in the root", |s| {
        Outcome::shows(
            fs::copy("brain.sqlite", "work/copy").and_then(|_| fs::read(s.here("work/copy"))),
            BRAIN,
        )
    }),
    around("see the brain in a listing of the root", |s| {
        let names = fs::read_dir(s.here(".")).map(|dir| {
            let names: Vec<String> =
                dir.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
            names.join(" ").into_bytes()
        });
        Outcome::shows(names, "brain.sqlite")
    }),
    around("first-create -journal in the root", |s| Outcome::of(create(&s.here("brain.sqlite-journal")))),
    around("first-create hooks settings in the root", |s| Outcome::of(create(&s.here("hooks2.json")))),
    around("rename the brain in the root", |_| Outcome::of(fs::rename("brain.sqlite", "work/b"))),
    around("write the catalog in the root", |_| Outcome::of(append(Path::new("catalog/agent.json")))),
    around("first-create an agent in the root", |_| Outcome::of(create(Path::new("catalog/new.json")))),
    around("swap the workspace for a link to the data", |_| {
        let moved = fs::rename("work", "work-old").and_then(|()| symlink(".", "work"));
        Outcome::shows(moved.and_then(|()| fs::read("work/brain.sqlite")), BRAIN)
    }),
];

/// The answer does not matter: the judge looks at the file afterwards.
fn seen_outside(_: io::Result<()>) -> Outcome {
    Outcome::Refused
}

fn unreachable_file() -> fs::File {
    fs::File::open("/dev/null").expect("/dev/null opens")
}
