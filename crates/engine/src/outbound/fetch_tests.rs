//! Fetching from scripted servers on loopback, reached under public-looking names.

use super::super::allowlist::AllowList;
use super::super::guard::tests::Scripted;
use super::*;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Answers every request with what `answer` makes of its request line; keeps the requests.
async fn server(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
            tokio::spawn(async move {
                let mut bytes = vec![0; 8192];
                let count = stream.read(&mut bytes).await.unwrap_or(0);
                let request = String::from_utf8_lossy(&bytes[..count]).into_owned();
                let line = request.lines().next().unwrap_or_default().to_owned();
                kept.lock().expect("not poisoned").push(request);
                let _ = stream.write_all(&answer(&line)).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    (port, seen)
}

fn ok(kind: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nset-cookie: a=b\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// What a request line says behind `port`.
fn port_in(line: &str) -> &str {
    line.rsplit("port").next().and_then(|rest| rest.split(' ').next()).unwrap_or_default()
}

fn moved(location: &str) -> Vec<u8> {
    format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\nset-cookie: a=b\r\ncontent-length: 0\r\n\r\n")
        .into_bytes()
}

/// `site.test` and `other.test` are named, with this port, and lie on loopback.
fn guard(port: u16) -> Guard {
    let names = Scripted::default()
        .with("site.test", &[&["127.0.0.1"]])
        .with("other.test", &[&["127.0.0.1"]])
        .with("inside.test", &[&["127.0.0.1"]]);
    Guard::new(AllowList::new([format!("site.test:{port}"), format!("other.test:{port}")]), Arc::new(names))
}

const LIMITS: Limits = Limits { bytes: 1000, time: Duration::from_secs(20) };

#[tokio::test]
async fn a_page_comes_with_its_type_and_a_long_one_is_cut() {
    let (port, seen) = server(|line| match line.contains("/long") {
        true => ok("text/plain", &"x".repeat(5000)),
        false => ok("text/html; charset=utf-8", "<p>Hello</p>"),
    })
    .await;
    let page = get(&guard(port), &format!("http://SITE.test.:{port}/a?b=c#d"), LIMITS, &Hops::anywhere())
        .await
        .expect("a page");
    assert_eq!((page.status, page.content_type.as_str(), page.cut), (200, "text/html; charset=utf-8", false));
    assert_eq!(
        (page.body.as_slice(), page.url.as_str()),
        (b"<p>Hello</p>".as_slice(), &*format!("http://site.test:{port}/a?b=c"))
    );
    let request = seen.lock().expect("not poisoned")[0].to_lowercase();
    assert!(request.starts_with("get /a?b=c http/1.1"), "{request}");
    for absent in ["cookie:", "authorization:", "referer:", "x-engine-key"] {
        assert!(!request.contains(absent), "{request}");
    }
    let long = get(&guard(port), &format!("http://site.test:{port}/long"), LIMITS, &Hops::anywhere())
        .await
        .expect("a page");
    assert_eq!((long.body.len(), long.cut), (1000, true));
}

#[tokio::test]
async fn every_redirect_is_checked_and_their_number_is_limited() {
    let (port, seen) = server(move |line| {
        let port =
            line.rsplit("port").next().and_then(|p| p.split(' ').next()).unwrap_or_default().to_owned();
        match line.split(' ').nth(1).unwrap_or_default().split('/').nth(1).unwrap_or_default() {
            "far" => moved(&format!("http://other.test:{port}/end/port{port}")),
            "near" => moved(&format!("/end/port{port}")),
            "metadata" => moved("http://169.254.169.254/latest/meta-data/"),
            "private" => moved(&format!("http://inside.test:{port}/end")),
            "literal" => moved(&format!("http://127.0.0.1:{port}/end")),
            "file" => moved("file:///etc/passwd"),
            "login" => moved(&format!("http://u:p@other.test:{port}/end")),
            "loop" => moved(&format!("/loop/port{port}")),
            _ => ok("text/plain", "end"),
        }
    })
    .await;
    let guard = guard(port);
    let fetch = |path: &str| {
        let (guard, url) = (guard.clone(), format!("http://site.test:{port}/{path}/port{port}"));
        async move { get(&guard, &url, LIMITS, &Hops::anywhere()).await }
    };
    assert_eq!(fetch("far").await.expect("a page").url.host_str(), Some("other.test"));
    assert_eq!(fetch("near").await.expect("a page").body, b"end");
    for hop in seen.lock().expect("not poisoned").iter() {
        assert!(!hop.to_lowercase().contains("cookie:") && !hop.to_lowercase().contains("referer:"), "{hop}");
    }
    for bad in ["metadata", "private", "literal", "file", "login"] {
        let before = seen.lock().expect("not poisoned").len();
        let error = fetch(bad).await.expect_err(bad);
        assert!(matches!(error, FetchError::Refused(_)), "{bad}: {error}");
        assert_eq!(
            seen.lock().expect("not poisoned").len(),
            before + 1,
            "{bad}: only the first hop is asked"
        );
    }
    let before = seen.lock().expect("not poisoned").len();
    assert!(matches!(fetch("loop").await, Err(FetchError::Redirects)));
    assert_eq!(seen.lock().expect("not poisoned").len(), before + 1 + REDIRECTS_MAX);
}

#[tokio::test]
async fn where_the_first_address_had_to_be_allowed_so_has_every_hop() {
    let (port, seen) = server(move |line| match line.split(' ').nth(1).unwrap_or_default() {
        "/elsewhere" => moved("http://elsewhere.test/end"),
        path if path.starts_with("/to-") => {
            let host = path.trim_start_matches("/to-").split('?').next().unwrap_or_default();
            moved(&format!("http://{host}:{}/end", port_in(line)))
        }
        _ => ok("text/plain", "end"),
    })
    .await;
    let names = Scripted::default()
        .with("site.test", &[&["127.0.0.1"]])
        .with("other.test", &[&["127.0.0.1"]])
        .with("elsewhere.test", &[&["93.184.216.34"]]);
    let names = Arc::new(names);
    let list = AllowList::new([format!("site.test:{port}"), format!("other.test:{port}")]);
    let guard = Guard::new(list, names.clone());
    let url = |path: &str| format!("http://site.test:{port}/{path}?port{port}");
    let nobody = Hops::within([""; 0]);
    let page = get(&guard, &url("to-other.test"), LIMITS, &nobody).await.expect("a listed host");
    assert_eq!(page.body, b"end");
    let asked = seen.lock().expect("not poisoned").len();
    match get(&guard, &url("elsewhere").replace(&format!("?port{port}"), ""), LIMITS, &nobody).await {
        Err(FetchError::Elsewhere(to)) => assert_eq!(to.as_str(), "http://elsewhere.test/end"),
        other => panic!("{other:?}"),
    }
    assert_eq!(seen.lock().expect("not poisoned").len(), asked + 1, "only the first hop is asked");
    assert!(!names.asked().contains(&"elsewhere.test".to_owned()), "a lookup says something, too");
    let granted = Hops::within(["elsewhere.test"]);
    assert!(granted.check("https://elsewhere.test/x", guard.list()).is_ok());
    assert!(matches!(
        granted.check("https://a.elsewhere.test/", guard.list()),
        Err(FetchError::Elsewhere(_))
    ));
}

#[tokio::test]
async fn the_connection_goes_to_the_checked_address_whatever_the_name_says_later() {
    let (port, seen) = server(|_| ok("text/plain", "mine")).await;
    // public when it is checked, this machine when it would be asked again
    let names = Scripted::default().with("rebind.test", &[&["127.0.0.1"], &["169.254.169.254"]]);
    let names = Arc::new(names);
    let guard = Guard::new(AllowList::new([format!("rebind.test:{port}")]), names.clone());
    assert_eq!(
        get(&guard, &format!("http://rebind.test:{port}/"), LIMITS, &Hops::anywhere())
            .await
            .expect("a page")
            .body,
        b"mine"
    );
    assert_eq!((names.asked().len(), seen.lock().expect("not poisoned").len()), (1, 1));
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let limits = Limits { time: Duration::from_millis(200), ..LIMITS };
    let error = get(&guard(port), &format!("http://site.test:{port}/"), limits, &Hops::anywhere())
        .await
        .expect_err("silence");
    assert!(matches!(error, FetchError::Timeout(_)), "{error}");
    drop(listener);
    let error = get(&guard(port), &format!("http://site.test:{port}/"), LIMITS, &Hops::anywhere())
        .await
        .expect_err("nobody");
    assert!(matches!(error, FetchError::Failed(_)), "{error}");
}
