//! The source files of the workspace, and what of a file is code that ships.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// One file, its path from the workspace's root with `/` between the parts.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    /// Whether the file belongs to the code of one of the crates that are published.
    pub(crate) fn is_shipped(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        let test = self.path.contains("/tests/") || ["tests.rs", "testing.rs"].contains(&name);
        self.path.starts_with("ap-") && self.path.ends_with(".rs") && !test
    }

    /// The lines before the tests at the file's end.
    pub(crate) fn production_lines(&self) -> impl Iterator<Item = &str> {
        let lines: Vec<&str> = self.text.lines().collect();
        let tests = lines.windows(2).position(|pair| {
            let module = pair[1].strip_prefix("pub(crate) ").unwrap_or(pair[1]);
            pair[0].trim() == "#[cfg(test)]" && module.starts_with("mod ") && module.ends_with('{')
        });
        let end = tests.unwrap_or(lines.len());
        lines.into_iter().take(end)
    }

    /// Production lines without comments.
    pub(crate) fn code_lines(&self) -> impl Iterator<Item = &str> {
        self.production_lines().map(without_comment).filter(|line| !line.trim().is_empty())
    }
}

/// The directory that holds the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask stands in the workspace").to_owned()
}

/// Every text file of the repository that a person writes.
pub(crate) fn all() -> Vec<Source> {
    let mut sources = Vec::new();
    collect(&root(), "", &mut sources);
    assert!(sources.len() > 100, "only {} files were found", sources.len());
    sources
}

fn collect(directory: &Path, prefix: &str, sources: &mut Vec<Source>) {
    let mut entries: Vec<_> =
        fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("entry")).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().into_string().expect("UTF-8 file names");
        let path = format!("{prefix}{name}");
        let kind = entry.file_type().expect("file type");
        if kind.is_dir() && !GENERATED.contains(&name.as_str()) {
            collect(&entry.path(), &format!("{path}/"), sources);
        } else if kind.is_file() && (WRITTEN.iter().any(|end| name.ends_with(end)) || path == ".ci/run") {
            let text = fs::read_to_string(entry.path()).unwrap_or_else(|error| panic!("{path}: {error}"));
            sources.push(Source { path, text });
        }
    }
}

fn without_comment(line: &str) -> &str {
    // `://` stands in URLs, which are strings.
    let comment = line.match_indices("//").map(|(at, _)| at).find(|at| !line[..*at].ends_with(':'));
    comment.map_or(line, |at| &line[..at])
}

const GENERATED: &[&str] = &["target", ".git", "corpus", "artifacts", "seeds"];
const WRITTEN: &[&str] = &[".rs", ".md", ".toml", ".sql", ".js", ".c"];

#[test]
fn production_code_ends_where_tests_begin() {
    let text = "//! Doc.\nfn a() {} // why\nlet u = \"http://x\";\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n";
    let source = Source::new("ap-x/src/a.rs", text);
    assert_eq!(source.production_lines().count(), 3);
    assert_eq!(source.code_lines().collect::<Vec<_>>(), ["fn a() {} ", "let u = \"http://x\";"]);
    let source = Source::new("ap-x/src/a.rs", "fn a() {}\n#[cfg(test)]\npub(crate) mod tests {\n}\n");
    assert_eq!(source.production_lines().count(), 1);
    // A module kept in a file of its own does not end the file.
    let source = Source::new("ap-x/src/a.rs", "#[cfg(test)]\nmod tests;\nfn a() {}\n");
    assert_eq!(source.production_lines().count(), 3);
}

#[test]
fn only_code_of_the_published_crates_is_shipped() {
    let shipped = |path: &str| Source::new(path, "").is_shipped();
    assert!(shipped("ap-core/src/id.rs") && shipped("ap-runtime/build.rs"));
    for path in
        ["ap-core/tests/flow/main.rs", "ap-crypto/src/redact/tests.rs", "ap-core/README.md", "xtask/src/main.rs"]
    {
        assert!(!shipped(path), "{path}");
    }
}
