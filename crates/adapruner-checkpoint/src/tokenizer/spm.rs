//! SentencePiece BPE: pieces with scores instead of merges.
//!
//! SentencePiece joins the two neighbours whose union is the piece of highest
//! score. `tokenizer.json` lists the pairs instead, best first; transformers
//! makes that list by cutting every piece in two in all ways whose halves are
//! pieces themselves. Both directions of that are here.

use std::collections::HashMap;

/// Two neighbours that become one.
pub(super) type Merge = (String, String);

/// The merges that `pieces` with their scores stand for, in transformers'
/// order: by score, then by the lengths of the halves, longest first, and then
/// by the piece's place and the places of its halves.
pub(super) fn merges(pieces: &[(&str, u32, f32)]) -> Vec<Merge> {
    let ids: HashMap<&str, u32> = pieces.iter().map(|(text, id, _)| (*text, *id)).collect();
    let mut found: Vec<(f32, usize, usize, &str, &str)> = Vec::new();
    let mut local = Vec::new();
    for &(text, _, score) in pieces {
        local.clear();
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            if let (Some(l), Some(r)) = (ids.get(left), ids.get(right)) {
                local.push((*l, *r, left, right));
            }
        }
        local.sort_unstable();
        found.extend(local.iter().map(|&(_, _, left, right)| {
            (score, left.chars().count(), right.chars().count(), left, right)
        }));
    }
    // Stable: what is equal keeps its place.
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then((b.1, b.2).cmp(&(a.1, a.2))));
    found.into_iter().map(|(.., left, right)| (left.to_owned(), right.to_owned())).collect()
}

/// The place of every piece among the results of `merges`, 0 the best, by
/// text.
pub(super) fn ranks(merges: &[Merge]) -> HashMap<String, usize> {
    let mut ranks = HashMap::new();
    for (left, right) in merges {
        let next = ranks.len();
        ranks.entry(format!("{left}{right}")).or_insert(next);
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_are_in_the_order_of_transformers() {
        // generate_merges of transformers 4.57 on the same pieces.
        let pieces = [
            ("a", 0, -10.0),
            ("b", 1, -11.0),
            ("ab", 2, -1.0),
            ("ba", 3, -2.0),
            ("aba", 4, -2.0),
            ("é", 5, -12.0),
            ("éa", 6, 0.0),
            ("whole", 7, 0.0),
        ];
        let expected = [("é", "a"), ("a", "b"), ("ab", "a"), ("a", "ba"), ("b", "a")];
        let expected = expected.map(|(l, r)| (l.to_owned(), r.to_owned()));
        let found = merges(&pieces);
        assert_eq!(found, expected);
        let ranks = ranks(&found);
        assert_eq!((ranks["éa"], ranks["ab"], ranks["aba"], ranks["ba"]), (0, 1, 2, 3));
    }
}
