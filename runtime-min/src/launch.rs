//! One kernel launch: how many blocks of how many threads, and with what.

use std::ffi::c_void;
use std::ptr;

use crate::driver::{CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue, CUlaunchConfig};
use crate::error::{Error, Result};
use crate::gpu::Stream;
use crate::memory::DevicePtr;
use crate::module::Kernel;
use crate::tensor_map::TensorMap;

/// The shape of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Blocks in x, y, z. With a zero nothing is launched: the tensor has no elements.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block in bytes.
    pub shared_bytes: u32,
    /// Blocks of a cluster in x, y, z; the grid is a multiple of it.
    pub cluster: Option<[u32; 3]>,
    /// Programmatic dependent launch: the kernel may start before the one ahead of it in the stream has ended, and
    /// waits for it itself (`griddepcontrol.wait`). Without effect for code older than sm_90, which cannot wait.
    pub programmatic: bool,
}

impl Launch {
    /// A plain launch along x.
    pub const fn linear(blocks: u32, threads: u32) -> Launch {
        let (grid, block) = ([blocks, 1, 1], [threads, 1, 1]);
        Launch { grid, block, shared_bytes: 0, cluster: None, programmatic: false }
    }
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Arg<'a> {
    /// A device address.
    Ptr(u64),
    /// A 32-bit integer.
    I32(i32),
    /// A 64-bit integer.
    I64(i64),
    /// A 32-bit float.
    F32(f32),
    /// A tensor map by value: `const __grid_constant__`.
    Map(&'a TensorMap),
}

impl Arg<'_> {
    /// The size in bytes that the kernel's parameter must have.
    pub const fn size(&self) -> usize {
        match self {
            Arg::I32(_) | Arg::F32(_) => 4,
            Arg::Ptr(_) | Arg::I64(_) => 8,
            Arg::Map(_) => size_of::<TensorMap>(),
        }
    }

    fn address(&self) -> *mut c_void {
        match self {
            Arg::Ptr(value) => ptr::from_ref(value).cast_mut().cast(),
            Arg::I32(value) => ptr::from_ref(value).cast_mut().cast(),
            Arg::I64(value) => ptr::from_ref(value).cast_mut().cast(),
            Arg::F32(value) => ptr::from_ref(value).cast_mut().cast(),
            Arg::Map(map) => ptr::from_ref(*map).cast_mut().cast(),
        }
    }
}

impl From<DevicePtr> for Arg<'_> {
    fn from(address: DevicePtr) -> Self {
        Arg::Ptr(address.0)
    }
}

/// Launches with more arguments than this pay for an allocation.
const FEW: usize = 32;

