//! The header parser: every value comes back, nothing hostile gets through.

use adapruner_checkpoint::gguf::{Header, TensorKind, Value, header::HeaderError};
use proptest::prelude::*;

use super::gguf_bytes::GgufBytes;

fn sample() -> GgufBytes {
    GgufBytes::default()
        .entry("general.architecture", Value::String("llama".into()))
        .entry("a.u8", Value::U8(200))
        .entry("a.i8", Value::I8(-5))
        .entry("a.u16", Value::U16(60_000))
        .entry("a.i16", Value::I16(-300))
        .entry("a.u32", Value::U32(4_000_000_000))
        .entry("a.i32", Value::I32(-70_000))
        .entry("a.u64", Value::U64(1 << 60))
        .entry("a.i64", Value::I64(-(1 << 50)))
        .entry("a.f32", Value::F32(0.25))
        .entry("a.f64", Value::F64(1e-300))
        .entry("a.bool", Value::Bool(true))
        .entry("a.list", Value::Array(vec![Value::String("x".into()), Value::String("é".into())]))
        .entry("a.empty", Value::Array(Vec::new()))
        .f32("first", &[3, 5], &[1.5; 15])
        .tensor("second", &[2, 64], TensorKind::Q8_0, vec![7; 2 * 68])
        .f32("third", &[4], &[0.5; 4])
}

fn message(file: &GgufBytes) -> String {
    Header::parse(&file.build()).expect_err("a broken header").to_string()
}

#[test]
fn every_value_and_tensor_comes_back() {
    for version in [2, 3] {
        let file = GgufBytes { version, ..sample() };
        let bytes = file.build();
        let header = Header::parse(&bytes).unwrap();
        assert_eq!(header.version, version);
        assert_eq!(header.alignment, 32);
        assert_eq!(header.data_offset % 32, 0);
        assert_eq!(header.metadata, file.entries.iter().cloned().collect());
        assert_eq!(header.tensors.len(), 3);
        for (tensor, original) in header.tensors.iter().zip(&file.tensors) {
            assert_eq!(tensor.name, original.name);
            assert_eq!(tensor.dims, original.dims);
            assert_eq!(tensor.kind.code(), original.kind);
            assert_eq!(header.data(tensor, &bytes).unwrap(), original.data);
        }
        assert_eq!(header.tensor("second").unwrap().kind, TensorKind::Q8_0);
    }
}

#[test]
fn another_alignment_moves_the_data() {
    let file = GgufBytes { alignment: 128, ..sample() };
    let bytes = file.entry("general.alignment", Value::U32(128)).build();
    let header = Header::parse(&bytes).unwrap();
    assert_eq!(header.data_offset % 128, 0);
    assert_eq!(
        header.data(header.tensor("third").unwrap(), &bytes).unwrap(),
        [0, 0, 0, 63, 0, 0, 0, 63, 0, 0, 0, 63, 0, 0, 0, 63]
    );
    for bad in [0, 1, 4, 24, 1 << 21] {
        let text = message(&sample().entry("general.alignment", Value::U32(bad)));
        assert!(text.contains("general.alignment: a power of two"), "{bad}: {text}");
    }
}

#[test]
fn magic_and_version_are_named() {
    let text = message(&GgufBytes { magic: *b"ggml", ..sample() });
    assert_eq!(text, "not a GGUF file: magic \"GGUF\" expected, \"ggml\" found");
    let text = message(&GgufBytes { version: 1, ..sample() });
    assert_eq!(text, "GGUF version 1 is not supported, only 2 and 3 (little-endian)");
    assert!(Header::parse(b"").is_err());
    assert!(Header::parse(b"GGU").is_err());
}

#[test]
fn a_truncated_file_says_how_much_is_missing() {
    let bytes = sample().build();
    let error = Header::parse(&bytes[..bytes.len() - 6]).unwrap_err();
    let (needed, present) = (bytes.len() as u64, bytes.len() as u64 - 6);
    assert_eq!(error, HeaderError::Truncated { what: "tensor third".into(), needed, present });
    assert_eq!(
        error.to_string(),
        format!(
            "truncated: tensor third reaches to byte {needed}, but the file has {present} bytes, 6 too few"
        )
    );
}

