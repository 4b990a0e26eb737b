// ---- clusters (sm_90 and later)

// All threads of all blocks of a cluster: `arrive` promises what was written before, `wait` sees it.
DEVICE void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}
// Promises no more than barriers made visible by mbarrier_init_done, and so waits for no store or copy.
DEVICE void cluster_arrive_relaxed() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
}
DEVICE void cluster_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}
DEVICE void cluster_barrier() {
  cluster_arrive();
  cluster_wait();
}

// Where `shared` lies in the cluster's block `rank`.
DEVICE uint32_t cluster_address(uint32_t shared, int rank) {
  uint32_t at = shared;
#if __CUDA_ARCH__ >= 900
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(at) : "r"(shared), "r"(rank));
#endif
  return at;
}

// Stores a float at `p` in the shared memory of the cluster's block `rank`, which must have started and not ended.
DEVICE void store_cluster(float* p, int rank, float value) {
#if __CUDA_ARCH__ >= 900
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(cluster_address(shared_address(p), rank)), "f"(value) : "memory");
#endif
}

// ---- barriers in shared memory, and copies that arrive at them (sm_90 and later)

// What is the same for all threads of a warp, so that the compiler knows it: branches on it keep what follows in uniform registers, as
// the copy engine and wgmma want their operands. Otherwise each is moved there by itself, or in a loop over the lanes.
DEVICE int same_for_warp(int x) { return __shfl_sync(0xffffffffu, x, 0); }

#if __CUDA_ARCH__ >= 900
// One thread of a warp, all of which ask.
DEVICE bool elected() {
  uint32_t it;
  asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}" : "=r"(it));
  return it;
}
// dependency_wait(), with `x` computed before it. The assembler would put that off until after the wait, where it is waited for; that it
// waits if x is negative, and also if it is not, it does not see through.
DEVICE void dependency_wait_knowing(int x) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ge.s32 p, %0, 0;\n@p griddepcontrol.wait;\n@!p griddepcontrol.wait;\n}" ::"r"(x)
      : "memory");
}
// A phase completes with `count` arrivals, and with all the bytes that were announced.
DEVICE void mbarrier_init(uint32_t barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
// By the thread that initialised: makes barriers visible to the copy engine and the cluster. Other threads of the block
// still need a barrier.
DEVICE void mbarrier_init_done() {
  asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;" ::: "memory");
}
DEVICE void mbarrier_arrive(uint32_t barrier) {
  asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared::cta.b64 state, [%0];\n}" ::"r"(barrier) : "memory");
}
// At the barrier that lies at the same place in the cluster's block `rank`. Orders nothing before it but what has ended, such as
// wgmma's reads: a release for the whole cluster waits for all of the thread's memory traffic.
DEVICE void mbarrier_arrive_at(uint32_t barrier, int rank) {
  asm volatile("mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [%0];" ::"r"(cluster_address(barrier, rank)) : "memory");
}
// Arrives, and announces bytes that copies will bring.
DEVICE void mbarrier_expect(uint32_t barrier, int bytes) {
  asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], %1;\n}" ::"r"(barrier),
               "r"(bytes)
               : "memory");
}
// Waits for the completion of the phase of this parity: 0 for the first, 1 for the second, 0 for the third ...
DEVICE void mbarrier_wait(uint32_t barrier, uint32_t parity) {
  uint32_t done;
  do {
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
  } while (!done);
}
// The same for what other blocks of the cluster have brought.
DEVICE void mbarrier_wait_cluster(uint32_t barrier, uint32_t parity) {
  uint32_t done;
  do {
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
  } while (!done);
}
// A run of bytes from shared memory into that of a block of the cluster, whose barrier counts them; `to` and `barrier` are the
// cluster's addresses.
DEVICE void copy_to_cluster(uint32_t to, uint32_t from, int bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "r"(from), "r"(bytes), "r"(barrier)
               : "memory");
}
// This thread's arrival, once every cp.async that it has issued so far has landed.
DEVICE void cp_async_arrive(uint32_t barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}
// A run of bytes (a multiple of 16, both ends aligned to 16) from global to shared memory, by the copy engine.
DEVICE void copy_bulk(uint32_t shared, const void* global, int bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared),
               "l"(global), "r"(bytes), "r"(barrier)
               : "memory");
}
// The same into every block of the cluster whose bit is set in `blocks`, at the same place and barrier in each.
DEVICE void copy_bulk_to_all(uint32_t shared, const void* global, int bytes, uint32_t barrier, int blocks) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], %4;" ::"r"(
          shared),
      "l"(global), "r"(bytes), "r"(barrier), "h"((unsigned short)blocks)
      : "memory");
}

