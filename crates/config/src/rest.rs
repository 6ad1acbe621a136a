//! `restapi` and `ctl` beyond addresses: TLS, who may change something, and headers (contract 2.1,
//! 2.5, 3.3). Leaves opening the files to whoever serves and asks.

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

use crate::parse;
use crate::parse::absolute;
use crate::problem::Problem;
use crate::secret::Secret;
use crate::section::Section;
use crate::yaml::Node;

/// How the REST API is served.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RestServer {
    /// HTTPS instead of HTTP.
    pub tls: Option<RestTls>,
    /// From where calls that change something may come; empty: from anywhere.
    pub allowlist: Vec<Allowed>,
    /// The members' addresses are on the list too.
    pub allowlist_include_members: bool,
    /// Headers of every answer.
    pub extra_headers: Vec<(String, String)>,
    /// What the `Server` header says.
    pub server_tokens: ServerTokens,
}

/// The files of HTTPS; PEM.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RestTls {
    /// The certificate with its chain.
    pub certfile: PathBuf,
    /// Its key; none: in the certificate's file.
    pub keyfile: Option<PathBuf>,
    /// What the key is encrypted with.
    pub keyfile_password: Option<Secret>,
    /// Who signs clients' certificates.
    pub cafile: Option<PathBuf>,
    /// Whether clients must have one.
    pub verify_client: VerifyClient,
    /// The suites of TLS 1.2 that are offered, by OpenSSL's names; empty: every safe one.
    pub ciphers: Vec<&'static str>,
}

/// The suites of TLS 1.2 that there are, by OpenSSL's names. Those of TLS 1.3 are always offered, as
/// OpenSSL's list has no say on them either.
pub const SUITES: [&str; 6] = [
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-CHACHA20-POLY1305",
];

/// `restapi.verify_client`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum VerifyClient {
    /// Nobody is asked for a certificate.
    #[default]
    None,
    /// Calls that change something need one.
    Optional,
    /// Every connection needs one.
    Required,
}

/// `restapi.server_tokens`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ServerTokens {
    /// `pgherd/0.1.0`.
    #[default]
    Original,
    /// `Patroni/4.1.5`.
    Minimal,
    /// `Patroni`.
    ProductOnly,
}

/// How members are asked, by agents and `ctl`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RestClient {
    /// Who signed the members' certificates.
    pub cacert: Option<PathBuf>,
    /// The client's own certificate.
    pub certfile: Option<PathBuf>,
    /// Its key; none: in the certificate's file.
    pub keyfile: Option<PathBuf>,
    /// What the key is encrypted with.
    pub keyfile_password: Option<Secret>,
    /// Believe every certificate.
    pub insecure: bool,
}

/// One entry of `restapi.allowlist`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Allowed {
    /// An address, or a network in CIDR form.
    Network {
        /// Its first address, or any.
        address: IpAddr,
        /// How many leading bits count.
        bits: u8,
    },
    /// A name, looked up when somebody calls.
    Host(String),
}

impl Allowed {
    /// Whether an address is in this network; names are for the caller to look up.
    #[must_use]
    pub fn contains(&self, caller: IpAddr) -> bool {
        let Self::Network { address, bits } = self else { return false };
        let mapped = |address: IpAddr| match address {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped(), 96),
            IpAddr::V6(v6) => (v6, 0),
        };
        // One form for both families: a dual-stack socket shows IPv4 callers as mapped.
        let ((network, offset), (caller, _)) = (mapped(*address), mapped(caller));
        let bits = u32::from(*bits) + offset;
        let mask = u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0);
        let number = |address: Ipv6Addr| u128::from(address) & mask;
        number(network) == number(caller)
    }
}

impl std::str::FromStr for Allowed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted =
            || format!("expected an address, a network like 10.0.0.0/8, or a host, found '{text}'");
        let (address, bits) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
        let Ok(address) = address.parse::<IpAddr>() else {
            let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
            let host = bits.is_none() && !text.is_empty() && text.chars().all(legal);
            return if host { Ok(Self::Host(text.to_owned())) } else { Err(wanted()) };
        };
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), |bits| bits.parse().map_err(|_| wanted()))?;
        if bits > most { Err(wanted()) } else { Ok(Self::Network { address, bits }) }
    }
}

