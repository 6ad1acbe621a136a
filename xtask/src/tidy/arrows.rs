//! The boundaries between the crates: each manifest has exactly the arrows that ARCHITECTURE.md
//! prints in its `arrows` block, and neither may say what the laws below forbid.

use super::manifest::{self, Tables};
use super::{Finding, Source};

const MAP: &str = "ARCHITECTURE.md";
const PREFIX: &str = "pgherd-";
const RULE: &str = "arrow";

/// Arrows that never exist, whatever the map says: (from, to, why).
const NEVER: &[(&str, &str, &str)] = &[
    ("core", "*", "the core decides and depends on nothing of ours"),
    ("guard", "*", "the guard must be right on its own, and small"),
    ("sim", "agent", "the simulator drives the core, not a shell"),
    ("store", "postgres", "the store knows keys and leases, not PostgreSQL"),
    ("store", "api", "the store carries bytes; their meaning is the callers'"),
    ("postgres", "store", "postgres reports facts about one server"),
    ("postgres", "api", "postgres reports facts; others say them to users"),
    ("api", "store", "api describes values; others move them"),
    ("api", "postgres", "api describes values; others find them out"),
    ("*", "agent", "only cli starts an agent"),
    ("*", "router", "only cli starts a router"),
    ("*", "exporter", "only cli starts an exporter"),
    ("*", "init", "only cli starts an init job"),
    ("*", "cli", "the binary is the last in every chain"),
    ("*", "sim", "a shipped crate never needs the simulator"),
];

/// A line of the block: what one crate may depend on.
#[derive(Debug, PartialEq, Eq)]
struct Allowed {
    line: usize,
    name: String,
    ours: Vec<String>,
    /// The only crates of others that it may use; `None` when any may.
    others: Option<Vec<String>>,
}

/// Compares every manifest below `crates/` with the map.
pub(crate) fn check(sources: &[Source]) -> Vec<Finding> {
    let Some(map) = sources.iter().find(|source| source.path == MAP) else {
        return Vec::new();
    };
    let Some(allowed) = read_block(&map.text) else {
        return vec![map.finding(1, RULE, "add a block ```arrows with a line per crate")];
    };
    let mut findings = Vec::new();
    let mut seen = Vec::new();
    for manifest in sources {
        let Some(name) = crate_name(&manifest.path) else { continue };
        seen.push(name);
        match allowed.iter().find(|line| line.name == name) {
            Some(line) => findings.extend(compare(manifest, map, line)),
            None => {
                let remedy = format!("give {name} a line in the arrows block of {MAP}");
                findings.push(manifest.finding(1, RULE, remedy));
            }
        }
    }
    let gone = allowed.iter().filter(|line| !seen.contains(&line.name.as_str()));
    findings.extend(gone.map(|line| map.finding(line.line, RULE, "no such crate: drop the line")));
    findings
}

fn compare(manifest: &Source, map: &Source, allowed: &Allowed) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut unseen: Vec<&str> = allowed.ours.iter().map(String::as_str).collect();
    for dependency in manifest::dependencies(manifest, Tables::Shipped) {
        let mut report = |remedy| findings.push(manifest.finding(dependency.line, RULE, remedy));
        let Some(ours) = dependency.name.strip_prefix(PREFIX) else {
            let forbidden =
                allowed.others.as_ref().filter(|names| !names.contains(&dependency.name));
            if let Some(names) = forbidden {
                let only = names.join(" ");
                report(format!("{} depends on nothing of others but: {only}", allowed.name));
            }
            continue;
        };
        if let Some(why) = forbidden(&allowed.name, ours) {
            report(format!("{} never depends on {ours}: {why}", allowed.name));
        } else if !unseen.contains(&ours) {
            report(format!("no arrow {} -> {ours} in {MAP}: is it meant?", allowed.name));
        }
        unseen.retain(|name| *name != ours);
    }
    for ours in unseen {
        let remedy = match forbidden(&allowed.name, ours) {
            Some(why) => format!("{} -> {ours} is never allowed: {why}", allowed.name),
            None => format!("{} does not depend on {ours}: drop the arrow", allowed.name),
        };
        findings.push(map.finding(allowed.line, RULE, remedy));
    }
    findings
}

