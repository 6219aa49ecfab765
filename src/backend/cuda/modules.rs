//! The kernels as the driver has them, for all models of a process: where it makes code of PTX, that takes it half a minute.
#![expect(unsafe_code, reason = "the driver's functions are C")]

use std::ffi::{CStr, c_void};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use cudarc::driver::result;
use cudarc::driver::sys;

use super::gpu::failed;
use super::images::IMAGES;
use crate::error::Result;

/// The first GPU's context, and the kernels that were loaded there; both go with the last one who has them.
pub struct Modules {
    pub device: sys::CUdevice,
    context: sys::CUcontext,
    loaded: Vec<sys::CUmodule>,
}

// SAFETY: the driver's handles may be used by any thread to which the context is current.
unsafe impl Send for Modules {}
// SAFETY: as above; nothing here is written once it is shared.
unsafe impl Sync for Modules {}

/// Those that somebody has.
static SHARED: Mutex<Weak<Modules>> = Mutex::new(Weak::new());

impl Modules {
    /// Those that are there, or newly loaded ones. The context is current to this thread from here on.
    ///
    /// # Errors
    /// When the GPU cannot be started, or its driver refuses the kernels.
    pub fn get() -> Result<Arc<Self>> {
        // Nobody loads them a second time while somebody does.
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(modules) = shared.upgrade() {
            modules.make_current()?;
            return Ok(modules);
        }
        let modules = Arc::new(Self::load()?);
        *shared = Arc::downgrade(&modules);
        Ok(modules)
    }

    fn load() -> Result<Self> {
        let device = result::device::get(0).map_err(|e| failed("find the GPU", e))?;
        // SAFETY: the device is the driver's; its context is released with this.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(|e| failed("start the GPU", e))?;
        let mut modules = Self { device, context, loaded: Vec::new() };
        modules.make_current()?;
        for (name, image) in IMAGES {
            // SAFETY: a fat binary, as nvcc wrote it.
            let module = unsafe { result::module::load_data(image.as_ptr().cast::<c_void>()) };
            modules.loaded.push(module.map_err(|e| failed(&format!("load the kernels of {name}"), e))?);
        }
        Ok(modules)
    }

    fn make_current(&self) -> Result<()> {
        // SAFETY: the context is retained as long as this is there.
        unsafe { result::ctx::set_current(self.context) }.map_err(|e| failed("start the GPU", e))
    }

    /// A kernel, by its name in the sources.
    pub fn function(&self, name: &CStr) -> Option<sys::CUfunction> {
        // SAFETY: the modules are loaded.
        self.loaded.iter().find_map(|module| unsafe { result::module::get_function(*module, name.into()) }.ok())
    }
}

impl Drop for Modules {
    fn drop(&mut self) {
        // SAFETY: all of it is this one's, and nothing uses it any more. What fails now harms nobody.
        unsafe {
            let _ = result::ctx::set_current(self.context);
            for module in self.loaded.drain(..) {
                let _ = result::module::unload(module);
            }
            let _ = result::primary_ctx::release(self.device);
        }
    }
}
