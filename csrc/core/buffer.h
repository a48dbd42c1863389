// Aligned memory that is recycled. On a virtual machine the first touch of a fresh 4 KiB page costs about 2 us, half a
// millisecond per MiB: as much as a whole layer's arithmetic. So buffers, tapes and output arrays come from a pool.
// Used by core and the bindings, never by kernels.
#pragma once

#include <cstddef>
#include <utility>

namespace fusedrnn {

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

// Room for several arrays in one buffer: first add() them all, then allocate(), then at() each offset.
class Arena {
 public:
  std::size_t add(std::size_t count, std::size_t element) {
    const std::size_t at = size_;
    size_ = sum(size_, sum(product(count, element), 63) / 64 * 64);
    return at;
  }
  Buffer allocate() const { return Buffer(size_); }
  std::size_t size() const { return size_; }

 private:
  std::size_t size_ = 0;
};

// Gives unused pooled memory back to the system; returns how many bytes.
std::size_t trim_pool();

}  // namespace fusedrnn
