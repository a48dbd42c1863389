// What all functions of the C API need: handles, errors, structs that grow, and arrays that a caller may have wrong.
// Each file that includes it has a copy of the functions; the message of the last error is one for each thread.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdarg>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <new>

#include "../core/dispatch.h"
#include "../core/stepper.h"
#include "arrays.h"
#include "fusedrnn.h"

struct fusedrnn_weights {
  std::shared_ptr<const fusedrnn::WeightsBase> base;
};
struct fusedrnn_tape {
  std::unique_ptr<fusedrnn::TapeBase> base;
};
struct fusedrnn_stream {
  std::unique_ptr<fusedrnn::StepRunnerBase> runner;
  std::atomic<bool> busy{false};
};

namespace fusedrnn::capi {

// ---- errors -------------------------------------------------------------------------------------

inline thread_local char message[512] = "";

struct Busy {};

[[noreturn, gnu::format(printf, 1, 2)]] inline void invalid(const char* format, ...) {
  char text[sizeof message];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  throw std::invalid_argument(text);
}

inline int failed(int code, const char* function, const char* why) {
  std::snprintf(message, sizeof message, "%s: %s", function, why);
  return code;
}

template <class Call>
int guarded(const char* function, Call call) noexcept {
  try {
    call();
    return FUSEDRNN_OK;
  } catch (const std::invalid_argument& error) {
    return failed(FUSEDRNN_INVALID, function, error.what());
  } catch (const std::out_of_range& error) {  // a token
    return failed(FUSEDRNN_INVALID, function, error.what());
  } catch (const std::bad_alloc&) {
    return failed(FUSEDRNN_MEMORY, function, "too large, or out of memory");
  } catch (const std::length_error&) {
    return failed(FUSEDRNN_MEMORY, function, "too large");
  } catch (const Interrupted&) {
    return failed(FUSEDRNN_INTERRUPTED, function, "interrupted");
  } catch (const Busy&) {
    return failed(FUSEDRNN_BUSY, function, "the stream is in use by another thread");
  } catch (const std::exception& error) {
    return failed(FUSEDRNN_INTERNAL, function, error.what());
  } catch (...) {
    return failed(FUSEDRNN_INTERNAL, function, "unknown exception");
  }
}

// ---- structs that grow --------------------------------------------------------------------------

// The sizes of the structs in their first release: no caller has smaller ones. Never to be changed within an ABI.
template <class S>
constexpr std::size_t kFirstSize = 0;
template <>
constexpr std::size_t kFirstSize<fusedrnn_layer> = offsetof(fusedrnn_layer, b_hh) + sizeof(void*);
template <>
constexpr std::size_t kFirstSize<fusedrnn_info> = offsetof(fusedrnn_info, nbytes) + sizeof(std::size_t);
template <>
constexpr std::size_t kFirstSize<fusedrnn_forward> = offsetof(fusedrnn_forward, interrupted_argument) + sizeof(void*);
template <>
constexpr std::size_t kFirstSize<fusedrnn_backward> = offsetof(fusedrnn_backward, interrupted_argument) + sizeof(void*);

// The size that the caller's struct declares. It is read once, so that the size that was checked is the size that is
// used.
template <class S>
std::size_t size_of(const S* given) {
  if (!given) invalid("the struct of arguments is NULL");
  const std::size_t size = __atomic_load_n(&given->size, __ATOMIC_RELAXED);
  if (size < kFirstSize<S> || size > 4096)
    invalid("size is %zu; expected sizeof of the struct, %zu here", size, sizeof(S));
  return size;
}

// The caller's struct as this library knows it. Members that an older caller lacks are zero; members that only a newer
// caller has must be zero, because they would be ignored.
template <class S>
S taken(const S* given) {
  const std::size_t size = size_of(given);
  S known{};
  std::memcpy(&known, given, std::min(size, sizeof(S)));
  const char* const bytes = reinterpret_cast<const char*>(given);
  for (std::size_t k = sizeof(S); k < size; ++k)
    if (bytes[k])
      invalid("an option is set that this version of fusedrnn does not have; size is %zu, %zu here", size, sizeof(S));
  return known;
}

// ---- arrays -------------------------------------------------------------------------------------

template <class T>
T* aligned(const char* name, const void* data) {
  if (reinterpret_cast<std::uintptr_t>(data) % alignof(T))
    invalid("%s is not aligned to %zu bytes, the size of an element", name, alignof(T));
  return static_cast<T*>(const_cast<void*>(data));
}

template <class T>
T* needed(const char* name, const void* data) {
  if (!data) invalid("%s is NULL", name);
  return aligned<T>(name, data);
}

inline Index bytes_of(std::initializer_list<Index> sizes, Index item) {
  Index bytes = item;
  for (const Index n : sizes)
    if (__builtin_mul_overflow(bytes, n, &bytes)) throw std::bad_alloc();
  return bytes;
}

// The memory that a call reads or writes, to detect overlaps.
class Footprint {
 public:
  void add(const char* name, bool written, const void* first, Index bytes) {
    if (!first || bytes == 0) return;
    const auto begin = reinterpret_cast<std::uintptr_t>(first);
    const Region region{name, written, begin, begin + static_cast<std::uintptr_t>(bytes)};
    for (int k = 0; k < count_; ++k)
      if ((written || regions_[k].written) && region.begin < regions_[k].end && regions_[k].begin < region.end)
        invalid("%s overlaps %s", name, regions_[k].name);
    regions_[count_++] = region;
  }

