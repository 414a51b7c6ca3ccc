//! The proxy with real sockets: what is passed on, what is not, and where it goes.

use super::*;
use crate::outbound::AllowList;
use crate::outbound::guard::tests::Scripted;

/// Echoes what it is sent, after a greeting.
async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(b"hello ").await;
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    port
}

/// A proxy for which `listed.test` lies on loopback and is named with this port.
async fn proxy(port: u16) -> Proxy {
    let names = Scripted::default()
        .with("listed.test", &[&["127.0.0.1"]])
        .with("other.test", &[&["127.0.0.1"]])
        .with("wide.test", &[&["127.0.0.1"]])
        .with("metadata.test", &[&["169.254.169.254"]]);
    let list = [format!("listed.test:{port}"), "metadata.test".into(), format!("*.sub.test:{port}")];
    Proxy::start(Guard::new(AllowList::new(list), Arc::new(names))).await.expect("it listens")
}

impl Proxy {
    fn authorization(&self) -> String {
        format!("Proxy-Authorization: Basic {}\r\n", credentials(USER, &self.token))
    }
}

/// Sends bytes, half closes, and reads to the end.
async fn talk(proxy: &Proxy, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).await.expect("it accepts");
    stream.write_all(request.as_bytes()).await.expect("written");
    stream.shutdown().await.expect("half closed");
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(20), read).await.expect("an end");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_listed_host_is_reached_through_a_tunnel_and_by_a_plain_get() {
    let port = echo().await;
    let proxy = proxy(port).await;
    let auth = proxy.authorization();
    let tunnel = talk(&proxy, &format!("CONNECT LISTED.test.:{port} HTTP/1.1\r\n{auth}\r\nping")).await;
    assert_eq!(tunnel, "HTTP/1.1 200 Connection established\r\n\r\nhello ping");
    let get = format!("GET http://listed.test:{port}/x HTTP/1.1\r\nHost: other.test\r\n{auth}X-A: b\r\n\r\n");
    let wanted =
        format!("hello GET /x HTTP/1.1\r\nHost: listed.test:{port}\r\nConnection: close\r\nx-a: b\r\n\r\n");
    assert_eq!(talk(&proxy, &get).await, wanted, "neither the token nor the lie about the host is passed on");
}

#[tokio::test]
async fn everything_else_is_refused_with_a_reason() {
    let port = echo().await;
    let proxy = proxy(port).await;
    let auth = proxy.authorization();
    for (target, status, word) in [
        (format!("other.test:{port}"), "403", "port"),
        ("other.test:443".into(), "403", "allow-list"),
        (format!("127.0.0.1:{port}"), "403", "port"),
        ("127.0.0.1:443".into(), "403", "loopback"),
        ("0x7f000001:80".into(), "403", "loopback"),
        ("[::ffff:169.254.169.254]:80".into(), "403", "mapped"),
        ("metadata.test:80".into(), "403", "metadata"),
        ("169.254.169.254:80".into(), "403", "metadata"),
        ("localhost:80".into(), "403", "local name"),
        (format!("sub.test:{port}"), "403", "port"),
        (format!("none.sub.test:{port}"), "502", "resolve"),
        ("nonsense".into(), "400", "URL"),
    ] {
        let answer = talk(&proxy, &format!("CONNECT {target} HTTP/1.1\r\n{auth}\r\n")).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(word),
            "{target}: {answer}"
        );
        assert!(!answer.contains("hello"), "{target}: {answer}");
    }
    let no_token = talk(&proxy, &format!("CONNECT listed.test:{port} HTTP/1.1\r\n\r\n")).await;
    assert!(no_token.starts_with("HTTP/1.1 407 ") && no_token.contains("Proxy-Authenticate"), "{no_token}");
    let post = talk(&proxy, &format!("POST http://listed.test:{port}/ HTTP/1.1\r\n{auth}\r\n")).await;
    assert!(post.starts_with("HTTP/1.1 405 "), "{post}");
    let long =
        talk(&proxy, &format!("GET http://listed.test/ HTTP/1.1\r\nx: {}\r\n", "y".repeat(HEAD_MAX))).await;
    assert!(long.starts_with("HTTP/1.1 431 ") || long.is_empty(), "{long}");
}

#[tokio::test]
async fn a_pass_opens_a_public_host_beyond_the_list_for_its_own_call_and_only_while_it_lasts() {
    let port = echo().await;
    let names =
        Scripted::default().with("asked.test", &[&["93.184.216.34"]]).with("inside.test", &[&["127.0.0.1"]]);
    let guard = Guard::new(AllowList::new([format!("listed.test:{port}")]), Arc::new(names));
    let proxy = Proxy::start(guard.clone()).await.expect("it listens");
    let hosts = ["asked.test:8443".to_owned(), format!("inside.test:{port}"), "asked.test".into()];
    let open = guard.granting(&hosts);
    assert!(
        open.admit_listed("asked.test:8443").await.is_ok()
            && open.admit_listed("asked.test:80").await.is_ok()
    );
    assert!(
        open.admit_listed("asked.test:8080").await.is_err()
            && open.admit_listed("other.test:80").await.is_err()
    );
    let inside = open.admit_listed(&format!("inside.test:{port}")).await;
    assert!(matches!(inside, Err(Refused::Address { .. })), "a yes opens nothing private: {inside:?}");
    assert!(guard.admit_listed("asked.test:80").await.is_err(), "the list is as it was");

    let pass = proxy.pass(&hosts);
    let auth = format!("Proxy-Authorization: Basic {}\r\n", credentials(&pass.user, &pass.token));
    let target = format!("CONNECT inside.test:{port} HTTP/1.1\r\n{auth}\r\n");
    let known = talk(&proxy, &target).await;
    assert!(known.starts_with("HTTP/1.1 403 ") && known.contains("loopback"), "{known}");
    assert_eq!(proxy.door.passes.lock().expect("not poisoned").len(), 2);
    drop(pass);
    let after = talk(&proxy, &target).await;
    assert!(after.starts_with("HTTP/1.1 407 "), "{after}");
}

#[tokio::test]
async fn a_command_gets_the_address_with_the_token_and_debug_does_not() {
    let proxy = proxy(1).await;
    let mut command = Command::new("true", [""; 0]);
    proxy.open_for(&mut command);
    assert_eq!(command.network, Network::Proxy(proxy.port()));
    let (_, address) = command.env.iter().find(|(name, _)| name == "https_proxy").expect("set");
    assert_eq!(*address, format!("http://sandbox:{}@127.0.0.1:{}", proxy.token(), proxy.port()));
    assert!(!format!("{proxy:?}").contains(proxy.token()));
}
