// A pool of aligned memory. On a virtual machine the first touch of a fresh 4 KiB page costs about 2 us, which is half
// a millisecond per MiB, as much as the arithmetic of a whole layer. So buffers, tapes and output arrays reuse memory
// from a pool. Used by core and the bindings, never by kernels.
#pragma once

#include <cassert>
#include <cstddef>
#include <utility>

#include "../kernels/contract.h"

namespace fusedrnn {

inline std::size_t size(Index n) { return static_cast<std::size_t>(n); }

// Throw std::bad_alloc on overflow: a size that is too large is a MemoryError, never a small buffer.
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
  std::size_t bytes_ = 0;  // of the size class, which may exceed the bytes asked for
};

// Several arrays in one buffer. claim() records the size of an array and the pointer to it; allocate() makes the buffer
// and sets all of these pointers, which must not have moved in the meantime.
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
  static constexpr int kMost = 24;  // arrays in one call; an assertion refuses more
  struct Claim {
    void* target;
    std::size_t offset;
    void (*set)(void* target, char* at);
  };
  Claim claims_[kMost];
  int count_ = 0;
  std::size_t size_ = 0;
};

// Returns unused pooled memory to the system; the result is the number of bytes.
std::size_t trim_pool();

}  // namespace fusedrnn