impl Kernel {
    /// Enqueues the kernel. Number and sizes of the arguments are checked against its parameters; what they mean to
    /// it is not.
    pub fn launch(&self, stream: &Stream, launch: &Launch, args: &[Arg<'_>]) -> Result<()> {
        check_arguments(self.name(), &self.0.parameters, args)?;
        if launch.grid.contains(&0) {
            return Ok(());
        }
        let mut few = [ptr::null_mut(); FEW];
        let mut many = Vec::new();
        let addresses = if args.len() <= FEW {
            for (slot, arg) in few.iter_mut().zip(args) {
                *slot = arg.address();
            }
            few.as_mut_ptr()
        } else {
            many.extend(args.iter().map(Arg::address));
            many.as_mut_ptr()
        };
        let mut attributes = Attributes::of(launch, self.0.waits);
        let config = CUlaunchConfig {
            gridDimX: launch.grid[0],
            gridDimY: launch.grid[1],
            gridDimZ: launch.grid[2],
            blockDimX: launch.block[0],
            blockDimY: launch.block[1],
            blockDimZ: launch.block[2],
            sharedMemBytes: launch.shared_bytes,
            hStream: stream.handle(),
            attrs: attributes.list.as_mut_ptr(),
            numAttrs: attributes.count,
        };
        stream.keep(&self.0.module);
        // SAFETY: live handles; there is one address for each parameter, to a value of its size; the driver copies
        // the values before it returns.
        unsafe { stream.gpu().bind()?.cuLaunchKernelEx(&config, self.0.raw, addresses, ptr::null_mut()) }
            .map_err(|error| {
                let Launch { grid, block, shared_bytes, cluster, .. } = launch;
                let shape = format!(
                    "grid {grid:?}, block {block:?}, {shared_bytes} bytes shared, cluster {cluster:?}"
                );
                match self.blame(error) {
                    Error::Launch { kernel, what } => {
                        Error::Launch { kernel, what: format!("{what} ({shape})") }
                    }
                    other => other,
                }
            })
    }
}

/// The attributes that a launch has beyond its shape.
struct Attributes {
    list: [CUlaunchAttribute; 2],
    count: u32,
}

impl Attributes {
    fn of(launch: &Launch, waits: bool) -> Attributes {
        let none = CUlaunchAttribute {
            id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_IGNORE,
            pad: [0; 4],
            value: CUlaunchAttributeValue { pad: [0; 64] },
        };
        let mut attributes = Attributes { list: [none; 2], count: 0 };
        if let Some([x, y, z]) = launch.cluster {
            let attribute = attributes.next();
            attribute.id = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
            // SAFETY: a union of plain integers, all of them initialised above.
            let dims = unsafe { &mut attribute.value.clusterDim };
            (dims.x, dims.y, dims.z) = (x, y, z);
        }
        if launch.programmatic && waits {
            let attribute = attributes.next();
            attribute.id = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
            attribute.value.programmaticStreamSerializationAllowed = 1;
        }
        attributes
    }

    fn next(&mut self) -> &mut CUlaunchAttribute {
        self.count += 1;
        &mut self.list[self.count as usize - 1]
    }
}

fn check_arguments(kernel: &str, parameters: &[usize], args: &[Arg<'_>]) -> Result<()> {
    let refuse = |what| Err(Error::Launch { kernel: kernel.to_owned(), what });
    if parameters.len() != args.len() {
        return refuse(format!("it takes {} arguments, {} were given", parameters.len(), args.len()));
    }
    for (index, (&size, arg)) in parameters.iter().zip(args).enumerate() {
        if size != arg.size() {
            return refuse(format!("its parameter {index} has {size} bytes, and {} were given", arg.size()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_checked_in_number_and_size() {
        let map = TensorMap::default();
        let args = [Arg::Ptr(1), Arg::I32(2), Arg::F32(3.0), Arg::I64(4), Arg::Map(&map)];
        assert_eq!(check_arguments("k", &[8, 4, 4, 8, 128], &args), Ok(()));
        let count = check_arguments("k", &[8, 4], &args).unwrap_err();
        assert_eq!(count.to_string(), "cannot launch kernel k: it takes 2 arguments, 5 were given");
        let size = check_arguments("k", &[8, 8], &args[..2]).unwrap_err();
        assert_eq!(size.to_string(), "cannot launch kernel k: its parameter 1 has 8 bytes, and 4 were given");
    }

    #[test]
    fn an_argument_is_passed_by_the_address_of_its_value() {
        let arg = Arg::I64(-7);
        // SAFETY: the address of the value inside `arg`.
        assert_eq!(unsafe { *arg.address().cast::<i64>() }, -7);
    }

    #[test]
    fn attributes_are_counted() {
        let plain = Launch::linear(1, 32);
        assert_eq!(Attributes::of(&plain, true).count, 0);
        let both = Launch { cluster: Some([2, 1, 1]), programmatic: true, ..plain };
        assert_eq!(Attributes::of(&both, false).count, 1, "code that cannot wait is not launched early");
        let both = Attributes::of(&both, true);
        assert_eq!(both.count, 2);
        // SAFETY: the fields that were written.
        unsafe {
            assert_eq!(both.list[0].value.clusterDim.x, 2);
            assert_eq!(both.list[1].value.programmaticStreamSerializationAllowed, 1);
        }
    }
}
