//! Which files a folder adds to a memory, and what is in them.

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use super::html;
use crate::engine::fit::human_bytes;
use crate::error::{Error, Result};

/// The largest source. A text that people wrote is smaller.
pub const MOST: u64 = 64 << 20;

/// A file to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub path: PathBuf,
    pub bytes: u64,
}

/// The file at `path`, or all files below that folder, in alphabetical order. Hidden ones are left out, links are not followed:
/// a folder ends there.
///
/// # Errors
/// When something cannot be listed.
pub fn list(path: &Path) -> Result<Vec<Listed>> {
    let found = std::fs::metadata(path).map_err(|e| Error::io("add it", path, e))?;
    if found.is_file() {
        return Ok(vec![Listed { path: path.to_owned(), bytes: found.len() }]);
    }
    if !found.is_dir() {
        return Err(Error::usage("neither a file nor a folder").in_file(path)); // opening a FIFO would wait for its writer
    }
    let mut files = Vec::new();
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        let failed = |e| Error::io("list the folder", &folder, e);
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let kind = entry.file_type().map_err(failed)?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                let bytes = entry.metadata().map_err(failed)?.len();
                files.push(Listed { path: entry.path(), bytes });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// The path that a file is known by: absolute, and the same whatever way through folders was named.
///
/// # Errors
/// When there is no such way.
pub fn known_as(path: &Path) -> Result<PathBuf> {
    let cannot = |e| Error::io("find", path, e);
    let full = std::path::absolute(path).map_err(cannot)?;
    let mut plain = PathBuf::new();
    for part in full.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    if plain == full {
        return Ok(full);
    }
    // Behind a link the folder above is another than the one that was named before.
    let real = full.canonicalize().map_err(cannot)?;
    Ok(if plain.canonicalize().is_ok_and(|other| other == real) { plain } else { real })
}

/// The text in a file: all of it, or of a page what people read.
///
/// # Errors
/// When it cannot be read, is larger than [`MOST`], or no text.
pub fn content(path: &Path) -> Result<String> {
    let bytes = read(path)?;
    let text = text(&bytes).map_err(|e| e.in_file(path))?;
    Ok(if html::is_named(&path.to_string_lossy()) { html::text(text) } else { text.to_owned() })
}

/// All of a file.
///
/// # Errors
/// When it cannot be read, or is larger than [`MOST`].
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(|e| Error::io("read it", path, e))?;
    bounded(file, "the file").map_err(|e| e.in_file(path))
}

/// All that comes, when it is no more than [`MOST`].
///
/// # Errors
/// As [`read`].
pub fn bounded(from: impl Read, what: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = from.take(MOST + 1).read_to_end(&mut bytes);
    read.map_err(|e| Error::runtime(format!("cannot read {what}: {e}")).caused_by(e))?;
    if bytes.len() as u64 > MOST {
        let most = human_bytes(MOST);
        return Err(Error::usage(format!("{what} is larger than {most}, which is the most that is added as one"))
            .help("cut it into several"));
    }
    Ok(bytes)
}

/// The text that bytes are.
///
/// # Errors
/// When they are none: not UTF-8, or with zeros in them, as programs and pictures have.
pub fn text(bytes: &[u8]) -> Result<&str> {
    if bytes.starts_with(b"%PDF-") {
        return Err(Error::usage("a PDF, which is not read").help("pdftotext FILE - | taper memory add NAME -"));
    }
    if bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]) {
        return Err(
            Error::usage("UTF-16, which is not read").help("iconv -f UTF-16 -t UTF-8 FILE | taper memory add NAME -")
        );
    }
    if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
        return Err(Error::usage(format!("no text: byte {at} is 0")));
    }
    std::str::from_utf8(bytes)
        .map_err(|e| Error::usage(format!("no text: byte {} is not UTF-8", e.valid_up_to())).caused_by(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_lists_its_files_without_hidden_ones_and_links() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("b/c")).unwrap();
        std::fs::create_dir_all(at(".git")).unwrap();
        for name in ["b/c/2.txt", "b/1.txt", "a.md", ".hidden", ".git/x"] {
            std::fs::write(at(name), "x").unwrap();
        }
        #[cfg(unix)]
        std::os::unix::fs::symlink("..", at("b/loop")).unwrap();
        let names: Vec<PathBuf> = list(folder.path()).unwrap().into_iter().map(|file| file.path).collect();
        assert_eq!(names, ["a.md", "b/1.txt", "b/c/2.txt"].map(at));
        assert_eq!(list(&at("a.md")).unwrap(), [Listed { path: at("a.md"), bytes: 1 }]);
        assert!(list(&at("none")).unwrap_err().to_string().contains("No such file"));
    }

    #[test]
    #[cfg(unix)]
    fn a_file_is_known_by_one_path_whatever_way_was_named() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::os::unix::fs::symlink(root.join("a/b"), root.join("link")).unwrap();
        for name in ["f", "a/f", "a/b/f"] {
            std::fs::write(root.join(name), "x").unwrap();
        }
        for (way, plain) in [("a/../f", "f"), ("./a/b/../../f", "f"), ("link/f", "link/f"), ("link/../f", "a/f")] {
            assert_eq!(known_as(&root.join(way)).unwrap(), root.join(plain), "{way}");
        }
        assert!(known_as(&root.join("none/../f")).unwrap_err().to_string().contains("No such file"));
    }

    #[test]
    fn what_is_no_text_is_refused_with_the_byte() {
        assert_eq!(text("é".as_bytes()).unwrap(), "é");
        assert_eq!(text(b"ab\xffc").unwrap_err().what(), "no text: byte 2 is not UTF-8");
        assert_eq!(text(b"\x7fELF\0").unwrap_err().what(), "no text: byte 4 is 0");
        assert_eq!(text(b"\xff\xfea\0").unwrap_err().what(), "UTF-16, which is not read");
        let pdf = text(b"%PDF-1.7\n%\xe2\xe3").unwrap_err().to_string();
        assert_eq!(pdf, "a PDF, which is not read\n  pdftotext FILE - | taper memory add NAME -");
        let endless = bounded(std::io::repeat(b'x'), "the file").unwrap_err().to_string();
        assert!(endless.starts_with("the file is larger than 67.1 MB"), "{endless}");
    }
}
