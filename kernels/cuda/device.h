// The names that kernels are written in, beside threadIdx, blockIdx, blockDim
// and gridDim. nvcc compiles them to instructions; a build for the emulation
// takes them from its <emulated_device.h>, so that the same kernels run on a
// processor (tests/cuda_emulation).
//
// Rules. Every thread of a block reaches every barrier, and every lane of a
// full warp every shuffle, vote and matrix product: no return before one. Every
// access to global memory is by a function of this file. Shared memory is what
// the launch asks for, DynamicShared. Every kernel begins with GridWait and
// then GridTrigger; before the wait it reads nothing that a kernel writes.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)

#include <cuda_runtime.h>

namespace engram::cuda {

// --- Shared memory of the block, 128-byte aligned, not initialised.

template <class T>
__device__ __forceinline__ T* DynamicShared() {
  extern __shared__ __align__(128) unsigned char engram_dynamic_shared[];
  return reinterpret_cast<T*>(engram_dynamic_shared);
}

// --- Threads that wait for each other.

__device__ __forceinline__ void BlockBarrier() { __syncthreads(); }
__device__ __forceinline__ void WarpBarrier() { __syncwarp(); }

// The value of lane (own ^ lane_mask), of `lane` and of (own - delta), where
// there is one, else the own value. Types of 4 or 8 bytes.
template <class T>
__device__ __forceinline__ T ShuffleXor(T value, int lane_mask) {
  return __shfl_xor_sync(0xffffffffu, value, lane_mask);
}
template <class T>
__device__ __forceinline__ T ShuffleFrom(T value, int lane) {
  return __shfl_sync(0xffffffffu, value, lane);
}
template <class T>
__device__ __forceinline__ T ShuffleUp(T value, int delta) {
  return __shfl_up_sync(0xffffffffu, value, delta);
}

// Bit i is what lane i says.
__device__ __forceinline__ unsigned Ballot(bool value) {
  return __ballot_sync(0xffffffffu, value);
}
__device__ __forceinline__ bool Any(bool value) {
  return __any_sync(0xffffffffu, value) != 0;
}
__device__ __forceinline__ bool All(bool value) {
  return __all_sync(0xffffffffu, value) != 0;
}

// --- Global memory: 1, 2, 4, 8 or 16 bytes at an address that is a multiple of
// as many.

template <size_t bytes>
struct WordOf;
template <>
struct WordOf<1> {
  using Type = unsigned char;
};
template <>
struct WordOf<2> {
  using Type = unsigned short;
};
template <>
struct WordOf<4> {
  using Type = unsigned int;
};
template <>
struct WordOf<8> {
  using Type = uint2;
};
template <>
struct WordOf<16> {
  using Type = uint4;
};
template <class T>
using Word = typename WordOf<sizeof(T)>::Type;

template <class To, class From>
__device__ __forceinline__ To SameBits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

template <class T>
__device__ __forceinline__ T Load(const T* global) {
  return SameBits<T>(*reinterpret_cast<const Word<T>*>(global));
}
template <class T>
__device__ __forceinline__ void Store(T* global, T value) {
  *reinterpret_cast<Word<T>*>(global) = SameBits<Word<T>>(value);
}
// Of memory that no kernel in flight writes.
template <class T>
__device__ __forceinline__ T LoadConstant(const T* global) {
  return SameBits<T>(__ldg(reinterpret_cast<const Word<T>*>(global)));
}
// Of memory that is used once: it leaves the caches first.
template <class T>
__device__ __forceinline__ T LoadStream(const T* global) {
  return SameBits<T>(__ldcs(reinterpret_cast<const Word<T>*>(global)));
}
template <class T>
__device__ __forceinline__ void StoreStream(T* global, T value) {
  __stcs(reinterpret_cast<Word<T>*>(global), SameBits<Word<T>>(value));
}

// Begins to bring the 128 bytes around an address, which memory has, to the
// second-level cache, for a load of later.
template <class T>
__device__ __forceinline__ void Prefetch(const T* global) {
  asm volatile(
      "prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(global)));
}

// --- Copies of 16 bytes from global to shared memory that a thread begins and
// goes on. A commit closes a group of them; AsyncWait<n> waits until at most
// the newest n groups of this thread are still on their way. Others see the
// bytes behind a barrier after the wait.

__device__ __forceinline__ void AsyncCopy16(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(shared))),
               "l"(__cvta_generic_to_global(global))
               : "memory");
}
__device__ __forceinline__ void AsyncCommit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int n>
__device__ __forceinline__ void AsyncWait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}