#[test]
fn absurd_counts_are_refused_before_anything_is_allocated() {
    for count in [1 << 20, 1 << 40, u64::MAX] {
        let text = message(&GgufBytes { tensor_count: Some(count), ..sample() });
        assert!(text.starts_with(&format!("the number of tensors is {count}: ")), "{text}");
        let text = message(&GgufBytes { entry_count: Some(count), ..sample() });
        assert!(text.contains(&format!("metadata entries is {count}: ")), "{text}");
    }
    // A string and an array that claim to be longer than the file.
    let mut bytes = GgufBytes::default().entry("k", Value::String("abcd".into())).build();
    let at = bytes.len() - 12;
    bytes[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
    let text = Header::parse(&bytes).unwrap_err().to_string();
    assert!(text.starts_with("truncated: metadata key k reaches"), "{text}");

    let list = Value::Array(vec![Value::U8(1); 4]);
    let mut bytes = GgufBytes::default().entry("k", list).build();
    let at = bytes.len() - 12;
    bytes[at..at + 8].copy_from_slice(&(1u64 << 50).to_le_bytes());
    let text = Header::parse(&bytes).unwrap_err().to_string();
    assert!(text.starts_with("the length of metadata key k is 1125899906842624: "), "{text}");
}

#[test]
fn arrays_together_are_bounded() {
    let list = || Value::Array(vec![Value::Bool(true); 3 << 20]);
    assert!(Header::parse(&GgufBytes::default().entry("a", list()).build()).is_ok());
    let text = message(&GgufBytes::default().entry("a", list()).entry("b", list()));
    assert!(text.contains("array elements up to metadata key b is 6291456"), "{text}");
}

#[test]
fn malformed_entries_are_named() {
    let nested = Value::Array(vec![Value::Array(vec![Value::U8(1)])]);
    let text = message(&sample().entry("k", nested));
    assert_eq!(text, "metadata key k: arrays of arrays are not supported");

    let mut twice = sample();
    twice.entries.push(("a.u8".into(), Value::U8(1)));
    assert_eq!(message(&twice), "metadata key a.u8: given twice");

    let mut bytes = GgufBytes::default().entry("k", Value::Bool(true)).build();
    *bytes.last_mut().unwrap() = 2;
    let text = Header::parse(&bytes).unwrap_err().to_string();
    assert_eq!(text, "metadata key k: boolean 0 or 1 expected, 2 found");
    let at = bytes.len() - 5;
    bytes[at] = 77;
    let text = Header::parse(&bytes).unwrap_err().to_string();
    assert_eq!(text, "metadata key k: unknown value type 77");

    let mut bytes = GgufBytes::default().entry("k", Value::String("ab".into())).build();
    *bytes.last_mut().unwrap() = 0xFF;
    let text = Header::parse(&bytes).unwrap_err().to_string();
    assert!(text.starts_with("metadata key k: not UTF-8"), "{text}");

    // A hostile name stays on one line and short.
    let text = message(
        &sample()
            .entry(&format!("\n\u{1b}{}", "x".repeat(5000)), Value::Bool(true))
            .entry("general.alignment", Value::U8(1)),
    );
    assert!(!text.contains(['\n', '\u{1b}']) && text.len() < 300, "{text}");
}

#[test]
fn malformed_tensors_are_named() {
    type Change = fn(&mut super::gguf_bytes::TensorBytes);
    let cases: [(Change, &str); 10] = [
        (|t| t.name = "second".into(), "tensor second: given twice"),
        (|t| t.dims.clear(), "tensor first: 1 to 4 dimensions expected, 0 found"),
        (|t| t.dims = vec![1; 5], "tensor first: 1 to 4 dimensions expected, 5 found"),
        (|t| t.dims = vec![5, 0], "tensor first: impossible dimensions [5, 0]"),
        (
            |t| t.dims = vec![1 << 33, 1 << 33],
            "tensor first: impossible dimensions [8589934592, 8589934592]",
        ),
        (
            |t| t.dims = vec![1 << 62, 1],
            "tensor first: impossible dimensions [4611686018427387904, 1]",
        ),
        (
            |t| t.kind = TensorKind::Q4K.code(),
            "tensor first: rows of 5 elements, but Q4_K needs a multiple of 256",
        ),
        (|t| t.kind = 20, "tensor first: element type IQ4_NL is not supported, only F32, F16"),
        (|t| t.kind = 99, "tensor first: element type type number 99 is not supported"),
        (|t| t.offset = Some(8), "tensor first: offset 8 is not a multiple of 32"),
    ];
    for (change, expected) in cases {
        let mut file = sample();
        change(&mut file.tensors[0]);
        let text = message(&file);
        assert!(text.starts_with(expected), "{text}\nexpected: {expected}");
    }
}

#[test]
fn tensors_that_overlap_or_leave_the_file_are_refused() {
    let mut file = sample();
    file.tensors[1].offset = Some(32);
    let text = message(&file);
    assert_eq!(
        text,
        "tensor second: its data at offset 32 overlaps that of tensor first (60 bytes at offset 0)"
    );
    file.tensors[1].offset = Some(0);
    assert!(message(&file).contains("overlaps that of tensor first"));

    let mut file = sample();
    file.tensors[2].offset = Some(1 << 40);
    assert!(message(&file).starts_with("truncated: tensor third reaches to byte 10995116"));
    file.tensors[2].offset = Some(u64::MAX - 31);
    assert!(message(&file).starts_with("tensor third: offset 18446744073709551584 and length"));
}

proptest! {
    /// Bytes that are anything at all.
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = Header::parse(&bytes);
    }

    /// Bytes behind a good start, so that the parser gets further.
    #[test]
    fn arbitrary_bytes_behind_the_magic_never_panic(
        tensors in 0u64..4,
        entries in 0u64..4,
        rest in prop::collection::vec(prop_oneof![Just(0u8), 0u8..16, any::<u8>()], 0..400),
    ) {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(entries.to_le_bytes());
        bytes.extend(rest);
        check(&bytes);
    }

    #[test]
    fn mutated_headers_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = sample().build();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        check(&bytes);
    }

    /// Every cut is noticed: the sample ends with its last tensor.
    #[test]
    fn truncated_headers_are_refused(cut in any::<prop::sample::Index>()) {
        let bytes = sample().build();
        prop_assert!(Header::parse(&bytes[..cut.index(bytes.len())]).is_err());
    }
}

/// What is accepted can be used: every tensor lies in the file, in blocks.
fn check(bytes: &[u8]) {
    let Ok(header) = Header::parse(bytes) else { return };
    let mut ends = Vec::new();
    for tensor in &header.tensors {
        let data = header.data(tensor, bytes).expect("inside the file");
        let elements: u64 = tensor.dims.iter().product();
        assert_eq!(
            data.len() as u64 * tensor.kind.block_size(),
            elements * tensor.kind.block_bytes()
        );
        ends.push((tensor.offset, tensor.offset + tensor.bytes));
    }
    ends.sort_unstable();
    assert!(ends.windows(2).all(|w| w[0].1 <= w[1].0), "overlap: {ends:?}");
}