// How the copy engine walks a tensor; a parameter of the kernel, by value. The driver makes it.
struct alignas(64) TensorMap {
  uint64_t opaque[16];
};
// Fetches the map itself, which the first copy by it would wait for: before the kernel in front has ended.
DEVICE void prefetch_map(const TensorMap& map) { asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory"); }
// The map's tile whose first element is (c0, c1), innermost first.
DEVICE void copy_tile(uint32_t shared, const TensorMap& map, int c0, int c1, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
          shared),
      "l"(&map), "r"(c0), "r"(c1), "r"(barrier)
      : "memory");
}
DEVICE void copy_tile_to_all(uint32_t shared, const TensorMap& map, int c0, int c1, uint32_t barrier, int blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
      "[%1, {%2, %3}], [%4], %5;" ::"r"(shared),
      "l"(&map), "r"(c0), "r"(c1), "r"(barrier), "h"((unsigned short)blocks)
      : "memory");
}
// The same of a map of four dimensions.
DEVICE void copy_tile(uint32_t shared, const TensorMap& map, int c0, int c1, int c2, int c3, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(
          shared),
      "l"(&map), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(barrier)
      : "memory");
}
DEVICE void copy_tile_to_all(uint32_t shared, const TensorMap& map, int c0, int c1, int c2, int c3, uint32_t barrier, int blocks) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
      "[%1, {%2, %3, %4, %5}], [%6], %7;" ::"r"(shared),
      "l"(&map), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(barrier), "h"((unsigned short)blocks)
      : "memory");
}
// The channels from `c` of one tap, dx and dy from the first, of the map's many windows from the one that begins at (x, y, n).
DEVICE void copy_windows(uint32_t shared, const TensorMap& map, int c, int x, int y, int n, int dx, int dy, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], "
      "[%6], {%7, %8};" ::"r"(shared),
      "l"(&map), "r"(c), "r"(x), "r"(y), "r"(n), "r"(barrier), "h"((unsigned short)dx), "h"((unsigned short)dy)
      : "memory");
}
DEVICE void copy_windows_to_all(uint32_t shared, const TensorMap& map, int c, int x, int y, int n, int dx, int dy,
                                uint32_t barrier, int blocks) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
      "[%1, {%2, %3, %4, %5}], [%6], {%7, %8}, %9;" ::"r"(shared),
      "l"(&map), "r"(c), "r"(x), "r"(y), "r"(n), "r"(barrier), "h"((unsigned short)dx), "h"((unsigned short)dy),
      "h"((unsigned short)blocks)
      : "memory");
}
// A tile of shared memory to the map's tensor, as far as it has such elements. One of this thread's group of stores.
DEVICE void store_tile(const TensorMap& map, int c0, int c1, uint32_t shared) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map), "r"(c0),
               "r"(c1), "r"(shared)
               : "memory");
}
// Ends this thread's group of stores by the copy engine.
DEVICE void store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Until all but the latest N groups have read what they store, or have stored it.
template <int N> DEVICE void store_wait_read() { asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory"); }
template <int N> DEVICE void store_wait() { asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory"); }
// What ordinary stores and cp.async have put into shared memory, as far as this thread knows of it, becomes visible to
// wgmma and the copy engine.
DEVICE void fence_async_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
#endif

// Among `threads` threads (whole warps) of the block; id 0 is __syncthreads'.
DEVICE void named_barrier(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
// The same without waiting for the others.
DEVICE void named_barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- warpgroups: wgmma, and registers that move between warpgroups (sm_90a only, else nothing)

// A tile in shared memory as wgmma's operand: rows of 128 bytes, 16-byte chunk c of row r at place c ^ (r & 7), groups of
// eight rows 1024 bytes apart and aligned to as much. Adding 2 moves 16 halves along a row, 8 per row moves down rows.
DEVICE uint64_t wgmma_operand(uint32_t shared) {
  return 1ull << 62 | 64ull << 32 | 1ull << 16 | (shared & 0x3ffff) >> 4;
}
// Before the first wgmma, and wherever its accumulators were touched by something else.
DEVICE void wgmma_fence() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
DEVICE void wgmma_commit() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
// Until at most N committed groups are in flight.
template <int N> DEVICE void wgmma_wait() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
#endif
}
template <int N> DEVICE void take_registers() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
#endif
}
template <int N> DEVICE void give_registers() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
#endif
}
