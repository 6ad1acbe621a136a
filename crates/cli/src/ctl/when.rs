//! Moments as people type them: patronictl's `--scheduled` (contract 5.2).
//! Leaves whether a moment is over to the agent, whose clock it is.

use jiff::Zoned;
use jiff::civil::Time;
use jiff::fmt::temporal::Pieces;
use jiff::tz::TimeZone;

use crate::output::{Failure, Outcome};

/// The moment as agents are told it, with an offset; `None` for now.
pub(super) fn scheduled(text: Option<&str>) -> Outcome<Option<String>> {
    let Some(text) = text.map(str::trim).filter(|text| !matches!(*text, "" | "now")) else {
        return Ok(None);
    };
    let moment = parse(text, &Zoned::now()).ok_or_else(|| {
        let words = format!(
            "Unable to parse scheduled timestamp ({text}). It should be in an unambiguous format \
             (e.g. ISO 8601), like 2026-11-22T18:00+01:00; without an offset this machine's clock \
             is meant"
        );
        Failure::refused("--scheduled", words)
    })?;
    Ok(Some(moment.strftime("%Y-%m-%dT%H:%M:%S%.f%:z").to_string()))
}

/// An hour from now, for the question's example.
pub(super) fn next_hour() -> String {
    let then = Zoned::now().saturating_add(jiff::Span::new().hours(1));
    then.strftime("%Y-%m-%dT%H:%M").to_string()
}

/// With the offset that was typed, so that people read back what they wrote.
fn parse(text: &str, now: &Zoned) -> Option<Zoned> {
    let text = whole_offset(text);
    if let Ok(pieces) = Pieces::parse(&text) {
        let civil = pieces.date().to_datetime(pieces.time()?);
        let zone = pieces.to_numeric_offset().map(TimeZone::fixed);
        return civil.to_zoned(zone.unwrap_or_else(|| now.time_zone().clone())).ok();
    }
    let time: Time = text.parse().ok()?;
    now.date().to_datetime(time).to_zoned(now.time_zone().clone()).ok()
}

/// `18:00-3` means `18:00-03`, and `18:00Z+...` nothing.
fn whole_offset(text: &str) -> String {
    match text.rsplit_once(['+', '-']) {
        Some((before, hours)) if before.contains(':') && hours.len() == 1 => {
            let sign = if text[before.len()..].starts_with('+') { '+' } else { '-' };
            format!("{before}{sign}0{hours}")
        }
        Some(_) | None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_as_patronictls_users_type_them() {
        let now: Zoned = "2026-11-22T12:00:00+02:00[+02:00]".parse().unwrap();
        let said = |text: &str| parse(text, &now).map(|z| z.timestamp().to_string());
        let expected = Some("2026-11-22T16:00:00Z".to_owned());
        for text in [
            "2026-11-22T16:00:00Z",
            "2026-11-22T13:00:00-3",
            "2026-11-22 13:00:00-03",
            "2026-11-22 17:00+01:00",
            "2026-11-22T18:00",
            "2026-11-22 18:00:00",
            "18:00",
        ] {
            assert_eq!(said(text), expected, "{text}");
        }
        assert_eq!(said("soon"), None);
        assert_eq!(said("2026-13-40T00:00"), None);
    }

    #[test]
    fn now_is_no_moment() {
        assert!(scheduled(None).unwrap().is_none());
        assert!(scheduled(Some("now")).unwrap().is_none());
        assert!(scheduled(Some("tomorrow-ish")).is_err());
        let typed = scheduled(Some("2030-01-01 10:00+01:00")).unwrap();
        assert_eq!(typed.as_deref(), Some("2030-01-01T10:00:00+01:00"));
    }
}
