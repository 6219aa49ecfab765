//! Compiles `kernels/cuda/*.cu` to one fat binary a file, for the binary to carry: machine code for the GPUs there are, PTX
//! for those that come, compressed as the driver unpacks it.
//!
//! nvcc is taken from the system, or from Python wheels in taper's cache, where `tests/tools/cuda_toolkit.sh` puts them.
//! Without it there are no kernels, and the build says so: the program runs on the CPU.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

/// Machine code for these; of the PTX the driver makes what other GPUs from `sm_80` on need. `TAPER_CUDA_TARGETS=sm_90a` and the like
/// leaves those out that do not end in one of its words: for those who build for their own GPU.
const TARGETS: [&str; 5] = [
    "arch=compute_80,code=sm_80",
    "arch=compute_86,code=sm_86",
    "arch=compute_89,code=sm_89",
    "arch=compute_90a,code=sm_90a",
    "arch=compute_80,code=compute_80",
];
/// No fast-math anywhere: scales and roundings are those of the Rust code. Products and sums are fused where the source
/// says so, as they are there.
const FLAGS: [&str; 5] = ["-fatbin", "-std=c++17", "-O3", "--fmad=false", "--compress-mode=size"];
/// The releases that will do: older ones cannot compress, and the PTX of newer ones is not loaded by driver 580.
const OLDEST: (u32, u32) = (12, 8);
const NEWEST: (u32, u32) = (13, 0);
/// The wheels' folder in the cache; `cuda_toolkit.sh` has the same name.
const WHEELS: &str = "cuda-13.0.88";

/// Writes `cuda_kernels.rs`, which lists the fat binaries, to Cargo's output folder.
pub fn build() -> Result<(), String> {
    let variables = ["NVCC", "CUDA_HOME", "CUDA_PATH", "TAPER_CACHE_DIR", "TAPER_CUDA_TARGETS", "TAPER_NO_CUDA"];
    for name in variables {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=kernels/build.rs");
    println!("cargo::rerun-if-changed=kernels/cuda");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("Cargo sets no OUT_DIR")?);
    let mut list = String::from("pub const IMAGES: &[(&str, &[u8])] = &[\n");
    if let Some(nvcc) = wanted().then(nvcc).flatten() {
        let sources = sources()?;
        compile_all(&nvcc, &sources, &out)?;
        for source in &sources {
            let name = stem(source);
            // A String takes everything.
            let _ = writeln!(list, "    ({name:?}, include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}.fatbin\"))),");
        }
    }
    list += "];\n";
    write(&out.join("cuda_kernels.rs"), &list)
}

/// Whether the target can have an NVIDIA driver, and nobody forbade it.
fn wanted() -> bool {
    let no = env::var_os("TAPER_NO_CUDA").is_some_and(|value| !value.is_empty());
    !no && env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux")
}

/// The first nvcc that will do; otherwise it says what is the matter.
fn nvcc() -> Option<PathBuf> {
    let mut unfit = String::new();
    for nvcc in candidates() {
        match release(&nvcc) {
            Some(found) if (OLDEST..=NEWEST).contains(&found) => return Some(nvcc),
            Some((major, minor)) => {
                let _ = write!(unfit, " ({} is of CUDA {major}.{minor})", nvcc.display());
            }
            None => {}
        }
    }
    println!(
        "cargo::warning=no nvcc of CUDA {}.{} to {}.{} was found{unfit}: taper is built without kernels for NVIDIA GPUs; \
         tests/tools/cuda_toolkit.sh fetches one",
        OLDEST.0, OLDEST.1, NEWEST.0, NEWEST.1
    );
    None
}

fn candidates() -> Vec<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let mut found: Vec<PathBuf> = set("NVCC").into_iter().collect();
    found.extend(["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(set).map(|home| home.join("bin/nvcc")));
    found.extend(env::var_os("PATH").iter().flat_map(env::split_paths).map(|folder| folder.join("nvcc")));
    found.push("/usr/local/cuda/bin/nvcc".into());
    let cache = set("TAPER_CACHE_DIR")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("taper")))
        .or_else(|| Some(set("HOME")?.join(".cache/taper")));
    found.extend(cache.map(|cache| cache.join(WHEELS).join("nvidia/cu13/bin/nvcc")));
    found
}

/// The release that an nvcc says it is of: `…, release 13.0, V13.0.88`.
fn release(nvcc: &Path) -> Option<(u32, u32)> {
    let said = Command::new(nvcc).arg("--version").output().ok()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let (major, minor) = said.split_once("release ")?.1.split_once(',')?.0.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The files with kernels, in the order of their names.
fn sources() -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir("kernels/cuda").map_err(|e| format!("cannot list kernels/cuda: {e}"))?;
    let mut sources: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    sources.retain(|path| path.extension().is_some_and(|extension| extension == "cu"));
    sources.sort();
    Ok(sources)
}

fn stem(source: &Path) -> String {
    source.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Compiles as many files at a time as Cargo has jobs: some take a minute.
fn compile_all(nvcc: &Path, sources: &[PathBuf], out: &Path) -> Result<(), String> {
    let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1);
    let waiting = Mutex::new(sources.iter());
    let next = || waiting.lock().map_or(None, |mut sources| sources.next());
    let work = || {
        while let Some(source) = next() {
            compile(nvcc, source, &out.join(format!("{}.fatbin", stem(source))))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|_| Err("a compiler's thread died".into())))
    })
}

fn compile(nvcc: &Path, source: &Path, image: &Path) -> Result<(), String> {
    let mut command = Command::new(nvcc);
    command.args(FLAGS);
    let only = env::var("TAPER_CUDA_TARGETS").unwrap_or_default();
    let named = |target: &str| only.is_empty() || only.split(',').any(|name| target.ends_with(&format!("code={name}")));
    for target in TARGETS.into_iter().filter(|target| named(target)) {
        command.args(["-gencode", target]);
    }
    let output = command.arg("-o").arg(image).arg(source).output();
    let output = output.map_err(|e| format!("cannot run {}: {e}", nvcc.display()))?;
    if output.status.success() {
        return Ok(());
    }
    // Cargo takes a line as an error; what nvcc says has many.
    let said = [output.stdout, output.stderr].concat();
    for line in String::from_utf8_lossy(&said).lines() {
        println!("cargo::error={line}");
    }
    Err(format!("{} does not compile {}; TAPER_NO_CUDA=1 builds without kernels", nvcc.display(), source.display()))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))
}
