//! What a process has in memory, by what it is for (Linux: proc(5)).

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
};

use anyhow::{Context, Result};

/// What a part of memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Heap,
    /// The linear memory of scripts.
    Sandbox,
    /// Stacks, also of threads that have ended.
    Stack,
}

/// A copy of everything a process can write to.
#[derive(Debug)]
pub(super) struct Memory(Vec<(Kind, Vec<u8>)>);

impl Memory {
    pub(super) fn read(pid: u32) -> Result<Self> {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let memory = File::open(format!("/proc/{pid}/mem"))?;
        let areas = maps.lines().map(Area::parse).collect::<Option<Vec<_>>>().context("an unknown line in maps")?;
        let mut parts = Vec::new();
        for (index, area) in areas.iter().enumerate() {
            if !area.writable || area.name == "[vvar]" {
                continue;
            }
            let mut bytes = vec![0; usize::try_from(area.end - area.start)?];
            // What was given back meanwhile cannot be read, and holds nothing.
            if memory.read_exact_at(&mut bytes, area.start).is_ok() {
                parts.push((kind(&areas, index), bytes));
            }
        }
        Ok(Self(parts))
    }

    pub(super) fn of(&self, kind: Kind) -> Vec<&[u8]> {
        self.0.iter().filter(|(of, _)| *of == kind).map(|(_, bytes)| bytes.as_slice()).collect()
    }

    pub(super) fn bytes(&self, kind: Kind) -> u64 {
        self.of(kind).iter().map(|bytes| bytes.len() as u64).sum()
    }
}

/// One line of `maps`.
struct Area<'a> {
    start: u64,
    end: u64,
    readable: bool,
    writable: bool,
    name: &'a str,
}

impl<'a> Area<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut parts = line.split_ascii_whitespace();
        let (start, end) = parts.next()?.split_once('-')?;
        let rights = parts.next()?;
        let name = parts.nth(3).unwrap_or_default();
        Some(Self {
            start: u64::from_str_radix(start, 16).ok()?,
            end: u64::from_str_radix(end, 16).ok()?,
            readable: rights.starts_with('r'),
            writable: rights.as_bytes().get(1) == Some(&b'w'),
            name,
        })
    }

    fn is_guard(&self) -> bool {
        !self.readable && !self.writable
    }
}

fn kind(areas: &[Area<'_>], index: usize) -> Kind {
    let area = &areas[index];
    let adjoins = |left: &Area<'_>, right: &Area<'_>| left.end == right.start;
    // A script's memory is a copy-on-write image and what grew around it, between inaccessible stretches.
    let together = |left: &Area<'_>, right: &Area<'_>| adjoins(left, right) && !left.is_guard() && !right.is_guard();
    let start = (1..=index).rev().find(|at| !together(&areas[at - 1], &areas[*at])).unwrap_or(0);
    let end = (index + 1..areas.len()).find(|at| !together(&areas[at - 1], &areas[*at])).unwrap_or(areas.len());
    let in_pool = areas[start..end].iter().any(|area| area.name.contains("memfd"));
    let before = index.checked_sub(1).map(|before| &areas[before]).filter(|before| adjoins(before, area));
    let guarded = before.is_some_and(|before| before.is_guard() && before.end - before.start <= 16 << 10);
    if in_pool {
        Kind::Sandbox
    } else if area.name.starts_with("[stack") || (guarded && area.name.is_empty()) {
        Kind::Stack
    } else {
        Kind::Heap
    }
}
