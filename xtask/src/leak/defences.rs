//! `cargo xtask leak defences`: switches one defence off after the other, in a copy of the sources, and expects the search
//! to fail each time. What stands in the program has no switch.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use crate::tool;

/// One defence, and the change of the sources that takes it away.
struct Defence {
    name: &'static str,
    file: &'static str,
    /// Each stands in the file once; and what takes its place.
    changes: &'static [(&'static str, &'static str)],
    /// What of the search is to fail.
    search: &'static str,
}

const DEFENCES: &[Defence] = &[
    Defence {
        name: "flows get placeholders instead of secrets",
        file: "ap-runtime/src/credentials.rs",
        changes: &[(
            "Field::Secret(_) => placeholder(name),",
            "Field::Secret(secret) => secrecy::ExposeSecret::expose_secret(*secret).to_owned(),",
        )],
        search: "sqlite",
    },
    Defence {
        name: "values are sealed at rest",
        file: "ap-crypto/src/aead.rs",
        changes: &[
            (
                "    cipher.encrypt_inout_detached(&XNonce::from(*nonce), associated_data, message.into()).ok().map(Into::into)",
                "    let mut copy = message.to_vec();\n    let message = copy.as_mut_slice();\n    cipher.encrypt_inout_detached(&XNonce::from(*nonce), associated_data, message.into()).ok().map(Into::into)",
            ),
            (
                "    cipher\n        .decrypt_inout_detached(&XNonce::from(*nonce), associated_data, message.as_mut_slice().into(), &Tag::from(*tag))\n        .ok()?;",
                "    let _ = (cipher, nonce, associated_data, Tag::from(*tag), &mut message);",
            ),
        ],
        search: "sqlite",
    },
    Defence {
        name: "responses are searched before a piece gets them",
        file: "ap-runtime/src/egress/http.rs",
        changes: &[(
            "let redactor = if self.egress.shared.scrub {",
            "let redactor = if self.egress.shared.scrub && false {",
        )],
        search: "sqlite",
    },
    Defence {
        name: "outputs, errors and console lines are searched before they are kept",
        file: "ap-runtime/src/executor/attempt.rs",
        changes: &[(
            "            output: if redactor.is_empty() {",
            "            output: if true || redactor.is_empty() {",
        )],
        search: "sqlite",
    },
    Defence {
        name: "what comes in by signals is searched before it is kept",
        file: "ap-runtime/src/executor/outside.rs",
        changes: &[(
            "        let clean = |value: Arc<Value>| match redactor.is_empty() {",
            "        let clean = |value: Arc<Value>| match redactor.is_empty() || true {",
        )],
        search: "sqlite",
    },
    Defence {
        name: "a credential goes to the origins of its connection only",
        file: "ap-runtime/src/egress/credential.rs",
        changes: &[(
            "        if self.connection.origins().contains(origin) {",
            "        if true || self.connection.origins().contains(origin) {",
        )],
        search: "sqlite",
    },
    Defence {
        name: "a credential goes to the headers its connection declares only",
        file: "ap-runtime/src/egress/credential.rs",
        changes: &[(
            "                if !bound.declares_header(name, field, text, &range) {",
            "                if false && !bound.declares_header(name, field, text, &range) {",
        )],
        search: "sqlite",
    },
    Defence {
        name: "a credential goes to the query values its connection declares only",
        file: "ap-runtime/src/egress/credential.rs",
        changes: &[(
            "                if !bound.connection.placements().iter().any(declared) {\n                    return Err(bound.undeclared(&place, field));\n                }\n                place::fits_query(",
            "                if false && !bound.connection.placements().iter().any(declared) {\n                    return Err(bound.undeclared(&place, field));\n                }\n                place::fits_query(",
        )],
        search: "sqlite",
    },
    Defence {
        name: "a redirect to another origin takes no credential along",
        file: "ap-runtime/src/egress/redirect.rs",
        changes: &[(
            "            next.drop_credentials(credentials)?;",
            "            let _ = (&mut next, credentials);",
        )],
        search: "sqlite",
    },
    Defence {
        name: "a redirect does not say a credential to another origin",
        file: "ap-runtime/src/egress/redirect.rs",
        changes: &[(
            "        if !stays && redactor.contains(location.as_bytes()) {",
            "        if false && !stays && redactor.contains(location.as_bytes()) {",
        )],
        search: "sqlite",
    },
    Defence {
        name: "a webhook's secret header does not reach the flow",
        file: "ap-runtime/src/webhook/auth.rs",
        changes: &[(
            "        if let Self::Header { name, .. } = self {\n            headers.remove(name);\n        }",
            "",
        )],
        search: "sqlite",
    },
    Defence {
        name: "whoever looks at a run is shown no token",
        file: "ap-runtime/src/engine/view.rs",
        changes: &[
            ("if token.len() >= TOKEN_DIGITS { \"‹resume token›\" }", "if false { \"‹resume token›\" }"),
            ("        if token.len() < TOKEN_DIGITS {\n", "        if true {\n"),
        ],
        search: "sqlite",
    },
    Defence {
        name: "a connection's value has no `Debug`",
        file: "ap-core/src/connection.rs",
        changes: &[(
            "        write!(f, \"ConnectionValue({})\", self.type_name())",
            "        for (_, field) in self.fields() {\n            if let Field::Secret(secret) = field {\n                write!(f, \"{}\", secret.expose_secret())?;\n            }\n        }\n        Ok(())",
        )],
        search: "sqlite",
    },
    Defence {
        name: "rows of a database are searched before a piece gets them",
        file: "ap-runtime/src/egress/sql/mod.rs",
        changes: &[("match redactor.redact_json(Value::Object(row)) {", "match Value::Object(row) {")],
        search: "sqlite",
    },
    Defence {
        name: "what databases, mail servers and stores say in errors is searched",
        file: "ap-runtime/src/egress/server.rs",
        changes: &[(
            "let mask = |reason: String| shortened(&redactor.redact_str(&reason));",
            "let _ = redactor;\n    let mask = |reason: String| shortened(&reason);",
        )],
        search: "sqlite",
    },
    Defence {
        name: "what a mail server says is searched before it is cut",
        file: "ap-runtime/src/egress/mail/mod.rs",
        changes: &[(
            "shortened(&self.credentials.redactor().redact_str(&receipt.reply))",
            "self.credentials.redactor().redact_str(&shortened(&receipt.reply)).into_owned()",
        )],
        search: "sqlite",
    },
    Defence {
        name: "a credential is for the log-in alone, and in no message, statement or object",
        file: "ap-runtime/src/egress/server.rs",
        changes: &[(
            "    if texts.into_iter().any(|text| credentials.mentioned_in(text)) {",
            "    if texts.into_iter().any(|text| false && credentials.mentioned_in(text)) {",
        )],
        search: "sqlite",
    },
    Defence {
        name: "signatures are searched for in answers",
        file: "ap-runtime/src/egress/http.rs",
        changes: &[("    *redactor = Cow::Owned(more);", "    drop(more);")],
        search: "sqlite",
    },
    Defence {
        name: "secrets for the token endpoint are searched for everywhere",
        file: "ap-runtime/src/egress/credential.rs",
        changes: &[("            fields.chain(bound.connection.hidden_secrets()).map(", "            fields.map(")],
        search: "sqlite",
    },
    Defence {
        name: "what is freed is wiped",
        file: "xtask/leak/src/bin/host.rs",
        changes: &[("#[global_allocator]\n", "#[expect(dead_code)]\n")],
        search: "memory",
    },
];

