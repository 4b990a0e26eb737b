//! How many queues of a device the driver makes.

use std::env;

/// The driver's own setting, which it reads once, when it is opened.
const SETTING: &str = "CUDA_DEVICE_MAX_CONNECTIONS";

/// Asks for no more queues between this process and a device than it has streams at work at a time; the driver makes eight
/// otherwise, which takes it half of the time that a context takes. Streams beyond that number wait for each other.
///
/// To be called first thing in `main`: the environment of the process is where the driver is asked, and that is changed only
/// while no other thread can be reading it. Whether it was: not with a second thread running (as the driver's own do, once it
/// is open), where the setting is there already, or where threads cannot be counted (Linux can).
pub fn limit(queues: u32) -> bool {
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    let may = threads == 1 && env::var_os(SETTING).is_none();
    if may {
        // SAFETY: this is the only thread, and a new one could only be started by it.
        unsafe { env::set_var(SETTING, queues.clamp(1, 32).to_string()) };
    }
    may
}
