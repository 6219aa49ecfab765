//! `taper doctor`: what this machine has, what limits this process, and what taper makes of it.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::backend::choose::{Choice, Compute};
use crate::backend::cuda::probe;
use crate::cli::DoctorArgs;
use crate::config::{self, Dirs, settings};
use crate::engine::fit::{available_memory, human_bytes};
use crate::error::{Error, Result};
use crate::format::repack;
use crate::stats::cgroup::{self, Quota};
use crate::stats::cores::Cores;
use crate::stats::{bandwidth, machine};
use crate::terminal::log;
use crate::terminal::render::Answer;

pub(super) fn run(args: &DoctorArgs) -> Result<()> {
    let dirs = Dirs::from_env(config::process_env);
    log::init(false, 0);
    let findings = Findings::look(&dirs, super::threads(args.threads))?;
    let mut answer = Answer::new();
    if args.json {
        let json = serde_json::to_string(&findings)
            .map_err(|e| Error::runtime(format!("the findings cannot be written as JSON: {e}")))?;
        return answer.line(&json);
    }
    findings.lines().iter().try_for_each(|line| answer.line(line))
}

/// Sizes in bytes; what the system does not say is `null`.
#[derive(Serialize)]
struct Findings {
    version: &'static str,
    system: String,
    processor: Processor,
    quota: Quota,
    memory: Memory,
    bandwidth: Bandwidth,
    folders: Vec<Folder>,
    /// What is wrong with the settings file.
    settings_error: Option<String>,
    models: Vec<Model>,
    repacked: Repacked,
    gpu: Gpu,
    backend: Backend,
}

/// The GPU, or why there is none to be used.
#[derive(Serialize)]
struct Gpu {
    name: Option<String>,
    memory: Option<u64>,
    /// Major and minor.
    compute_capability: Option<(i32, i32)>,
    unusable: Option<String>,
}

impl Gpu {
    fn look() -> Self {
        match probe::look() {
            Ok(gpu) => Self {
                name: Some(gpu.name),
                memory: Some(gpu.memory),
                compute_capability: Some(gpu.capability),
                unusable: None,
            },
            Err(absence) => Self { name: None, memory: None, compute_capability: None, unusable: Some(absence.what()) },
        }
    }

    fn text(&self) -> String {
        match self {
            Self { name: Some(name), memory: Some(memory), compute_capability: Some((major, minor)), .. } => {
                format!("{name}, {} of memory, compute capability {major}.{minor}", human_bytes(*memory))
            }
            _ => format!("none: {}", self.unusable.as_deref().unwrap_or("not known")),
        }
    }
}

#[derive(Serialize)]
struct Processor {
    name: Option<String>,
    features: Vec<&'static str>,
    last_level_cache: Option<u64>,
    online: Option<usize>,
    affinity: Option<String>,
    /// What affinity leaves of them.
    usable: usize,
    /// The cores that those are of, as far as the quota feeds them: the threads that compute, unless `-t` says otherwise.
    cores: usize,
}

#[derive(Serialize)]
struct Memory {
    total: Option<u64>,
    available: Option<u64>,
}

#[derive(Serialize)]
struct Bandwidth {
    threads: usize,
    bytes_per_second: f64,
}

#[derive(Serialize)]
struct Folder {
    purpose: &'static str,
    /// `None` where no variable says it.
    path: Option<PathBuf>,
    exists: bool,
    bytes: u64,
}

#[derive(Serialize)]
struct Model {
    name: String,
    path: PathBuf,
    bytes: u64,
}

/// Weights as they were packed by earlier starts.
#[derive(Serialize)]
struct Repacked {
    path: Option<PathBuf>,
    files: usize,
    bytes: u64,
}

#[derive(Serialize)]
struct Backend {
    /// Of models whose sizes it takes; others run on the reference.
    name: &'static str,
    how: String,
}

