//! The Llama's formulas as loops over f64, for one sequence: what the reference backend itself is judged by.

use taper::model::config::Config;
use taper::model::tensors::{EMBEDDING, OUTPUT, OUTPUT_NORM, ROPE_FACTORS, of_layer};

use super::tiny::Tiny;

/// A sequence's state.
pub struct Naive<'a> {
    tiny: &'a Tiny,
    /// (layer)(position) → keys and values, (`kv_heads` * `head_dim`).
    pub keys: Vec<Vec<Vec<f64>>>,
    pub values: Vec<Vec<Vec<f64>>>,
}

/// What lies between the phases of one layer, for one row.
#[derive(Debug, Clone, Default)]
pub struct Between {
    pub before: Vec<f64>,
    pub query: Vec<f64>,
    pub attended: Vec<f64>,
    pub after_attention: Vec<f64>,
    pub gated: Vec<f64>,
    pub after: Vec<f64>,
}

fn rows(weight: &[f32], columns: usize) -> impl Iterator<Item = &[f32]> {
    weight.chunks_exact(columns)
}

fn dot(a: &[f32], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * b).sum()
}

impl<'a> Naive<'a> {
    pub fn new(tiny: &'a Tiny) -> Self {
        let layers = tiny.config.layers;
        Self { tiny, keys: vec![Vec::new(); layers], values: vec![Vec::new(); layers] }
    }

    fn config(&self) -> &Config {
        &self.tiny.config
    }

    fn weight(&self, layer: usize, part: &str) -> &'a [f32] {
        self.tiny.get(&of_layer(layer, part)).unwrap()
    }

    fn norm(&self, x: &[f64], weight: &[f32]) -> Vec<f64> {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let scale = 1.0 / (mean + f64::from(self.config().rms_eps)).sqrt();
        x.iter().zip(weight).map(|(x, w)| x * scale * f64::from(*w)).collect()
    }

    fn linear(&self, x: &[f64], layer: usize, part: &str) -> Vec<f64> {
        let mut y: Vec<f64> = rows(self.weight(layer, &format!("{part}.weight")), x.len()).map(|w| dot(w, x)).collect();
        if let Some(bias) = self.tiny.get(&of_layer(layer, &format!("{part}.bias"))) {
            y.iter_mut().zip(bias).for_each(|(y, b)| *y += f64::from(*b));
        }
        y
    }

    fn rotate(&self, x: &mut [f64], pos: usize) {
        let config = self.config();
        let frequencies = config.rope.frequencies(config.head_dim, self.tiny.get(ROPE_FACTORS));
        for head in x.chunks_exact_mut(config.head_dim) {
            for (pair, f) in head.chunks_exact_mut(2).zip(&frequencies) {
                let (sin, cos) = (pos as f64 * f64::from(*f)).sin_cos();
                (pair[0], pair[1]) = (pair[0] * cos - pair[1] * sin, pair[0] * sin + pair[1] * cos);
            }
        }
    }

    fn attend(&self, layer: usize, query: &[f64], pos: usize) -> Vec<f64> {
        let Config { heads, kv_heads, head_dim, window, .. } = *self.config();
        let first = window.map_or(0, |w| (pos + 1).saturating_sub(w));
        let mut out = Vec::new();
        for head in 0..heads {
            let q = &query[head * head_dim..][..head_dim];
            let at = head / (heads / kv_heads) * head_dim;
            let scores: Vec<f64> = (first..=pos)
                .map(|p| q.iter().zip(&self.keys[layer][p][at..]).map(|(q, k)| q * k).sum::<f64>())
                .map(|s| (s / (head_dim as f64).sqrt()).exp())
                .collect();
            let sum: f64 = scores.iter().sum();
            out.extend((0..head_dim).map(|d| {
                scores.iter().zip(first..).map(|(s, p)| s / sum * self.values[layer][p][at + d]).sum::<f64>()
            }));
        }
        out
    }

    /// Pushes one token through; what lay between the phases of each layer, and the logits.
    pub fn push(&mut self, token: u32) -> (Vec<Between>, Vec<f64>) {
        let hidden = self.config().hidden;
        let pos = self.keys[0].len();
        let embedding = self.tiny.get(EMBEDDING).unwrap();
        let mut x: Vec<f64> = embedding[token as usize * hidden..][..hidden].iter().map(|x| f64::from(*x)).collect();
        let mut layers = Vec::new();
        for layer in 0..self.config().layers {
            let mut b = Between { before: x.clone(), ..Between::default() };
            let normed = self.norm(&x, self.weight(layer, "attn_norm.weight"));
            b.query = self.linear(&normed, layer, "attn_q");
            self.rotate(&mut b.query, pos);
            let mut key = self.linear(&normed, layer, "attn_k");
            self.rotate(&mut key, pos);
            self.keys[layer].push(key);
            let value = self.linear(&normed, layer, "attn_v");
            self.values[layer].push(value);
            b.attended = self.attend(layer, &b.query, pos);
            add(&mut x, &self.linear(&b.attended, layer, "attn_output"));
            b.after_attention.clone_from(&x);
            let normed = self.norm(&x, self.weight(layer, "ffn_norm.weight"));
            let up = self.linear(&normed, layer, "ffn_up");
            let gate = self.linear(&normed, layer, "ffn_gate");
            b.gated = gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            add(&mut x, &self.linear(&b.gated, layer, "ffn_down"));
            b.after.clone_from(&x);
            layers.push(b);
        }
        let normed = self.norm(&x, self.tiny.get(OUTPUT_NORM).unwrap());
        let head = self.tiny.get(OUTPUT).unwrap_or(embedding);
        (layers, rows(head, hidden).map(|w| dot(w, &normed)).collect())
    }
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
