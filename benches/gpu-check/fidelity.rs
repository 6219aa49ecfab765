//! A real model's answers: what the GPU thinks of the CPU backend's own tokens.

use taper::backend::choose::{Compute, Device};
use taper::config::{self, Dirs};
use taper::registry::{self, Fetch};
use taper::stats::divergence::Divergence;
use taper::{LoadOptions, Result, Taper};

use crate::Finding;
use crate::forced::{Answer, divergence, forced, greedy, lead_lost_alone};
use crate::prompts::PROMPTS;

const TOKENS: usize = 48;
/// More than any prompt and its answer.
const CONTEXT: usize = 512;
/// Nats a token, from the CPU's distributions.
const MEAN: f64 = 0.004;
/// Logits: where the GPU thinks another token the likeliest, and the reference does not, the CPU's two likeliest are closer than this.
const LEAD: f32 = 0.35;
/// The reference has 4 bytes a weight and computes slowly: what is larger is not asked of it.
const MOST_PARAMETERS: u64 = 500_000_000;

/// `file` is a model's file, folder or name.
pub fn check(file: Option<&str>, tell: &mut dyn FnMut(Finding)) -> Result<()> {
    let mut note = |what: String, found: String| tell(Finding { what, found, bound: String::new(), is_right: true });
    let Some(file) = file else {
        note("skipped: no model is named, as `gpu-check fidelity FILE.gguf` does".into(), String::new());
        return Ok(());
    };
    let mut taper = open(file, Device::Cpu)?;
    let is_small = taper.size().parameters <= MOST_PARAMETERS;
    let cpu = PROMPTS.iter().map(|prompt| greedy(&mut taper, prompt, TOKENS)).collect::<Result<Vec<Answer>>>()?;
    drop(taper);
    let cuda = said_by(file, Device::Cuda, &cpu)?;
    judge(&divergence(&cpu, &cuda)?, tell);
    if is_small {
        let reference = said_by(file, Device::Reference, &cpu)?;
        for (name, got) in [("cuda", &cuda), ("cpu", &cpu)] {
            let found = divergence(&reference, got)?;
            tell(Finding {
                what: format!(
                    "{name} from the reference: mean, worst, the reference's lead where another token is the likeliest"
                ),
                found: format!("{:.5} nat, {:.4} nat, {:.3} logit", found.mean(), found.worst(), found.lead()),
                bound: String::new(),
                is_right: true,
            });
        }
        let lead = lead_lost_alone(&cpu, &cuda, &reference);
        tell(Finding {
            what: "the cpu's lead where cuda alone thinks another token the likeliest, not the reference".into(),
            found: format!("{lead:.3} logit"),
            bound: format!("below {LEAD} logit"),
            is_right: lead < LEAD,
        });
    } else {
        tell(Finding {
            what: "leads are not judged: the model is too large for the reference".into(),
            found: String::new(),
            bound: String::new(),
            is_right: true,
        });
    }
    Ok(())
}

/// What a backend thinks of answers.
fn said_by(file: &str, device: Device, answers: &[Answer]) -> Result<Vec<Answer>> {
    let mut taper = open(file, device)?;
    answers.iter().map(|answer| forced(&mut taper, answer)).collect()
}

fn open(file: &str, device: Device) -> Result<Taper> {
    let files = registry::resolve(file, &Dirs::from_env(config::process_env), &Fetch::from_env(config::process_env))?;
    let compute = Compute { device, ..Compute::default() };
    Taper::open(&files, &LoadOptions { compute, context: Some(CONTEXT), ..LoadOptions::default() })
}

/// Of the GPU's distributions from the CPU's.
fn judge(found: &Divergence, tell: &mut dyn FnMut(Finding)) {
    tell(Finding {
        what: format!("cuda from cpu, mean of {} tokens behind {} prompts", found.count(), PROMPTS.len()),
        found: format!("{:.5} nat", found.mean()),
        bound: format!("{MEAN} nat"),
        is_right: found.mean() <= MEAN,
    });
    tell(Finding {
        what: "cuda from cpu, worst".into(),
        found: format!("{:.4} nat", found.worst()),
        bound: String::new(),
        is_right: true,
    });
    tell(Finding {
        what: format!("the cpu's lead where another token is the likeliest, {} times", found.differing()),
        found: format!("{:.3} logit", found.lead()),
        bound: String::new(),
        is_right: true,
    });
}