impl Findings {
    fn look(dirs: &Dirs, threads: usize) -> Result<Self> {
        let choice = Choice::cpu(&Compute { threads: Some(threads), ..Compute::default() })?;
        let backend = Backend { name: choice.name(), how: choice.description() };
        // Before the bandwidth is measured, which takes memory for a moment.
        let memory = Memory { total: machine::total_memory(), available: available_memory() };
        let bytes_per_second = bandwidth::measure(threads);
        bandwidth::remember(dirs, threads, bytes_per_second);
        let cores = Cores::of_process();
        let repacked = repack::Folder::of(dirs);
        let kept = repacked.as_ref().map(repack::Folder::files).unwrap_or_default();
        let folder = |purpose, path: Result<&Path>| {
            let path = path.ok().map(Path::to_owned);
            let there = path.as_deref().filter(|path| path.is_dir());
            Folder { purpose, exists: there.is_some(), bytes: there.map_or(0, folder_bytes), path }
        };
        Ok(Self {
            version: env!("CARGO_PKG_VERSION"),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            processor: Processor {
                name: machine::processor(),
                features: machine::features(),
                last_level_cache: machine::last_level_cache(),
                online: machine::processors(),
                affinity: machine::affinity(),
                usable: cores.processors,
                cores: cores.usual(),
            },
            quota: cgroup::quota(),
            memory,
            bandwidth: Bandwidth { threads, bytes_per_second },
            folders: vec![folder("cache", dirs.cache()), folder("data", dirs.data()), folder("config", dirs.config())],
            settings_error: settings::of_user(config::process_env).err().map(|e| e.to_string()),
            models: dirs.cache().map(|cache| models(&cache.join("models"))).unwrap_or_default(),
            repacked: Repacked {
                path: repacked.map(|folder| folder.path().to_owned()),
                files: kept.len(),
                bytes: repack::bytes(&kept),
            },
            gpu: Gpu::look(),
            backend,
        })
    }

    fn lines(&self) -> Vec<String> {
        let unknown = || "not known".to_owned();
        let size = |bytes: Option<u64>| bytes.map_or_else(unknown, human_bytes);
        let p = &self.processor;
        let features = if p.features.is_empty() { "none of those looked for".into() } else { p.features.join(" ") };
        let mut lines = vec![
            format!("taper      {}, {}", self.version, self.system),
            format!("processor  {}", p.name.clone().unwrap_or_else(unknown)),
            format!("features   {features}"),
            format!(
                "cores      {} usable of {} (affinity {}; {})",
                p.cores,
                p.online.map_or_else(unknown, |n| n.to_string()),
                p.affinity.clone().unwrap_or_else(unknown),
                self.quota_text()
            ),
            format!("cache      {} last level", size(p.last_level_cache)),
            format!("memory     {} available of {}", size(self.memory.available), size(self.memory.total)),
            format!(
                "bandwidth  {:.1} GB/s read by {} thread{}, measured now",
                self.bandwidth.bytes_per_second / 1e9,
                self.bandwidth.threads,
                if self.bandwidth.threads == 1 { "" } else { "s" }
            ),
            format!("gpu        {}", self.gpu.text()),
            format!("backend    {}: {}", self.backend.name, self.backend.how),
        ];
        for f in &self.folders {
            let state = if f.exists { human_bytes(f.bytes) } else { "not there yet".into() };
            lines.push(match &f.path {
                Some(path) => format!("{:<10} {} ({state})", f.purpose, path.display()),
                None => format!("{:<10} nowhere: HOME is not set", f.purpose),
            });
        }
        if let Some(error) = &self.settings_error {
            lines.push(format!("settings   {}", error.replace("\n  ", ", ")));
        }
        if self.models.is_empty() {
            lines.push("models     none fetched yet".into());
        }
        let model = |m: &Model| format!("model      {} ({}) in {}", m.name, human_bytes(m.bytes), m.path.display());
        lines.extend(self.models.iter().map(model));
        if let Some(path) = self.repacked.path.as_ref().filter(|_| self.repacked.files > 0) {
            let Repacked { files, bytes, .. } = self.repacked;
            let s = if files == 1 { "" } else { "s" };
            lines.push(format!("repacked   {files} file{s} ({}) in {}", human_bytes(bytes), path.display()));
        }
        lines
    }

    fn quota_text(&self) -> String {
        let Some(version) = self.quota.cgroup else { return "no control groups".into() };
        let cores = self.quota.cores.map_or_else(|| "no limit on time".into(), |n| format!("{n:.2} cores' time"));
        let memory = self.quota.memory.map_or_else(|| "none on memory".into(), human_bytes);
        format!("cgroup v{version}: {cores}, {memory}")
    }
}

/// The models in the cache, by name.
fn models(folder: &Path) -> Vec<Model> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut models: Vec<Model> = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| Model {
            name: entry.file_name().to_string_lossy().into_owned(),
            bytes: folder_bytes(&entry.path()),
            path: entry.path(),
        })
        .filter(|model| model.bytes > 0) // a lock alone is no model
        .collect();
    models.sort_by(|a, b| a.name.cmp(&b.name));
    models
}

/// The files in and below a folder; links are not followed. What cannot be read counts as nothing.
fn folder_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => folder_bytes(&entry.path()),
        Ok(meta) if meta.is_file() => meta.len(),
        _ => 0,
    });
    bytes.sum()
}
