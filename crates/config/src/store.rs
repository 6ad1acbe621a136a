//! `etcd3`: where the store is, and how to be let in (contract 3.3). A pure function of the section.
//! Leaves opening files and connections, and asking DNS, to the store's client.

use std::path::{Path, PathBuf};

use crate::node::login;
use crate::parse;
use crate::problem::Problem;
use crate::secret::Secret;
use crate::section::Section;
use crate::settings::{Login, StoreSettings, StoreSrv, StoreTls};

const PORT: u16 = 2379;
const OTHER_STORES: [&str; 5] = ["consul", "zookeeper", "exhibitor", "kubernetes", "raft"];
const SRV: [&str; 3] = ["srv", "discovery_srv", "srv_domain"];

/// `etcd3`, or `etcd` with the same keys: `hosts`, `host`, `url` or `proxy`, with or without a scheme,
/// or `srv`, before which only `proxy` goes.
pub fn store_address(root: &Section<'_>) -> Option<StoreSettings> {
    for other in OTHER_STORES {
        if root.has(other) {
            let words = "pgherd speaks etcd's v3 API only; write the section as 'etcd3:'";
            root.note(Problem::error(None, other, words));
            root.take(other);
        }
    }
    let section = chosen(root)?;
    let protocol = section.optional("protocol", protocol).unwrap_or("http");
    let mut login = login_of(&section);
    let tls = tls(&section);
    let use_proxies = section.optional("use_proxies", parse::boolean).unwrap_or(false);
    let by_url = ["proxy", "url"].into_iter().find(|key| section.has(key));
    let endpoints = match by_url {
        Some(key) => {
            let (endpoints, found) = by_url_key(&section, key);
            login = login.or(found);
            endpoints
        }
        None => by_hosts(&section, protocol),
    };
    let srv = srv(&section).filter(|_| by_url != Some("proxy"));
    let plain = srv.is_none() && endpoints.iter().all(|e| e.starts_with("http://"));
    if tls != StoreTls::default() && plain {
        let words = "of no effect: no endpoint is https; write 'protocol: https'";
        section.note(Problem::warning(None, section.place("cacert"), words));
    }
    section.finish(&[]);
    // Sockets are one machine's, and what a proxy's members say of themselves is not for us.
    let remote = endpoints.iter().all(|endpoint| !endpoint.starts_with("unix:"));
    let discover = remote && !use_proxies && by_url != Some("proxy");
    let somewhere = srv.is_some() || !endpoints.is_empty();
    somewhere.then_some(StoreSettings { endpoints, srv, login, tls, discover })
}

fn chosen<'a>(root: &Section<'a>) -> Option<Section<'a>> {
    if root.has("etcd3") {
        if root.take("etcd").is_some() {
            root.note(Problem::warning(None, "etcd", "ignored, because there is 'etcd3'"));
        }
        return Some(root.section("etcd3"));
    }
    if root.has("etcd") {
        let words = "read as 'etcd3:'; Patroni uses etcd's API v2 for this section, whose keys are \
                     others, so no cluster of its is found there";
        root.note(Problem::warning(None, "etcd", words));
        return Some(root.section("etcd"));
    }
    root.take("etcd3");
    let words = "this section is needed; write 'etcd3:' with 'hosts: 127.0.0.1:2379' below it";
    root.note(Problem::error(None, "etcd3", words));
    None
}

fn protocol(text: &str) -> Result<&'static str, String> {
    match text {
        "http" => Ok("http"),
        "https" => Ok("https"),
        _ => Err("http or https".to_owned()),
    }
}

fn login_of(section: &Section<'_>) -> Option<Login> {
    let named = section.has("username") || section.has("password");
    if named { login(section, None) } else { None }
}

fn tls(section: &Section<'_>) -> StoreTls {
    let file = |key: &'static str| -> Option<PathBuf> { section.optional(key, parse::absolute) };
    let tls = StoreTls { cacert: file("cacert"), cert: file("cert"), key: file("key") };
    if tls.key.is_some() && tls.cert.is_none() {
        let words = "a key without its certificate; write 'cert: /PATH' too";
        section.note(Problem::error(None, section.place("key"), words));
    }
    tls
}

/// `url` or `proxy`: one address that may have a user and a password in it.
fn by_url_key(section: &Section<'_>, key: &'static str) -> (Vec<String>, Option<Login>) {
    for other in ["hosts", "host"] {
        if section.take(other).is_some() {
            let words = format!("ignored, because there is '{key}'");
            section.note(Problem::warning(None, section.place(other), words));
        }
    }
    let node = section.take(key);
    match node.and_then(crate::yaml::Node::scalar).map(|text| url(&text)) {
        Some(Ok((endpoint, login))) => (vec![endpoint], login),
        // Not what was found there: it may hold a password.
        Some(Err(())) | None => {
            let words = "expected http[s]://[USER:PASSWORD@]HOST:PORT";
            let origin = node.map(|node| node.origin.clone());
            section.note(Problem::error(origin, section.place(key), words));
            (Vec::new(), None)
        }
    }
}

