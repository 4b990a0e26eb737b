//! The environment is changed while there is one thread, and the user has not said otherwise. A test of its own harness: the
//! usual one has threads.

use bakelite_runtime::queues::limit;

fn main() {
    const SETTING: &str = "CUDA_DEVICE_MAX_CONNECTIONS";
    let setting = || std::env::var(SETTING).ok();
    let given = setting();
    if given.is_none() && cfg!(target_os = "linux") {
        let refused = std::thread::scope(|scope| scope.spawn(|| limit(2)).join());
        assert!(matches!(refused, Ok(false)), "changed beside another thread: {refused:?}");
        assert_eq!(setting(), None);
        assert!(limit(2));
        assert_eq!(setting().as_deref(), Some("2"));
    }
    let before = setting();
    assert!(!limit(3), "changed what was set");
    assert_eq!(setting(), before);
}
