//! The attack that the key commitment is there for: one ciphertext that authenticates under two keys.
//!
//! Poly1305 (RFC 8439 §2.5) is a polynomial over the integers modulo 2^130 - 5, so with two keys in hand two blocks of
//! ciphertext can be solved for a common tag ("Partitioning Oracle Attacks", Len, Grubbs, Ristenpart, 2021).

use chacha20::{
    XChaCha20,
    cipher::{KeyIvInit, StreamCipher},
};

use super::{
    tests::{CONTEXT, key},
    *,
};

#[test]
fn a_ciphertext_made_for_two_keys_opens_under_the_committed_one_only() {
    let nonce = [9; NONCE_BYTES];
    let (id, ours) = key(1);
    let (_, theirs) = key(2);
    for (committed, other) in [(&ours, &theirs), (&theirs, &ours)] {
        let [one, two] = [committed, other].map(|key| RecordKey::derive(key, id, &nonce));
        let header = [&[VERSION, ALGORITHM][..], id.as_bytes(), one.commitment(), &nonce].concat();
        let associated_data = CONTEXT.associated_data(&header);
        let forged = forge([one.key(), two.key()], &nonce, &associated_data);

        // The cipher alone accepts it under both keys, with two different plaintexts.
        let plaintexts =
            [one.key(), two.key()].map(|key| aead::decrypt(key, &nonce, &associated_data, &forged).unwrap());
        assert_ne!(plaintexts[0], plaintexts[1]);

        let envelope = [header, forged].concat();
        assert_eq!(try_open(|_| Some(committed), &CONTEXT, &envelope), Ok(plaintexts[0].clone()));
        assert_eq!(try_open(|_| Some(other), &CONTEXT, &envelope), Err("key commitment differs"));
    }
}

/// 32 bytes of ciphertext and a tag that is right under both keys.
fn forge(keys: [&[u8; 32]; 2], nonce: &[u8; NONCE_BYTES], associated_data: &[u8]) -> Vec<u8> {
    let mut blocks: Vec<[u8; 16]> = Vec::new();
    for chunk in associated_data.chunks(16) {
        let mut block = [0; 16];
        block[..chunk.len()].copy_from_slice(chunk);
        blocks.push(block);
    }
    let lengths = associated_data.len() as u128 | 32 << 64;
    let authenticators = keys.map(|key| {
        let mut stream = [0; 32];
        XChaCha20::new(key.into(), nonce.into()).apply_keystream(&mut stream);
        let (r, s) = stream.split_at(16);
        let r = u128::from_le_bytes(r.try_into().unwrap()) & 0x0fff_fffc_0fff_fffc_0fff_fffc_0fff_ffff;
        (Element::new(0, r), u128::from_le_bytes(s.try_into().unwrap()))
    });
    let [(r1, _), (r2, _)] = authenticators;
    for attempt in 0..64 * 16_u128 {
        let tag = 0x1234_5678_9abc_def0 + attempt / 16;
        // (((a + c1) r + c2) r + l) r must be tag - s modulo 2^128: four candidates modulo 2^130 for each key.
        let carries = [attempt & 3, attempt >> 2 & 3];
        let mut rests = [Element::ZERO; 2];
        for (index, (r, s)) in authenticators.into_iter().enumerate() {
            let aad = blocks
                .iter()
                .fold(Element::ZERO, |sum, block| sum.plus(Element::new(1, u128::from_le_bytes(*block))).times(r));
            let wanted = Element::new(carries[index], tag.wrapping_sub(s));
            let after_lengths = wanted.times(r.inverse()).minus(Element::new(1, lengths));
            // c1 r + c2 = this:
            rests[index] = after_lengths.times(r.inverse()).minus(aad.times(r));
        }
        let c1 = rests[0].minus(rests[1]).times(r1.minus(r2).inverse());
        let c2 = rests[0].minus(c1.times(r1));
        // A full block has the bit 2^128 set and none above it.
        if c1.high == 1 && c2.high == 1 {
            return [c1.low.to_le_bytes(), c2.low.to_le_bytes(), tag.to_le_bytes()].concat();
        }
    }
    panic!("one attempt in sixteen succeeds");
}

/// An integer modulo p = 2^130 - 5: `high * 2^128 + low`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Element {
    high: u128,
    low: u128,
}

impl Element {
    const ZERO: Self = Self { high: 0, low: 0 };
    const P: Self = Self { high: 3, low: u128::MAX - 4 };

    fn new(mut high: u128, mut low: u128) -> Self {
        while high > 3 {
            // 2^130 = 5.
            let (sum, carry) = low.overflowing_add((high >> 2) * 5);
            (high, low) = ((high & 3) + u128::from(carry), sum);
        }
        if high == 3 && low >= Self::P.low { Self { high: 0, low: low - Self::P.low } } else { Self { high, low } }
    }

    fn plus(self, other: Self) -> Self {
        let (low, carry) = self.low.overflowing_add(other.low);
        Self::new(self.high + other.high + u128::from(carry), low)
    }

    fn minus(self, other: Self) -> Self {
        let (low, borrow) = Self::P.low.overflowing_sub(other.low);
        self.plus(Self::new(Self::P.high - other.high - u128::from(borrow), low))
    }

    fn times(self, other: Self) -> Self {
        (0..130).rev().fold(Self::ZERO, |sum, bit| {
            let doubled = sum.plus(sum);
            let word = if bit < 128 { other.low >> bit } else { other.high >> (bit - 128) };
            if word & 1 == 1 { doubled.plus(self) } else { doubled }
        })
    }

    /// By Fermat: x^(p - 2).
    fn inverse(self) -> Self {
        (0..130).rev().fold(Self::new(0, 1), |power, bit| {
            let squared = power.times(power);
            let word = if bit < 128 { (Self::P.low - 2) >> bit } else { Self::P.high >> (bit - 128) };
            if word & 1 == 1 { squared.times(self) } else { squared }
        })
    }
}

#[test]
fn the_arithmetic_is_that_of_the_field() {
    let (a, b) = (Element::new(2, u128::MAX - 77), Element::new(1, 0x1234_5678_9abc_def0_1122_3344));
    assert_eq!(a.times(a.inverse()), Element::new(0, 1));
    assert_eq!(a.minus(b).plus(b), a);
    assert_eq!(a.times(b), b.times(a));
    assert_eq!(Element::new(4, 0), Element::new(0, 5));
    assert_eq!(Element::new(3, Element::P.low), Element::ZERO);
}
