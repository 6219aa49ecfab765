//! Where the linker finds the libraries that FAISS needs, so that they end up inside the binary.
//!
//! The crate `faiss-sys` builds FAISS itself and asks for `blas`, `lapack`, `gomp` and `stdc++` without saying static
//! or shared. A linker takes the first folder that has a library of that name in either form: this script makes a
//! folder that has the static ones alone. Three of them are texts that name the archives to read ("implicit linker
//! scripts"), since OpenBLAS's LAPACK needs Fortran's library too, and a search path is all that reaches those who link
//! taper as a library.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// What FAISS asks for, and the archives in which it is.
const LIBRARIES: [(&str, &[&str]); 4] = [
    ("blas", &["libopenblas.a", "libgfortran.a", "libquadmath.a"]),
    ("lapack", &["libopenblas.a", "libgfortran.a", "libquadmath.a"]),
    ("gomp", &["libgomp.a"]),
    ("stdc++", &["libstdc++.a"]),
];

/// Makes the folder and tells Cargo of it, where the memory is wanted and for the target that it was tried on.
pub fn link() {
    println!("cargo::rerun-if-changed=src/memory/build.rs");
    println!("cargo::rerun-if-env-changed=CXX");
    let is_linux = env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux");
    if env::var_os("CARGO_FEATURE_MEMORY").is_none() || !is_linux {
        return;
    }
    match archives() {
        Ok(folder) => println!("cargo::rustc-link-search=native={}", folder.display()),
        // The type-check needs none of them, so this is no error yet: the linker would make one, and of names that say
        // less.
        Err(what) => println!("cargo::warning={what}"),
    }
}

/// The folder of static libraries.
fn archives() -> Result<PathBuf, String> {
    let folder = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?).join("archives");
    let cannot = |e: std::io::Error| format!("cannot write to {}: {e}", folder.display());
    fs::create_dir_all(&folder).map_err(cannot)?;
    for (name, parts) in LIBRARIES {
        let found: Vec<String> = parts.iter().filter_map(|part| find(part)).map(|p| p.display().to_string()).collect();
        // Debian puts libquadmath where libgfortran is; where it is not, that one needs none.
        if found.is_empty() || (parts.len() > 1 && found.len() < 2) {
            return Err(format!(
                "{} is absent, which FAISS is linked with; on Debian: \
                 apt-get install cmake g++ libopenblas-dev libgfortran-12-dev",
                parts.join(" or ")
            ));
        }
        fs::write(folder.join(format!("lib{name}.a")), format!("GROUP ( {} )\n", found.join(" "))).map_err(cannot)?;
    }
    Ok(folder)
}

/// The path of a library that the compiler would link.
fn find(archive: &str) -> Option<PathBuf> {
    let compiler = env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let out = Command::new(compiler).arg(format!("-print-file-name={archive}")).output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    // A name without a folder is one that it does not know.
    fs::canonicalize(text.trim()).ok().filter(|path| path.is_absolute() && Path::new(text.trim()).is_absolute())
}
