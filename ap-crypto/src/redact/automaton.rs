//! [`Automaton`]: the matcher for hostile texts and secrets. Time is linear in the text, whatever both are.
//!
//! Aho and Corasick, "Efficient string matching" (1975), reduced to the longest form at each end.

use zeroize::Zeroizing;

use super::form::Form;

/// A trie over all bytes of all forms, with a way on from each of its nodes for each byte that does not fit.
pub(super) struct Automaton {
    /// Per node, where its edges begin; one more at the end.
    edges: Vec<u32>,
    /// Per edge, its byte; ascending within a node.
    bytes: Zeroizing<Vec<u8>>,
    /// Per edge, where it leads.
    targets: Vec<u32>,
    /// Per node, the node of its longest proper suffix.
    failures: Vec<u32>,
    /// Per node, the longest form that ends there, or `NONE`.
    longest: Vec<u32>,
}

impl Automaton {
    /// Over `forms`, which are together shorter than 2³² bytes and have no two equal.
    pub(super) fn new(forms: &[Form]) -> Self {
        let mut sorted: Vec<(&[u8], u32)> = forms.iter().zip(0..).map(|(form, index)| (&**form.bytes, index)).collect();
        sorted.sort_unstable();
        // Nodes in the order in which they are met: parent, byte. Sorted forms meet the children of a node in order.
        let mut nodes: Zeroizing<Vec<(u32, u8)>> =
            Zeroizing::new(Vec::with_capacity(1 + sorted.iter().map(|(bytes, _)| bytes.len()).sum::<usize>()));
        nodes.push((NONE, 0));
        let mut own = Vec::with_capacity(sorted.len());
        let (mut path, mut last): (Vec<u32>, &[u8]) = (vec![0], &[]);
        for (bytes, index) in sorted {
            let shared = bytes.iter().zip(last).take_while(|(one, other)| one == other).count();
            path.truncate(shared + 1);
            for byte in bytes.iter().skip(shared) {
                let parent = path.last().copied().unwrap_or(0);
                path.push(node(nodes.len()));
                nodes.push((parent, *byte));
            }
            own.push((path.last().copied().unwrap_or(0), index));
            last = bytes;
        }
        let mut built = Self::linked(&nodes);
        for (node, form) in own {
            set(&mut built.longest, node, form);
        }
        built.fail_over(&nodes);
        built
    }

    /// Reports the end of every match and its form, the longest one at each end, until `report` returns `false`; returns
    /// whether it never did.
    pub(super) fn scan(&self, text: &[u8], report: &mut dyn FnMut(usize, usize) -> bool) -> bool {
        let mut state = 0;
        text.iter().zip(1..).all(|(byte, end)| {
            state = self.next(state, *byte);
            match get(&self.longest, state) {
                NONE => true,
                form => report(end, form as usize),
            }
        })
    }

    /// The edges of each node, without any way on.
    fn linked(nodes: &[(u32, u8)]) -> Self {
        let mut edges = vec![0; nodes.len() + 1];
        for (parent, _) in nodes.iter().skip(1) {
            let behind = get(&edges, parent + 1);
            set(&mut edges, parent + 1, behind + 1);
        }
        let mut sum = 0;
        for slot in &mut edges {
            sum += *slot;
            *slot = sum;
        }
        let mut free = edges.clone();
        let mut built = Self {
            edges,
            bytes: Zeroizing::new(vec![0; nodes.len() - 1]),
            targets: vec![0; nodes.len() - 1],
            failures: vec![0; nodes.len()],
            longest: vec![NONE; nodes.len()],
        };
        for (index, (parent, byte)) in nodes.iter().enumerate().skip(1) {
            let edge = get(&free, *parent);
            set(&mut free, *parent, edge + 1);
            set(&mut built.targets, edge, node(index));
            if let Some(slot) = built.bytes.get_mut(edge as usize) {
                *slot = *byte;
            }
        }
        built
    }

    /// Fills in the ways on, by distance from the root: each follows from those of nodes that are nearer.
    fn fail_over(&mut self, nodes: &[(u32, u8)]) {
        let mut order = vec![0];
        let mut at = 0;
        while let Some(parent) = order.get(at).copied() {
            at += 1;
            for edge in get(&self.edges, parent)..get(&self.edges, parent + 1) {
                let child = get(&self.targets, edge);
                let byte = nodes.get(child as usize).map_or(0, |(_, byte)| *byte);
                let failure = if parent == 0 { 0 } else { self.next(get(&self.failures, parent), byte) };
                set(&mut self.failures, child, failure);
                if get(&self.longest, child) == NONE {
                    let inherited = get(&self.longest, failure);
                    set(&mut self.longest, child, inherited);
                }
                order.push(child);
            }
        }
    }

    fn next(&self, mut state: u32, byte: u8) -> u32 {
        loop {
            let (first, end) = (get(&self.edges, state) as usize, get(&self.edges, state + 1) as usize);
            if let Some(Ok(edge)) = self.bytes.get(first..end).map(|bytes| bytes.binary_search(&byte)) {
                return get(&self.targets, node(first + edge));
            }
            if state == 0 {
                return 0;
            }
            state = get(&self.failures, state);
        }
    }
}

const NONE: u32 = u32::MAX;

/// The caller keeps the number of nodes below 2³².
fn node(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(NONE)
}

fn get(values: &[u32], index: u32) -> u32 {
    values.get(index as usize).copied().unwrap_or(0)
}

fn set(values: &mut [u32], index: u32, value: u32) {
    if let Some(slot) = values.get_mut(index as usize) {
        *slot = value;
    }
}
