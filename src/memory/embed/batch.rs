//! Which texts go through the encoder together.
//!
//! Texts are sorted by length, so that those of a batch are about as long as each other, and a batch is closed by its tokens,
//! padding included, not by its texts: one long text takes the time of many short ones, and its scores grow with the square.

/// Tokens of a batch: four passages of the usual size, so that the eight that are kept together are two threads' work, and that
/// the widest activations of a layer, 5 MB, stay near a cache.
const TOKENS: usize = 832;

/// Batches of texts by their numbers, each text in one; the longest first.
pub(super) fn pack(ids: &[&[u32]]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..ids.len()).collect();
    order.sort_by_key(|text| std::cmp::Reverse(ids[*text].len()));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut longest = 0;
    for text in order {
        match batches.last_mut() {
            Some(batch) if (batch.len() + 1) * longest <= TOKENS => batch.push(text),
            _ => {
                longest = ids[text].len();
                batches.push(vec![text]);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_is_in_one_batch_and_no_batch_is_larger_than_its_tokens() {
        let texts: Vec<Vec<u32>> = (0..300).map(|i| vec![0; (i * 7919) % 256 + 1]).collect();
        let ids: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        let batches = pack(&ids);
        let mut all: Vec<usize> = batches.concat();
        all.sort_unstable();
        assert_eq!(all, (0..300).collect::<Vec<_>>());
        for batch in &batches {
            let longest = batch.iter().map(|text| ids[*text].len()).max().unwrap();
            assert!(batch.len() * longest <= TOKENS, "{} of {longest}", batch.len());
        }
        assert!(batches.len() < 60, "{} batches", batches.len());
        assert!(pack(&[]).is_empty());
    }

    #[test]
    fn a_text_longer_than_a_batch_is_one() {
        let long = vec![0; TOKENS + 1];
        assert_eq!(pack(&[&long, &[1, 2], &long]), [vec![0], vec![2], vec![1]]);
    }
}
