//! Greedy text against llama.cpp's, on the same weights in f32 (`tests/tools/make_goldens.md` says how it was run).
//!
//! The `Q4_1` file itself would be no judge: there llama.cpp rounds activations to int8, and a right f32 run agrees with it on
//! 8 of 30 prompts.
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

mod common;

use serde::Deserialize;
use taper::engine::{Event, Request};
use taper::registry::{FileKind, ModelFiles};
use taper::{Compute, Device, LoadOptions, Sampling, Taper};

/// A divergence is forgiven only where our own likeliest two tokens are closer than this.
const NEAR_TIE: f32 = 0.01;
const TOKENS: usize = 48;

#[derive(Deserialize)]
struct Golden {
    prompt: String,
    prompt_ids: Vec<u32>,
    text: String,
    ids: Vec<u32>,
    ended: bool,
}

/// How far apart our likeliest two tokens are after `ids`.
fn gap(taper: &mut Taper, ids: &[u32]) -> f32 {
    let mut gap = 0.0;
    taper
        .engine()
        .score(ids, ids.len() - 1, |_, logits| {
            let mut sorted = logits.to_vec();
            sorted.sort_by(|a, b| b.total_cmp(a));
            gap = sorted[0] - sorted[1];
            Ok(())
        })
        .unwrap();
    gap
}

#[test]
fn greedy_text_is_llama_cpps_on_20_prompts() {
    let goldens: Vec<Golden> = serde_json::from_str(include_str!("data/greedy.json")).unwrap();
    assert_eq!(goldens.len(), 20);
    let files = ModelFiles { name: "smollm2".into(), kind: FileKind::Gguf(common::smollm2()) };
    let options = LoadOptions {
        compute: Compute { device: Device::Reference, ..Compute::default() },
        context: Some(512),
        sequences: goldens.len(),
        ..LoadOptions::default()
    };
    let mut taper = Taper::open(&files, &options).unwrap();

    // All at once: the engine's batching is under test here too.
    let mut ids = Vec::new();
    for golden in &goldens {
        let prompt = taper.tokenizer().encode_prompt(&golden.prompt).unwrap();
        assert_eq!(prompt, golden.prompt_ids, "{}", golden.prompt);
        let request = Request { prompt, max_tokens: Some(TOKENS), sampling: Sampling::greedy(), ..Request::default() };
        ids.push(taper.engine().add_request(request).unwrap());
    }
    let mut answers = vec![(Vec::new(), String::new()); goldens.len()];
    while taper.engine().has_unfinished() {
        for (id, event) in taper.engine().step().unwrap() {
            let answer = &mut answers[ids.iter().position(|i| *i == id).unwrap()];
            if let Event::Token { id, text } = event {
                answer.0.push(id);
                answer.1 += &text;
            }
        }
    }

    let mut equal = 0;
    for (golden, (tokens, text)) in goldens.iter().zip(&answers) {
        let expected = &golden.ids[..golden.ids.len() - usize::from(golden.ended)];
        let same = tokens.iter().zip(expected).take_while(|(a, b)| a == b).count();
        if tokens == expected {
            assert_eq!(*text, golden.text);
            equal += 1;
            continue;
        }
        let context = [&golden.prompt_ids[..], &expected[..same]].concat();
        let gap = gap(&mut taper, &context);
        println!("{:?} diverges after {same} tokens, where the gap is {gap}", golden.prompt);
        assert!(gap < NEAR_TIE, "{:?} diverges after {same} tokens with a gap of {gap}", golden.prompt);
    }
    println!("{equal} of {} texts are equal", goldens.len());
}
