//! The one's-complement sum of the Internet checksum (RFC 1071), over bytes in one piece or several.

/// Bytes of a word.
const WORD: usize = 8;
/// Bytes that are added at a time: the carry is put aside once for them. What is left is added in halves, quarters and so on.
const BLOCK: usize = 128;

/// A one's-complement sum over slices that follow one another, however they are cut.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum {
    /// Little-endian words, the carries added at the low end; not yet folded to 16 bits.
    total: u64,
    /// The bytes so far are odd in number: the next one is the high half of a word.
    odd: bool,
}

impl Sum {
    /// Adds the bytes that come next.
    pub fn add(&mut self, bytes: &[u8]) {
        self.add_part(sum_words(bytes), bytes.len());
    }

    /// Adds the bytes that come next, and copies them to `to`, which is as long: memory is read once for both.
    pub fn add_copied(&mut self, bytes: &[u8], to: &mut [u8]) {
        self.add_part(copy_words(bytes, to), bytes.len());
    }

    /// Adds the sum of the `len` bytes that come next.
    #[inline]
    fn add_part(&mut self, part: u64, len: usize) {
        // A slice that starts at an odd byte has the halves of every word exchanged (RFC 1071, section 2 (B)).
        let part = match self.odd {
            true => part.rotate_left(8),
            false => part,
        };
        self.total = add_around(self.total, part);
        self.odd ^= len % 2 == 1;
    }

    /// Adds a 16-bit word in host order, where an even number of bytes has been added.
    #[inline]
    pub fn add_word(&mut self, word: u16) {
        self.add_finished(word.to_be_bytes());
    }

    /// Adds four bytes, where an even number of bytes has been added.
    #[inline]
    pub fn add_quad(&mut self, bytes: [u8; 4]) {
        self.total = add_around(self.total, u32::from_le_bytes(bytes).into());
    }

    /// Adds what [`finish`](Self::finish) said of an even number of bytes, wherever they were.
    #[inline]
    pub fn add_finished(&mut self, sum: [u8; 2]) {
        self.total = add_around(self.total, u16::from_le_bytes(sum).into());
    }

    /// The checksum in network byte order: the folded sum's complement.
    pub(crate) fn complement(self) -> [u8; 2] {
        (!fold(self.total)).to_le_bytes()
    }

    /// The folded sum in network byte order, not complemented; zero only where every byte was zero.
    pub fn finish(self) -> [u8; 2] {
        fold(self.total).to_le_bytes()
    }
}

/// Sum of the little-endian words of `bytes`, the last one padded with zeros, as 64 bits with the carries added at the low end. Whether
/// words of 64 or of 16 bits are added makes no difference once the sum is folded, and byte order none but for the order of the two
/// result bytes (RFC 1071, section 2).
fn sum_words(bytes: &[u8]) -> u64 {
    let mut words = Words::default();
    let rest = words.add_blocks::<BLOCK>(bytes);
    let rest = words.add_blocks::<{ BLOCK / 2 }>(rest);
    let rest = words.add_blocks::<{ BLOCK / 4 }>(rest);
    let rest = words.add_blocks::<{ BLOCK / 8 }>(rest);
    let rest = words.add_blocks::<WORD>(rest);
    words.end(bytes, rest.len())
}

/// [`sum_words`] of `bytes`, which are copied to `to` meanwhile; both end with the shorter one.
fn copy_words(bytes: &[u8], to: &mut [u8]) -> u64 {
    // The compiler sees one length, not two.
    let len = bytes.len().min(to.len());
    let (bytes, to) = (&bytes[..len], &mut to[..len]);
    let mut words = Words::default();
    let (rest, to) = words.copy_blocks::<BLOCK>(bytes, to);
    let (rest, to) = words.copy_blocks::<{ BLOCK / 2 }>(rest, to);
    let (rest, to) = words.copy_blocks::<{ BLOCK / 4 }>(rest, to);
    let (rest, to) = words.copy_blocks::<{ BLOCK / 8 }>(rest, to);
    let (rest, to) = words.copy_blocks::<WORD>(rest, to);
    if !rest.is_empty() {
        to.copy_from_slice(rest);
    }
    words.end(bytes, rest.len())
}

/// The last `len` of `bytes`, fewer than a word has, padded with zeros.
#[inline]
fn last_word(bytes: &[u8], len: usize) -> u64 {
    match (len, bytes.last_chunk()) {
        (0, _) => 0,
        // The word that ends where the bytes end has the rest in its upper bytes.
        (len, Some(last)) => u64::from_le_bytes(*last) >> (64 - 8 * len),
        (_, None) => bytes
            .iter()
            .rev()
            .fold(0, |word, &byte| word << 8 | u64::from(byte)),
    }
}

/// One's-complement addition: the carry goes in again at the low end.
fn add_around(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u64::from(carry)
}

fn wide(word: impl Into<u128>) -> u128 {
    word.into()
}

/// A sum of whole words. One instruction a word, where the portable one takes two.
#[cfg(target_arch = "x86_64")]
#[derive(Default)]
struct Words {
    sum: u64,
    carry: u8,
}

