//! What of `benches/gpu-check` can be run without a GPU: its arguments, and the comparison of real answers, here of two backends that are on
//! every machine.
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

#[path = "../benches/gpu-check/asked.rs"]
mod asked;
mod common;
#[path = "../benches/gpu-check/feed.rs"]
mod feed;
#[path = "../benches/gpu-check/forced.rs"]
mod forced;
#[path = "../benches/gpu-check/prompts.rs"]
mod prompts;

use asked::{Asked, PARTS};
use forced::{Answer, divergence, forced, greedy, lead_lost_alone};
use prompts::PROMPTS;
use taper::backend::PAGE;
use taper::backend::choose::{Compute, Device};
use taper::registry::{FileKind, ModelFiles};
use taper::{LoadOptions, Options, Sampling, Taper};

fn load(device: Device) -> Taper {
    let files = ModelFiles { name: "smollm2".into(), kind: FileKind::Gguf(common::smollm2()) };
    let compute = Compute { device, chunk: Some(PAGE), ..Compute::default() };
    Taper::open(&files, &LoadOptions { compute, context: Some(256), ..LoadOptions::default() }).unwrap()
}

#[test]
fn the_cpus_own_answers_are_close_to_the_references_and_not_the_same() {
    // A prompt of one step, and one of several.
    let (mut cpu, mut reference, prompts) = (load(Device::Cpu), load(Device::Reference), [PROMPTS[0], PROMPTS[17]]);
    let own: Vec<Answer> = prompts.iter().map(|prompt| greedy(&mut cpu, prompt, 6).unwrap()).collect();
    for (answer, prompt) in own.iter().zip(prompts) {
        let options = Options { max_tokens: Some(6), sampling: Sampling::greedy(), raw: true, ..Options::default() };
        assert_eq!(answer.tokens, cpu.generate(prompt, &options).unwrap().tokens, "{prompt}");
    }
    let again: Vec<Answer> = own.iter().map(|answer| forced(&mut cpu, answer).unwrap()).collect();
    let same = divergence(&own, &again).unwrap();
    assert!(same.count() == 12 && same.differing() == 0 && same.worst() < 1e-6, "{same:?}");
    let others: Vec<Answer> = own.iter().map(|answer| forced(&mut reference, answer).unwrap()).collect();
    let far = divergence(&own, &others).unwrap();
    assert!(far.mean() > 1e-5 && far.worst() < 0.03 && far.lead() < 0.35, "{far:?}");
    // One answer's distributions are not another's.
    let crossed = divergence(&own[..1], &own[1..]).unwrap();
    assert!(crossed.mean() > 1.0 && crossed.differing() > 0 && crossed.lead() > 0.1, "{crossed:?}");
    // A lead counts where the judge has it too, not where it is on the other side.
    let (expected, got) = own.split_at(1);
    assert_eq!(lead_lost_alone(expected, got, expected), crossed.lead());
    assert_eq!(lead_lost_alone(expected, got, got), 0.0);
}

#[test]
fn prompts_are_many_and_each_is_another() {
    let mut sorted = PROMPTS.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), 20);
}

#[test]
fn arguments_name_parts_and_a_file() {
    let of = |line: &str| Asked::of(line.split_whitespace().map(str::to_owned));
    let all = of("--bench").unwrap();
    assert!(PARTS.iter().all(|part| all.wants(part)) && all.file.is_none());
    let some = of("race fidelity a.gguf --bench speed").unwrap();
    let wanted: Vec<&str> = PARTS.into_iter().filter(|part| some.wants(part)).collect();
    assert_eq!((wanted, some.file.as_deref()), (vec!["race", "fidelity", "speed"], Some("a.gguf")));
    assert_eq!(of("fidelity memory").unwrap().file, None, "a part's name is no file's");
    assert_eq!(some.missing_file().as_deref(), Some("there is no `a.gguf` for fidelity"));
    for asked in ["fidelity ./Cargo.toml", "fidelity src/", "fidelity smollm2-135m", "fidelity hf:a/b", "race"] {
        assert_eq!(of(asked).unwrap().missing_file(), None, "{asked}");
    }
    for (line, wrong) in [
        ("a.gguf", "`a.gguf`"),
        ("speed a.gguf", "`a.gguf`"),
        ("fidelity a.gguf b.gguf", "`b.gguf`"),
        ("race --help", "parity, race"),
    ] {
        assert!(of(line).unwrap_err().contains(wrong), "{line}");
    }
}
