//! A GPU that is this machine's processor: the kernels of `kernels/cuda`, compiled as C++ (`host.cpp`), their threads taking
//! turns. Memory is filled with NaN, so that what is read before it was written shows.
#![allow(unsafe_code, reason = "the kernels are C++")]

use std::ffi::c_void;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use libloading::{Library, Symbol};
use taper::Result;
use taper::backend::cuda::{Address, Gpu, Graph, Launch, Pinned};

type Run = unsafe extern "C" fn(*const c_void, *const c_void, *const u32, u32, u32, i32);

/// The compiled kernels; `None`, and a line that says so, where there is no g++, which CI does not forgive.
#[expect(clippy::print_stdout, reason = "a test that did nothing says so")]
pub fn kernels() -> Option<&'static Library> {
    static LIBRARY: OnceLock<Option<Library>> = OnceLock::new();
    let library = LIBRARY.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kernels-{}.so", std::process::id()));
        let mut compiler = Command::new("g++");
        compiler.args(["-std=c++17", "-O2", "-U_FORTIFY_SOURCE", "-ffp-contract=off", "-fPIC", "-shared"]);
        compiler.args(["-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Itests/cuda", "tests/cuda/host.cpp"]);
        let is_ci = std::env::var_os("CI").as_deref() == Some("true".as_ref());
        // A newer compiler may warn of what nobody here has seen.
        if is_ci {
            compiler.arg("-Werror");
        }
        // A machine that only runs the tests has no sources.
        if !Path::new("tests/cuda/host.cpp").exists() {
            return None;
        }
        let Ok(output) = compiler.arg("-o").arg(&path).output() else {
            assert!(!is_ci, "g++ is not installed");
            return None;
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // SAFETY: it has no initializers that do more than fill its own variables.
        let library = unsafe { Library::new(&path) }.unwrap();
        std::fs::remove_file(&path).unwrap(); // it stays loaded
        Some(library)
    });
    if library.is_none() {
        println!("skipped: g++ is not installed");
    }
    library.as_ref()
}

/// A function of the library.
pub fn function<T>(library: &'static Library, name: &str) -> Symbol<'static, T> {
    // SAFETY: the caller names the function's type.
    unsafe { library.get(name.as_bytes()) }.unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The library has one block's threads, and one block's shared memory.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A kernel, its grid, the threads and the shared memory of a block, and the arguments.
type Recorded = (String, [u32; 3], u32, usize, Vec<u8>);

pub struct Host {
    library: &'static Library,
    memory: Vec<Vec<u128>>,
    /// Whether blocks and threads have their turns in the opposite order.
    backwards: bool,
    /// Kernels with their grids and arguments; the last is being recorded or not.
    graphs: Vec<Vec<Recorded>>,
    records: bool,
}

impl Host {
    pub fn new(library: &'static Library, backwards: bool) -> Self {
        Self { library, memory: Vec::new(), backwards, graphs: Vec::new(), records: false }
    }
}

impl Gpu for Host {
    fn take(&mut self, bytes: usize) -> Result<Address> {
        self.memory.push(vec![u128::MAX; bytes.div_ceil(16) + 1]);
        Ok(self.memory.last_mut().unwrap().as_mut_ptr() as Address)
    }

    fn write(&mut self, to: Address, bytes: &[u8]) -> Result<()> {
        // SAFETY: the backend stays inside what it took.
        unsafe { std::ptr::copy(bytes.as_ptr(), to as *mut u8, bytes.len()) };
        Ok(())
    }

    fn send(&mut self, from: &Pinned, at: usize, to: Address, bytes: usize) -> Result<()> {
        self.copy(from.device + at as u64, to, bytes)
    }

    fn copy(&mut self, from: Address, to: Address, bytes: usize) -> Result<()> {
        // SAFETY: as above.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
        Ok(())
    }

    fn read(&mut self, from: Address, into: &mut [u8]) -> Result<()> {
        // SAFETY: as above.
        unsafe { std::ptr::copy(from as *const u8, into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    fn fetch(&mut self, from: Address, to: &Pinned, bytes: usize) -> Result<()> {
        // SAFETY: as above.
        unsafe { std::ptr::copy(from as *const u8, to.device as *mut u8, bytes) };
        Ok(())
    }

    fn take_pinned(&mut self, bytes: usize) -> Result<Pinned> {
        let address = self.take(bytes)?;
        // SAFETY: the memory stays as long as this.
        Ok(unsafe { Pinned::new(address as *mut u8, bytes, address) })
    }

    fn wait(&mut self) -> Result<()> {
        Ok(())
    }

    fn wait_for(&mut self, memory: &Pinned, word: usize, value: u32) -> Result<()> {
        assert_eq!(memory.word(word), value, "a kernel was to write it");
        Ok(())
    }

    // One after the other, really: what is tuned is to be tested.
    fn overlaps(&self) -> bool {
        true
    }

    // So few that warps have several turns.
    fn multiprocessors(&self) -> usize {
        2
    }

    // `launch_shared` of host.cpp.
    fn shared_memory(&self) -> usize {
        96 << 10
    }

    fn launch(&mut self, launch: &Launch<'_>, args: &[u8]) -> Result<()> {
        let &Launch { kernel, grid, threads, shared, .. } = launch;
        if self.records {
            self.graphs.last_mut().unwrap().push((kernel.into(), grid, threads, shared, args.to_vec()));
        } else {
            self.run(kernel, grid, threads, shared, args);
        }
        Ok(())
    }

    fn record(&mut self) -> Result<()> {
        self.graphs.push(Vec::new());
        self.records = true;
        Ok(())
    }

    fn recorded(&mut self) -> Result<Graph> {
        self.records = false;
        Ok(Graph(self.graphs.len() - 1))
    }

    fn replay(&mut self, graph: Graph) -> Result<()> {
        for (kernel, grid, threads, shared, args) in &self.graphs[graph.0] {
            self.run(kernel, *grid, *threads, *shared, args);
        }
        Ok(())
    }
}

impl Host {
    fn run(&self, kernel: &str, grid: [u32; 3], threads: u32, shared: usize, args: &[u8]) {
        let _alone = alone();
        assert!(shared <= self.shared_memory(), "{kernel} asks for {shared} bytes of shared memory");
        let run: Symbol<'_, Run> = function(self.library, "taper_host_launch");
        let kernel: Symbol<'_, *const c_void> = function(self.library, kernel);
        // SAFETY: the kernel takes one struct, of which these are the bytes.
        unsafe { run(*kernel, args.as_ptr().cast(), grid.as_ptr(), threads, shared as u32, self.backwards.into()) };
    }
}