#[cfg(target_arch = "x86_64")]
impl Words {
    #[inline]
    fn add(&mut self, block: &[u8]) {
        for &word in block.as_chunks::<WORD>().0 {
            let word = u64::from_le_bytes(word);
            self.carry =
                std::arch::x86_64::_addcarry_u64(self.carry, self.sum, word, &mut self.sum);
        }
    }

    #[inline]
    fn total(self) -> u128 {
        wide(self.sum) + wide(self.carry)
    }
}

impl Words {
    /// Adds whole blocks of `N` bytes, a multiple of [`WORD`], and returns what is behind them.
    #[inline]
    fn add_blocks<'a, const N: usize>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (blocks, rest) = bytes.as_chunks::<N>();
        for block in blocks {
            self.add(block);
        }
        rest
    }

    /// [`Self::add_blocks`] that copies the blocks to `to`, and returns what is behind them in both.
    #[inline]
    fn copy_blocks<'a, const N: usize>(
        &mut self,
        bytes: &'a [u8],
        to: &'a mut [u8],
    ) -> (&'a [u8], &'a mut [u8]) {
        let (blocks, rest) = bytes.as_chunks::<N>();
        let (to, to_rest) = to.as_chunks_mut::<N>();
        for (block, to) in blocks.iter().zip(to) {
            *to = *block;
            self.add(block);
        }
        (rest, to_rest)
    }

    /// The sum of all words of `bytes`, of which all but the last `rest` bytes have been added.
    #[inline]
    fn end(self, bytes: &[u8], rest: usize) -> u64 {
        let total = self.total() + wide(last_word(bytes, rest));
        add_around(total as u64, (total >> 64) as u64)
    }
}

#[cfg(not(target_arch = "x86_64"))]
type Words = PortableWords;

/// A sum of whole words.
#[cfg(any(test, not(target_arch = "x86_64")))]
#[derive(Default)]
struct PortableWords(u128);

#[cfg(any(test, not(target_arch = "x86_64")))]
impl PortableWords {
    fn add(&mut self, block: &[u8]) {
        let words = block.as_chunks::<WORD>().0.iter();
        self.0 += words
            .map(|&word| wide(u64::from_le_bytes(word)))
            .sum::<u128>();
    }

    fn total(self) -> u128 {
        self.0
    }
}

/// One's-complement sum of the four 16-bit words of `sum`; zero only where `sum` is. Added to itself with its halves exchanged, a word has
/// in its upper half the sum of both with the carry of their sum in the lower half, which is the same carry.
fn fold(sum: u64) -> u16 {
    let sum = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The sum byte by byte, as RFC 1071 defines it.
    fn reference(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for (n, &byte) in bytes.iter().enumerate() {
            sum += u32::from(byte) << (8 * (1 - n % 2));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    fn summed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> u16 {
        let mut sum = Sum::default();
        pieces.into_iter().for_each(|piece| sum.add(piece));
        u16::from_be_bytes(sum.finish())
    }

    /// Bytes in which carries are frequent: all ones, all zeros, and any.
    fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![3 => Just(0xff), 1 => Just(0), 2 => any::<u8>()];
        proptest::collection::vec(byte, 0..most)
    }

    #[test]
    fn every_length_from_every_alignment_sums_as_byte_by_byte() {
        let noise: Vec<u8> = (0..400u32).map(|n| ((n * n * 31) >> 3) as u8).collect();
        for bytes in [noise, vec![0xff; 400], vec![0; 400]] {
            for from in 0..16 {
                for len in 0..=300 {
                    let slice = &bytes[from..from + len];
                    assert_eq!(summed([slice]), reference(slice), "{from} {len}");
                }
            }
        }
    }

    #[test]
    fn the_longest_packet_of_all_ones_loses_no_carry() {
        let bytes = vec![0xff; 65535];
        assert_eq!(summed([&bytes[..65534]]), 0xffff);
        assert_eq!(summed([&bytes[..]]), reference(&bytes));
    }

    proptest! {
        #[test]
        fn the_sum_is_that_of_the_rfc_however_the_bytes_are_cut_and_copied(bytes in bytes(900), cuts in proptest::collection::vec(0..900usize, 0..6)) {
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]);
            prop_assert_eq!(summed(pieces), reference(&bytes));
            let (mut sum, mut copy) = (Sum::default(), vec![0; bytes.len()]);
            for pair in cuts.windows(2) {
                sum.add_copied(&bytes[pair[0]..pair[1]], &mut copy[pair[0]..pair[1]]);
            }
            prop_assert_eq!(u16::from_be_bytes(sum.finish()), reference(&bytes));
            prop_assert_eq!(copy, bytes);
        }

        #[test]
        fn every_machine_sums_alike(bytes in bytes(1000)) {
            let (mut words, mut portable) = (Words::default(), PortableWords::default());
            for block in bytes.as_chunks::<BLOCK>().0 {
                words.add(block);
                portable.add(block);
            }
            let folded = |total: u128| fold(add_around(total as u64, (total >> 64) as u64));
            prop_assert_eq!(folded(words.total()), folded(portable.total()));
        }
    }
}
