//! candle's own quantized Llama, timed as `taper --bench` times taper: `cargo bench --bench candle -- MODEL.gguf PP TG`.
//! Prints a JSON object of tokens a second. `make bench-peers` runs it beside the others.
#![expect(clippy::print_stdout, reason = "the result is this program's output")]

use std::error::Error;
use std::fs::File;
use std::time::Instant;

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_llama::ModelWeights;

fn main() -> Result<(), Box<dyn Error>> {
    // cargo passes flags of its own before ours.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let [path, prompt, predict] = arguments.as_slice() else {
        println!("usage: cargo bench --bench candle -- MODEL.gguf PROMPT_TOKENS PREDICTED_TOKENS");
        return Ok(());
    };
    let (prompt, predict): (u32, u32) = (prompt.parse()?, predict.parse()?);
    let mut file = File::open(path)?;
    let mut model = ModelWeights::from_gguf(Content::read(&mut file)?, &mut file, &Device::Cpu)?;
    let mut run = |ids: &[u32], position: usize| -> Result<(), Box<dyn Error>> {
        let logits = model.forward(&Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?, position)?;
        logits.flatten_all()?.to_vec1::<f32>()?;
        Ok(())
    };
    run(&[1, 2, 3], 0)?;
    let ids: Vec<u32> = (0..prompt).map(|i| i * 7919 % 30_000).collect();
    let start = Instant::now();
    run(&ids, 0)?;
    let prompt_seconds = start.elapsed().as_secs_f64();
    let start = Instant::now();
    for position in 0..predict {
        run(&[position * 7919 % 30_000], position as usize)?;
    }
    let predict_seconds = start.elapsed().as_secs_f64();
    println!(
        "{{\"pp\": {:.2}, \"tg\": {:.2}}}",
        f64::from(prompt) / prompt_seconds,
        f64::from(predict) / predict_seconds
    );
    Ok(())
}
