//! [`Matcher`]: finds forms in a text.
//!
//! A filter looks at five bytes out of every four offsets: each form has eight bytes or more, so wherever it stands, one
//! of those looks falls wholly inside its last eight bytes. What the filter lets pass is compared with the forms that end
//! so. Where a text, or secrets, make that more work than their size warrants, an [`Automaton`] over all forms takes
//! over; it is slower than the filter on ordinary text, and linear on any.
//!
//! Both report, for each offset at which forms end, the longest of them. Every other match lies inside that one.

use std::sync::OnceLock;

use zeroize::Zeroize;

use super::{automaton::Automaton, form::Form};

/// Finds forms in a text. Reads each byte a bounded number of times, whatever the text and the forms are.
pub(super) struct Matcher {
    /// Ascending by their bytes read from the end, so those that end alike stand together. No two are equal.
    forms: Vec<Form>,
    /// Per form, the longest other one that it ends with.
    inner: Vec<Option<usize>>,
    /// Forms whose last [`TAIL_BYTES`] are the same: range of their indices, and those bytes.
    tails: Vec<Tail>,
    /// One bit per hash of a gram that some form has in its tail.
    filter: Vec<u64>,
    /// How far to shift a product so that a hash remains.
    shift: u32,
    /// The grams, ascending.
    grams: Vec<Gram>,
    /// Per beginning of a hash, the first of its grams; one more at the end.
    buckets: Vec<u32>,
    automaton: OnceLock<Automaton>,
    longest: usize,
}

struct Tail {
    bytes: u64,
    first: usize,
    end: usize,
}

/// Five bytes in the tail of some forms.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Gram {
    hash: u64,
    bytes: u64,
    /// From its first byte to the end of the form.
    distance: usize,
    tail: usize,
}

/// Why a search ended before the text did.
enum Ended {
    /// Whoever is told of matches has heard enough.
    Told,
    /// It was more work than the text is worth.
    Overdrawn,
}

impl Matcher {
    /// Over `forms`, each at least [`TAIL_BYTES`] long and together shorter than 2³² bytes.
    pub(super) fn new(mut forms: Vec<Form>) -> Self {
        forms.sort_by(|one, other| {
            let rest = || one.bytes.iter().rev().cmp(other.bytes.iter().rev());
            tail_of(&one.bytes).cmp(&tail_of(&other.bytes)).then_with(rest).then_with(|| one.name.cmp(&other.name))
        });
        // The first of equal forms stays, so the name shown does not depend on chance.
        forms.dedup_by(|later, first| {
            let equal = later.bytes == first.bytes;
            if equal {
                first.shares_digit_before |= later.shares_digit_before;
                first.shares_digit_after |= later.shares_digit_after;
            }
            equal
        });
        let inner = inner_forms(&mut forms);
        // As many as there can be: growing would leave unwiped copies behind.
        let mut tails: Vec<Tail> = Vec::with_capacity(forms.len());
        for (index, form) in forms.iter().enumerate() {
            let bytes = tail_of(&form.bytes);
            match tails.last_mut() {
                Some(last) if last.bytes == bytes => last.end = index + 1,
                _ => tails.push(Tail { bytes, first: index, end: index + 1 }),
            }
        }
        let longest = forms.iter().map(|form| form.bytes.len()).max().unwrap_or(0);
        let mut built = Self {
            forms,
            inner,
            filter: Vec::new(),
            shift: 0,
            grams: Vec::with_capacity(STRIDE * tails.len()),
            buckets: Vec::new(),
            tails,
            automaton: OnceLock::new(),
            longest,
        };
        built.index();
        built
    }

    /// The longest form. Unit: bytes.
    pub(super) const fn longest(&self) -> usize {
        self.longest
    }

    /// How many of the last bytes of `text` begin a form that is longer. Too few say nothing, and count as none.
    pub(super) fn begun_at_end(&self, text: &[u8]) -> usize {
        let begun = |form: &Form| {
            let most = text.len().min(form.bytes.len().saturating_sub(1));
            let begins = |length: &usize| text.ends_with(form.bytes.get(..*length).unwrap_or_default());
            (LEAST_BEGUN..=most).rev().find(begins)
        };
        self.forms.iter().filter_map(begun).max().unwrap_or(0)
    }

    /// Reports where each match ends and its form, the longest one at each end, until `report` returns `false`; returns
    /// whether it never did. What was reported may be reported again.
    pub(super) fn scan(&self, text: &[u8], report: &mut dyn FnMut(usize, &Form) -> bool) -> bool {
        let mut budget = WORK_PER_BYTE * text.len() + LEAST_WORK;
        match self.sift(text, |at, bytes| self.verify(text, (at, bytes), &mut budget, report)) {
            Ok(()) => true,
            Err(Ended::Told) => false,
            Err(Ended::Overdrawn) => self.scan_by_automaton(text, report),
        }
    }