/// Reads everything of `restapi` but addresses and login.
pub(crate) fn server(section: &Section<'_>) -> RestServer {
    let tls = tls(section);
    let allowlist = section.list("allowlist").unwrap_or_default();
    let allowlist = allowlist.iter().filter_map(|text| match text.parse() {
        Ok(allowed) => Some(allowed),
        Err(words) => {
            section.note(Problem::error(None, section.place("allowlist"), words));
            None
        }
    });
    let mut extra_headers = headers(section, "http_extra_headers");
    let over_tls = headers(section, "https_extra_headers");
    if tls.is_some() {
        extra_headers
            .retain(|(name, _)| !over_tls.iter().any(|(it, _)| it.eq_ignore_ascii_case(name)));
        extra_headers.extend(over_tls);
    }
    let tokens = |text: &str| match text.to_ascii_lowercase().as_str() {
        "original" => Ok(ServerTokens::Original),
        "minimal" => Ok(ServerTokens::Minimal),
        "productonly" => Ok(ServerTokens::ProductOnly),
        _ => Err("original, minimal or productonly".to_owned()),
    };
    RestServer {
        allowlist: allowlist.collect(),
        allowlist_include_members: section
            .optional("allowlist_include_members", parse::boolean)
            .unwrap_or(false),
        extra_headers,
        server_tokens: section.optional("server_tokens", tokens).unwrap_or_default(),
        tls,
    }
}

fn tls(section: &Section<'_>) -> Option<RestTls> {
    let certfile = section.optional("certfile", absolute);
    let keyfile = section.optional("keyfile", absolute);
    let keyfile_password = section.optional("keyfile_password", parse::text).map(Secret::new);
    let cafile = section.optional("cafile", absolute);
    let verify = |text: &str| match text.to_ascii_lowercase().as_str() {
        "none" => Ok(VerifyClient::None),
        "optional" => Ok(VerifyClient::Optional),
        "required" => Ok(VerifyClient::Required),
        _ => Err("none, optional or required".to_owned()),
    };
    let verify_client = section.optional("verify_client", verify).unwrap_or_default();
    let ciphers = ciphers(section);
    let needs = |key: &'static str, words: &str| {
        section.note(Problem::error(None, section.place(key), words));
    };
    if certfile.is_none() && keyfile.is_some() {
        needs("keyfile", "a key without its certificate; write 'certfile: /PATH' too");
    }
    if certfile.is_none() && verify_client != VerifyClient::None {
        needs("verify_client", "clients have certificates only over HTTPS; write 'certfile' too");
    }
    if cafile.is_none() && verify_client != VerifyClient::None {
        needs("verify_client", "nothing to verify clients with; write 'cafile: /PATH' too");
    }
    let certfile = certfile?;
    Some(RestTls { certfile, keyfile, keyfile_password, cafile, verify_client, ciphers })
}

