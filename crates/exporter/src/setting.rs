//! PostgreSQL's settings as metrics: a name with its unit, a value in seconds or bytes.
//! Leaves asking for them to `collectors`.

/// `pg_settings_...`: the metric's name after that prefix, its help and its value; `None` for what
/// isn't a number.
pub(crate) fn metric(
    name: &str,
    setting: &str,
    unit: &str,
    about: &str,
) -> Option<(String, String, f64)> {
    let name = name.replace('.', "_");
    let value = match setting {
        "on" => return Some((name, about.to_owned(), 1.0)),
        "off" => return Some((name, about.to_owned(), 0.0)),
        number => number.parse::<f64>().ok()?,
    };
    let Some((base, factor)) = factor(unit) else { return Some((name, about.to_owned(), value)) };
    // -1 stands for "off" or "as another setting says".
    #[expect(clippy::float_cmp, reason = "a whole number that PostgreSQL printed")]
    let value = if value == -1.0 { value } else { value * factor };
    Some((format!("{name}_{base}"), format!("{about} [Units converted to {base}.]"), value))
}

/// A unit of `pg_settings` as a number of seconds or bytes, like `ms`, `8kB`, `16MB`.
fn factor(unit: &str) -> Option<(&'static str, f64)> {
    let digits = unit.find(|c: char| !c.is_ascii_digit())?;
    let (count, word) = unit.split_at(digits);
    let count: f64 = if count.is_empty() { 1.0 } else { count.parse().ok()? };
    let (base, one) = match word {
        "us" => ("seconds", 1e-6),
        "ms" => ("seconds", 1e-3),
        "s" => ("seconds", 1.0),
        "min" => ("seconds", 60.0),
        "h" => ("seconds", 3_600.0),
        "d" => ("seconds", 86_400.0),
        "B" => ("bytes", 1.0),
        "kB" => ("bytes", 1024.0),
        "MB" => ("bytes", 1_048_576.0),
        "GB" => ("bytes", 1_073_741_824.0),
        "TB" => ("bytes", 1_099_511_627_776.0),
        _ => return None,
    };
    Some((base, count * one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_become_seconds_and_bytes() {
        let read = |setting, unit| metric("a.b", setting, unit, "About.").unwrap();
        assert_eq!(read("on", ""), ("a_b".into(), "About.".into(), 1.0));
        assert_eq!(read("16384", "8kB").2, 134_217_728.0);
        assert_eq!(read("16384", "8kB").0, "a_b_bytes");
        assert_eq!(read("300", "s").0, "a_b_seconds");
        assert_eq!(read("5", "min").2, 300.0);
        assert_eq!(read("-1", "ms").2, -1.0);
        assert_eq!(read("0.5", "").2, 0.5);
        assert!(metric("x", "replica", "", "").is_none());
    }
}
