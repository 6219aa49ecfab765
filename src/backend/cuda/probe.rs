//! Whether there is a GPU that this program can use, and if not, why.
//!
//! The driver's library is loaded at run time: the program starts where there is none. Whatever of it is asked for without
//! it panics, so everything begins here.
#![expect(unsafe_code, reason = "the driver's functions are C")]

use cudarc::driver::{result, sys};

use super::images::IMAGES;
use crate::error::Error;

/// The CUDA version whose kernels the driver must load, major and minor: driver 580's.
const NEEDED: (i32, i32) = (13, 0);
/// The oldest GPUs that there is code for.
const OLDEST: (i32, i32) = (8, 0);

/// The driver's functions by which one is found.
const ASKED: [&str; 7] = [
    "cuDriverGetVersion",
    "cuInit",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDeviceTotalMem_v2",
];

/// A GPU that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (i32, i32),
    /// Bytes of its memory.
    pub memory: u64,
}

/// Why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Absence {
    NoDriver,
    /// There is a library of its name that has not this function.
    NotTheDriver(&'static str),
    /// The CUDA version that the driver supports.
    OldDriver(i32, i32),
    NoGpu,
    OldGpu(String),
    NoKernels,
    /// The driver's own word for what went wrong.
    Failed(String),
}

impl Absence {
    pub fn what(&self) -> String {
        match self {
            Self::NoDriver => "the NVIDIA driver is not installed: there is no libcuda.so.1".into(),
            Self::NotTheDriver(function) => {
                format!("the libcuda.so that is found is no NVIDIA driver: it has no {function}")
            }
            Self::OldDriver(major, minor) => format!(
                "the NVIDIA driver is too old: it supports CUDA {major}.{minor}, and {}.{} is needed",
                NEEDED.0, NEEDED.1
            ),
            Self::NoGpu => "the NVIDIA driver finds no GPU".into(),
            Self::OldGpu(name) => format!("the {name} is older than all GPUs that there are kernels for"),
            Self::NoKernels => "this taper was built without kernels for NVIDIA GPUs".into(),
            Self::Failed(word) => format!("the NVIDIA driver does not start: {word}"),
        }
    }

    /// What the user can do about it.
    fn help(&self) -> &'static str {
        match self {
            Self::NoDriver | Self::NotTheDriver(_) | Self::OldDriver(..) => {
                "install NVIDIA's driver 580 or newer, or leave --device out to compute on the CPU"
            }
            Self::NoKernels => {
                "build it again with nvcc, which tests/tools/cuda_toolkit.sh fetches, or leave --device out to compute on \
                 the CPU"
            }
            Self::NoGpu | Self::OldGpu(_) | Self::Failed(_) => {
                "see what nvidia-smi says, or leave --device out to compute on the CPU"
            }
        }
    }

    /// As the error of a user who asked for CUDA.
    pub fn error(&self) -> Error {
        Error::runtime(format!("--device cuda cannot be had: {}", self.what())).help(self.help())
    }
}

/// The first GPU.
///
/// # Errors
/// When there is none that can be used.
pub fn look() -> Result<Gpu, Absence> {
    // SAFETY: loading the driver's library runs its initializers, which every CUDA program does.
    if !unsafe { sys::is_culib_present() } {
        return Err(Absence::NoDriver);
    }
    // Asking for one that is missing would panic.
    for function in ASKED {
        // SAFETY: it is not called here.
        if unsafe { sys::culib().get::<unsafe extern "C" fn()>(function.as_bytes()) }.is_err() {
            return Err(Absence::NotTheDriver(function));
        }
    }
    let mut version = 0;
    // SAFETY: the library is there, and has this function.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().map_err(failed)?;
    let supported = (version / 1000, version % 1000 / 10);
    if supported < NEEDED {
        return Err(Absence::OldDriver(supported.0, supported.1));
    }
    let gpu = first()?;
    if gpu.capability < OLDEST {
        return Err(Absence::OldGpu(gpu.name));
    }
    if IMAGES.is_empty() { Err(Absence::NoKernels) } else { Ok(gpu) }
}

fn first() -> Result<Gpu, Absence> {
    result::init().map_err(failed)?;
    if result::device::get_count().map_err(failed)? == 0 {
        return Err(Absence::NoGpu);
    }
    let device = result::device::get(0).map_err(failed)?;
    let name = result::device::get_name(device).map_err(failed)?;
    let attribute = |which| {
        // SAFETY: the device is the driver's.
        unsafe { result::device::get_attribute(device, which) }.map_err(failed)
    };
    Ok(Gpu {
        name,
        capability: (
            attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        // SAFETY: as above.
        memory: unsafe { result::device::total_mem(device) }.map_err(failed)? as u64,
    })
}

fn failed(e: result::DriverError) -> Absence {
    match e.0 {
        sys::CUresult::CUDA_ERROR_NO_DEVICE => Absence::NoGpu,
        word => Absence::Failed(format!("{word:?}")),
    }
}
