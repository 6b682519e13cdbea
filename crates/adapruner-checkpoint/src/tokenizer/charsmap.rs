//! SentencePiece's compiled character map, as a `Precompiled` normalizer holds it.
//!
//! Its bytes are the length of a double-array trie, the trie's units of 32 bits,
//! then the replacements, each ended by a zero byte. A unit has its label in bits
//! 0 to 7 and 31, whether a value follows in bit 8, and its offset in bits 10 to
//! 30, shifted by another 8 if bit 9 is set. The library walks it without
//! looking where it steps; here every step that any text can take is made once.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value as Json;

/// Refuses a map that a lookup would leave; an error in words.
pub(super) fn check(map: &Json) -> Result<(), String> {
    let map = map.as_str().ok_or("precompiled_charsmap: a string expected")?;
    let bytes = STANDARD.decode(map).map_err(|e| format!("precompiled_charsmap: {e}"))?;
    checked(&bytes).map_err(|message| format!("precompiled_charsmap: {message}"))
}

fn checked(bytes: &[u8]) -> Result<(), String> {
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or("it is empty")?;
    let length = u32::from_le_bytes(*length) as usize;
    let found = rest.len();
    let Some((trie, texts)) = rest.split_at_checked(length) else {
        return Err(format!("a trie of {length} bytes, but only {found} follow"));
    };
    let (units, odd) = trie.as_chunks::<4>();
    let units: Vec<u32> = units.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
    if units.is_empty() || !odd.is_empty() {
        return Err(format!("a trie of {length} bytes, a positive multiple of 4 expected"));
    }
    let texts = str::from_utf8(texts).map_err(|e| format!("its replacements: {e}"))?;
    let unit = |at: usize| {
        let outside = || format!("its trie leads to unit {at} of {}", units.len());
        units.get(at).copied().ok_or_else(outside)
    };
    let offset = |unit: u32| ((unit >> 10) as usize) << ((unit & (1 << 9)) >> 6);

    let mut seen = vec![false; units.len()];
    let mut open = vec![offset(units[0])];
    while let Some(base) = open.pop() {
        for label in 1..=255usize {
            let at = base ^ label;
            let child = unit(at)?;
            if (child & (1 << 31 | 0xff)) as usize != label || seen[at] {
                continue;
            }
            seen[at] = true;
            let base = at ^ offset(child);
            if child >> 8 & 1 == 1 {
                let start = (unit(base)? & !(1 << 31)) as usize;
                if start < texts.len() && !texts.is_char_boundary(start) || start > texts.len() {
                    return Err(format!("no replacement begins at byte {start}"));
                }
            }
            open.push(base);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A map whose trie has one block of units for the root and one for each
    /// child: `a` becomes `b`.
    fn map() -> Vec<u8> {
        let mut units = vec![0u32; 768];
        units[0] = 256 << 10;
        let a = 256 ^ usize::from(b'a');
        let base = 512usize;
        units[a] = u32::from(b'a') | 1 << 8 | ((a ^ base) as u32) << 10;
        units[base] = 1 << 31;
        let mut bytes = (768u32 * 4).to_le_bytes().to_vec();
        bytes.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
        bytes.extend(b"b\0");
        bytes
    }

    #[test]
    fn a_map_is_taken_and_every_way_out_of_it_refused() {
        assert_eq!(checked(&map()), Ok(()));
        let refused = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = map();
            change(&mut bytes);
            checked(&bytes).unwrap_err()
        };
        let unit = |at: usize| 4 + 4 * at..8 + 4 * at;
        let a = 256 ^ usize::from(b'a');
        assert_eq!(refused(&|b| b.clear()), "it is empty");
        assert!(refused(&|b| b[..4].fill(0)).contains("a trie of 0 bytes"));
        assert!(refused(&|b| b[3] = 0xff).contains("only 3074 follow"));
        assert!(refused(&|b| b[unit(0).end - 2] = 0xff).contains("its trie leads to unit"));
        assert!(refused(&|b| b[unit(a).end - 1] = 0x7f).contains("its trie leads to unit"));
        assert!(refused(&|b| b[unit(512).start] = 9).contains("no replacement begins at byte 9"));
        assert!(refused(&|b| *b.last_mut().unwrap() = 0xff).contains("its replacements"));
    }

    /// What is taken never panics in the library, whatever the text.
    #[test]
    fn damaged_maps_are_refused_or_harmless() {
        let good = map();
        for at in (0..good.len()).step_by(3) {
            for bit in [0, 1, 2, 5, 7] {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << bit;
                if checked(&bytes).is_ok() {
                    let json = serde_json::json!({
                        "type": "Precompiled", "precompiled_charsmap": STANDARD.encode(&bytes),
                    });
                    let normalizer: tokenizers::NormalizerWrapper =
                        serde_json::from_str(&json.to_string()).unwrap();
                    let mut text = tokenizers::NormalizedString::from("abc 人 é \0 \u{7f}a");
                    tokenizers::Normalizer::normalize(&normalizer, &mut text).unwrap();
                }
            }
        }
    }
}
