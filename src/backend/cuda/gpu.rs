//! What the backend asks of a GPU: memory, copies, launches. Everything runs in the order in which it was asked for.
#![expect(unsafe_code, reason = "the driver's functions are C")]

use std::collections::{HashMap, HashSet};
use std::ffi::{CString, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute_enum as DeviceAttribute, CUfunction_attribute_enum as Attribute};

use super::args::Plain;
use super::modules::Modules;
use super::probe::{self, Absence};
use crate::engine::fit::human_bytes;
use crate::error::{Error, Result};

/// A place in the GPU's memory.
pub type Address = u64;

/// Threads of a block: `THREADS` of `common.cuh`.
pub const THREADS: u32 = 256;

/// A kernel and the blocks that run it.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    /// Its name in the sources.
    pub kernel: &'a str,
    pub grid: [u32; 3],
    /// Of a block.
    pub threads: u32,
    /// Bytes of shared memory beside the kernel's own.
    pub shared: usize,
    /// Whether it waits by itself for the kernel in front of it, so that it can begin before that has ended.
    pub waits: bool,
}

/// Memory of the host that the GPU reads and writes too, as long as the GPU that gave it is there.
#[derive(Debug, Clone, Copy)]
pub struct Pinned {
    host: *mut u8,
    len: usize,
    /// Where the GPU finds it.
    pub device: Address,
}

impl Pinned {
    /// # Safety
    /// `host` are `len` bytes, aligned for numbers, that stay as long as the GPU does, and that only the GPU shares.
    pub unsafe fn new(host: *mut u8, len: usize, device: Address) -> Self {
        Self { host, len, device }
    }

    /// Writes what kernels are to read that were not yet asked for.
    ///
    /// # Panics
    /// When the bytes do not fit.
    pub fn put(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.len, "{} bytes at {at} of {}", bytes.len(), self.len);
        // SAFETY: inside what there is; no kernel runs that reads it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.host.add(at), bytes.len()) };
    }

    /// All of it, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the memory is this long, and whoever writes it has waited for what reads it.
        unsafe { std::slice::from_raw_parts_mut(self.host, self.len) }
    }

    /// A word that a running kernel may be writing; what it wrote before is there once the word is.
    ///
    /// # Panics
    /// When there are not so many words.
    #[expect(clippy::cast_ptr_alignment, reason = "the memory is aligned for numbers, as `new` asks")]
    pub fn word(&self, at: usize) -> u32 {
        assert!(4 * (at + 1) <= self.len, "word {at} of {} bytes", self.len);
        // SAFETY: inside what there is, aligned as numbers are, and read as a whole.
        unsafe { AtomicU32::from_ptr(self.host.cast::<u32>().add(at)) }.load(Ordering::Acquire)
    }

    /// What kernels wrote that have ended, or that they said is there.
    ///
    /// # Panics
    /// When there are not so many numbers.
    pub fn get<T: Plain>(&self, count: usize) -> &[T] {
        assert!(count * size_of::<T>() <= self.len, "{count} numbers of {} bytes", self.len);
        // SAFETY: inside what there is, any bits are a number, and nobody reads those that a running kernel writes.
        unsafe { std::slice::from_raw_parts(self.host.cast(), count) }
    }
}

/// Names what was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Graph(pub usize);

/// A GPU; tests have one that runs the kernels on the host.
pub trait Gpu {
    /// Memory, whatever is in it, that stays as long as the GPU does.
    ///
    /// # Errors
    /// When there is not so much.
    fn take(&mut self, bytes: usize) -> Result<Address>;

    /// The host's memory, likewise.
    ///
    /// # Errors
    /// When there is not so much.
    fn take_pinned(&mut self, bytes: usize) -> Result<Pinned>;

    /// # Errors
    /// When this or something before it failed; so for all that follows.
    fn write(&mut self, to: Address, bytes: &[u8]) -> Result<()>;

    /// Writes so many bytes of the host's memory from `at` on; they stay there until [`Gpu::wait`].
    fn send(&mut self, from: &Pinned, at: usize, to: Address, bytes: usize) -> Result<()>;

    fn copy(&mut self, from: Address, to: Address, bytes: usize) -> Result<()>;