/// `ciphers`: names of suites. Words that choose by kind have nothing to choose from here: every suite
/// that there is is safe.
fn ciphers(section: &Section<'_>) -> Vec<&'static str> {
    let Some(text) = section.optional("ciphers", parse::text) else { return Vec::new() };
    let words = text.split([':', ',', ' ']).filter(|word| !word.is_empty());
    let mut chosen = Vec::new();
    for word in words {
        match SUITES.iter().find(|suite| suite.eq_ignore_ascii_case(word)) {
            Some(suite) => chosen.push(*suite),
            None => {
                let words =
                    format!("'{word}' has no effect: expected some of {}", SUITES.join(":"));
                section.note(Problem::warning(None, section.place("ciphers"), words));
            }
        }
    }
    chosen
}

fn headers(section: &Section<'_>, key: &'static str) -> Vec<(String, String)> {
    let headers = section.section(key);
    let legal_name = |name: &str| {
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        !name.is_empty() && name.chars().all(token)
    };
    let legal_value = |value: &str| value.chars().all(|c| c == ' ' || c.is_ascii_graphic());
    let read = |name: &str, node: &Node| match node.scalar() {
        Some(value) if legal_name(name) && legal_value(&value) => Some((name.to_owned(), value)),
        Some(_) | None => {
            headers.wrong(name, node, "a header's name and one line of ASCII text");
            None
        }
    };
    headers.entries().filter_map(|entry| read(&entry.key, &entry.node)).collect()
}

/// `ctl`, and of `restapi` the authority that stands in for a missing `ctl.cacert`.
pub fn client(root: &Section<'_>) -> RestClient {
    let ctl = root.section("ctl");
    // People run `ctl` from where the files are.
    let path = |section: &Section<'_>, key| section.optional(key, parse::text).map(PathBuf::from);
    RestClient {
        cacert: path(&ctl, "cacert").or_else(|| path(&root.section("restapi"), "cafile")),
        certfile: path(&ctl, "certfile"),
        keyfile: path(&ctl, "keyfile"),
        keyfile_password: ctl.optional("keyfile_password", parse::text).map(Secret::new),
        insecure: ctl.optional("insecure", parse::boolean).unwrap_or(false),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]
    use std::cell::RefCell;

    use super::*;

    fn read(text: &str) -> (RestServer, Vec<String>) {
        let document = Node::parse(text).unwrap();
        let problems = RefCell::new(Vec::new());
        let read = server(&Section::root(&document, &problems));
        (read, problems.into_inner().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn networks_contain_their_addresses() {
        for (entry, caller, inside) in [
            ("10.0.0.0/8", "10.200.3.4", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.5", "10.0.0.5", true),
            ("10.0.0.5", "10.0.0.6", false),
            ("10.0.0.0/8", "::ffff:10.1.1.1", true),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "2001:db8::1", true),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
        ] {
            let entry: Allowed = entry.parse().unwrap();
            assert_eq!(entry.contains(caller.parse().unwrap()), inside, "{entry:?} {caller}");
        }
        assert_eq!("db-1.example".parse(), Ok(Allowed::Host("db-1.example".to_owned())));
        for bad in ["", "10.0.0.0/33", "10.0.0.0/x", "a b", "host/8"] {
            assert!(bad.parse::<Allowed>().is_err(), "{bad}");
        }
    }

    #[test]
    fn tls_keys_belong_together() {
        let (found, problems) = read(
            "{certfile: /c, keyfile: /k, cafile: /a, verify_client: required, allowlist: '10.0.0.1, h',
              http_extra_headers: {X-A: 1, X-B: 2}, https_extra_headers: {x-a: 3}}",
        );
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(found.tls.unwrap().verify_client, VerifyClient::Required);
        assert_eq!(found.allowlist.len(), 2);
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(found.extra_headers, [header("X-B", "2"), header("x-a", "3")]);
        for (text, words) in [
            (
                "{keyfile: /k}",
                "keyfile: a key without its certificate; write 'certfile: /PATH' too",
            ),
            (
                "{certfile: /c, verify_client: optional}",
                "verify_client: nothing to verify clients with; write 'cafile: /PATH' too",
            ),
        ] {
            assert_eq!(read(text).1, [words]);
        }
        let (found, problems) =
            read("{certfile: /c, ciphers: 'HIGH:ECDHE-RSA-AES256-GCM-SHA384:!aNULL'}");
        assert_eq!(found.tls.unwrap().ciphers, ["ECDHE-RSA-AES256-GCM-SHA384"]);
        assert_eq!(problems.len(), 2);
        assert!(problems[0].contains("'HIGH' has no effect: expected some of ECDHE-ECDSA-AES256"));
        assert_eq!(read("{allowlist: ['10.0.0.0/99'], verify_client: x}").1.len(), 2);
        assert_eq!(read("{http_extra_headers: {'A B': x}}").1.len(), 1);
    }
}
