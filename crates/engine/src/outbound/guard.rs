//! Looking a name up, once, and checking every answer.

use super::allowlist::AllowList;
use super::target::{self, Refused, Target};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// How long a name may take to resolve. Longer makes a dead name server hold calls up, shorter fails on slow ones.
const RESOLVE_MAX: Duration = Duration::from_secs(5);
/// Addresses of one name that are used. More would only be tried one after the other.
const ADDRESSES_MAX: usize = 16;

/// From names to addresses.
pub trait Resolve: Send + Sync {
    /// Every address of this name.
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}

/// The machine's own resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        async move { Ok(tokio::net::lookup_host((host, 0)).await?.map(|a| a.ip()).collect()) }.boxed()
    }
}

/// A target with the addresses it may be connected to, and no others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// Host and port.
    pub target: Target,
    /// Checked; never empty.
    pub addresses: Vec<SocketAddr>,
}

/// Decides where requests of tools may go.
#[derive(Clone)]
pub struct Guard {
    list: Arc<AllowList>,
    resolver: Arc<dyn Resolve>,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("list", &self.list).finish_non_exhaustive()
    }
}

impl Guard {
    /// With TOOL_NETWORK_ALLOWLIST and a resolver.
    pub fn new(list: AllowList, resolver: Arc<dyn Resolve>) -> Self {
        Self { list: Arc::new(list), resolver }
    }

    /// The same, with public hosts that a person has allowed for one call.
    pub fn granting<S: AsRef<str>>(&self, hosts: &[S]) -> Self {
        Self { list: Arc::new(self.list.granting(hosts)), resolver: Arc::clone(&self.resolver) }
    }

    /// The hosts an operator has named.
    pub fn list(&self) -> &AllowList {
        &self.list
    }

    /// Reads a URL and finds out where it leads.
    pub async fn admit_url(&self, url: &str) -> Result<(Url, Admitted), Refused> {
        let (url, target) = target::read(url, &self.list)?;
        Ok((url, self.resolve(target).await?))
    }

    /// The same for `host:port`, which the allow-list must cover: for the proxy of sandboxed commands.
    pub async fn admit_listed(&self, authority: &str) -> Result<Admitted, Refused> {
        let target = Target::of_authority(authority, &self.list)?;
        if !self.list.covers(&target.host, target.port) {
            return Err(Refused::NotListed(target.host));
        }
        self.resolve(target).await
    }

    /// One lookup. One address that is not allowed refuses the name: who mixes public and private answers is
    /// trying something.
    async fn resolve(&self, target: Target) -> Result<Admitted, Refused> {
        let found = match target.address {
            Some(address) => vec![address],
            None => {
                let lookup = self.resolver.resolve(&target.host);
                let unknown = || Refused::Unknown(target.host.clone());
                let found = tokio::time::timeout(RESOLVE_MAX, lookup).await;
                found.map_err(|_| unknown())?.map_err(|_| unknown())?
            }
        };
        if found.is_empty() {
            return Err(Refused::Unknown(target.host));
        }
        for address in &found {
            target.check(*address)?;
        }
        let port = target.port;
        let addresses = found.into_iter().take(ADDRESSES_MAX).map(|ip| SocketAddr::new(ip, port)).collect();
        Ok(Admitted { target, addresses })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    /// Answers from a table and counts; a name's answers change with every question.
    #[derive(Default)]
    pub struct Scripted {
        answers: BTreeMap<String, Vec<Vec<IpAddr>>>,
        asked: Mutex<Vec<String>>,
    }

    impl Scripted {
        pub fn with(mut self, host: &str, answers: &[&[&str]]) -> Self {
            let read = |list: &&[&str]| list.iter().map(|a| a.parse().expect("an address")).collect();
            self.answers.insert(host.to_owned(), answers.iter().map(read).collect());
            self
        }

        pub fn asked(&self) -> Vec<String> {
            self.asked.lock().expect("not poisoned").clone()
        }
    }

    impl Resolve for Scripted {
        fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
            let mut asked = self.asked.lock().expect("not poisoned");
            let before = asked.iter().filter(|h| *h == host).count();
            asked.push(host.to_owned());
            let answers = self.answers.get(host).and_then(|a| a.get(before.min(a.len() - 1))).cloned();
            std::future::ready(answers.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))).boxed()
        }
    }

    #[tokio::test]
    async fn one_private_answer_refuses_the_name_and_the_name_is_asked_once() {
        let names = Scripted::default()
            .with("good.test", &[&["93.184.216.34", "2606:2800:220:1::1"], &["127.0.0.1"]])
            .with("mixed.test", &[&["93.184.216.34", "10.0.0.1"]])
            .with("metadata.test", &[&["169.254.169.254"]])
            .with("empty.test", &[&[]]);
        let names = Arc::new(names);
        let guard = Guard::new(AllowList::default(), names.clone());
        let (_, admitted) = guard.admit_url("https://good.test/x").await.expect("public");
        let wanted: Vec<SocketAddr> = ["93.184.216.34:443", "[2606:2800:220:1::1]:443"]
            .map(|a| a.parse().expect("an address"))
            .to_vec();
        assert_eq!(admitted.addresses, wanted);
        assert_eq!(names.asked(), ["good.test"]);
        // the second answer of the same name is another one: it is checked again
        assert!(matches!(guard.admit_url("https://good.test/x").await, Err(Refused::Address { .. })));
        assert!(matches!(guard.admit_url("http://mixed.test/").await, Err(Refused::Address { .. })));
        assert!(matches!(guard.admit_url("http://metadata.test/").await, Err(Refused::Address { .. })));
        assert!(matches!(guard.admit_url("http://empty.test/").await, Err(Refused::Unknown(_))));
        assert!(matches!(guard.admit_url("http://nobody.test/").await, Err(Refused::Unknown(_))));
    }

    #[tokio::test]
    async fn the_proxy_reaches_listed_hosts_only() {
        let names = Scripted::default()
            .with("pypi.test", &[&["93.184.216.34"]])
            .with("other.test", &[&["93.184.216.34"]])
            .with("inside.test", &[&["10.0.0.5"]])
            .with("rebound.test", &[&["169.254.169.254"]]);
        let list = AllowList::new(["pypi.test", "inside.test:8080", "rebound.test"]);
        let guard = Guard::new(list, Arc::new(names));
        assert!(guard.admit_listed("pypi.test:443").await.is_ok());
        assert!(guard.admit_listed("PYPI.test.:443").await.is_ok());
        assert!(guard.admit_listed("inside.test:8080").await.is_ok());
        assert_eq!(guard.admit_listed("other.test:443").await, Err(Refused::NotListed("other.test".into())));
        assert_eq!(guard.admit_listed("pypi.test:22").await, Err(Refused::Port(22)));
        assert!(matches!(guard.admit_listed("rebound.test:443").await, Err(Refused::Address { .. })));
        assert!(matches!(guard.admit_listed("10.0.0.5:443").await, Err(Refused::Address { .. })));
    }
}
