//! Attempts to talk to anybody: over every family of sockets, and to daemons of the host.

use super::attempt::{Attempt, Control, Network, Outcome, Promise, Root, Scene};
use super::calls::call;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};

const fn net(name: &'static str, act: fn(&Scene) -> Outcome) -> Attempt {
    Attempt {
        name,
        promise: Promise::Always,
        control: Control::Works,
        root: Root::Beside,
        network: Network::Off,
        act,
    }
}

/// Depends on modules this kernel may not have.
const fn family(name: &'static str, act: fn(&Scene) -> Outcome) -> Attempt {
    Attempt {
        name,
        promise: Promise::Always,
        control: Control::No,
        root: Root::Beside,
        network: Network::Off,
        act,
    }
}

/// With the proxy allowed and everything else not.
const fn past(name: &'static str, act: fn(&Scene) -> Outcome) -> Attempt {
    Attempt { network: Network::Proxy, ..net(name, act) }
}

fn socket(family: i32, kind: i32, protocol: i32) -> Outcome {
    Outcome::reached(call(libc::SYS_socket, [family.into(), kind.into(), protocol.into(), 0, 0, 0]))
}

fn send(local: &str, port: u16) -> std::io::Result<usize> {
    let host = local.trim_end_matches(":0");
    UdpSocket::bind(local)?.send_to(b"out", format!("{host}:{port}"))
}

/// Connects to the proxy, lets go of it, and connects the same socket to another host.
fn turned_elsewhere(s: &Scene) -> std::io::Result<()> {
    let socket = TcpStream::connect(("127.0.0.1", s.proxy))?;
    let fd = i64::from(std::os::fd::AsRawFd::as_raw_fd(&socket));
    let nobody = [0_u8; 16];
    call(libc::SYS_connect, [fd, nobody.as_ptr() as i64, 16, 0, 0, 0])?;
    let somebody = address([127, 0, 0, 2], s.proxy);
    call(libc::SYS_connect, [fd, somebody.as_ptr() as i64, 16, 0, 0, 0]).map(|_| ())
}

/// An IPv4 address as system calls take it.
fn address(host: [u8; 4], port: u16) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    bytes[2..4].copy_from_slice(&port.to_be_bytes());
    bytes[4..8].copy_from_slice(&host);
    bytes
}

/// Sends to another host at the proxy's port in a way that connects without `connect`.
fn by_fast_open(s: &Scene) -> std::io::Result<()> {
    let (family, kind) = (i64::from(libc::AF_INET), i64::from(libc::SOCK_STREAM));
    let fd = call(libc::SYS_socket, [family, kind, 0, 0, 0, 0])?;
    let (to, said) = (address([127, 0, 0, 2], s.proxy), b"out");
    let flags = i64::from(libc::MSG_FASTOPEN);
    let sent = [fd, said.as_ptr() as i64, 3, flags, to.as_ptr() as i64, 16];
    call(libc::SYS_sendto, sent).map(|_| ())
}

