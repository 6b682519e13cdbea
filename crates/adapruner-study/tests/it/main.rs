//! Tests of the study crate against its public face.

mod storage;