    /// Waits for all that was asked for.
    fn read(&mut self, from: Address, into: &mut [u8]) -> Result<()>;

    /// Copies to the host's memory; it is there after [`Gpu::wait`].
    fn fetch(&mut self, from: Address, to: &Pinned, bytes: usize) -> Result<()>;

    /// Waits for all that was asked for.
    fn wait(&mut self) -> Result<()>;

    /// Waits until a kernel that was asked for has written `value` to a word of the host's memory.
    fn wait_for(&mut self, memory: &Pinned, word: usize, value: u32) -> Result<()>;

    /// Of which each has blocks of its own.
    fn multiprocessors(&self) -> usize;

    /// Bytes of shared memory that a block can have.
    fn shared_memory(&self) -> usize;

    /// Whether kernels begin before the one in front has ended.
    fn overlaps(&self) -> bool;

    /// Launches a kernel, whose one argument is these bytes.
    fn launch(&mut self, launch: &Launch<'_>, args: &[u8]) -> Result<()>;

    /// Launches from here on are recorded instead, until [`Gpu::recorded`].
    fn record(&mut self) -> Result<()>;

    fn recorded(&mut self) -> Result<Graph>;

    fn replay(&mut self, graph: Graph) -> Result<()>;
}

/// The first NVIDIA GPU.
pub struct Nvidia {
    stream: sys::CUstream,
    modules: Arc<Modules>,
    functions: HashMap<String, sys::CUfunction>,
    /// Those that may have as much shared memory as there is.
    prepared: HashSet<String>,
    memory: Vec<Address>,
    pinned: Vec<*mut c_void>,
    graphs: Vec<sys::CUgraphExec>,
    overlap: bool,
    multiprocessors: usize,
    shared_memory: usize,
}

impl Nvidia {
    /// `overlap` lets kernels begin before the one in front has ended, where the GPU can.
    ///
    /// # Errors
    /// When there is none that can be used, or its driver refuses the kernels.
    pub fn open(overlap: bool) -> Result<Self> {
        probe::look().map_err(|absence: Absence| absence.error())?;
        let modules = Modules::get()?;
        let device = modules.device;
        let stream =
            result::stream::create(result::stream::StreamKind::NonBlocking).map_err(|e| failed("start the GPU", e))?;
        let mut gpu = Self {
            stream,
            modules,
            functions: HashMap::new(),
            prepared: HashSet::new(),
            memory: Vec::new(),
            pinned: Vec::new(),
            graphs: Vec::new(),
            overlap: false,
            multiprocessors: 1,
            shared_memory: 0,
        };
        // Code that the driver made of PTX is for the oldest GPUs, whatever runs it.
        let function = gpu.function("finish_step")?;
        let version = |which| {
            // SAFETY: the function is loaded.
            unsafe { result::function::get_function_attribute(function, which) }.map_err(|e| failed("tell its code", e))
        };
        let code = version(Attribute::CU_FUNC_ATTRIBUTE_BINARY_VERSION)?
            .min(version(Attribute::CU_FUNC_ATTRIBUTE_PTX_VERSION)?);
        gpu.overlap = overlap && code >= OVERLAP_FROM;
        let size = |which| {
            // SAFETY: the device is the driver's.
            let size = unsafe { result::device::get_attribute(device, which) };
            size.map(|n| usize::try_from(n).unwrap_or(0)).map_err(|e| failed("tell its size", e))
        };
        gpu.multiprocessors = size(DeviceAttribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.max(1);
        gpu.shared_memory = size(DeviceAttribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        Ok(gpu)
    }

    /// Bytes that nobody has taken.
    ///
    /// # Errors
    /// When the driver does not say.
    pub fn free_memory(&self) -> Result<u64> {
        result::mem_get_info().map(|(free, _)| free as u64).map_err(|e| failed("tell its free memory", e))
    }

    /// A kernel, by its name in the sources.
    fn function(&mut self, name: &str) -> Result<sys::CUfunction> {
        if let Some(function) = self.functions.get(name) {
            return Ok(*function);
        }
        let text = CString::new(name).map_err(|e| Error::runtime(format!("a kernel's name is no name: {e}")))?;
        let function = self.modules.function(&text);
        let function = function.ok_or_else(|| Error::runtime(format!("there is no kernel `{name}`")))?;
        self.functions.insert(name.to_owned(), function);
        Ok(function)
    }
}

impl Nvidia {
    /// Lets a kernel have as much shared memory as there is. All that run beside each other ask for the same split between that and the
    /// first-level cache: a multiprocessor has to be empty to change it.
    fn prepare(&self, function: sys::CUfunction) -> Result<()> {
        let no = |e| failed("give a kernel shared memory", e);
        // SAFETY: the function is loaded.
        unsafe {
            let own =
                result::function::get_function_attribute(function, Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)
                    .map_err(no)?;
            let most = i32::try_from(self.shared_memory).unwrap_or(i32::MAX) - own;
            let whole = Attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
            result::function::set_function_attribute(function, whole, 100).map_err(no)?;
            let dynamic = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            result::function::set_function_attribute(function, dynamic, most).map_err(no)
        }
    }
}

/// How often the host looks for a word before it asks whether the GPU is still at work, which takes a microsecond or more.
const LOOKS: usize = 10_000;
/// Kernels begin before the one in front has ended on `sm_90` and newer.
const OVERLAP_FROM: i32 = 90;

impl Gpu for Nvidia {
    fn take(&mut self, bytes: usize) -> Result<Address> {
        let bytes = bytes.max(1);
        // SAFETY: the context is current on this thread, on which a backend lives.
        let address = unsafe { result::malloc_sync(bytes) }.map_err(|e| {
            Error::memory(format!("the GPU gives no {} of memory: {:?}", human_bytes(bytes as u64), e.0))
                .help("use a smaller model or a shorter context (-c), or leave --device out")
        })?;
        self.memory.push(address);
        Ok(address)
    }

    fn take_pinned(&mut self, bytes: usize) -> Result<Pinned> {
        let no = |e: DriverError| {
            Error::memory(format!("the driver gives no {} of memory: {:?}", human_bytes(bytes as u64), e.0))
        };
        // SAFETY: the context is current; the memory is given back with this.
        let host = unsafe { result::malloc_host(bytes.max(1), sys::CU_MEMHOSTALLOC_DEVICEMAP) }.map_err(no)?;
        let mut device = 0;
        // SAFETY: the address was just given.
        unsafe { sys::cuMemHostGetDevicePointer_v2(&raw mut device, host, 0) }.result().map_err(no)?;
        self.pinned.push(host);
        // SAFETY: the driver's memory is aligned to pages, and given back with this.
        Ok(unsafe { Pinned::new(host.cast(), bytes, device) })
    }

    fn write(&mut self, to: Address, bytes: &[u8]) -> Result<()> {
        // SAFETY: the caller's addresses are inside what `take` gave; the driver is done with the bytes of ordinary memory
        // when this returns.
        unsafe { result::memcpy_htod_async(to, bytes, self.stream) }.map_err(|e| failed("write its memory", e))
    }

    fn send(&mut self, from: &Pinned, at: usize, to: Address, bytes: usize) -> Result<()> {
        assert!(at + bytes <= from.len, "{bytes} bytes at {at} of {}", from.len);
        // SAFETY: as above, and inside what there is of the host's memory.
        unsafe { sys::cuMemcpyHtoDAsync_v2(to, from.host.add(at).cast(), bytes, self.stream) }
            .result()
            .map_err(|e| failed("write its memory", e))
    }

    fn copy(&mut self, from: Address, to: Address, bytes: usize) -> Result<()> {
        // SAFETY: as above.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream) }.map_err(|e| failed("copy its memory", e))
    }

    fn read(&mut self, from: Address, into: &mut [u8]) -> Result<()> {
        // SAFETY: as above; nothing touches `into` before the stream is done.
        unsafe { result::memcpy_dtoh_async(into, from, self.stream) }.map_err(|e| failed("read its memory", e))?;
        self.wait()
    }

    fn fetch(&mut self, from: Address, to: &Pinned, bytes: usize) -> Result<()> {
        // SAFETY: as above; the host's memory is as large as its length says.
        unsafe { sys::cuMemcpyDtoHAsync_v2(to.host.cast(), from, bytes.min(to.len), self.stream) }
            .result()
            .map_err(|e| failed("read its memory", e))
    }

    fn wait(&mut self) -> Result<()> {
        // SAFETY: the stream is this one's.
        unsafe { result::stream::synchronize(self.stream) }.map_err(|e| failed("finish a step", e))
    }

    fn wait_for(&mut self, memory: &Pinned, word: usize, value: u32) -> Result<()> {
        loop {
            for _ in 0..LOOKS {
                if memory.word(word) == value {
                    return Ok(());
                }
                std::hint::spin_loop();
            }
            // SAFETY: the stream is this one's.
            match unsafe { sys::cuStreamQuery(self.stream) } {
                sys::CUresult::CUDA_ERROR_NOT_READY => {}
                sys::CUresult::CUDA_SUCCESS if memory.word(word) == value => return Ok(()),
                sys::CUresult::CUDA_SUCCESS => return Err(Error::runtime("the GPU ended a step without its tokens")),
                e => return Err(failed("finish a step", DriverError(e))),
            }
        }
    }

    fn overlaps(&self) -> bool {
        self.overlap
    }

    fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    fn shared_memory(&self) -> usize {
        self.shared_memory
    }

    fn launch(&mut self, launch: &Launch<'_>, args: &[u8]) -> Result<()> {
        let function = self.function(launch.kernel)?;
        if launch.waits && self.prepared.insert(launch.kernel.to_owned()) {
            self.prepare(function)?;
        }
        let mut attribute = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { pad: [0; 64] },
        };
        attribute.value.programmaticStreamSerializationAllowed = 1;
        let [x, y, z] = launch.grid;
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: launch.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: launch.shared as u32,
            hStream: self.stream,
            attrs: &raw mut attribute,
            numAttrs: (launch.waits && self.overlap).into(),
        };
        let mut params = [args.as_ptr().cast_mut().cast::<c_void>()];
        // SAFETY: the kernel takes one struct, of which these are the bytes; the driver copies them.
        unsafe { sys::cuLaunchKernelEx(&raw const config, function, params.as_mut_ptr(), std::ptr::null_mut()) }
            .result()
            .map_err(|e| failed(&format!("launch {}", launch.kernel), e))
    }

