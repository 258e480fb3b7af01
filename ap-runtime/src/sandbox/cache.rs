//! Compiled code, by project and source.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ap_core::id::ProjectId;
use sha2::{Digest, Sha256};

use super::{CodeLanguage, CodeUnit};

/// The engine's bytecode of what was compiled lately. What a project wrote is found by that project alone.
pub(crate) struct CodeCache {
    kept: Mutex<Kept>,
    limit_bytes: usize,
}

/// What code is found by.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub(crate) struct CodeKey {
    project: ProjectId,
    /// `None` for an expression.
    language: Option<CodeLanguage>,
    source: [u8; 32],
}

#[derive(Default)]
struct Kept {
    entries: HashMap<CodeKey, Entry>,
    bytes: usize,
    uses: u64,
}

struct Entry {
    code: Arc<[u8]>,
    last_use: u64,
}

impl CodeKey {
    pub(crate) fn new(project: ProjectId, unit: &CodeUnit) -> Self {
        let (language, source) = match unit {
            CodeUnit::Module { source, language } => (Some(*language), source),
            CodeUnit::Expression(text) => (None, text),
        };
        Self { project, language, source: Sha256::digest(source.as_bytes()).into() }
    }
}

impl CodeCache {
    pub(crate) fn new(limit_bytes: usize) -> Self {
        Self { kept: Mutex::default(), limit_bytes }
    }

    pub(crate) fn get(&self, key: &CodeKey) -> Option<Arc<[u8]>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.uses += 1;
        let now = kept.uses;
        let entry = kept.entries.get_mut(key)?;
        entry.last_use = now;
        Some(Arc::clone(&entry.code))
    }

    /// Keeps code, and forgets what was used the longest time ago if there is too much.
    pub(crate) fn insert(&self, key: CodeKey, code: Arc<[u8]>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.uses += 1;
        let last_use = kept.uses;
        kept.bytes += cost(&code);
        if let Some(before) = kept.entries.insert(key, Entry { code, last_use }) {
            kept.bytes -= cost(&before.code);
        }
        if kept.bytes > self.limit_bytes {
            kept.shrink(self.limit_bytes / 8 * 7);
        }
    }
}

impl Kept {
    /// Down to `target`, so that the next insertions need not look at everything again.
    fn shrink(&mut self, target: usize) {
        let mut by_use: Vec<_> = self.entries.iter().map(|(key, entry)| (entry.last_use, *key)).collect();
        by_use.sort_unstable_by_key(|(last_use, _)| *last_use);
        for (_, key) in by_use {
            if self.bytes <= target {
                break;
            }
            if let Some(entry) = self.entries.remove(&key) {
                self.bytes -= cost(&entry.code);
            }
        }
    }
}

/// What an entry takes, with its share of the table.
fn cost(code: &[u8]) -> usize {
    code.len() + 128
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(project: u128, text: &str) -> CodeKey {
        CodeKey::new(ProjectId::from_u128(project), &CodeUnit::Expression(text.into()))
    }

    #[test]
    fn code_is_found_by_its_own_project_and_kind_alone() {
        let cache = CodeCache::new(1 << 20);
        cache.insert(key(1, "a"), Arc::new([1]));
        assert_eq!(cache.get(&key(1, "a")).as_deref(), Some(&[1_u8][..]));
        assert!(cache.get(&key(2, "a")).is_none());
        assert!(cache.get(&key(1, "b")).is_none());
        let module = |language| CodeUnit::Module { source: "a".into(), language };
        for language in [CodeLanguage::JavaScript, CodeLanguage::TypeScript] {
            assert!(cache.get(&CodeKey::new(ProjectId::from_u128(1), &module(language))).is_none());
        }
    }

    #[test]
    fn what_is_used_stays() {
        let cache = CodeCache::new(20 * cost(&[0; 100]));
        for number in 0..100 {
            cache.insert(key(1, &number.to_string()), Arc::new([0; 100]));
            assert!(cache.get(&key(1, "0")).is_some(), "after {number}");
            let kept = cache.kept.lock().unwrap();
            assert!(kept.bytes <= cache.limit_bytes);
            assert_eq!(kept.bytes, kept.entries.values().map(|entry| cost(&entry.code)).sum::<usize>());
        }
        assert!(cache.get(&key(1, "99")).is_some());
        assert!(cache.get(&key(1, "5")).is_none());
    }

    #[test]
    fn the_same_code_twice_counts_once() {
        let cache = CodeCache::new(1 << 20);
        for _ in 0..3 {
            cache.insert(key(1, "a"), Arc::new([0; 10]));
        }
        assert_eq!(cache.kept.lock().unwrap().bytes, cost(&[0; 10]));
    }
}
