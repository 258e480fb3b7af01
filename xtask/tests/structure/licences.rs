//! Every licence that comes in is on the list of `deny.toml`, and what that file bans is not there.

use std::{collections::BTreeSet, fs};

use crate::{packages, sources};

/// The strings of the array `name` in a TOML text that spells one string per line or all in one.
fn array<'t>(toml: &'t str, name: &str) -> BTreeSet<&'t str> {
    let start = toml.find(&format!("\n{name} = [")).unwrap_or_else(|| panic!("no array `{name}`"));
    let body = &toml[start..];
    let body = &body[body.find('[').expect("[")..body.find(']').expect("]")];
    // Every second part stands between quotes.
    body.lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .flat_map(|line| line.split('"').skip(1).step_by(2))
        .collect()
}

/// Whether the SPDX expression can be met with the licences in `allowed`.
fn is_met(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let (met, rest) = any_of(&words, allowed);
    met && rest.is_empty() && !words.is_empty()
}

fn any_of<'w, 's>(words: &'w [&'s str], allowed: &BTreeSet<&str>) -> (bool, &'w [&'s str]) {
    let (mut met, mut rest) = all_of(words, allowed);
    while let ["OR", behind @ ..] = rest {
        let (next, behind) = all_of(behind, allowed);
        (met, rest) = (met | next, behind);
    }
    (met, rest)
}

fn all_of<'w, 's>(words: &'w [&'s str], allowed: &BTreeSet<&str>) -> (bool, &'w [&'s str]) {
    let (mut met, mut rest) = one(words, allowed);
    while let ["AND", behind @ ..] = rest {
        let (next, behind) = one(behind, allowed);
        (met, rest) = (met & next, behind);
    }
    (met, rest)
}

fn one<'w, 's>(words: &'w [&'s str], allowed: &BTreeSet<&str>) -> (bool, &'w [&'s str]) {
    match words {
        ["(", inside @ ..] => match any_of(inside, allowed) {
            (met, [")", rest @ ..]) => (met, rest),
            _ => (false, &[]),
        },
        [licence, "WITH", exception, rest @ ..] => {
            (allowed.contains(format!("{licence} WITH {exception}").as_str()), rest)
        }
        [licence, rest @ ..] => (allowed.contains(licence), rest),
        [] => (false, &[]),
    }
}

fn deny() -> String {
    fs::read_to_string(sources::root().join("deny.toml")).expect("deny.toml")
}

#[test]
fn every_licence_is_allowed() {
    let deny = deny();
    let allowed = array(&deny, "allow");
    let tree = packages::tree(&["--workspace", "--all-features", "--edges", "normal,build,dev", "--format", "{p}|{l}"]);
    let mut refused = BTreeSet::new();
    let mut seen = 0;
    for line in tree.lines().filter_map(|line| line.strip_suffix(" (*)").or(Some(line))).filter(|line| !line.is_empty())
    {
        let (package, licence) = line.split_once('|').expect("package and licence");
        seen += 1;
        if !is_met(licence, &allowed) {
            refused.insert(format!("{package}: `{licence}`"));
        }
    }
    assert!(seen > 150, "only {seen} packages were looked at");
    assert!(refused.is_empty(), "{refused:#?}");
}

#[test]
fn expressions_are_read_as_spdx_says() {
    let allowed = BTreeSet::from(["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "ISC", "Unicode-3.0"]);
    for good in [
        "MIT",
        "MIT/GPL-3.0",
        "GPL-3.0 OR MIT",
        "(MIT OR GPL-3.0) AND Unicode-3.0",
        "ISC AND (Apache-2.0 OR ISC)",
        "Apache-2.0 WITH LLVM-exception",
    ] {
        assert!(is_met(good, &allowed), "{good}");
    }
    for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT", "MIT WITH LLVM-exception", "MIT ISC"] {
        assert!(!is_met(bad, &allowed), "{bad}");
    }
    assert_eq!(array("x = 1\nallow = [\n  \"A\", # \"C\"\n  \"B\",\n]\n", "allow"), BTreeSet::from(["A", "B"]));
}