    fn record(&mut self) -> Result<()> {
        // SAFETY: the stream is this one's, and no one else uses the context.
        unsafe {
            result::stream::begin_capture(self.stream, sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        }
        .map_err(|e| failed("record a step", e))
    }

    fn recorded(&mut self) -> Result<Graph> {
        let no = |e| failed("record a step", e);
        // SAFETY: the stream is recording; what it gives is instantiated once and then not needed.
        unsafe {
            let graph = result::stream::end_capture(self.stream).map_err(no)?;
            let mut exec = std::ptr::null_mut();
            let made = sys::cuGraphInstantiateWithFlags(&raw mut exec, graph, 0).result();
            let _ = result::graph::destroy(graph);
            made.map_err(no)?;
            self.graphs.push(exec);
        }
        Ok(Graph(self.graphs.len() - 1))
    }

    fn replay(&mut self, graph: Graph) -> Result<()> {
        // SAFETY: the graph was instantiated by this one.
        unsafe { result::graph::launch(self.graphs[graph.0], self.stream) }.map_err(|e| failed("replay a step", e))
    }
}

impl Drop for Nvidia {
    fn drop(&mut self) {
        // SAFETY: all of it is this one's, and nothing uses it any more. What fails now harms nobody.
        unsafe {
            let _ = result::stream::synchronize(self.stream);
            for graph in self.graphs.drain(..) {
                let _ = result::graph::exec_destroy(graph);
            }
            for pinned in self.pinned.drain(..) {
                let _ = result::free_host(pinned);
            }
            for address in self.memory.drain(..) {
                let _ = result::free_sync(address);
            }
            let _ = result::stream::destroy(self.stream);
        }
    }
}

/// What the driver did not do.
pub fn failed(doing: &str, e: DriverError) -> Error {
    Error::runtime(format!("the GPU cannot {doing}: {:?}", e.0))
        .help("the system's log may say more (dmesg); --device cpu computes on the CPU")
}
