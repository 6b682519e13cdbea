//! Damaged inputs for readers of foreign bytes.

/// Bytes that damage numbers and syntax most.
const TELLING: [u8; 12] = *b"\x00\x01\x7f\x80\xff\"\\{[0-,";
/// Longest input that is made, in bytes.
const LONGEST: usize = 1 << 20;

/// Inputs without an end, each a seed with up to four changes: bits flipped,
/// bytes set, parts removed, repeated, moved, numbers replaced by extreme ones,
/// parts of another seed put in, the end cut off. The same for the same `seed`.
///
/// # Panics
/// Without seeds.
pub fn mutations(seeds: &[Vec<u8>], seed: u64) -> impl Iterator<Item = Vec<u8>> + '_ {
    assert!(!seeds.is_empty(), "at least one seed expected");
    let mut random = Random(seed);
    std::iter::repeat_with(move || {
        let mut bytes = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(4) {
            change(&mut bytes, seeds, &mut random);
        }
        bytes.truncate(LONGEST);
        bytes
    })
}

fn change(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    if bytes.is_empty() {
        bytes.push(random.next() as u8);
        return;
    }
    let at = random.below(bytes.len());
    let end = (at + 1 + random.below(64)).min(bytes.len());
    match random.below(9) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = TELLING[random.below(TELLING.len())],
        2 => bytes[at] = random.next() as u8,
        3 => drop(bytes.drain(at..end)),
        4 => {
            let part = bytes[at..end].to_vec();
            let to = random.below(bytes.len() + 1);
            for _ in 0..=random.below(8) {
                bytes.splice(to..to, part.iter().copied());
            }
        }
        5 => bytes.truncate(at),
        6 => {
            let other = &seeds[random.below(seeds.len())];
            let from = random.below(other.len().max(1)).min(other.len());
            let part = &other[from..(from + 1 + random.below(64)).min(other.len())];
            bytes.splice(at..end, part.iter().copied());
        }
        7 => {
            // A number of four or eight bytes, as binary headers have them.
            let extreme = [0, 1, u64::MAX, u64::MAX >> 1, 1 << 31, 1 << 40, 0xffff_fff0];
            let number = extreme[random.below(extreme.len())].to_le_bytes();
            let width = (4 + 4 * random.below(2)).min(bytes.len() - at);
            bytes[at..at + width].copy_from_slice(&number[..width]);
        }
        _ => digits(bytes, at, random),
    }
}

/// Replaces the first run of digits from `at` on by an extreme number.
fn digits(bytes: &mut Vec<u8>, at: usize, random: &mut Random) {
    let is_digit = |byte: &u8| byte.is_ascii_digit();
    let Some(start) = bytes[at..].iter().position(is_digit).map(|far| at + far) else { return };
    let length = bytes[start..].iter().take_while(|byte| is_digit(byte)).count();
    let extreme: [&[u8]; 8] = [
        b"0",
        b"-1",
        b"1e999",
        b"18446744073709551615",
        b"9007199254740993",
        b"1e-320",
        b"NaN",
        b"0.5",
    ];
    let number = extreme[random.below(extreme.len())];
    bytes.splice(start..start + length, number.iter().copied());
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is at least 1.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_repeatable_and_differ() {
        let seeds = [b"{\"a\": 12, \"b\": [1, 2]}".to_vec(), b"other".to_vec()];
        let some: Vec<_> = mutations(&seeds, 7).take(200).collect();
        assert_eq!(some, mutations(&seeds, 7).take(200).collect::<Vec<_>>());
        let mut distinct = some.clone();
        distinct.sort();
        distinct.dedup();
        assert!(distinct.len() > 150, "{}", distinct.len());
        assert!(some.iter().filter(|bytes| seeds.contains(bytes)).count() < 20);
    }
}
