//! What the backend asks of a GPU: memory, copies, launches. Everything runs in the order in which it was asked for.
#![expect(unsafe_code, reason = "the driver's functions are C")]

use std::collections::HashMap;
use std::ffi::{CString, c_void};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use super::images::IMAGES;
use super::probe::{self, Absence};
use crate::engine::fit::human_bytes;
use crate::error::{Error, Result};

/// A place in the GPU's memory.
pub type Address = u64;

/// Threads of a block: `THREADS` of `common.cuh`.
pub const THREADS: u32 = 256;

/// A GPU; tests have one that runs the kernels on the host.
pub trait Gpu {
    /// Memory, whatever is in it, that stays as long as the GPU does.
    ///
    /// # Errors
    /// When there is not so much.
    fn take(&mut self, bytes: usize) -> Result<Address>;

    /// # Errors
    /// When this or something before it failed; so for all that follows.
    fn write(&mut self, to: Address, bytes: &[u8]) -> Result<()>;

    fn copy(&mut self, from: Address, to: Address, bytes: usize) -> Result<()>;

    /// Waits for all that was asked for.
    fn read(&mut self, from: Address, into: &mut [u8]) -> Result<()>;

    /// Launches a kernel, whose one argument is these bytes.
    fn launch(&mut self, kernel: &'static str, grid: [u32; 3], args: &[u8]) -> Result<()>;
}

/// The first NVIDIA GPU.
pub struct Nvidia {
    device: sys::CUdevice,
    stream: sys::CUstream,
    modules: Vec<sys::CUmodule>,
    functions: HashMap<&'static str, sys::CUfunction>,
    memory: Vec<Address>,
}

impl Nvidia {
    /// # Errors
    /// When there is none that can be used, or its driver refuses the kernels.
    pub fn open() -> Result<Self> {
        probe::look().map_err(|absence: Absence| absence.error())?;
        let device = result::device::get(0).map_err(|e| failed("find the GPU", e))?;
        // SAFETY: the device is the driver's; its context is released with this.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(|e| failed("start the GPU", e))?;
        // SAFETY: the context was just retained.
        unsafe { result::ctx::set_current(context) }.map_err(|e| failed("start the GPU", e))?;
        let stream =
            result::stream::create(result::stream::StreamKind::NonBlocking).map_err(|e| failed("start the GPU", e))?;
        let mut gpu = Self { device, stream, modules: Vec::new(), functions: HashMap::new(), memory: Vec::new() };
        for (name, image) in IMAGES {
            // SAFETY: a fat binary, as nvcc wrote it.
            let module = unsafe { result::module::load_data(image.as_ptr().cast::<c_void>()) };
            gpu.modules.push(module.map_err(|e| failed(&format!("load the kernels of {name}"), e))?);
        }
        Ok(gpu)
    }

    /// A kernel, by its name in the sources.
    fn function(&mut self, name: &'static str) -> Result<sys::CUfunction> {
        if let Some(function) = self.functions.get(name) {
            return Ok(*function);
        }
        let text = CString::new(name).map_err(|e| Error::runtime(format!("a kernel's name is no name: {e}")))?;
        for module in &self.modules {
            // SAFETY: the module is loaded.
            if let Ok(function) = unsafe { result::module::get_function(*module, text.clone()) } {
                self.functions.insert(name, function);
                return Ok(function);
            }
        }
        Err(Error::runtime(format!("there is no kernel `{name}`")))
    }
}

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

    fn write(&mut self, to: Address, bytes: &[u8]) -> Result<()> {
        // SAFETY: the caller's addresses are inside what `take` gave; the driver is done with the bytes of ordinary memory
        // when this returns.
        unsafe { result::memcpy_htod_async(to, bytes, self.stream) }.map_err(|e| failed("write its memory", e))
    }

    fn copy(&mut self, from: Address, to: Address, bytes: usize) -> Result<()> {
        // SAFETY: as above.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream) }.map_err(|e| failed("copy its memory", e))
    }

    fn read(&mut self, from: Address, into: &mut [u8]) -> Result<()> {
        // SAFETY: as above; nothing touches `into` before the stream is done.
        unsafe { result::memcpy_dtoh_async(into, from, self.stream) }.map_err(|e| failed("read its memory", e))?;
        // SAFETY: the stream is this one's.
        unsafe { result::stream::synchronize(self.stream) }.map_err(|e| failed("finish a step", e))
    }

    fn launch(&mut self, kernel: &'static str, grid: [u32; 3], args: &[u8]) -> Result<()> {
        let function = self.function(kernel)?;
        let mut params = [args.as_ptr().cast_mut().cast::<c_void>()];
        let [x, y, z] = grid;
        // SAFETY: the kernel takes one struct, of which these are the bytes; the driver copies them.
        unsafe { result::launch_kernel(function, (x, y, z), (THREADS, 1, 1), 0, self.stream, &mut params) }
            .map_err(|e| failed(&format!("launch {kernel}"), e))
    }
}

impl Drop for Nvidia {
    fn drop(&mut self) {
        // SAFETY: all of it is this one's, and nothing uses it any more. What fails now harms nobody.
        unsafe {
            let _ = result::stream::synchronize(self.stream);
            for address in self.memory.drain(..) {
                let _ = result::free_sync(address);
            }
            for module in self.modules.drain(..) {
                let _ = result::module::unload(module);
            }
            let _ = result::stream::destroy(self.stream);
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

fn failed(doing: &str, e: DriverError) -> Error {
    Error::runtime(format!("the GPU cannot {doing}: {:?}", e.0))
        .help("the system's log may say more (dmesg); leave --device out to compute on the CPU")
}
