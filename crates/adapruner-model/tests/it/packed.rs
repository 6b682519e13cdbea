//! Sequences packed without padding against each run alone.

use adapruner_model::{Branches, Residency};
use candle_core::DType;

use crate::common::{F32, FIXTURES, decoder, ids, near, with};

fn branches(vocabulary: u32) -> Vec<Branches> {
    let of = |beginning, endings: &[usize], seed: u32| Branches {
        beginning: ids(beginning, vocabulary, seed),
        endings: endings.iter().map(|&n| ids(n, vocabulary, seed + n as u32)).collect(),
    };
    vec![of(9, &[4, 0, 7], 1), of(1, &[1], 30), of(12, &[], 50), of(5, &[0, 2], 70)]
}

#[test]
fn packed_sequences_are_what_each_is_alone() {
    for name in FIXTURES {
        let decoder = decoder(name);
        let branches = branches(decoder.config().vocab_size as u32);
        let hidden = decoder.packed(&branches).unwrap();
        let mut start = 0;
        for (index, branch) in branches.iter().enumerate() {
            let none = vec![Vec::new()];
            let endings = if branch.endings.is_empty() { &none } else { &branch.endings };
            for (at, ending) in endings.iter().enumerate() {
                let sequence = [branch.beginning.as_slice(), ending].concat();
                let alone = decoder.hidden(&decoder.tokens(&[&sequence]).unwrap(), None).unwrap();
                let rows = (0..sequence.len()).map(|row| (start + branch.row(at, row)) as u32);
                let rows = candle_core::Tensor::from_iter(rows, hidden.device()).unwrap();
                let found = hidden.index_select(&rows, 0).unwrap();
                let what = format!("{name}, branches {index}, ending {at}");
                near(&found, &alone.squeeze(0).unwrap(), F32, &what);
            }
            start += branch.rows();
        }
        assert_eq!(hidden.dim(0).unwrap(), start);
    }
}

#[test]
fn losses_of_rows_are_those_of_the_sequence() {
    for (dtype, residency) in
        [(DType::F32, Residency::Resident), (DType::BF16, Residency::Streamed)]
    {
        let decoder = with("tiny", dtype, residency);
        let sequence = ids(30, 512, 9);
        let whole = decoder.nll(&decoder.tokens(&[&sequence]).unwrap()).unwrap();
        let branch = Branches { beginning: sequence[..29].to_vec(), endings: vec![Vec::new()] };
        let hidden = decoder.packed(&[branch]).unwrap();
        // Backwards, and one of them twice.
        let rows: Vec<u32> = (0..29).rev().chain([7]).collect();
        let targets: Vec<u32> = rows.iter().map(|&row| sequence[row as usize + 1]).collect();
        let found = decoder.nll_of_rows(&hidden, &rows, &targets).unwrap();
        let expected = whole.squeeze(0).unwrap().to_vec1::<f32>().unwrap();
        for (row, found) in rows.iter().zip(&found) {
            let expected = expected[*row as usize];
            assert!((found - expected).abs() < 1e-5 * expected.max(1.0), "{found} {expected}");
        }
    }
}

#[test]
fn what_cannot_be_packed_is_refused() {
    let decoder = decoder("tiny");
    let refused = |beginning: Vec<u32>, ending: Vec<u32>| {
        let branch = Branches { beginning, endings: vec![ending] };
        decoder.packed(&[branch]).unwrap_err().to_string()
    };
    assert!(decoder.packed(&[]).is_err());
    assert!(refused(vec![], vec![1]).contains("the beginning is empty"));
    assert!(refused(vec![1], vec![512]).contains("the vocabulary ends at 512"));
    assert!(refused(vec![1; 200], vec![1; 57]).contains("at most 256"));
    let hidden =
        decoder.packed(&[Branches { beginning: vec![1, 2], endings: Vec::new() }]).unwrap();
    assert!(decoder.nll_of_rows(&hidden, &[2], &[1]).is_err());
    assert!(decoder.nll_of_rows(&hidden, &[1], &[512]).is_err());
}
