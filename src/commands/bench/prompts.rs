//! `--bench --prompts`: five kinds of question, as people ask them, prefill and decode apart.
//!
//! Random tokens tell a machine's speed, these what a person waits: each prompt goes through the model's own chat template
//! and is answered greedily with a fixed number of tokens, so that decoding is comparable between kinds. Every run starts from
//! an empty prefix cache. What is measured is what the engine reports, as after an answer in the chat.

use serde_json::{Value, json};

use super::{CHUNK, DEFAULT_PREDICT, generate};
use crate::cli::{Cli, Format};
use crate::commands::{Session, csv};
use crate::error::{Error, Result};
use crate::stats::Spread;
use crate::taper::Taper;
use crate::terminal::render::Answer;
use crate::text::{Message, Role};

/// The kinds, from the document that commissioned this program, each with a prompt.
const PROMPTS: [(&str, &str); 5] = [
    ("short factual", "What is the capital of France?"),
    (
        "scientific explanation",
        "Explain how photosynthesis turns light into chemical energy, and why leaves look green.",
    ),
    ("poem", "Write a poem of three verses about a lighthouse keeper in winter."),
    (
        "simple retrieval",
        "The library opens at nine on weekdays and at ten on Saturdays. On Sundays it stays closed. Members may borrow six \
         books for three weeks; guests may read in the hall. The reading room on the second floor closes an hour before the \
         rest of the house.\n\nAt what time does the library open on Saturdays?",
    ),
    (
        "literature summary",
        "Summarize this story in two sentences.\n\nA clockmaker in a mountain village had built, in forty years, one clock \
         for every house, and each kept the time of the house it hung in: slow where there was mourning, quick where there \
         were children. When the railway came, its engineers asked that all clocks agree, for a train cannot wait on a \
         village's moods. The clockmaker went from door to door and set them by the station's bell. In the first week \
         nobody missed a train. In the second the baker's bread was burnt, the teacher's pupils yawned, and two old \
         friends, who had met each evening at a time that only their clocks knew, sat alone at their windows. In the third \
         week the clockmaker climbed to the station by night with his smallest screwdriver. Since then the train has come, \
         by its own bell, always exactly when the village is ready for it, and the engineers write each year to ask how \
         that is done.",
    ),
];

/// One kind's result.
struct Row {
    kind: &'static str,
    prompt_tokens: usize,
    prefill: Spread,
    decode: Spread,
}

pub(super) fn run(cli: &Cli, session: &Session) -> Result<()> {
    if cli.prompt.prompt.is_some() {
        return Err(Error::usage("--prompts has its own prompts: leave -p out"));
    }
    if cli.bench.depth != [0] {
        return Err(Error::usage("--prompts starts from an empty context: leave -d out"));
    }
    let predict = match super::predicts(cli, &[DEFAULT_PREDICT])?.as_slice() {
        [n] if *n >= 2 => *n,
        _ => return Err(Error::usage("--prompts takes one length of at least 2 tokens with -n")),
    };
    let mut taper = session.load_to_measure(1024 + predict, CHUNK)?;
    let mut rows = Vec::new();
    for (kind, text) in PROMPTS {
        tracing::info!("measuring {kind}");
        rows.push(measure(&mut taper, kind, text, predict, usize::from(cli.bench.repetitions))?);
    }
    print(cli.bench.output, &rows, &taper, session.threads, predict)
}

fn measure(taper: &mut Taper, kind: &'static str, text: &str, predict: usize, repetitions: usize) -> Result<Row> {
    let prompt = match taper.template() {
        Ok(template) => template.prompt(taper.tokenizer(), &[Message::new(Role::User, text)], true)?,
        Err(_) => taper.tokenizer().encode_prompt(text)?, // a base model completes it
    };
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    for repetition in 0..=repetitions {
        taper.engine().forget_prefixes();
        let done = generate(taper.engine(), prompt.clone(), predict)?;
        if repetition > 0 {
            prefill.push(done.prompt_tokens as f64 / done.prompt_seconds);
            decode.push((predict - 1) as f64 / done.generation_seconds);
        }
    }
    let spread = |rates: &[f64]| Spread::of(rates).ok_or_else(|| Error::runtime("nothing was measured"));
    Ok(Row { kind, prompt_tokens: prompt.len(), prefill: spread(&prefill)?, decode: spread(&decode)? })
}

fn print(format: Format, rows: &[Row], taper: &Taper, threads: usize, predict: usize) -> Result<()> {
    let mut answer = Answer::new();
    let spread = |s: &Spread| json!({"mean": s.mean, "stddev": s.stddev, "median": s.median});
    let json = |row: &Row| {
        json!({
            "model": taper.name(),
            "backend": taper.choice().name(),
            "threads": threads,
            "prompt": row.kind,
            "prompt_tokens": row.prompt_tokens,
            "generated_tokens": predict,
            "prefill_tokens_per_second": spread(&row.prefill),
            "decode_tokens_per_second": spread(&row.decode),
        })
    };
    let all: Vec<Value> = rows.iter().map(json).collect();
    match format {
        Format::Json => answer.line(&Value::from(all).to_string()),
        Format::Csv => csv::lines(&all).iter().try_for_each(|line| answer.line(line)),
        Format::Md => {
            answer.line(&format!("{}, {}, {threads} threads\n", taper.name(), taper.choice().name()))?;
            answer.line("| prompt | tokens | prefill t/s | answer tokens | decode t/s |")?;
            answer.line("|---|---:|---:|---:|---:|")?;
            rows.iter().try_for_each(|row| {
                answer.line(&format!(
                    "| {} | {} | {:.1} ± {:.1} | {predict} | {:.1} ± {:.1} |",
                    row.kind,
                    row.prompt_tokens,
                    row.prefill.mean,
                    row.prefill.stddev,
                    row.decode.mean,
                    row.decode.stddev,
                ))
            })
        }
    }
}
