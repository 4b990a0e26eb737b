//! The primary context of a device, made on a thread of its own: that takes the driver some tenth of a second, in which the
//! weights can be read and checked.

use std::ffi::c_int;
use std::sync::{Arc, OnceLock};

use crate::driver::{self, Driver};
use crate::error::Result;

/// A device's primary context, retained; released on drop.
pub(crate) struct Primary {
    driver: &'static Driver,
    device: c_int,
    made: Arc<OnceLock<Result<Handle>>>,
}

#[derive(Clone, Copy)]
struct Handle(driver::Context);

// SAFETY: a context may be made current on any thread, and on several at once.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Primary {
    /// Begins to make the context, and returns.
    pub(crate) fn retain(driver: &'static Driver, device: c_int) -> Primary {
        let made = Arc::new(OnceLock::new());
        let make = {
            let made = made.clone();
            move || {
                made.get_or_init(|| {
                    let mut context = std::ptr::null_mut();
                    // SAFETY: the driver writes one handle.
                    unsafe { driver.cuDevicePrimaryCtxRetain(&mut context, device) }.map(|()| Handle(context))
                });
            }
        };
        // Where no thread is to be had, the caller waits here.
        if std::thread::Builder::new().name("cuda-context".to_owned()).spawn(make.clone()).is_err() {
            make();
        }
        Primary { driver, device, made }
    }

    /// Makes the context current on this thread, once it is there.
    pub(crate) fn bind(&self) -> Result<&'static Driver> {
        let context = self.made.wait().as_ref().map_err(Clone::clone)?;
        // SAFETY: retained until `self` is dropped.
        unsafe { self.driver.cuCtxSetCurrent(context.0)? };
        Ok(self.driver)
    }
}

impl Drop for Primary {
    fn drop(&mut self) {
        // Waiting also keeps the process from ending under the thread.
        if self.made.wait().is_ok() {
            // SAFETY: retained once. An error here (the process is ending) has nobody to be told to.
            let _ = unsafe { self.driver.cuDevicePrimaryCtxRelease_v2(self.device) };
        }
    }
}
