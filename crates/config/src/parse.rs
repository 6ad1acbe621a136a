//! Scalars of settings files: each reader returns the value, or what it expected.
//! Leaves keys and places to `section`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use pgherd_core::{Duration, NodeName};

/// A host with a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostPort {
    /// A name or an address; IPv6 without brackets.
    pub host: String,
    /// Not 0.
    pub port: u16,
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Anything but blanks.
pub fn text(text: &str) -> Result<String, String> {
    let wanted = || "a text that is not empty".to_owned();
    if text.trim().is_empty() { Err(wanted()) } else { Ok(text.to_owned()) }
}

/// A member's name.
pub fn node_name(text: &str) -> Result<NodeName, String> {
    let rule = "1 to 63 of A-Z a-z 0-9 _ . - beginning with a letter or digit";
    NodeName::new(text).map_err(|_| rule.to_owned())
}

/// A part of a key in the store: no slashes, no blanks.
pub fn key_part(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_graphic() && c != '/';
    if !text.is_empty() && text.chars().all(legal) {
        Ok(text.to_owned())
    } else {
        Err("a name without blanks and slashes".to_owned())
    }
}

/// A name of DNS, with or without the dot at its end.
pub fn domain(text: &str) -> Result<String, String> {
    let legal = |label: &str| {
        let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        matches!(label.len(), 1..=63) && label.chars().all(letter)
    };
    if text.len() <= 253 && text.strip_suffix('.').unwrap_or(text).split('.').all(legal) {
        Ok(text.to_owned())
    } else {
        Err("a domain's name".to_owned())
    }
}

/// Any of Patroni's ways to say yes and no.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Ok(true),
        "off" | "false" | "no" | "0" => Ok(false),
        _ => Err("on or off".to_owned()),
    }
}

/// `HOST:PORT`.
pub fn host_port(text: &str) -> Result<HostPort, String> {
    let wanted = || "HOST:PORT like 10.0.0.5:5432".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(wanted)?;
    let port: u16 = port.parse().ok().filter(|p| *p > 0).ok_or_else(wanted)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() { Err(wanted()) } else { Ok(HostPort { host: host.to_owned(), port }) }
}

/// `HOST:PORT`, `*:PORT` or `:PORT` to listen on: the host, empty for all, and the port.
pub fn listen_parts(text: &str) -> Result<(String, u16), String> {
    let wanted = || "an address to listen on like 127.0.0.1:8008 or *:8008".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(wanted)?;
    let port: u16 = port.parse().map_err(|_| wanted())?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok((if host == "*" { String::new() } else { host.to_owned() }, port))
}

/// [`listen_parts`] as an address. A name is looked up.
pub fn listen(text: &str) -> Result<SocketAddr, String> {
    let (host, port) = listen_parts(text)?;
    if host.is_empty() {
        return Ok(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(SocketAddr::from((address, port)));
    }
    let found = (host.as_str(), port).to_socket_addrs().ok().and_then(|mut found| found.next());
    found.ok_or_else(|| format!("an address of this machine ('{host}' can't be resolved)"))
}

/// An absolute path.
pub fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err("an absolute path".to_owned()) }
}

/// `postgresql.listen`: `HOST[,HOST...][:PORT]` (contract 3.3).
pub fn pg_listen(text: &str) -> Result<(String, u16), String> {
    let wanted = || "HOST[,HOST...]:PORT like 127.0.0.1:5432 or *:5432".to_owned();
    let (hosts, port) = text.rsplit_once(':').unwrap_or((text, "5432"));
    let port: u16 = port.parse().ok().filter(|p| *p > 0).ok_or_else(wanted)?;
    if hosts.is_empty() { Err(wanted()) } else { Ok((hosts.to_owned(), port)) }
}

