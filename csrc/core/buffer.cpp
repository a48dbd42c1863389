#include "buffer.h"

#include <pthread.h>

#include <cstdint>
#include <cstdlib>
#include <deque>
#include <list>
#include <map>
#include <mutex>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace fusedrnn {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kKeep = std::size_t{512} << 20;  // the most unused bytes that the pool keeps

// Size classes are an eighth of a power of two apart: at most 12.5 % is wasted, and similar shapes share a class.
std::size_t size_class(std::size_t bytes) {
  if (bytes <= 4096) return 4096;
  std::size_t step = 512;
  while (step * 16 < bytes) {
    if (step > (std::size_t{1} << 58)) throw std::bad_alloc();
    step *= 2;
  }
  return (bytes + step - 1) / step * step;
}

class Pool {
 public:
  void* take(std::size_t bytes) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      const auto found = free_.find(bytes);
      if (found != free_.end() && !found->second.empty()) {
        void* data = found->second.back()->data;
        blocks_.erase(found->second.back());
        found->second.pop_back();
        kept_ -= bytes;
        return data;
      }
    }
    const bool huge = bytes >= kHugePage;
    void* data = nullptr;
    if (posix_memalign(&data, huge ? kHugePage : 64, bytes) != 0) {
      trim();
      if (posix_memalign(&data, huge ? kHugePage : 64, bytes) != 0) throw std::bad_alloc();
    }
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (huge) madvise(data, bytes, MADV_HUGEPAGE);
#endif
    return data;
  }

  // The blocks that have been unused for longest are freed first: otherwise the sizes of a layer no longer in use would
  // fill the pool, and every call of the next layer would clear fresh pages.
  void give(void* data, std::size_t bytes) noexcept {
    if (bytes <= kKeep) {
      try {
        const std::lock_guard<std::mutex> lock(mutex_);
        auto& of_size = free_[bytes];
        blocks_.push_back({data, bytes});
        try {
          of_size.push_back(std::prev(blocks_.end()));
        } catch (...) {
          blocks_.pop_back();
          throw;
        }
        kept_ += bytes;
        while (kept_ > kKeep) free_oldest();
        return;
      } catch (...) {  // no memory for the lists themselves: free the block
      }
    }
    std::free(data);
  }

  std::size_t trim() {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const Block& block : blocks_) std::free(block.data);
    blocks_.clear();
    free_.clear();
#if defined(__GLIBC__)
    malloc_trim(0);  // otherwise blocks below malloc's mmap threshold stay in its heap
#endif
    return std::exchange(kept_, 0);
  }

  std::mutex mutex_;

 private:
  struct Block {
    void* data;
    std::size_t bytes;
  };
  void free_oldest() {
    const Block oldest = blocks_.front();
    free_[oldest.bytes].pop_front();  // also the oldest of its size
    blocks_.pop_front();
    kept_ -= oldest.bytes;
    std::free(oldest.data);
  }

  std::list<Block> blocks_;                                             // unused blocks, the latest last
  std::map<std::size_t, std::deque<std::list<Block>::iterator>> free_;  // the same blocks by size
  std::size_t kept_ = 0;
};

// Never destroyed: arrays may outlive every static destructor. A fork must not happen while another thread holds the
// lock.
Pool& pool() {
  static Pool* const instance = [] {
    auto* p = new Pool;
    pthread_atfork([] { pool().mutex_.lock(); }, [] { pool().mutex_.unlock(); }, [] { pool().mutex_.unlock(); });
    return p;
  }();
  return *instance;
}

}  // namespace

std::size_t product(std::size_t a, std::size_t b) {
  std::size_t result;
  if (__builtin_mul_overflow(a, b, &result) || result > PTRDIFF_MAX) throw std::bad_alloc();
  return result;
}

std::size_t sum(std::size_t a, std::size_t b) {
  std::size_t result;
  if (__builtin_add_overflow(a, b, &result) || result > PTRDIFF_MAX) throw std::bad_alloc();
  return result;
}

Buffer::Buffer(std::size_t bytes) : bytes_(size_class(bytes)) { data_ = pool().take(bytes_); }
Buffer::~Buffer() {
  if (data_) pool().give(data_, bytes_);
}

std::size_t trim_pool() { return pool().trim(); }

}  // namespace fusedrnn
