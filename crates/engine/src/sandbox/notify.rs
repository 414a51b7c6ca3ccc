//! Answering a child's `connect` calls where it has no network namespace of its own.
//!
//! Landlock refuses every TCP connection of such a child. Its filter stops at `connect` and asks here. A child that
//! asks for the proxy's address gets a connection that the Engine has made, put in place of its own socket; all
//! other calls go on to the kernel, which refuses TCP and treats unix sockets as always. So nothing depends on
//! what a child lets us read: an address that it changes while we look gains it a connection to the proxy, or the
//! kernel's refusal. A lent connection that is disconnected can neither be connected again (landlock) nor listen
//! (seccomp).
//!
//! Refused here: everything that cannot be read. Where the machine forbids looking into one's own children (Yama
//! `ptrace_scope` 2 and 3) no connection is lent, and commands have no network.
//!
//! The invariant: the only socket that is ever lent leads to the proxy.

use super::gate::to_proxy;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Bytes of an IPv4 address as `connect` takes it.
const ADDRESS_BYTES: usize = size_of::<libc::sockaddr_in>();

/// One call that waits for an answer.
#[derive(Debug, Clone, Copy)]
struct Call {
    id: u64,
    pid: u32,
    fd: u64,
    address: u64,
    length: u64,
}

/// What the kernel is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// Do what was asked, under all the other rules.
    GoOn,
    /// It worked.
    Done,
    /// It failed with this error number.
    Failed(i32),
}

/// What there is to do.
enum Waiting {
    Call,
    Nothing,
    /// No process with this filter is left.
    Nobody,
}

/// Answers until the last process with this filter has ended.
pub(super) async fn supervise(listener: OwnedFd, port: u16) {
    // SAFETY: an `OwnedFd` stays open, and the same descriptor, for as long as it is owned; here by the `AsyncFd`.
    let Ok(listener) = (unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) }) else {
        return;
    };
    loop {
        let Ok(mut ready) = listener.readable().await else { return };
        match waiting(listener.get_ref()) {
            // asked first: receiving would block when there is nothing
            Waiting::Call => {
                if let Some(call) = receive(listener.get_ref()) {
                    let answer = decide(listener.get_ref(), call, port).await;
                    reply(listener.get_ref(), call.id, answer);
                }
            }
            Waiting::Nothing => ready.clear_ready(),
            Waiting::Nobody => return,
        }
    }
}

fn waiting(listener: &OwnedFd) -> Waiting {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut fds, Some(&at_once)) {
        Ok(_) if fds[0].revents().contains(PollFlags::IN) => Waiting::Call,
        Ok(0) | Err(_) => Waiting::Nothing,
        Ok(_) => Waiting::Nobody,
    }
}

async fn decide(listener: &OwnedFd, call: Call, port: u16) -> Answer {
    let Some(socket) = asks_for_the_proxy(call, port) else { return Answer::GoOn };
    match lend(listener, call, socket, port).await {
        Ok(()) => Answer::Done,
        Err(_) => Answer::Failed(libc::ECONNREFUSED),
    }
}

/// How the child's own socket is to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Socket {
    nonblocking: bool,
    close_on_exec: bool,
}

/// The socket to be replaced, when the call asks for the proxy's address.
fn asks_for_the_proxy(call: Call, port: u16) -> Option<Socket> {
    if (call.length as usize) < ADDRESS_BYTES {
        return None;
    }
    let mut address = [0; ADDRESS_BYTES];
    let memory = fs::File::open(format!("/proc/{}/mem", call.pid)).ok()?;
    memory.read_exact_at(&mut address, call.address).ok()?;
    if !is_proxy(&address, port) {
        return None;
    }
    socket(&fs::read_to_string(format!("/proc/{}/fdinfo/{}", call.pid, call.fd)).ok()?)
}

/// Family, port and address, in the kernel's layout.
fn is_proxy(address: &[u8; ADDRESS_BYTES], port: u16) -> bool {
    let [f0, f1, p0, p1, a, b, c, d, ..] = *address;
    i32::from(u16::from_ne_bytes([f0, f1])) == libc::AF_INET
        && u16::from_be_bytes([p0, p1]) == port
        && Ipv4Addr::new(a, b, c, d) == Ipv4Addr::LOCALHOST
}