/// Tries the defences whose names hold one of `wanted`, or all.
pub(super) fn run(root: &Path, wanted: &[&str]) -> Result<(), String> {
    let copy = root.join("target").join("defences");
    copy_sources(root, &copy)?;
    let mut held = Vec::new();
    for defence in DEFENCES {
        if !wanted.is_empty() && !wanted.iter().any(|wanted| defence.name.contains(wanted)) {
            continue;
        }
        let started = Instant::now();
        let noticed = defence.is_missed(root, &copy)?;
        let verdict = if noticed { "its lack is noticed" } else { "ITS LACK IS NOT NOTICED" };
        println!("{:>4} s  {}: {verdict}", started.elapsed().as_secs(), defence.name);
        if !noticed {
            held.push(defence.name);
        }
    }
    if held.is_empty() { Ok(()) } else { Err(format!("the search passes without: {}", held.join("; "))) }
}

impl Defence {
    /// Takes it away, and says whether the search fails. An error if the changed sources do not compile.
    fn is_missed(&self, root: &Path, copy: &Path) -> Result<bool, String> {
        let file = copy.join(self.file);
        let original = read(&file)?;
        let mut changed = original.clone();
        for (from, to) in self.changes {
            if changed.matches(from).count() != 1 {
                return Err(format!("`{}`: does not hold once what is to be changed:\n{from}", self.file));
            }
            changed = changed.replacen(from, to, 1);
        }
        write(&file, &changed)?;
        let noticed = self.fails(root, copy);
        write(&file, &original)?;
        noticed
    }

    fn fails(&self, root: &Path, copy: &Path) -> Result<bool, String> {
        // Apart from the repository's own, where it is asked for: then nobody waits for the other.
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        let cargo = |arguments: &[&str]| {
            let mut cargo = tool::cargo(copy, arguments);
            cargo.env("CARGO_TARGET_DIR", &target).env("RUST_BACKTRACE", "0");
            cargo
        };
        let built = cargo(&["build", "--quiet", "--package", "leak"]).output().map_err(|error| error.to_string())?;
        if !built.status.success() {
            return Err(format!("without it nothing compiles:\n{}", String::from_utf8_lossy(&built.stderr)));
        }
        let search = cargo(&["run", "--quiet", "--package", "leak", "--", self.search]).output();
        Ok(!search.map_err(|error| error.to_string())?.status.success())
    }
}

/// Copies what the repository holds; what has not changed keeps its time, so that nothing is compiled for it.
fn copy_sources(root: &Path, copy: &Path) -> Result<(), String> {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output();
    let listed = listed.map_err(|error| format!("`git ls-files`: {error}"))?.stdout;
    for name in listed.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = PathBuf::from(String::from_utf8_lossy(name).into_owned());
        let (from, to) = (root.join(&name), copy.join(&name));
        let Ok(bytes) = fs::read(&from) else { continue };
        if fs::read(&to).is_ok_and(|there| there == bytes) {
            continue;
        }
        let parent = to.parent().ok_or("a file without a directory")?;
        fs::create_dir_all(parent).map_err(|error| format!("`{}`: {error}", parent.display()))?;
        fs::write(&to, bytes).map_err(|error| format!("`{}`: {error}", to.display()))?;
    }
    Ok(())
}

fn read(file: &Path) -> Result<String, String> {
    fs::read_to_string(file).map_err(|error| format!("`{}`: {error}", file.display()))
}

fn write(file: &Path, text: &str) -> Result<(), String> {
    fs::write(file, text).map_err(|error| format!("`{}`: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise `cargo xtask leak defences` would say so only after minutes.
    #[test]
    fn every_change_has_its_place() {
        let root = tool::root().expect("a root");
        for defence in DEFENCES {
            let mut text = read(&root.join(defence.file)).expect("a file");
            for (from, to) in defence.changes {
                assert_eq!(text.matches(from).count(), 1, "{}: {from}", defence.name);
                text = text.replacen(from, to, 1);
            }
        }
    }
}
