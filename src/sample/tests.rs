use proptest::prelude::*;

use super::*;

fn draw(sampling: &Sampling, logits: &[f32], history: &[u32], index: u64) -> u32 {
    Draw { sampling, history, ahead: 0, index, banned: &[] }.token(logits, &mut Scratch::default()).unwrap()
}

/// Every filter off.
fn plain() -> Sampling {
    Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..Sampling::default() }
}

/// Which tokens 2,000 draws give.
fn drawn(sampling: &Sampling, logits: &[f32]) -> Vec<u32> {
    let mut seen: Vec<u32> = (0..2000).map(|i| draw(sampling, logits, &[], i)).collect();
    seen.sort_unstable();
    seen.dedup();
    seen
}

/// Logits of these probabilities.
fn logits(p: &[f32]) -> Vec<f32> {
    p.iter().map(|p| p.ln()).collect()
}

#[test]
fn greedy_takes_the_first_of_the_highest() {
    assert_eq!(draw(&Sampling::greedy(), &[0.0, 3.0, -1.0, 3.0], &[], 0), 1);
}

#[test]
fn draws_follow_the_probabilities() {
    let l = logits(&[0.5, 0.3, 0.2]);
    let mut counts = [0; 3];
    for i in 0..20_000 {
        counts[draw(&plain(), &l, &[], i) as usize] += 1;
    }
    // Three standard deviations are 212, 194 and 170.
    for (count, expected) in counts.iter().zip([10_000i32, 6_000, 4_000]) {
        assert!((count - expected).abs() < 220, "{counts:?}");
    }
}

#[test]
fn temperature_sharpens_after_the_filters() {
    let l = logits(&[0.6, 0.4]);
    let count = |t: f32| {
        (0..4000).filter(|i| draw(&Sampling { temperature: t, ..plain() }, &l, &[], *i) == 0).count() as f32 / 4000.0
    };
    assert!((count(0.5) - 0.36 / 0.52).abs() < 0.03);
    assert!((count(2.0) - 0.6f32.sqrt() / (0.6f32.sqrt() + 0.4f32.sqrt())).abs() < 0.03);
    // min-p looks at the probabilities before temperature: at 0.5 both stay although 0.16/0.36 < 0.5.
    assert_eq!(drawn(&Sampling { min_p: 0.5, temperature: 0.5, ..plain() }, &l), [0, 1]);
}

#[test]
fn top_k_keeps_the_k_likeliest() {
    let l = logits(&[0.1, 0.4, 0.2, 0.3]);
    assert_eq!(drawn(&Sampling { top_k: 2, ..plain() }, &l), [1, 3]);
    assert_eq!(drawn(&plain(), &l), [0, 1, 2, 3]);
}

#[test]
fn top_p_keeps_the_shortest_head_that_reaches_p() {
    let l = logits(&[0.1, 0.4, 0.2, 0.3]);
    assert_eq!(drawn(&Sampling { top_p: 0.65, ..plain() }, &l), [1, 3]);
    assert_eq!(drawn(&Sampling { top_p: 0.75, ..plain() }, &l), [1, 2, 3]);
    assert_eq!(drawn(&Sampling { top_p: 0.0, ..plain() }, &l), [1]);
}

#[test]
fn min_p_is_relative_to_the_likeliest() {
    let l = logits(&[0.1, 0.4, 0.2, 0.3]);
    assert_eq!(drawn(&Sampling { min_p: 0.45, ..plain() }, &l), [1, 2, 3]);
    assert_eq!(drawn(&Sampling { min_p: 1.0, ..plain() }, &l), [1]);
}

#[test]
fn penalties_lower_what_was_seen_lately() {
    let greedy = Sampling::greedy();
    let l = [2.0, 1.9, -1.0];
    assert_eq!(draw(&Sampling { repeat_penalty: 1.1, ..greedy.clone() }, &l, &[0], 0), 1);
    assert_eq!(draw(&Sampling { presence_penalty: 0.2, ..greedy.clone() }, &l, &[0], 0), 1);
    // Twice seen costs twice the frequency penalty, once the presence penalty.
    assert_eq!(draw(&Sampling { frequency_penalty: 0.06, ..greedy.clone() }, &l, &[0, 0], 0), 1);
    assert_eq!(draw(&Sampling { presence_penalty: 0.06, ..greedy.clone() }, &l, &[0, 0], 0), 0);
    // Out of the window, out of mind.
    let short = Sampling { repeat_penalty: 1.1, repeat_last: 1, ..greedy.clone() };
    assert_eq!(draw(&short, &l, &[0, 2], 0), 0);
    // A negative logit moves away from zero.
    let negative = Sampling { repeat_penalty: 2.0, ..greedy };
    assert_eq!(draw(&negative, &[-1.0, -1.5], &[0], 0), 1);
}

