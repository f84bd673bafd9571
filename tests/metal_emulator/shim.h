// The subset of the Metal Shading Language that kernel bodies may use, in clang's C++ for OpenCL,
// which has the address spaces and `half`. A name that is missing here is outside the subset.
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#define device __global
#define threadgroup __local
#define thread __private
// OpenCL's keywords are ordinary names in Metal.
#define local metal_local
#define global metal_global
#define private metal_private
#define generic metal_generic

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long int64_t;
typedef uchar uint8_t;
typedef ushort uint16_t;
typedef uint uint32_t;
typedef ulong uint64_t;
typedef __SIZE_TYPE__ size_t;
typedef __bf16 bfloat;
typedef bfloat bfloat16_t;
typedef half float16_t;
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define MAXFLOAT 3.402823466e+38f

#define VECTORS(type)                                          \
  typedef type type##2 __attribute__((ext_vector_type(2)));    \
  typedef type type##3 __attribute__((ext_vector_type(3)));    \
  typedef type type##4 __attribute__((ext_vector_type(4)));
VECTORS(char) VECTORS(uchar) VECTORS(short) VECTORS(ushort) VECTORS(int)
VECTORS(uint) VECTORS(long) VECTORS(ulong) VECTORS(half) VECTORS(bfloat) VECTORS(float)

#include "shared.h"

