//! How many queues the driver makes between a process and a device.

use std::env;

use crate::gpu::Gpu;

/// The driver's own settings, for kernels and for copies, which it reads when it is opened.
const SETTINGS: [&str; 2] = ["CUDA_DEVICE_MAX_CONNECTIONS", "CUDA_DEVICE_MAX_COPY_CONNECTIONS"];

impl Gpu {
    /// Asks the driver for no more queues than the program has streams at work at a time, which spares it half of the time that
    /// it takes to make a device's context. Streams beyond that number wait for each other; branches of a graph do not.
    ///
    /// To be called first thing in `main`: the driver is asked through the environment of the process, and that is changed only
    /// while no other thread can be reading it. The answer is whether it was: not beside a second thread (the driver has some
    /// as soon as it is open), not where the user has set it, and not where threads cannot be counted (on Linux they can).
    pub fn limit_queues(queues: u32) -> bool {
        let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
        let may = threads == 1 && SETTINGS.iter().all(|name| env::var_os(name).is_none());
        if may {
            let value = queues.clamp(1, 32).to_string();
            // SAFETY: this is the only thread, and a new one could only be started by it.
            SETTINGS.iter().for_each(|name| unsafe { env::set_var(name, &value) });
        }
        may
    }
}