pub const ATTEMPTS: &[Attempt] = &[
    past("proxy allowed: another host at its port", |s| {
        Outcome::of(TcpStream::connect(("127.0.0.2", s.proxy)))
    }),
    past("proxy allowed: another port of its host", |s| {
        Outcome::of(TcpStream::connect(("127.0.0.1", s.tcp4)))
    }),
    past("proxy allowed: IPv6", |s| match s.tcp6 {
        0 => Outcome::CannotTry("no IPv6 here".into()),
        port => Outcome::of(TcpStream::connect(("::1", port))),
    }),
    past("proxy allowed: its connection, turned elsewhere", |s| Outcome::of(turned_elsewhere(s))),
    past("proxy allowed: TCP fast open", |s| Outcome::of(by_fast_open(s))),
    past("proxy allowed: UDP", |s| Outcome::of(send("127.0.0.1:0", s.udp4))),
    past("proxy allowed: a daemon's socket by path", |s| {
        Outcome::of(UnixStream::connect(s.outside("daemon.sock")))
    }),
    past("proxy allowed: an abstract socket", |s| {
        let address = SocketAddr::from_abstract_name(&s.abstract_name);
        Outcome::of(address.and_then(|a| UnixStream::connect_addr(&a)))
    }),
    net("TCP over IPv4", |s| Outcome::of(TcpStream::connect(("127.0.0.1", s.tcp4)))),
    net("TCP over IPv6", |s| match s.tcp6 {
        0 => Outcome::CannotTry("no IPv6 here".into()),
        port => Outcome::of(TcpStream::connect(("::1", port))),
    }),
    net("UDP over IPv4", |s| Outcome::of(send("127.0.0.1:0", s.udp4))),
    net("UDP over IPv6", |s| match s.udp6 {
        0 => Outcome::CannotTry("no IPv6 here".into()),
        port => Outcome::of(send("[::1]:0", port)),
    }),
    net("listen on TCP", |_| Outcome::of(TcpListener::bind("127.0.0.1:0"))),
    net("raw ICMP", |_| socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)),
    family("ping socket", |_| socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP)),
    family("packets", |_| socket(libc::AF_PACKET, libc::SOCK_RAW, 3 << 8)),
    family("multipath TCP", |_| socket(libc::AF_INET, libc::SOCK_STREAM, 262)),
    net("netlink", |_| socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)),
    family("vsock", |_| socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)),
    family("kernel crypto (AF_ALG)", |_| socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0)),
    family("bluetooth", |_| socket(libc::AF_BLUETOOTH, libc::SOCK_RAW, 0)),
    family("CAN", |_| socket(libc::AF_CAN, libc::SOCK_RAW, 1)),
    family("XDP", |_| socket(libc::AF_XDP, libc::SOCK_RAW, 0)),
    net("netlink by socketpair", |_| {
        let mut pair = [0_i32; 2];
        let (family, kind) = (i64::from(libc::AF_INET), i64::from(libc::SOCK_STREAM));
        Outcome::reached(call(libc::SYS_socketpair, [family, kind, 0, pair.as_mut_ptr() as i64, 0, 0]))
    }),
    net("a daemon's socket by path", |s| Outcome::of(UnixStream::connect(s.outside("daemon.sock")))),
    net("a daemon's datagram socket", |s| {
        Outcome::of(UnixDatagram::unbound().and_then(|u| u.send_to(b"out", s.outside("daemon.dgram"))))
    }),
    net("a daemon's datagram socket by socketpair", |s| {
        Outcome::of(UnixDatagram::pair().and_then(|(u, _)| u.send_to(b"out", s.outside("daemon.dgram"))))
    }),
    net("a daemon's datagram socket, called raw", |s| {
        use std::os::fd::FromRawFd;
        let (unix, raw) = (i64::from(libc::AF_UNIX), i64::from(libc::SOCK_RAW));
        let sent = call(libc::SYS_socket, [unix, raw, 0, 0, 0, 0]).and_then(|fd| {
            // SAFETY: the descriptor was made above and belongs to nobody else.
            let socket = unsafe { UnixDatagram::from_raw_fd(fd as i32) };
            socket.send_to(b"out", s.outside("daemon.dgram"))
        });
        Outcome::of(sent)
    }),
    net("an abstract socket", |s| {
        let address = SocketAddr::from_abstract_name(&s.abstract_name);
        Outcome::of(address.and_then(|a| UnixStream::connect_addr(&a)))
    }),
    family("the Docker daemon", |_| {
        let mut places = ["/var/run/docker.sock", "/run/docker.sock", "/run/dbus/system_bus_socket"].iter();
        match places.find(|place| UnixStream::connect(place).is_ok()) {
            Some(place) => Outcome::Did((*place).into()),
            None => Outcome::Refused,
        }
    }),
];