namespace metal {
template <typename T, int N> using vec = T __attribute__((ext_vector_type(N)));

template <typename To, typename From> To as_type(From x) { return __builtin_bit_cast(To, x); }

namespace emulator {
template <typename T> struct Width { enum { n = 1 }; };
template <typename T, int N> struct Width<T __attribute__((ext_vector_type(N)))> { enum { n = N }; };

template <typename V, typename Part> void append(V &whole, int &at, Part part) {
  if constexpr (Width<Part>::n == 1) whole[at++] = part;
  else for (int i = 0; i < Width<Part>::n; i++) whole[at++] = part[i];
}
// `float4(...)`: one scalar for all members, or parts of any types that make up the vector.
template <typename V, typename... Parts> V construct(Parts... parts) {
  constexpr int total = (0 + ... + Width<Parts>::n);
  V whole = {};
  int at = 0;
  if constexpr (total == 1) {
    while (at < Width<V>::n) (append(whole, at, parts), ...);
  } else {
    static_assert(total == Width<V>::n, "the parts must make up the vector");
    (append(whole, at, parts), ...);
  }
  return whole;
}
}  // namespace emulator
#define float2(...) metal::emulator::construct<float2>(__VA_ARGS__)
#define float3(...) metal::emulator::construct<float3>(__VA_ARGS__)
#define float4(...) metal::emulator::construct<float4>(__VA_ARGS__)
#define half2(...) metal::emulator::construct<half2>(__VA_ARGS__)
#define half4(...) metal::emulator::construct<half4>(__VA_ARGS__)
#define uint2(...) metal::emulator::construct<uint2>(__VA_ARGS__)
#define uint3(...) metal::emulator::construct<uint3>(__VA_ARGS__)
#define uint4(...) metal::emulator::construct<uint4>(__VA_ARGS__)

#define UNARY(name) \
  template <typename T> T name(T x) { return __builtin_elementwise_##name(x); }
#define BINARY(name) \
  template <typename T> T name(T x, T y) { return __builtin_elementwise_##name(x, y); }
#define MATH                                                                   \
  UNARY(exp) UNARY(exp2) UNARY(log) UNARY(log2) UNARY(sqrt) UNARY(sin)         \
  UNARY(cos) UNARY(tanh) UNARY(floor) UNARY(ceil) UNARY(round) UNARY(rint)     \
  UNARY(trunc) BINARY(pow)                                                     \
  template <typename T> T rsqrt(T x) { return T(1) / __builtin_elementwise_sqrt(x); }
MATH
namespace precise { MATH }
namespace fast { MATH }
UNARY(abs) BINARY(min) BINARY(max)
template <typename T> T fabs(T x) { return __builtin_elementwise_abs(x); }
template <typename T> T fma(T x, T y, T z) { return __builtin_elementwise_fma(x, y, z); }
template <typename T> T clamp(T x, T low, T high) { return min(max(x, low), high); }
template <typename T> bool isnan(T x) { return x != x; }
template <typename T> bool isinf(T x) { return fabs(x) == T(INFINITY); }
template <typename T> T select(T no, T yes, bool condition) { return condition ? yes : no; }
template <typename T, int N> T dot(vec<T, N> x, vec<T, N> y) {
  T sum = x[0] * y[0];
  for (int i = 1; i < N; i++) sum += x[i] * y[i];
  return sum;
}

enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2 };
constexpr mem_flags operator|(mem_flags x, mem_flags y) {
  return static_cast<mem_flags>(static_cast<int>(x) | static_cast<int>(y));
}

namespace emulator {
// The runtime, in schedule.c and memory.c.
#define UNCHECKED __attribute__((no_sanitize("thread", "undefined"), noinline))
#define PLACE uint line = __builtin_LINE(), uint column = __builtin_COLUMN()
extern "C" {
const Exchange *emulator_exchange(const __constant char *name, const void *value, uint size,
                                  uint line, uint column);
const void *emulator_value(const Exchange *exchange, uint lane);
uint emulator_lane();
uint emulator_sum_order();
void emulator_threadgroup_barrier(uint flags, uint line, uint column);
void emulator_simdgroup_barrier(uint flags, uint line, uint column);
void *emulator_threadgroup_array(ulong bytes, ulong granule, const __constant char *name,
                                 uint line);
}

// `text.py` turns `threadgroup T name[n];` into a reference to what this returns.
template <typename T> using Same = T;

template <typename Array, typename Element>
__local Array *threadgroup_array(const __constant char *name, uint line) {
  return (__local Array *)(ulong)emulator_threadgroup_array(
      sizeof(Array), sizeof(Element), name, line);
}

// All lanes compute the same result from the values of all.
template <typename T> UNCHECKED T from_lane(const Exchange *exchange, uint lane) {
  return *static_cast<const T *>(emulator_value(exchange, lane));
}

template <typename T> UNCHECKED T sum_of(const Exchange *exchange) {
  T part[32];
  for (uint i = 0; i < 32; i++)
    part[i] = exchange->active >> i & 1 ? *(const T *)exchange->values[i] : T(0);
  uint order = emulator_sum_order();
  if (order == 0)  // neighbours first, as a butterfly of simd_shuffle_xor 1, 2, 4, 8, 16
    for (uint n = 16; n; n /= 2)
      for (uint i = 0; i < n; i++) part[i] = part[2 * i] + part[2 * i + 1];
  else if (order == 1)  // halves first, as one of 16, 8, 4, 2, 1
    for (uint n = 16; n; n /= 2)
      for (uint i = 0; i < n; i++) part[i] = part[i] + part[i + n];
  else  // one lane after the other
    for (uint i = 1; i < 32; i++) part[0] = part[0] + part[i];
  return part[0];
}

template <typename T> UNCHECKED T max_of(const Exchange *exchange) {
  T largest = *(const T *)exchange->values[__builtin_ctz(exchange->active)];
  for (uint i = 0; i < 32; i++)
    if (exchange->active >> i & 1) largest = max(largest, *(const T *)exchange->values[i]);
  return largest;
}
}  // namespace emulator

inline void threadgroup_barrier(mem_flags flags, PLACE) {
  emulator::emulator_threadgroup_barrier(static_cast<uint>(flags), line, column);
}
inline void simdgroup_barrier(mem_flags flags, PLACE) {
  emulator::emulator_simdgroup_barrier(static_cast<uint>(flags), line, column);
}

// Operations of a SIMD group: its lanes meet at the call.
#define MEET(name) emulator::emulator_exchange(name, &x, sizeof(T), line, column)
template <typename T> T simd_sum(T x, PLACE) { return emulator::sum_of<T>(MEET("simd_sum")); }
template <typename T> T simd_max(T x, PLACE) { return emulator::max_of<T>(MEET("simd_max")); }
template <typename T> T simd_broadcast(T x, ushort lane, PLACE) {
  return emulator::from_lane<T>(MEET("simd_broadcast"), lane);
}
template <typename T> T simd_shuffle_xor(T x, ushort mask, PLACE) {
  return emulator::from_lane<T>(MEET("simd_shuffle_xor"), emulator::emulator_lane() ^ mask);
}

}  // namespace metal
#undef VECTORS
#undef UNARY
#undef BINARY
#undef MATH
#undef UNCHECKED
#undef PLACE
#undef MEET
using namespace metal;

// Of MLX's own prelude, what bodies use.
inline float log1p(float x) {
  float y = 1.0f + x;
  return y == 1.0f ? x : y == INFINITY ? y : x * (log(y) / (y - 1.0f));
}