#[test]
fn bias_and_bans_forbid_tokens() {
    let biased = Sampling { logit_bias: vec![(0, f32::NEG_INFINITY), (2, 5.0), (99, 1.0)], ..Sampling::greedy() };
    assert_eq!(draw(&biased, &[9.0, 1.0, 0.0], &[], 0), 2);
    let banned = Draw { sampling: &Sampling::greedy(), history: &[], ahead: 0, index: 0, banned: &[0] };
    assert_eq!(banned.token(&[9.0, 1.0, 0.0], &mut Scratch::default()).unwrap(), 1);
}

#[test]
fn a_chain_looks_at_the_window_of_which_some_tokens_are_in_flight() {
    let s = Sampling { presence_penalty: 0.5, repeat_last: 4, ..Sampling::default() };
    let draw = |ahead| Draw { sampling: &s, history: &[1, 2, 3, 4, 5, 6], ahead, index: 0, banned: &[] };
    let window = |ahead| draw(ahead).chain(64).unwrap().changes.map(|c| (c.recent.to_vec(), c.ahead));
    assert_eq!(window(0), Some((vec![3, 4, 5, 6], 0)));
    assert_eq!(window(1), Some((vec![4, 5, 6], 1)));
    assert_eq!(window(9), Some((vec![], 4)));
    let unchanged = Draw { sampling: &Sampling::default(), ..draw(2) };
    assert_eq!(unchanged.chain(64).unwrap().changes, None);
    let biased = Sampling { logit_bias: vec![(3, 1.0)], ..Sampling::default() };
    let biased = Draw { sampling: &biased, ..draw(2) };
    let changes = biased.chain(64).unwrap().changes.unwrap();
    assert_eq!((changes.biases, changes.recent, changes.window), (&[(3, 1.0)][..], &[][..], 0));
}

#[test]
fn broken_logits_are_an_error_not_a_token() {
    let s = Sampling::greedy();
    let d = Draw { sampling: &s, history: &[], ahead: 0, index: 0, banned: &[] };
    assert_eq!(d.token(&[f32::NAN, 1.0, f32::INFINITY], &mut Scratch::default()).unwrap(), 1);
    let e = d.token(&[f32::NAN, f32::NAN], &mut Scratch::default()).unwrap_err();
    assert_eq!(e.what(), "the model gave no usable logits (all are NaN or forbidden)");
}

#[test]
fn the_same_seed_and_index_draw_the_same_number() {
    assert_eq!(rng::uniform(7, 3), rng::uniform(7, 3));
    assert_ne!(rng::uniform(7, 3), rng::uniform(7, 4));
    assert_ne!(rng::uniform(7, 3), rng::uniform(8, 3));
    // Pinned: the draw must not change between releases, or saved seeds would give other texts.
    assert_eq!(format!("{:.6}", rng::uniform(42, 0)), "0.681896");
}

#[test]
fn values_out_of_range_are_named_as_on_the_command_line() {
    let what = |s: Sampling| s.check().unwrap_err().what().to_owned();
    assert_eq!(what(Sampling { temperature: f32::NAN, ..plain() }), "--temp is NaN; 0 to 1000 is possible");
    assert_eq!(what(Sampling { top_p: 1.5, ..plain() }), "--top-p is 1.5; 0 to 1 is possible");
    for (bias, told) in [(f32::INFINITY, "inf"), (f32::NAN, "NaN"), (-2e30, "-2000000000000000000000000000000")] {
        assert_eq!(
            what(Sampling { logit_bias: vec![(4, 1.0), (5, bias)], ..plain() }),
            format!("the logit bias of token 5 is {told}; -1e30 to 1e30 and -inf are possible")
        );
    }
    for bias in [f32::NEG_INFINITY, 1e30] {
        Sampling { logit_bias: vec![(5, bias)], ..plain() }.check().unwrap();
    }
    assert_eq!(what(Sampling { repeat_penalty: 0.0, ..plain() }), "--repeat-penalty is 0; 0.001 to 1000 is possible");
}

proptest! {
    #[test]
    fn whatever_the_settings_a_finite_candidate_is_drawn(
        values in prop::collection::vec(prop_oneof![-50f32..50.0, Just(f32::NAN), Just(f32::NEG_INFINITY)], 1..200),
        (temperature, top_k, top_p, min_p) in (0f32..5.0, 0usize..300, 0f32..=1.0, 0f32..=1.0),
        (seed, index) in (any::<u64>(), 0u64..1000),
    ) {
        prop_assume!(values.iter().any(|v| v.is_finite()));
        let s = Sampling { temperature, top_k, top_p, min_p, seed, repeat_penalty: 1.3, ..Sampling::default() };
        let token = draw(&s, &values, &[0, 0], index);
        prop_assert!(values[token as usize].is_finite());
        prop_assert_eq!(token, draw(&s, &values, &[0, 0], index));
    }
}
