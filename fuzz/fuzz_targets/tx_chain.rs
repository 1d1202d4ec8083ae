//! Any Tx ring page, any indices: the body of ring's property test of the same name.
#![no_main]
#[path = "../../ring/tests/common/arbitrary.rs"]
mod arbitrary;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    arbitrary::tx_chain(bytes);
});
