//! `taper embed`: texts as vectors, on standard output.

use std::io::Write;

use super::input;
use super::memory::{Program, load};
use crate::cli::{EmbedArgs, VectorFormat};
use crate::error::{Error, Result};

/// Texts that are embedded together, and printed.
const BATCH: usize = 64;

pub(super) fn run(args: &EmbedArgs) -> Result<()> {
    let program = Program::start(&args.embedder)?;
    let given = match (&args.text, &args.file) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) if path.as_os_str() == "-" => input::text("standard input", input::stdin()?)?,
        (None, Some(path)) => input::text("the file", input::file("the file", path)?).map_err(|e| e.in_file(path))?,
        (None, None) => return Err(Error::usage("there is no text")), // clap has refused it
    };
    let texts: Vec<&str> = if args.file.is_some() { given.lines().collect() } else { vec![&given] };
    let embedder =
        load(args.embedder.name(None), args.embedder.embedder_type, args.embedder.offline, program.progress)?;
    let mut out = std::io::stdout().lock();
    let mut write = |bytes: &[u8]| out.write_all(bytes).map_err(Error::output);
    if args.output == VectorFormat::Npy {
        write(&npy_header(texts.len(), embedder.dim()))?;
    }
    for batch in texts.chunks(BATCH) {
        for vector in embedder.embed(batch)? {
            match args.output {
                VectorFormat::Npy => write(&vector.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())?,
                VectorFormat::Jsonl => write(format!("{}\n", serde_json::json!(vector)).as_bytes())?,
            }
        }
    }
    out.flush().map_err(Error::output)
}

/// What comes before the numbers: NumPy's format 1.0, whose header ends at a multiple of 64 bytes.
fn npy_header(rows: usize, columns: usize) -> Vec<u8> {
    let dictionary = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    let before = b"\x93NUMPY\x01\x00".len() + 2;
    let length = (before + dictionary.len() + 1).next_multiple_of(64) - before;
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend_from_slice(&(length as u16).to_le_bytes());
    header.extend_from_slice(format!("{dictionary:width$}\n", width = length - 1).as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_numpys() {
        let header = npy_header(3, 384);
        assert_eq!(header.len() % 64, 0);
        assert_eq!(&header[..10], b"\x93NUMPY\x01\x00\x76\x00");
        assert!(
            header.ends_with(b" \n")
                && header[10..].starts_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 384), }")
        );
    }
}
