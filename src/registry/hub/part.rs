//! An unfinished file in the hub's cache, hashed as it grows.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::super::store::hex;
use super::cache::unwritable;
use crate::error::{Error, Result};

/// How the hub names a file's bytes.
pub enum Hash {
    Sha256(String),
    /// SHA-1 of `blob LENGTH\0` and the bytes.
    Git(String),
}

impl Hash {
    pub fn text(&self) -> &str {
        match self {
            Self::Sha256(text) | Self::Git(text) => text,
        }
    }
}

/// An unfinished file, and the hash of what is in it.
pub struct Part {
    pub path: PathBuf,
    file: File,
    /// Its length so far.
    pub bytes: u64,
    hasher: Hasher,
    /// The length it is to reach.
    whole: u64,
    /// It came in more than one piece, one of which may have been of something else.
    pub pieced: bool,
}

enum Hasher {
    Sha256(Sha256),
    Git(Sha1),
}

impl Hasher {
    fn new(git: bool, bytes: u64) -> Self {
        if git { Self::Git(Sha1::new_with_prefix(format!("blob {bytes}\0"))) } else { Self::Sha256(Sha256::new()) }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Git(hasher) => hasher.update(bytes),
        }
    }
}

impl Part {
    /// Opens what an earlier run left, or an empty file. One that is too long is emptied.
    pub fn open(path: PathBuf, hash: &Hash, whole: u64) -> Result<Self> {
        let failed = |e| unwritable("write the model", &path, e);
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path).map_err(failed)?;
        let mut hasher = Hasher::new(matches!(hash, Hash::Git(_)), whole);
        let mut bytes = 0;
        let mut buffer = vec![0; 256 << 10];
        loop {
            match file.read(&mut buffer).map_err(failed)? {
                0 => break,
                read => {
                    hasher.update(&buffer[..read]);
                    bytes += read as u64;
                }
            }
        }
        let mut part = Self { path, file, bytes, hasher, whole, pieced: bytes > 0 };
        if part.bytes > whole {
            part.restart()?;
        }
        Ok(part)
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| unwritable("write the model", &self.path, e))?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Empties the file.
    pub fn restart(&mut self) -> Result<()> {
        self.file.set_len(0).map_err(|e| unwritable("write the model", &self.path, e))?;
        self.hasher = Hasher::new(matches!(self.hasher, Hasher::Git(_)), self.whole);
        self.bytes = 0;
        Ok(())
    }

    /// The hash of what is there, as the hub writes it.
    pub fn hash(&self) -> String {
        match &self.hasher {
            Hasher::Sha256(hasher) => hex(&hasher.clone().finalize()),
            Hasher::Git(hasher) => hex(&hasher.clone().finalize()),
        }
    }

    /// Gives the file its name, if it is what it should be; otherwise removes it.
    pub fn finish(self, blob: &Path, expected: &str) -> Result<()> {
        let found = self.hash();
        if found != expected {
            let _ = fs::remove_file(&self.path); // of no use to anyone
            return Err(Error::model(format!(
                "what came is not the file: its hash is {found}, the hub says {expected}"
            ))
            .in_file(blob)
            .help("nothing was kept; try again, and if it stays so, do not trust the server"));
        }
        let failed = |e| unwritable("put the model in its place", blob, e);
        self.file.sync_all().map_err(failed)?;
        fs::rename(&self.path, blob).map_err(failed)?;
        // The new name has to survive a power cut as well as the bytes do.
        blob.parent().map_or(Ok(()), |folder| File::open(folder).and_then(|f| f.sync_all())).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_hashed_over_runs_as_git_and_sha256_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.incomplete");
        // git hash-object of "abc\n", and FIPS 180-2's first example.
        for (hash, bytes) in [
            (Hash::Git("8baef1b4abc478178b004d62031cf7fe6db6f903".into()), &b"abc\n"[..]),
            (Hash::Sha256("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".into()), b"abc"),
        ] {
            let open = || Part::open(path.clone(), &hash, bytes.len() as u64).unwrap();
            open().write(&bytes[..2]).unwrap();
            let mut part = open();
            assert_eq!(part.bytes, 2);
            part.write(&bytes[2..]).unwrap();
            assert_eq!(part.hash(), hash.text());
            part.restart().unwrap();
            part.write(bytes).unwrap();
            let blob = folder.path().join("blob");
            part.finish(&blob, hash.text()).unwrap();
            assert_eq!(fs::read(&blob).unwrap(), bytes);
            fs::write(&path, b"longer than it may be").unwrap();
            assert_eq!(open().bytes, 0);
            let error = open().finish(&blob, hash.text()).unwrap_err().to_string();
            assert!(error.contains("what came is not the file") && !path.exists(), "{error}");
        }
    }
}
