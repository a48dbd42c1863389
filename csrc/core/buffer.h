// Aligned memory that is recycled. On a virtual machine the first touch of a fresh 4 KiB page costs about 2 us, half a
// millisecond per MiB: as much as a whole layer's arithmetic. So buffers, tapes and output arrays come from a pool.
// Used by core and the bindings, never by kernels.
#pragma once

#include <cassert>
#include <cstddef>
#include <utility>

#include "api.h"

namespace fusedrnn {

inline std::size_t size(Index n) { return static_cast<std::size_t>(n); }

// Throws std::bad_alloc when it overflows: too large is a MemoryError, never a small buffer.
std::size_t product(std::size_t a, std::size_t b);
std::size_t sum(std::size_t a, std::size_t b);

class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t bytes);  // uninitialised, aligned to 64 bytes
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Buffer();

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  std::size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;  // of the size class
};

// Several arrays in one buffer. claim() notes an array and the pointer that is to point at it; allocate() makes the
// buffer and sets all of these pointers, which must still be where they were.
class Arena {
 public:
  template <class T>
  void claim(T*& pointer, std::size_t count) {
    assert(count_ < kMost);
    const auto set = [](void* target, char* at) { *static_cast<T**>(target) = reinterpret_cast<T*>(at); };
    claims_[count_++] = {&pointer, size_, set};
    size_ = sum(size_, sum(product(count, sizeof(T)), 63) / 64 * 64);
  }
  Buffer allocate() const {
    Buffer buffer(size_);
    for (int i = 0; i < count_; ++i) claims_[i].set(claims_[i].target, buffer.as<char>() + claims_[i].offset);
    return buffer;
  }
  std::size_t size() const { return size_; }

 private:
  static constexpr int kMost = 24;  // arrays of one call; one more is refused by the assertion
  struct Claim {
    void* target;
    std::size_t offset;
    void (*set)(void* target, char* at);
  };
  Claim claims_[kMost];
  int count_ = 0;
  std::size_t size_ = 0;
};

// Gives unused pooled memory back to the system; returns how many bytes.
std::size_t trim_pool();

}  // namespace fusedrnn