fn by_hosts(section: &Section<'_>, protocol: &str) -> Vec<String> {
    let hosts = section.list("hosts").or_else(|| section.list("host")).unwrap_or_default();
    if hosts.is_empty() && !SRV.iter().any(|key| section.has(key)) {
        let words = "no address of the store; write for example 'hosts: 127.0.0.1:2379'";
        section.note(Problem::error(None, section.place("hosts"), words));
    }
    let endpoints = hosts.iter().filter_map(|host| match endpoint(host, protocol) {
        Ok(endpoint) => Some(endpoint),
        Err(words) => {
            section.note(Problem::error(None, section.place("hosts"), words));
            None
        }
    });
    endpoints.collect()
}

/// The domain whose records name the members, under any of Patroni's three names.
fn srv(section: &Section<'_>) -> Option<StoreSrv> {
    let found: Vec<_> = SRV.into_iter().filter(|key| section.has(key)).collect();
    // As in Patroni, where the aliases are written over the key.
    let domains: Vec<_> = found.iter().map(|key| section.optional(key, parse::domain)).collect();
    let domain = domains.into_iter().next_back().flatten();
    if let [ignored @ .., last] = found.as_slice() {
        for key in ignored {
            let words = format!("ignored, because there is '{last}'");
            section.note(Problem::warning(None, section.place(key), words));
        }
        if section.has("proxy") {
            let words = "ignored, because there is 'proxy'";
            section.note(Problem::warning(None, section.place(last), words));
        }
    }
    let suffix = section.optional("srv_suffix", parse::domain);
    if suffix.is_some() && found.is_empty() {
        let words = "of no effect without 'srv'";
        section.note(Problem::warning(None, section.place("srv_suffix"), words));
    }
    Some(StoreSrv { domain: domain?, suffix })
}

/// One address of the store as a URL; without a port it is etcd's.
///
/// # Errors
/// What was expected, in words; never with a password.
pub fn endpoint(host: &str, protocol: &str) -> Result<String, String> {
    if host.contains('@') {
        return Err("user and password have keys of their own: 'username', 'password'".to_owned());
    }
    if let Some(path) = host.strip_prefix("unix://") {
        return if Path::new(path).is_absolute() {
            Ok(host.to_owned())
        } else {
            Err(format!("expected unix:///ABSOLUTE/PATH, found '{host}'"))
        };
    }
    let (scheme, rest) = host.split_once("://").unwrap_or((protocol, host));
    if !matches!(scheme, "http" | "https") {
        return Err(format!("expected http, https or unix, found '{scheme}' in '{host}'"));
    }
    let address = parse::host_port(&with_port(rest.trim_end_matches('/')));
    let address = address.map_err(|wanted| format!("expected {wanted}, found '{host}'"))?;
    Ok(format!("{scheme}://{address}"))
}

fn with_port(address: &str) -> String {
    let bare = !address.is_empty() && (!address.contains(':') || address.ends_with(']'));
    if bare { format!("{address}:{PORT}") } else { address.to_owned() }
}