/// Why `from` may never depend on `to`, if so. The binary may depend on everything but the simulator.
fn forbidden(from: &str, to: &str) -> Option<&'static str> {
    let matches = |pattern: &str, name: &str| pattern == name || pattern == "*";
    let last_in_chain = |a: &str, b: &str| from == "cli" && a == "*" && b != "sim";
    NEVER
        .iter()
        .find(|(a, b, _)| matches(a, from) && matches(b, to) && !last_in_chain(a, b))
        .map(|(_, _, why)| *why)
}

/// `crates/NAME/Cargo.toml` -> NAME.
fn crate_name(path: &str) -> Option<&str> {
    let name = path.strip_prefix("crates/")?.strip_suffix("/Cargo.toml")?;
    (!name.contains('/')).then_some(name)
}

/// Reads the lines `name -> ours... | others...` between "```arrows" and "```".
/// No `|` means: any crate of others.
fn read_block(text: &str) -> Option<Vec<Allowed>> {
    let mut lines = text.lines().enumerate().skip_while(|(_, line)| *line != "```arrows");
    lines.next()?;
    let block = lines.take_while(|(_, line)| *line != "```");
    Some(block.filter_map(|(index, line)| read_line(index + 1, line)).collect())
}

fn read_line(line: usize, text: &str) -> Option<Allowed> {
    let (name, rest) = text.split_once("->")?;
    let (ours, others) = match rest.split_once('|') {
        Some((ours, others)) => (ours, Some(words(others))),
        None => (rest, None),
    };
    Some(Allowed { line, name: name.trim().to_owned(), ours: words(ours), others })
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::source;
    use super::*;

    fn remedies(map: &str, manifests: &[(&str, &str)]) -> Vec<String> {
        let mut sources = vec![source(MAP, &format!("```arrows\n{map}```\n"))];
        sources.extend(manifests.iter().map(|(name, dependencies)| {
            let text = format!("[dependencies]\n{dependencies}");
            source(&format!("crates/{name}/Cargo.toml"), &text)
        }));
        check(&sources).into_iter().map(|finding| finding.remedy).collect()
    }

    #[test]
    fn a_manifest_that_matches_the_map_is_fine() {
        let found = remedies(
            "core ->      | serde\nsim  -> core\n",
            &[("core", "serde = \"1\"\n"), ("sim", "pgherd-core = {}\nrand = \"1\"\n")],
        );
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn arrows_are_exact_in_both_directions() {
        let found =
            remedies("api -> core\nstore ->\n", &[("api", ""), ("store", "pgherd-core = {}\n")]);
        assert_eq!(
            found,
            [
                "api does not depend on core: drop the arrow",
                "no arrow store -> core in ARCHITECTURE.md: is it meant?",
            ]
        );
    }

    #[test]
    fn the_laws_hold_even_if_the_map_says_otherwise() {
        let found = remedies("router -> agent\n", &[("router", "pgherd-agent = {}\n")]);
        assert_eq!(found, ["router never depends on agent: only cli starts an agent"]);
        assert_eq!(forbidden("cli", "agent"), None);
        assert!(forbidden("cli", "sim").is_some());
        assert!(forbidden("core", "api").is_some());
    }

    #[test]
    fn a_closed_list_of_others_is_closed() {
        let found = remedies("core -> | serde\n", &[("core", "tokio = \"1\"\n")]);
        assert_eq!(found, ["core depends on nothing of others but: serde"]);
    }

    #[test]
    fn every_crate_has_a_line_and_every_line_a_crate() {
        let found = remedies("ghost ->\n", &[("api", "")]);
        assert_eq!(
            found,
            [
                "give api a line in the arrows block of ARCHITECTURE.md",
                "no such crate: drop the line"
            ]
        );
    }
}