    fn scan_by_automaton(&self, text: &[u8], report: &mut dyn FnMut(usize, &Form) -> bool) -> bool {
        let automaton = self.automaton.get_or_init(|| Automaton::new(&self.forms));
        automaton.scan(text, &mut |end, form| self.forms.get(form).is_none_or(|form| report(end, form)))
    }

    /// Fills filter, grams and buckets.
    fn index(&mut self) {
        let grams = STRIDE * self.tails.len();
        let bits = (grams * FILTER_BITS_PER_GRAM).next_power_of_two().clamp(MIN_FILTER_BITS, MAX_FILTER_BITS);
        self.shift = u64::BITS - bits.trailing_zeros();
        self.filter = vec![0; bits / 64];
        for (tail, at) in self.tails.iter().zip(0..) {
            for distance in GRAM_BYTES..=TAIL_BYTES {
                let bytes = tail.bytes >> (8 * (TAIL_BYTES - distance)) & GRAM_MASK;
                let hash = self.hash(bytes);
                if let Some(word) = self.filter.get_mut((hash >> 6) as usize) {
                    *word |= 1 << (hash & 63);
                }
                self.grams.push(Gram { hash, bytes, distance, tail: at });
            }
        }
        self.grams.sort_unstable();
        let (mut buckets, mut filled) = (Vec::with_capacity(bits / HASHES_PER_BUCKET + 1), 0);
        for bucket in 0..=bits / HASHES_PER_BUCKET {
            let rest = self.grams.get(filled..).unwrap_or_default();
            filled += rest.iter().take_while(|gram| gram.hash as usize / HASHES_PER_BUCKET < bucket).count();
            buckets.push(u32::try_from(filled).unwrap_or(u32::MAX));
        }
        self.buckets = buckets;
    }

    fn hash(&self, gram: u64) -> u64 {
        gram.wrapping_mul(MULTIPLIER) >> self.shift
    }

    /// Calls `suspect` with the offset and bytes of each looked-at gram that the filter lets pass.
    fn sift(&self, text: &[u8], mut suspect: impl FnMut(usize, u64) -> Result<(), Ended>) -> Result<(), Ended> {
        let passes = |gram: u64| {
            let hash = self.hash(gram);
            self.filter.get((hash >> 6) as usize).is_some_and(|word| word >> (hash & 63) & 1 != 0)
        };
        let (chunks, rest) = text.as_chunks::<STRIDE>();
        for (index, [chunk, [next, ..]]) in chunks.array_windows().enumerate() {
            let gram = gram_of(*chunk, *next);
            if passes(gram) {
                suspect(STRIDE * index, gram)?;
            }
        }
        if let (Some(chunk), Some(next)) = (chunks.last(), rest.first()) {
            let gram = gram_of(*chunk, *next);
            if passes(gram) {
                suspect(STRIDE * (chunks.len() - 1), gram)?;
            }
        }
        Ok(())
    }

    /// Compares the forms that have this gram with the text around it.
    fn verify(
        &self,
        text: &[u8],
        (at, gram): (usize, u64),
        budget: &mut usize,
        report: &mut dyn FnMut(usize, &Form) -> bool,
    ) -> Result<(), Ended> {
        let bucket = self.hash(gram) as usize / HASHES_PER_BUCKET;
        let bound = |bucket: usize| self.buckets.get(bucket).map_or(0, |bound| *bound as usize);
        let grams = self.grams.get(bound(bucket)..bound(bucket + 1)).unwrap_or_default();
        spend(budget, grams.len())?;
        for found in grams.iter().filter(|candidate| candidate.bytes == gram) {
            let end = at + found.distance;
            let (Some(text), Some(tail)) = (text.get(..end), self.tails.get(found.tail)) else { continue };
            if text.len() < TAIL_BYTES || tail_of(text) != tail.bytes {
                continue;
            }
            if let Some(form) = self.longest_at_end(tail, text, budget)?
                && !report(end, form)
            {
                return Err(Ended::Told);
            }
        }
        Ok(())
    }

