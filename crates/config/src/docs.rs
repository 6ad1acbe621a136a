//! `docs/configuration.md`, made from the schema so that it can't say anything else.
//! `cargo run -p pgherd-config --example docs > docs/configuration.md` writes it.

use std::fmt::Write as _;

use crate::environment::variables;
use crate::guc::{Accepts, CONTROLLED};
use crate::schema::{Key, Kind, Scope, keys, of_router};

const HEAD: &str = include_str!("configuration.head.md");
const OTHERS: &str = include_str!("configuration.others.md");

/// The whole document.
#[must_use]
pub fn markdown() -> String {
    let mut text = HEAD.to_owned();
    let mut section = None;
    for key in keys().filter(|key| key.kind != Kind::Section) {
        let above = if key.section().is_empty() && key.scope == Scope::Dynamic {
            "the cluster"
        } else {
            key.section()
        };
        if section != Some(above) {
            let title = match above {
                "" => "The root".to_owned(),
                "the cluster" => "The cluster".to_owned(),
                dotted => format!("`{dotted}`"),
            };
            // Writing to a string can't fail.
            let _ = write!(text, "\n### {title}\n\n| key | value | default | where | what |\n");
            text.push_str("| --- | --- | --- | --- | --- |\n");
            section = Some(above);
        }
        text.push_str(&line(key));
    }
    text.push_str(&parameters());
    text.push_str(&environment());
    text.push_str(&router());
    text.push_str(OTHERS);
    text
}

fn line(key: &Key) -> String {
    let (value, default) = (value(key), default(key));
    let scope = match key.scope {
        Scope::Local => "node",
        Scope::Dynamic => "cluster",
        Scope::Both => "both",
    };
    let mut about = key.about.to_owned();
    if key.required {
        about.push_str(" Needed.");
    }
    if key.fixed {
        about.push_str(" Read at the start only.");
    }
    if let Some(other) = key.instead_of {
        let _ = write!(about, " Also `{other}`.");
    }
    if let Some(why) = key.unused {
        let _ = write!(about, " *No effect: {why}.*");
    }
    format!("| `{}` | {value} | {default} | {scope} | {about} |\n", key.name())
}

fn value(key: &Key) -> String {
    if key.kind == Kind::Secret { "a secret".to_owned() } else { key.kind.describe() }
}

fn default(key: &Key) -> String {
    if key.default.is_empty() { String::new() } else { format!("`{}`", key.default) }
}

fn router() -> String {
    let mut text =
        "\n## The router\n\n`pgherd router FILE` reads YAML with these keys at its root \
                    ([example](../config/router.yml.example)), and the sections `log`, `etcd3` and \
                    `ctl` of a node's file, which mean the same there. `PATRONI_SCOPE`, \
                    `PATRONI_NAMESPACE` and the variables of these sections are stronger than the \
                    file. At SIGHUP only `log` is read again.\n\n\
                    | key | value | default | what |\n| --- | --- | --- | --- |\n"
            .to_owned();
    for key in of_router() {
        let needed = if key.required { " Needed." } else { "" };
        let (name, about) = (key.name(), key.about);
        let _ =
            writeln!(text, "| `{name}` | {} | {} | {about}{needed} |", value(key), default(key));
    }
    text
}

fn parameters() -> String {
    let mut text =
        "\n## Parameters that all members agree on\n\nOnly the dynamic configuration sets \
                    these; a node's own values are ignored with a warning, and so are values that \
                    are not accepted.\n\n| parameter | default | accepted |\n| --- | --- | --- |\n"
            .to_owned();
    for guc in CONTROLLED {
        let accepted = match guc.accepts {
            Accepts::On => "`on`".to_owned(),
            Accepts::Switch => "`on`, `off`".to_owned(),
            Accepts::From(least) => format!("{least} or more"),
            Accepts::Megabytes(least) => format!("{least}MB or more"),
            Accepts::OneOf(words) => format!("`{}`", words.join("`, `")),
        };
        let _ = writeln!(text, "| `{}` | `{}` | {accepted} |", guc.name, guc.default);
    }
    text
}

fn environment() -> String {
    let mut text = "\n## Environment variables\n\n| variable | key |\n| --- | --- |\n".to_owned();
    for variable in variables() {
        let _ = writeln!(text, "| `{}` | `{}` |", variable.name, variable.path.join("."));
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_document_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == super::markdown(),
            "write it anew: cargo run -p pgherd-config --example docs > docs/configuration.md"
        );
    }
}
