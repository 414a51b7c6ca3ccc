//! Handing one descriptor through the wall of the sandbox: from a child that has just made it to the Engine.
//!
//! A pair of sockets is made before the child; the child keeps its end only until it has handed over. Nothing else
//! is ever said through it, and the Engine sends nothing.
//!
//! The invariant: one descriptor, once, from the inside to the outside.

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

/// What goes with the descriptor: the kernel passes none along with nothing.
const MARK: u8 = b'd';

/// The Engine's end and the child's.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let kind = (AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    Ok(rustix::net::socketpair(kind.0, kind.1, kind.2, None)?)
}

/// Says it from the inside. Async-signal-safe: system calls on memory of this stack.
pub(super) fn hand_over(end: BorrowedFd<'_>, made: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [made];
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    rustix::net::sendmsg(end, &[IoSlice::new(&[MARK])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Takes what was handed over; it must have happened already.
pub(super) fn take(end: &OwnedFd) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut mark = [0];
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    rustix::net::recvmsg(end, &mut [IoSliceMut::new(&mut mark)], &mut control, flags)?;
    let handed = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    handed.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "nothing was handed over"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    #[test]
    fn what_was_handed_over_is_the_same_thing_and_nothing_is_waited_for() {
        let (outside, inside) = pair().expect("a pair");
        assert_eq!(take(&outside).expect_err("nothing yet").kind(), io::ErrorKind::WouldBlock);
        let (mut one, two) = std::os::unix::net::UnixStream::pair().expect("a pair");
        hand_over(inside.as_fd(), two.as_fd()).expect("handed over");
        drop(two);
        let mut got = std::os::unix::net::UnixStream::from(take(&outside).expect("taken"));
        one.write_all(b"x").expect("written");
        let mut byte = [0];
        got.read_exact(&mut byte).expect("read");
        assert_eq!(byte, *b"x");
        drop(inside);
        assert_eq!(take(&outside).expect_err("gone").kind(), io::ErrorKind::UnexpectedEof);
    }
}
