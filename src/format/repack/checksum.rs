//! A sum that tells whether a disk gave back what it was given.
//!
//! Every 8 bytes are mixed with their place and the results added up. So any thread can sum pieces in any order, an
//! error inside one word is always seen (mixing maps different words to different numbers), and any other but for a
//! chance of 2⁻⁶⁴. It guards against accidents only: who can write to the user's cache needs no tricks.

/// The sum of `bytes`, which begin at byte `at` of what is summed. Both are multiples of 8.
pub fn sum(bytes: &[u8], at: u64) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    debug_assert!(rest.is_empty() && at.is_multiple_of(8), "{} bytes at {at}", bytes.len());
    (at / 8..).zip(words).fold(0, |sum: u64, (i, word)| sum.wrapping_add(mix(u64::from_le_bytes(*word), i)))
}

/// One to one in `word` for each place. The factors are odd with well spread bits: 2⁶⁴ divided by the golden ratio and
/// by the square root of 2.
fn mix(word: u64, place: u64) -> u64 {
    let mixed = (word ^ place.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_mul(0xB504_F333_F9DE_6485);
    mixed ^ (mixed >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(n: usize) -> Vec<u8> {
        (0..n).map(|i| (i * i / 7) as u8).collect()
    }

    #[test]
    fn pieces_add_up_in_any_order() {
        let all = bytes(4096);
        for cut in [0, 8, 1024, 4088] {
            assert_eq!(sum(&all, 0), sum(&all[cut..], cut as u64).wrapping_add(sum(&all[..cut], 0)));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_swap_is_seen() {
        let mut all = bytes(512);
        let right = sum(&all, 0);
        for bit in 0..all.len() * 8 {
            all[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(sum(&all, 0), right, "bit {bit}");
            all[bit / 8] ^= 1 << (bit % 8);
        }
        for other in 1..all.len() / 8 {
            let mut swapped = all.clone();
            swapped.copy_within(8 * other..8 * other + 8, 0);
            swapped[8 * other..8 * other + 8].copy_from_slice(&all[..8]);
            assert!(swapped == all || sum(&swapped, 0) != right, "words 0 and {other}");
        }
        assert_ne!(sum(&[0; 512], 0), sum(&[0; 520], 0), "a missing word of zeros");
    }
}