    /// The longest form with this tail that `text` ends with.
    fn longest_at_end(&self, tail: &Tail, text: &[u8], budget: &mut usize) -> Result<Option<&Form>, Ended> {
        let forms = self.forms.get(tail.first..tail.end).unwrap_or_default();
        let mut work = 0;
        // Forms that the text ends with stand before it in the order, and are inner forms of the last one that does.
        let before = forms.partition_point(|form| {
            let common = common_end(&form.bytes, text);
            work += common;
            let differing = |bytes: &[u8]| bytes.iter().rev().nth(common).copied();
            common == form.bytes.len() || differing(&form.bytes) < differing(text)
        });
        spend(budget, work + 1)?;
        let Some(last) = before.checked_sub(1) else { return Ok(None) };
        let mut candidate = Some(tail.first + last);
        let common = forms.get(last).map_or(0, |form| common_end(&form.bytes, text));
        while let Some(index) = candidate {
            spend(budget, 1)?;
            match self.forms.get(index) {
                Some(form) if form.bytes.len() <= common => return Ok(Some(form)),
                _ => candidate = self.inner.get(index).copied().flatten(),
            }
        }
        Ok(None)
    }
}

impl Drop for Matcher {
    fn drop(&mut self) {
        self.tails.iter_mut().for_each(|tail| tail.bytes.zeroize());
        self.grams.iter_mut().for_each(|gram| gram.bytes.zeroize());
    }
}

/// Per form, the longest other one that it ends with; `forms` are sorted by their bytes read from the end.
///
/// A form hides its inner ones, so it also takes over that a digit behind it may hold bits of theirs.
fn inner_forms(forms: &mut [Form]) -> Vec<Option<usize>> {
    let mut inner = Vec::with_capacity(forms.len());
    // Each one ends with the one before it.
    let mut nested: Vec<usize> = Vec::new();
    for index in 0..forms.len() {
        let Some((before, [form, ..])) = forms.split_at_mut_checked(index) else { break };
        while nested
            .pop_if(|outer| before.get(*outer).is_none_or(|outer| !form.bytes.ends_with(&outer.bytes)))
            .is_some()
        {}
        let longest = nested.last().copied();
        form.shares_digit_after |=
            longest.and_then(|outer| before.get(outer)).is_some_and(|outer| outer.shares_digit_after);
        inner.push(longest);
        nested.push(index);
    }
    inner
}

/// How many bytes are the same, counted from the end.
fn common_end(one: &[u8], other: &[u8]) -> usize {
    one.iter().rev().zip(other.iter().rev()).take_while(|(one, other)| one == other).count()
}

/// The last eight bytes, the last one most significant: ordered like the bytes read from the end.
fn tail_of(bytes: &[u8]) -> u64 {
    bytes.last_chunk().map_or(0, |tail| u64::from_le_bytes(*tail))
}

fn gram_of(chunk: [u8; STRIDE], next: u8) -> u64 {
    u64::from(u32::from_le_bytes(chunk)) | u64::from(next) << 32
}

fn spend(budget: &mut usize, work: usize) -> Result<(), Ended> {
    *budget = budget.checked_sub(work).ok_or(Ended::Overdrawn)?;
    Ok(())
}

/// Bytes of a form that tell of it.
const LEAST_BEGUN: usize = 4;
/// What every form has at least, and what of it the filter looks at. A gram at one of [`STRIDE`] successive offsets fits in.
const TAIL_BYTES: usize = 8;
const GRAM_BYTES: usize = 5;
const STRIDE: usize = TAIL_BYTES - GRAM_BYTES + 1;
const GRAM_MASK: u64 = (1 << (8 * GRAM_BYTES)) - 1;
const _: () = assert!(TAIL_BYTES <= super::MIN_SECRET_BYTES, "every form fills a tail");

/// 2⁶⁴ divided by the golden ratio: multiplication spreads the gram over the upper bits (Knuth, TAOCP 3, 6.4).
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
/// One in so many grams of ordinary text passes the filter by chance.
const FILTER_BITS_PER_GRAM: usize = 32;
const MIN_FILTER_BITS: usize = 1 << 12;
/// 512 KiB: fits into a processor's second-level cache.
const MAX_FILTER_BITS: usize = 1 << 22;
const HASHES_PER_BUCKET: usize = 32;

/// How many steps of comparing a byte of text is worth before the automaton takes over, and how many any text is worth.
const WORK_PER_BYTE: usize = 16;
const LEAST_WORK: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    /// End, length and name of each match.
    type Found = Vec<(usize, usize, usize)>;

    impl Matcher {
        /// What the filter alone finds, however much work it is.
        pub(in super::super) fn by_filter(&self, text: &[u8]) -> Found {
            let mut found = Vec::new();
            let done = self.sift(text, |at, gram| {
                self.verify(text, (at, gram), &mut usize::MAX.clone(), &mut |end, form| {
                    found.push((end, form.bytes.len(), form.name));
                    true
                })
            });
            assert!(done.is_ok());
            found
        }

        pub(in super::super) fn by_automaton(&self, text: &[u8]) -> Found {
            let mut found = Vec::new();
            assert!(self.scan_by_automaton(text, &mut |end, form| {
                found.push((end, form.bytes.len(), form.name));
                true
            }));
            found
        }
    }
}