 private:
  struct Region {
    const char* name;
    bool written;
    std::uintptr_t begin, end;
  };
  Region regions_[12];
  int count_ = 0;
};

// A (T, B, n) array with the caller's strides, in elements.
template <class T>
Strided rows_of(Footprint& footprint, const char* name, bool written, const void* data, Index time, Index batch,
                Index steps, Index B, Index n) {
  if (!data || steps == 0 || B == 0) return {nullptr, 0, 0, sizeof(T)};
  aligned<T>(name, data);
  if (time == 0 && batch == 0) time = bytes_of({B, n}, 1), batch = n;
  // Offsets of the last step and of the last row, which may be on either side of the first.
  const Index item = sizeof(T), t = bytes_of({time, steps - 1}, item), b = bytes_of({batch, B - 1}, item);
  const Index row = bytes_of({n}, item);
  const Index before = std::min<Index>(t, 0) + std::min<Index>(b, 0),
              after = std::max<Index>(t, 0) + std::max<Index>(b, 0);
  if (written) {
    const Axis axes[] = {{steps, bytes_of({time}, item)}, {B, bytes_of({batch}, item)}};
    if (!rows_apart(axes, 2, row))
      invalid("rows of %s overlap: time stride %td, batch stride %td, rows of %td", name, time, batch, n);
  }
  footprint.add(name, written, static_cast<const char*>(data) + before, after - before + row);
  return {static_cast<char*>(const_cast<void*>(data)), time * item, batch * item, item};
}

template <class T>
T* block(Footprint& footprint, const char* name, const void* data, std::initializer_list<Index> shape) {
  if (!data) return nullptr;
  footprint.add(name, true, data, bytes_of(shape, sizeof(T)));
  return aligned<T>(name, data);
}

// Zoneout masks, (T, B, n) bytes in C order; bytes past a row's length are not read.
inline Strided flags(Footprint& footprint, const char* name, const unsigned char* data, const fusedrnn_forward& a,
                     const std::int64_t* lengths, Index n) {
  footprint.add(name, false, data, bytes_of({a.T, a.B, n}, 1));
  for (Index t = 0; t < a.T; ++t)
    for (Index b = 0; b < a.B; ++b) {
      const unsigned char* const row = data + (t * a.B + b) * n;
      for (Index k = 0; (!lengths || t < lengths[b]) && k < n; ++k)
        if (row[k] > 1) invalid("%s[%td][%td][%td] is %d; expected 0 or 1", name, t, b, k, row[k]);
    }
  return {reinterpret_cast<char*>(const_cast<unsigned char*>(data)), a.B * n, n, 1};
}

// Flags of steps, (T, B) bytes in C order, as Schedule reads them: (B, T); each byte is read once. Empty for NULL.
inline std::vector<std::uint8_t> step_flags(const unsigned char* data, Index T, Index B) {
  std::vector<std::uint8_t> flags(data ? static_cast<std::size_t>(bytes_of({T, B}, 1)) : 0);
  for (Index t = 0; data && t < T; ++t)
    for (Index b = 0; b < B; ++b) flags[static_cast<std::size_t>(b * T + t)] = data[t * B + b];
  return flags;
}

// Arrays for outputs that the caller does not want.
class Spare {
 public:
  template <class T>
  T* instead_of(T* wanted, std::initializer_list<Index> shape) {
    if (wanted) return wanted;
    buffers_[count_] = Buffer(static_cast<std::size_t>(std::max<Index>(bytes_of(shape, sizeof(T)), 1)));
    return buffers_[count_++].template as<T>();
  }

 private:
  Buffer buffers_[4];
  int count_ = 0;
};

struct Caller {
  int (*interrupted)(void*);
  void* argument;
  Interrupt interrupt() {
    if (!interrupted) return {};
    return {[](void* self) {
              const auto* caller = static_cast<Caller*>(self);
              return caller->interrupted(caller->argument) != 0;
            },
            this};
  }
};

// ---- functions in files of their own ------------------------------------------------------------

const WeightsBase& base_of(const fusedrnn_weights* weights);
void check_states(int states, const void* c_in, const void* c_out, const char* name);

int stream_new(const fusedrnn_weights* const* weights, std::ptrdiff_t layers, std::ptrdiff_t B,
               fusedrnn_stream** stream);
int stream_step(fusedrnn_stream* stream, const void* x, void* y);
int stream_step_tokens(fusedrnn_stream* stream, const std::int64_t* tokens, void* y);
int stream_get_state(fusedrnn_stream* stream, void* h, void* c);
int stream_set_state(fusedrnn_stream* stream, const void* h, const void* c);
int stream_reset(fusedrnn_stream* stream, const unsigned char* rows);
void stream_free(fusedrnn_stream* stream);

}  // namespace fusedrnn::capi