fn socket(fdinfo: &str) -> Option<Socket> {
    let flags = fdinfo.lines().find_map(|line| line.strip_prefix("flags:"))?;
    let flags = i32::from_str_radix(flags.trim(), 8).ok()?;
    Some(Socket { nonblocking: flags & libc::O_NONBLOCK != 0, close_on_exec: flags & libc::O_CLOEXEC != 0 })
}

/// Puts a connection to the proxy in the place of the child's socket.
async fn lend(listener: &OwnedFd, call: Call, socket: Socket, port: u16) -> io::Result<()> {
    let connection = to_proxy(port).await?.into_std()?;
    connection.set_nonblocking(socket.nonblocking)?;
    let place = libc::seccomp_notif_addfd {
        id: call.id,
        flags: libc::SECCOMP_ADDFD_FLAG_SETFD as u32,
        srcfd: connection.as_raw_fd().cast_unsigned(),
        newfd: call.fd as u32,
        newfd_flags: if socket.close_on_exec { libc::O_CLOEXEC.cast_unsigned() } else { 0 },
    };
    // SAFETY: `place` has the kernel's layout and outlives the call.
    let done =
        unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw const place) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The next call; `None` when its process has ended meanwhile.
fn receive(listener: &OwnedFd) -> Option<Call> {
    let data = libc::seccomp_data { nr: 0, arch: 0, instruction_pointer: 0, args: [0; 6] };
    let mut asked = libc::seccomp_notif { id: 0, pid: 0, flags: 0, data };
    // SAFETY: `asked` is zeroed, as the kernel demands, has its layout and outlives the call.
    let got = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut asked) };
    let [fd, address, length, ..] = asked.data.args;
    (got == 0).then_some(Call { id: asked.id, pid: asked.pid, fd, address, length })
}

fn reply(listener: &OwnedFd, id: u64, answer: Answer) {
    let mut said = libc::seccomp_notif_resp { id, val: 0, error: 0, flags: 0 };
    match answer {
        Answer::GoOn => said.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
        Answer::Done => {}
        Answer::Failed(errno) => said.error = -errno,
    }
    // SAFETY: `said` has the kernel's layout and outlives the call. It fails when the process has ended: nobody
    // waits for the answer then.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const said) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(family: i32, port: u16, address: [u8; 4]) -> [u8; ADDRESS_BYTES] {
        let mut bytes = [0; ADDRESS_BYTES];
        bytes[..2].copy_from_slice(&(family as u16).to_ne_bytes());
        bytes[2..4].copy_from_slice(&port.to_be_bytes());
        bytes[4..8].copy_from_slice(&address);
        bytes
    }

    #[test]
    fn only_the_proxys_own_address_is_the_proxy() {
        assert!(is_proxy(&address(libc::AF_INET, 4000, [127, 0, 0, 1]), 4000));
        for (family, port, host) in [
            (libc::AF_INET, 4001, [127, 0, 0, 1]),
            (libc::AF_INET, 4000, [127, 0, 0, 2]),
            (libc::AF_INET, 4000, [0, 0, 0, 0]),
            (libc::AF_INET6, 4000, [127, 0, 0, 1]),
            (libc::AF_UNIX, 4000, [127, 0, 0, 1]),
            (libc::AF_UNSPEC, 4000, [127, 0, 0, 1]),
        ] {
            assert!(!is_proxy(&address(family, port, host), 4000), "{family} {port} {host:?}");
        }
    }

    #[test]
    fn how_a_socket_is_used_is_read_from_the_kernels_words() {
        let info = |flags: &str| format!("pos:\t0\nflags:\t{flags}\nmnt_id:\t9\nino:\t4\n");
        assert_eq!(socket(&info("02")), Some(Socket { nonblocking: false, close_on_exec: false }));
        assert_eq!(socket(&info("02004002")), Some(Socket { nonblocking: true, close_on_exec: true }));
        assert_eq!((socket(""), socket(&info("9"))), (None, None));
    }
}