fn url(text: &str) -> Result<(String, Option<Login>), ()> {
    let (scheme, rest) = text.split_once("://").ok_or(())?;
    let scheme = protocol(scheme).map_err(drop)?;
    let rest = rest.split('/').next().unwrap_or_default();
    let (user, address) = match rest.rsplit_once('@') {
        Some((user, address)) => (Some(user), address),
        None => (None, rest),
    };
    let endpoint = endpoint(address, scheme).map_err(drop)?;
    let decode = |text: &str| {
        let text = percent_encoding::percent_decode_str(text).decode_utf8().map_err(drop)?;
        if text.is_empty() { Err(()) } else { Ok(text.into_owned()) }
    };
    let login = user.map(|user| {
        let (username, password) = user.split_once(':').ok_or(())?;
        Ok(Login { username: decode(username)?, password: Secret::new(decode(password)?) })
    });
    Ok((endpoint, login.transpose()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]
    use std::cell::RefCell;

    use super::*;
    use crate::problem::Severity;
    use crate::yaml::Node;

    fn read(text: &str) -> (Option<StoreSettings>, Vec<Problem>) {
        let document = Node::parse(text).unwrap();
        let problems = RefCell::new(Vec::new());
        let found = store_address(&Section::root(&document, &problems));
        (found, problems.into_inner())
    }

    fn good(text: &str) -> StoreSettings {
        let (found, problems) = read(text);
        assert!(problems.is_empty(), "{problems:?}");
        found.unwrap()
    }

    fn bad(text: &str) -> String {
        let (_, problems) = read(text);
        let errors = problems.iter().filter(|p| p.severity == Severity::Error);
        errors.map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn hosts_in_all_their_forms() {
        let two = ["https://a:2379", "https://b:2380"];
        for text in [
            "etcd3: {hosts: 'a, b:2380', protocol: https}",
            "etcd3: {hosts: [a, 'b:2380'], protocol: https}",
            "etcd3: {hosts: ['https://a:2379', 'https://b:2380/']}",
        ] {
            let store = good(text);
            assert_eq!(store.endpoints, two, "{text}");
            assert!(store.discover);
        }
        assert_eq!(good("etcd3: {host: '[::1]'}").endpoints, ["http://[::1]:2379"]);
        let mixed = good("etcd3: {hosts: ['http://a:1', 'b:2'], protocol: https}");
        assert_eq!(mixed.endpoints, ["http://a:1", "https://b:2"]);
        assert!(!good("etcd3: {hosts: 'a:1', use_proxies: true}").discover);
        assert!(!good("etcd3: {hosts: ['unix:///run/s']}").discover);
    }

    #[test]
    fn a_url_has_everything_in_it_and_its_password_stays_there() {
        let store = good("etcd3: {url: 'https://us%40er:p%3Aw@h:1'}");
        assert_eq!(store.endpoints, ["https://h:1"]);
        let login = store.login.unwrap();
        assert_eq!((login.username.as_str(), login.password.reveal()), ("us@er", "p:w"));
        assert!(!good("etcd3: {proxy: 'http://h:1'}").discover);
        for text in ["etcd3: {url: 'etcd://u:hunter2@h:1'}", "etcd3: {hosts: ['u:hunter2@h:1']}"] {
            let said = bad(text);
            assert!(!said.is_empty() && !said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn a_domain_names_the_members_and_hosts_are_for_want_of_it() {
        let srv = |domain: &str, suffix: Option<&str>| {
            Some(StoreSrv { domain: domain.to_owned(), suffix: suffix.map(ToOwned::to_owned) })
        };
        for key in SRV {
            let store =
                good(&format!("etcd3: {{{key}: example.org, srv_suffix: db, cacert: /ca}}"));
            assert_eq!((store.srv, store.endpoints), (srv("example.org", Some("db")), vec![]));
            assert!(store.discover);
        }
        let store = good("etcd3: {hosts: 'a:1', srv: etcd.example.org., use_proxies: on}");
        assert_eq!((store.srv, store.discover), (srv("etcd.example.org.", None), false));
        assert_eq!(store.endpoints, ["http://a:1"]);
        assert_eq!(good("etcd3: {url: 'http://a:1', srv: x}").srv, srv("x", None));
        let (store, warned) = read("etcd3: {proxy: 'http://a:1', srv: x}");
        assert_eq!(store.unwrap().srv, None);
        assert!(warned[0].to_string().contains("'proxy'"), "{warned:?}");
        let (store, warned) = read("etcd3: {srv: x, discovery_srv: z}");
        assert_eq!(store.unwrap().srv, srv("z", None));
        assert!(warned[0].to_string().contains("'discovery_srv'"), "{warned:?}");
        let (_, warned) = read("etcd3: {hosts: 'a:1', srv_suffix: x}");
        assert!(warned[0].to_string().contains("without 'srv'"), "{warned:?}");
        for text in ["'http://x'", "'x:2379'", "'a..b'", "'.'", "'a b'"] {
            assert!(bad(&format!("etcd3: {{srv: {text}}}")).contains("a domain's name"), "{text}");
        }
    }

    #[test]
    fn tls_and_login() {
        let store = good(
            "etcd3: {hosts: 'a:1', protocol: https, cacert: /ca, cert: /c, key: /k, \
             username: u, password: p}",
        );
        let path = |path: &str| Some(PathBuf::from(path));
        assert_eq!(store.tls, StoreTls { cacert: path("/ca"), cert: path("/c"), key: path("/k") });
        assert_eq!(store.login.unwrap().username, "u");
        assert!(bad("etcd3: {hosts: 'a:1', protocol: https, key: /k}").contains("certificate"));
        assert!(bad("etcd3: {hosts: 'a:1', username: u}").contains("etcd3.password"));
        assert!(bad("etcd3: {hosts: 'a:1', protocol: ftp}").contains("http or https"));
        let (_, warned) = read("etcd3: {hosts: 'a:1', cacert: /ca}");
        assert!(warned[0].to_string().contains("no endpoint is https"), "{warned:?}");
    }

    #[test]
    fn other_sections_and_keys() {
        let (found, warned) = read("etcd: {hosts: 'a:1'}");
        assert_eq!(found.unwrap().endpoints, ["http://a:1"]);
        assert!(warned[0].to_string().contains("API v2"), "{warned:?}");
        assert!(bad("zookeeper: {hosts: 'a:1'}").contains("etcd's v3 API only"));
        assert!(bad("scope: x").contains("this section is needed"));
    }
}