/// Seconds, or a number with one of PostgreSQL's units of time.
pub fn span(text: &str) -> Result<Duration, String> {
    let wanted = || "a number of seconds, or one with a unit (ms s min h d)".to_owned();
    let (number, unit) = number(text).filter(|(n, _)| *n >= 0.0).ok_or_else(wanted)?;
    let seconds = match unit {
        "us" => 0.000_001,
        "ms" => 0.001,
        "" | "s" => 1.0,
        "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(wanted()),
    };
    let span = std::time::Duration::try_from_secs_f64(number * seconds).map_err(|_| wanted())?;
    u64::try_from(span.as_micros()).map(Duration).map_err(|_| wanted())
}

/// Bytes, or a number with one of PostgreSQL's units of memory.
pub fn bytes(text: &str) -> Result<u64, String> {
    let wanted = || "a number of bytes, or one with a unit (kB MB GB TB)".to_owned();
    let (number, unit) = number(text).filter(|(n, _)| *n >= 0.0).ok_or_else(wanted)?;
    let factor = match unit {
        "" | "B" => 1_u64,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "TB" => 1 << 40,
        _ => return Err(wanted()),
    };
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and a float beyond u64 saturates"
    )]
    Ok((number * factor as f64).round() as u64)
}

/// A whole number, decimal, hexadecimal or octal; it may be negative.
pub fn integer(text: &str) -> Result<i64, String> {
    let whole = number(text).filter(|(n, unit)| unit.is_empty() && n.fract() == 0.0);
    #[expect(clippy::cast_possible_truncation, reason = "a float beyond i64 saturates")]
    whole.map(|(n, _)| n as i64).ok_or_else(|| "a whole number".to_owned())
}

/// A whole number that is not negative.
pub fn count(text: &str) -> Result<u32, String> {
    let wanted = || "a whole number that is not negative".to_owned();
    integer(text).and_then(|n| u32::try_from(n).map_err(|_| wanted()))
}

/// A number and the unit behind it: decimal, `0x` hexadecimal, or octal with a leading `0`.
fn number(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let hex = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let split =
        |text: &str, digit: fn(char) -> bool| text.find(|c| !digit(c)).unwrap_or(text.len());
    #[expect(clippy::cast_precision_loss, reason = "sizes that anybody writes are exact")]
    let whole = |text: &str, radix| u64::from_str_radix(text, radix).ok().map(|n| n as f64);
    let (number, unit) = match hex {
        Some(hex) => {
            let (number, unit) = hex.split_at(split(hex, |c| c.is_ascii_hexdigit()));
            (whole(number, 16)?, unit)
        }
        None => {
            let (number, unit) = digits.split_at(split(digits, |c| c.is_ascii_digit() || c == '.'));
            let octal = number.len() > 1 && number.starts_with('0') && !number.contains('.');
            (if octal { whole(number, 8)? } else { number.parse().ok()? }, unit)
        }
    };
    number.is_finite().then_some((if negative { -number } else { number }, unit.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_postgresqls() {
        assert_eq!(span("30"), Ok(Duration::secs(30)));
        assert_eq!(span("500ms"), Ok(Duration::millis(500)));
        assert_eq!(span("5 min"), Ok(Duration::secs(300)));
        assert!(span("5 weeks").is_err());
        assert_eq!(bytes("1MB"), Ok(1 << 20));
        assert_eq!(bytes("1048576"), Ok(1 << 20));
        assert_eq!(bytes("0x10kB"), Ok(16 << 10));
        assert_eq!(bytes("1.5GB"), Ok(3 << 29));
        assert_eq!(bytes("010"), Ok(8));
        assert!(bytes("-1").is_err());
        assert_eq!(integer("-1"), Ok(-1));
        assert!(integer("1.5").is_err() && integer("5s").is_err() && integer("").is_err());
        for yes in ["on", "TRUE", "Yes", "1"] {
            assert_eq!(boolean(yes), Ok(true), "{yes}");
        }
        for no in ["off", "False", "NO", "0"] {
            assert_eq!(boolean(no), Ok(false), "{no}");
        }
        assert!(boolean("maybe").is_err());
    }

    #[test]
    fn addresses() {
        assert_eq!(host_port("[::1]:5432").unwrap().to_string(), "[::1]:5432");
        assert!(host_port("5432").is_err());
        assert_eq!(listen("*:8008").unwrap().to_string(), "0.0.0.0:8008");
    }
}
