//! The driver's settings are changed while there is one thread, if the user has not made them. A test of its own harness: the
//! usual one has threads.

use bakelite_runtime::Gpu;

fn main() {
    const SETTINGS: [&str; 2] = ["CUDA_DEVICE_MAX_CONNECTIONS", "CUDA_DEVICE_MAX_COPY_CONNECTIONS"];
    let settings = || SETTINGS.map(|name| std::env::var(name).ok());
    let mut expected = settings();
    if cfg!(target_os = "linux") && expected == [None, None] {
        let refused = std::thread::scope(|scope| scope.spawn(|| Gpu::limit_queues(2)).join());
        assert!(matches!(refused, Ok(false)), "changed beside another thread: {refused:?}");
        assert_eq!(settings(), expected);
        assert!(Gpu::limit_queues(2));
        expected = [Some("2".to_owned()), Some("2".to_owned())];
        assert_eq!(settings(), expected);
    }
    assert!(!Gpu::limit_queues(3), "changed what was set");
    assert_eq!(settings(), expected);
}