// --- Matrix products of a warp, m16n8k16: acc += a b, with a [16, 16] of rows,
// b [16, 8] of columns. With g = lane / 4 and q = lane % 4, pairs lowest first:
//   a    rows g, g+8, g, g+8; columns 2q.., 2q.., 2q+8.., 2q+8..
//   b    column g; rows 2q.., 2q+8..
//   acc  rows g, g, g+8, g+8; columns 2q, 2q+1, 2q, 2q+1
// Source: PTX ISA, matrix fragments for mma.m16n8k16.

__device__ __forceinline__ void MmaBf16(float (&acc)[4], const uint32_t (&a)[4],
                                        const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
      "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void MmaF16(float (&acc)[4], const uint32_t (&a)[4],
                                       const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
      "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four matrices of 8 x 8 values of 16 bits in shared memory, turned: lane l
// says where row l % 8 of matrix l / 8 is, 16 bytes at a multiple of 16, and
// gets of matrix m the elements [2q, g] and [2q+1, g] as out[m].
// Source: PTX ISA, ldmatrix.
__device__ __forceinline__ void LoadTurned(uint32_t (&out)[4],
                                           const void* row) {
  asm volatile(
      "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
      : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
      : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
      : "memory");
}

// --- Numbers.

__device__ __forceinline__ float WidenBf16(uint16_t x) {
  return __uint_as_float(static_cast<unsigned>(x) << 16);
}
__device__ __forceinline__ float WidenF16(uint16_t x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
  return y;
}
// To the nearest, ties to even; every NaN becomes 0x7fff.
__device__ __forceinline__ uint16_t NarrowBf16(float x) {
  uint16_t y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
  return y;
}
// Likewise; what is too large becomes the largest finite number.
__device__ __forceinline__ uint16_t NarrowF16Saturated(float x) {
  uint16_t y;
  asm("cvt.rn.satfinite.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
  return y;
}

// Four float16 of four signed bytes, lowest first: exact. With 128 added a byte
// becomes the low bits of 1024 and more.
__device__ __forceinline__ uint2 WidenInt8(uint32_t bytes) {
  const unsigned raised = bytes ^ 0x80808080u;
  const auto pair = [raised](unsigned selector) {
    unsigned halves = __byte_perm(raised, 0x64646464u, selector);
    asm("sub.f16x2 %0, %0, %1;" : "+r"(halves) : "r"(0x64806480u));
    return halves;
  };
  return {pair(0x4140), pair(0x4342)};
}

// --- Integers in global or shared memory that several threads change. They
// return what was there before.

__device__ __forceinline__ uint32_t AtomicAdd(uint32_t* at, uint32_t value) {
  return atomicAdd(at, value);
}
__device__ __forceinline__ int32_t AtomicAdd(int32_t* at, int32_t value) {
  return atomicAdd(at, value);
}
__device__ __forceinline__ uint64_t AtomicAdd(uint64_t* at, uint64_t value) {
  return atomicAdd(reinterpret_cast<unsigned long long*>(at), value);
}
__device__ __forceinline__ uint32_t AtomicMax(uint32_t* at, uint32_t value) {
  return atomicMax(at, value);
}
__device__ __forceinline__ int32_t AtomicMax(int32_t* at, int32_t value) {
  return atomicMax(at, value);
}
__device__ __forceinline__ uint64_t AtomicMax(uint64_t* at, uint64_t value) {
  return atomicMax(reinterpret_cast<unsigned long long*>(at), value);
}

// --- The kernels before and behind this one in its stream (LaunchShape).

// Waits until the kernels before are complete and what they wrote is seen.
__device__ __forceinline__ void GridWait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// Lets the blocks of the next kernel begin, as far as its wait.
__device__ __forceinline__ void GridTrigger() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace engram::cuda

#else

#include <emulated_device.h>

#endif
