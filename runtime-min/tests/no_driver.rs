//! A machine without a driver or without a GPU gets an error that says so; nothing panics.

#![allow(clippy::unwrap_used)]

use bakelite_runtime::{Error, Gpu};

#[test]
fn opening_a_device_that_is_not_there_is_an_error() {
    // SAFETY: loads and unloads the driver's library, as opening a device does.
    #[allow(unsafe_code)]
    let present = unsafe { cudarc::driver::sys::is_culib_present() };
    let error = Gpu::open(1 << 20).unwrap_err();
    let text = error.to_string();
    if !present {
        assert!(matches!(error, Error::NoDriver { .. }), "{text}");
        assert!(text.starts_with("no usable NVIDIA driver: ") && text.contains("was not found"), "{text}");
        assert!(text.contains("install the NVIDIA driver"), "{text}");
        assert_eq!(Gpu::count().unwrap_err(), error);
        // The outcome is kept, and is the same on every thread.
        assert_eq!(std::thread::spawn(|| Gpu::open(0).unwrap_err()).join().unwrap(), error);
    } else if let Ok(count) = Gpu::count() {
        assert_eq!(error, Error::NoDevice { ordinal: 1 << 20, count });
    }
}
