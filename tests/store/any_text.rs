//! Any bytes as a text to be cut and as a memory's export: used by tests/store.rs on made-up ones, and by the fuzz target.

use taper::memory::chunk::{Size, Syntax, chunk};
use taper::memory::exchange;

/// The text is cut into passages that hold all of it but blanks; the export is refused or read. `true` for the latter.
pub fn check(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    // Where a token begins is for the text to say, as bytes of it do here.
    let every = usize::from(bytes.first().copied().unwrap_or(0) % 9) + 1;
    let tokens: Vec<u32> = text.char_indices().map(|(at, _)| at as u32).step_by(every).collect();
    for syntax in [Syntax::Plain, Syntax::Markdown, Syntax::Code] {
        for size in [Size::default(), Size { tokens: 1, overlap: 5 }, Size { tokens: 12, overlap: 4 }] {
            let mut covered = 0;
            for range in chunk(&text, &tokens, size, syntax) {
                assert!(range.end > covered && !text[range.clone()].trim().is_empty());
                assert!(range.start <= covered || text[covered..range.start].trim().is_empty());
                covered = range.end;
            }
            assert!(text[covered..].trim().is_empty());
        }
    }
    let read = exchange::read(bytes, "embedder", |source| {
        assert!(source.records.iter().all(|(begins, ends, text)| begins <= ends && !text.trim().is_empty()));
        Ok(())
    });
    read.is_ok()
}
